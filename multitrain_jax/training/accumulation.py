"""Gradients of a batch that is cut into pieces, one after the other, so that it fits into memory.

The objective is a mean over clips, which may be cut anywhere, plus a part of the whole batch (the informative
loss, whose variances and covariances need all clips). `plain_gradients` takes that part of every piece by
itself: a smaller batch, another objective. `two_pass_gradients` gives the gradient of the whole batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from multitrain_jax.objectives.terms import Term

# clip_loss(params, piece) -> (loss f32[], (expanded f32[b, D] or None, terms)): the mean over a piece's b clips.
# It must give the same numbers whenever it is called for the same piece: its keys come with the piece.
ClipLoss = Callable[[Any, Any], tuple[jax.Array, tuple[jax.Array | None, dict[str, Term]]]]
# batch_loss(params, expanded f32[B, D] or None) -> (loss f32[], terms): of the clips of this replica together with
# those of the others.
BatchLoss = Callable[[Any, jax.Array | None], tuple[jax.Array, dict[str, Term]]]


def plain_gradients(
    clip_loss: ClipLoss, batch_loss: BatchLoss, params: Any, pieces: Any
) -> tuple[Any, dict[str, Term]]:
    """Mean over the pieces of the gradients of clip_loss + batch_loss.

    Args:
        clip_loss: see `ClipLoss`.
        batch_loss: see `BatchLoss`; called for each piece.
        params: what is differentiated.
        pieces: arrays [P, ...], P pieces.

    Returns:
        gradients, like `params`; the terms, added up over the pieces, and the term `loss`.
    """

    def loss(params, piece):
        of_clips, (expanded, terms) = clip_loss(params, piece)
        of_batch, batch_terms = batch_loss(params, expanded)
        total = of_clips + of_batch
        return total, terms | batch_terms | {'loss': Term(total, jnp.ones_like(total))}

    def gradients(piece):
        (_, terms), grads = jax.value_and_grad(loss, has_aux=True)(params, piece)
        return grads, terms

    grads, terms = _sum_over(gradients, pieces)
    return jax.tree.map(lambda g: g / _count(pieces), grads), terms


def two_pass_gradients(
    clip_loss: ClipLoss, batch_loss: BatchLoss, params: Any, pieces: Any
) -> tuple[Any, dict[str, Term]]:
    """The gradient of (mean of clip_loss) + (batch_loss of all pieces together).

    The first pass computes the expanded embeddings of all pieces, without anything kept for a backward pass; they
    are small, so L_inf of the whole batch and its gradient by them are computed at once. The second pass computes
    each piece again and pulls back both: the piece's share of the mean, and that gradient. It costs one more
    forward pass than `plain_gradients`, which takes the same arguments.
    """
    count = _count(pieces)
    expanded = jax.lax.map(lambda piece: clip_loss(params, piece)[1][0], pieces)  # [P, b, D]

    def of_all(params, expanded):
        return batch_loss(params, expanded.reshape(-1, expanded.shape[-1]))

    (of_batch, batch_terms), (batch_grads, cotangents) = jax.value_and_grad(
        of_all, (0, 1), has_aux=True
    )(params, expanded)

    def gradients(piece_and_cotangent):
        piece, cotangent = piece_and_cotangent

        def outputs(params):
            loss, (expanded, terms) = clip_loss(params, piece)
            return (loss, expanded), terms

        (loss, _), pull_back, terms = jax.vjp(outputs, params, has_aux=True)
        (grads,) = pull_back((jnp.full_like(loss, 1 / count), cotangent))
        loss = loss + of_batch
        return grads, terms | {'loss': Term(loss, jnp.ones_like(loss))}

    grads, terms = _sum_over(gradients, (pieces, cotangents))
    return jax.tree.map(jnp.add, grads, batch_grads), terms | batch_terms


def _count(pieces: Any) -> int:
    return jax.tree.leaves(pieces)[0].shape[0]


def _sum_over(function: Callable, pieces: Any) -> Any:
    """The sum of function(piece) over pieces [P, ...], one at a time."""
    first = jax.tree.map(lambda x: x[0], pieces)
    if _count(pieces) == 1:
        return function(first)  # no loop to compile
    shapes = jax.eval_shape(function, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(
        lambda total, piece: (jax.tree.map(jnp.add, total, function(piece)), None), zeros, pieces
    )
    return total
