"""Gradients of a batch that is cut into micro-batches, one after the other, so that it fits into
memory.

The objective is a mean over clips, which may be cut anywhere, plus a part of the whole batch (the
informative loss, whose variances and covariances need all clips). `plain_gradients` takes that part
of every micro-batch by itself: a smaller batch, another objective. `two_pass_gradients` gives the
gradient of the whole batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from multitrain_jax.objectives.targets import Term

# clip_loss(params, micro_batch) -> (loss f32[], (expanded, terms)): the mean over a micro-batch's b
# clips, and what the loss of the whole batch needs of them, arrays f32[b, ...]. It must give the
# same numbers whenever it is called for the same micro-batch: its keys come with it.
ClipLoss = Callable[[Any, Any], tuple[jax.Array, tuple[Any, dict[str, Term]]]]
# batch_loss(params, expanded, arrays f32[B, ...]) -> (loss f32[], terms): of the clips of this
# replica together with those of the others.
BatchLoss = Callable[[Any, Any], tuple[jax.Array, dict[str, Term]]]


def plain_gradients(
    clip_loss: ClipLoss, batch_loss: BatchLoss, params: Any, micro_batches: Any
) -> tuple[Any, dict[str, Term]]:
    """Mean over the micro-batches of the gradients of clip_loss + batch_loss.

    Args:
        clip_loss: see `ClipLoss`.
        batch_loss: see `BatchLoss`; called for each of them.
        params: what is differentiated.
        micro_batches: arrays [P, ...], P of them.

    Returns:
        gradients, like `params`; the terms, added up over the micro-batches, and the term `loss`.
    """

    def loss(params, micro_batch):
        of_clips, (expanded, terms) = clip_loss(params, micro_batch)
        of_batch, batch_terms = batch_loss(params, expanded)
        total = of_clips + of_batch
        return total, terms | batch_terms | {'loss': Term(total, jnp.ones_like(total))}

    def gradients(micro_batch):
        (_, terms), grads = jax.value_and_grad(loss, has_aux=True)(params, micro_batch)
        return grads, terms

    grads, terms = _sum_over(gradients, micro_batches)
    return jax.tree.map(lambda g: g / _count(micro_batches), grads), terms


def two_pass_gradients(
    clip_loss: ClipLoss, batch_loss: BatchLoss, params: Any, micro_batches: Any
) -> tuple[Any, dict[str, Term]]:
    """The gradient of (mean of clip_loss) + (batch_loss of all micro-batches together).

    The first pass computes the expanded embeddings of all micro-batches, without anything kept for
    a backward pass; they are small, so L_inf of the whole batch and its gradient by them are
    computed at once. The second pass computes each micro-batch again and pulls back both: its part
    of the mean, and that gradient. It costs one more forward pass than `plain_gradients`, which
    takes the same arguments.
    """
    count = _count(micro_batches)
    # [P, b, ...]
    expanded = jax.lax.map(lambda clips: clip_loss(params, clips)[1][0], micro_batches)

    def of_all(params, expanded):
        merged = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), expanded)
        return batch_loss(params, merged)

    (of_batch, batch_terms), (batch_grads, cotangents) = jax.value_and_grad(
        of_all, (0, 1), has_aux=True
    )(params, expanded)

    def gradients(with_cotangent):
        micro_batch, cotangent = with_cotangent

        def outputs(params):
            loss, (expanded, terms) = clip_loss(params, micro_batch)
            return (loss, expanded), terms

        (loss, _), pull_back, terms = jax.vjp(outputs, params, has_aux=True)
        (grads,) = pull_back((jnp.full_like(loss, 1 / count), cotangent))
        loss = loss + of_batch
        return grads, terms | {'loss': Term(loss, jnp.ones_like(loss))}

    grads, terms = _sum_over(gradients, (micro_batches, cotangents))
    return jax.tree.map(jnp.add, grads, batch_grads), terms | batch_terms


def _count(micro_batches: Any) -> int:
    return jax.tree.leaves(micro_batches)[0].shape[0]


def _sum_over(function: Callable, micro_batches: Any) -> Any:
    """The sum of function(micro_batch) over [P, ...], one at a time."""
    first = jax.tree.map(lambda x: x[0], micro_batches)
    if _count(micro_batches) == 1:
        return function(first)  # no loop to compile
    shapes = jax.eval_shape(function, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(
        lambda total, micro_batch: (jax.tree.map(jnp.add, total, function(micro_batch)), None),
        zeros,
        micro_batches,
    )
    return total
