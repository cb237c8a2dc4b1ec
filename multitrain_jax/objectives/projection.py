"""The projection loss: the other datasets' heads, through a linear map, must know the label too."""

import jax
import jax.numpy as jnp

from multitrain_jax.objectives.classification import ClassificationLoss


def projection_loss(
    projected: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    loss: ClassificationLoss,
) -> jax.Array:
    """Mean over the other heads o of loss(head_o(z) @ W[o->d], y) (MultiTrain, section 3).

    Args:
        projected: f32[B, S, N-1, C], what the N-1 other heads say about each slot's own dataset, as
            logits.
        label: f32[B, S, C].
        mask: bool[B, S, C], the classes of the slot's dataset.
        loss: from ``classification``.

    Returns:
        f32[B, S].
    """
    shape = projected.shape
    label = jnp.broadcast_to(label[:, :, None], shape)
    mask = jnp.broadcast_to(mask[:, :, None], shape)
    return jnp.mean(loss(projected, label, mask), axis=-1)
