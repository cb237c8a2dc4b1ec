"""The loss of action localisation: each box is judged on every action."""

import jax
import jax.numpy as jnp

from multitrain_jax.objectives.classification import binary_cross_entropy


def localisation_loss(
    logits: jax.Array, box_label: jax.Array, box_mask: jax.Array, action_mask: jax.Array
) -> jax.Array:
    """Sigmoid cross-entropy, the mean over the actions and then over the boxes that exist.

    Args:
        logits: f[B, M, A].
        box_label: f32[B, M, A], multi-hot.
        box_mask: f32[B, M], 1 for a box that exists, 0 for padding.
        action_mask: bool, broadcasts to [B, M, A]: which actions the clip's dataset has.

    Returns:
        f32[B], 0 for a clip without a box.
    """
    action_mask = jnp.broadcast_to(action_mask, logits.shape)
    per_box = binary_cross_entropy(logits, box_label, action_mask)  # [B, M]
    # Selected, not multiplied: whatever the logits of padding are, even infinite, they are not read.
    total = jnp.where(box_mask > 0, per_box * box_mask, 0.0).sum(-1)
    return total / jnp.maximum(box_mask.sum(-1), 1.0)
