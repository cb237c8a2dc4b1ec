"""Cross-entropies between logits and soft labels over heads that are padded to a common width.

All functions take logits [..., C], label [..., C] and mask bool[..., C] (which classes exist; the
three broadcast to the same shape) and return one loss per row, [...], in float32 or wider. Labels
must be 0 where the mask is False; logits there are never read.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Large enough to vanish from any softmax, small enough that float32 arithmetic on it stays finite.
_ABSENT = -1e30

# Clamps of the reverse cross-entropy: a label of 0 counts as 1e-4, so its logarithm as -9.2 (the
# constant A of arXiv 1908.06112, section 3.2).
_SMALLEST_LABEL = 1e-4
_SMALLEST_PROBABILITY = 1e-7

ClassificationLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def log_probabilities(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Logarithm of the softmax over the classes that exist; 0 for the others."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    log_p = jax.nn.log_softmax(jnp.where(mask, logits, _ABSENT), axis=-1)
    return jnp.where(mask, log_p, 0.0)


def cross_entropy(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """-sum_c label_c log p_c."""
    return -jnp.sum(label * log_probabilities(logits, mask), axis=-1)


def normalized_cross_entropy(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Cross-entropy divided by the sum of those to every class (arXiv 2006.13554, equation 6)."""
    log_p = log_probabilities(logits, mask)
    return jnp.sum(label * log_p, axis=-1) / jnp.sum(log_p, axis=-1)


def reverse_cross_entropy(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """-sum_c p_c log label_c, both clamped away from 0 (arXiv 1908.06112, eq. 6)."""
    p = jnp.maximum(jnp.exp(log_probabilities(logits, mask)), _SMALLEST_PROBABILITY)
    log_label = jnp.log(jnp.clip(label, _SMALLEST_LABEL, 1.0))
    return -jnp.sum(jnp.where(mask, p * log_label, 0.0), axis=-1)


def normalized_and_reverse_cross_entropy(
    logits: jax.Array, label: jax.Array, mask: jax.Array
) -> jax.Array:
    """The sum of both: an active and a passive robust loss (arXiv 2006.13554, section 4)."""
    return normalized_cross_entropy(logits, label, mask) + reverse_cross_entropy(
        logits, label, mask
    )


def mean_absolute_error(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """1 - sum_c label_c p_c: half the L1 distance where the label is one-hot (arXiv 1712.09482)."""
    p = jnp.where(mask, jnp.exp(log_probabilities(logits, mask)), 0.0)
    return 1.0 - jnp.sum(label * p, axis=-1)


def binary_cross_entropy(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Sigmoid cross-entropy, the mean over the classes that exist."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits = jnp.where(mask, logits, 0.0)
    per_class = jnp.maximum(logits, 0) - logits * label + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    count = jnp.sum(mask, axis=-1).astype(per_class.dtype)
    return jnp.sum(jnp.where(mask, per_class, 0.0), axis=-1) / count


# By the name a configuration uses. Multi-label datasets always take binary_cross_entropy for their
# heads.
SOFTMAX_LOSSES: dict[str, ClassificationLoss] = {
    'cross_entropy': cross_entropy,
    'normalized_cross_entropy': normalized_cross_entropy,
    'reverse_cross_entropy': reverse_cross_entropy,
    'normalized_and_reverse_cross_entropy': normalized_and_reverse_cross_entropy,
    'mean_absolute_error': mean_absolute_error,
}


def smooth_label(label: jax.Array, mask: jax.Array, smoothing: float) -> jax.Array:
    """Mixes a label, one-hot or multi-hot, with 1 / (the dataset's own number of classes).

    (1 - e) y + e / C: with y one-hot the true class gets 1 - e + e / C and the others e / C.
    """
    count = jnp.sum(mask, axis=-1, keepdims=True).astype(label.dtype)
    return jnp.where(mask, (1.0 - smoothing) * label + smoothing / count, 0.0)
