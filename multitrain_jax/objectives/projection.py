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
        loss: from `classification`.

    Returns:
        f32[B, S].
    """
    shape = projected.shape
    label = jnp.broadcast_to(label[:, :, None], shape)
    mask = jnp.broadcast_to(mask[:, :, None], shape)
    return jnp.mean(loss(projected, label, mask), axis=-1)


def projection_size(kernel: jax.Array, class_mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum of |W|, number of entries), both f32[], over the classes that exist.

    Args:
        kernel: f32[N, N-1, C, C], [d, j] from the classes of dataset (d + 1 + j) % N to those of d.
        class_mask: bool[N, C].
    """
    number = kernel.shape[0]
    masks = [jnp.roll(class_mask, -1 - j, axis=0) for j in range(number - 1)]
    source = jnp.stack(masks, axis=1)  # [N, N-1, C]
    exists = source[..., None] & class_mask[:, None, None]  # [N, N-1, C, C]
    # JAX's derivative of |x| is 1 at 0; with the sign, 0 there, an entry that has reached 0 stays.
    size = kernel * jax.lax.stop_gradient(jnp.sign(kernel))
    return jnp.sum(jnp.where(exists, size, 0.0)), jnp.sum(exists).astype(kernel.dtype)
