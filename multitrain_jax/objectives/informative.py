"""The informative loss: variances of the embedding's dimensions up, their covariances down."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

# Inside the square root, so that its gradient is finite for a constant dimension.
_VARIANCE_EPSILON = 1e-4


class InformativeTerms(NamedTuple):
    """Both f32[], unweighted: mean hinge of the standard deviations, squared covariances / D."""

    std: jax.Array
    covariance: jax.Array


def informative_terms(
    embedding: jax.Array, weight: jax.Array | None = None, *, axis_name: str | None = None
) -> InformativeTerms:
    """Both terms over the global batch (MultiTrain, section 3; VICReg, arXiv 2105.04906).

        std = mean_j max(0, 1 - sqrt(Var_j + 1e-4))
        covariance = sum_{j != k} Cov_jk^2 / D

    with unbiased (B - 1) statistics of the B clips that are no padding; 0 where fewer than 2 are.

    With `axis_name` the embeddings of all replicas are gathered and every replica returns the
    same two numbers. Their gradient is right after the gradients of the replicas are *averaged*:
    the transpose of all_gather sums the N equal cotangents of the N replicas, which the mean
    divides by N again.

    Args:
        embedding: [B, D], this replica's clips, at least 2 in the global batch.
        weight: f32[B], 0 for padding; None: there is none.
        axis_name: the named axis over replicas, or None for a single one.

    Raises:
        ValueError: a global batch of one clip, which has no variance.
    """
    embedding = embedding.astype(jnp.promote_types(embedding.dtype, jnp.float32))
    real = jnp.ones(embedding.shape[0], bool) if weight is None else weight > 0
    if axis_name is not None:
        embedding, real = lax.all_gather((embedding, real), axis_name, tiled=True)  # [B_global, D]
    batch, width = embedding.shape
    if batch < 2:
        raise ValueError(
            'the informative loss needs at least 2 clips in the global batch, got 1: '
            'raise batch_size or set lambda_inf=0'
        )
    real, count = real[:, None], jnp.sum(real).astype(embedding.dtype)
    mean = jnp.sum(embedding, axis=0, keepdims=True, where=real) / jnp.maximum(count, 1)
    centred = jnp.where(real, embedding - mean, 0.0)
    freedom = jnp.maximum(count - 1, 1)
    variance = jnp.sum(jnp.square(centred), axis=0) / freedom  # [D]
    std = jnp.mean(jax.nn.relu(1.0 - jnp.sqrt(variance + _VARIANCE_EPSILON)))
    # HIGHEST: accelerators otherwise multiply in bfloat16 or TF32, and D^2 small errors add up.
    covariance = jnp.matmul(centred.T, centred, precision=lax.Precision.HIGHEST) / freedom
    off_diagonal = jnp.where(jnp.eye(width, dtype=bool), 0.0, covariance)  # [D, D]
    terms = InformativeTerms(std, jnp.sum(jnp.square(off_diagonal)) / width)
    return jax.tree.map(lambda term: jnp.where(count > 1, term, 0.0), terms)
