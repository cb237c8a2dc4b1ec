"""The loss of action localisation: each box is judged on every action."""

from collections.abc import Mapping, Sequence
import dataclasses

import jax
import jax.numpy as jnp

from multitrain_jax.objectives.classification import binary_cross_entropy
from multitrain_jax.objectives.targets import Term
from multitrain_jax.objectives.uncertainty import learned_weight


@dataclasses.dataclass(frozen=True)
class LocalisationObjective:
    """What the objective must know of one localising dataset."""

    name: str  # appears in the names of the logged terms
    number: int  # among all datasets
    num_actions: int
    weight: float = 1.0  # factor of its loss
    factor: float = 1.0  # as in `objective.DatasetObjective`


def localisation_objective(
    actions: Sequence[jax.Array],
    batch: Mapping[str, jax.Array],
    datasets: Sequence[LocalisationObjective],
    *,
    log_variances: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, Term]]:
    """The part of the objective that boxes have: (1 / B) sum_i w_i weight_d L_box(i), as that of
    classification.

    Args:
        actions: of every localising dataset f32[B, M, A_d], what its head says about all clips.
        batch: `dataset` i32[B], `weight` f32[B], `box_label` f32[B, M, A], `box_mask` f32[B, M].
        datasets: in the order of `actions`.
        log_variances: f32[number of them], where the datasets' weights are learned.
        weights: f32[number of them]; None: those in `datasets`.

    Returns:
        loss: f32[]; a clip without a box contributes 0.
        terms: `localisation/NAME`, the mean over the clips that have a box, without the dataset's
        weight;
            `weight/NAME` where weights are learned.
    """
    loss, terms = jnp.zeros((), jnp.float32), {}
    if weights is None:
        weights = [entry.weight for entry in datasets]
    for d, (logits, entry) in enumerate(zip(actions, datasets, strict=True)):
        every_action = jnp.ones((1, 1, entry.num_actions), bool)
        per_clip = localisation_loss(
            logits, batch['box_label'][..., : entry.num_actions], batch['box_mask'], every_action
        )
        counts = (batch['dataset'] == entry.number) & batch['box_mask'].any(-1)
        clip_weight = jnp.where(counts, batch['weight'], 0.0)  # [B]
        own = Term(jnp.sum(clip_weight * per_clip), jnp.sum(clip_weight))
        terms[f'localisation/{entry.name}'] = own
        weight, penalty = jnp.asarray(weights[d], per_clip.dtype), 0.0
        if log_variances is not None:
            weight, penalty = learned_weight(weight, log_variances[d])
            terms[f'weight/{entry.name}'] = Term(weight, jnp.ones_like(weight))
        total = jnp.sum(clip_weight * (weight * per_clip + penalty))
        loss += entry.factor * total / per_clip.shape[0]
    return loss, jax.lax.stop_gradient(terms)


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
    # Selected, not multiplied: whatever the logits of padding are, even infinite, they are not
    # read.
    total = jnp.where(box_mask > 0, per_box * box_mask, 0.0).sum(-1)
    return total / jnp.maximum(box_mask.sum(-1), 1.0)
