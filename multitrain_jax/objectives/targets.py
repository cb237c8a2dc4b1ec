"""What a clip, also one mixed of two datasets' clips, should be classified as; terms of a loss.

Labels are smoothed later, in `objective.py`.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp


class Term(NamedTuple):
    """A mean that is not divided yet, so that terms of replicas and steps may be added."""

    sum: jax.Array  # f32[]
    count: jax.Array  # f32[]


@flax.struct.dataclass
class Targets:
    """Labels of a batch. A clip has S slots: one as read, two once mixed with a partner clip.

    Every slot belongs to one dataset and is judged by that dataset's head only.

    Attributes:
        label: f32[B, S, C], soft or multi-hot; zero for classes that the slot's dataset does not
            have.
        dataset: i32[B, S], position of the slot's dataset in the list of datasets.
        lam: f32[B, S], how much of the clip is of this slot; sums to 1 over the slots.
        weight: f32[B], 0 for padding.
    """

    label: jax.Array
    dataset: jax.Array
    lam: jax.Array
    weight: jax.Array


def make_targets(
    label: jax.Array, dataset: jax.Array, weight: jax.Array, max_classes: int
) -> Targets:
    """Targets with one slot per clip.

    Args:
        label: i32[B] class numbers or f32[B, C] multi-hot rows, C = `max_classes`.
        dataset: i32[B].
        weight: f32[B].
        max_classes: the number of classes that all heads are padded to.

    Raises:
        ValueError: `label` has another rank or number of classes.
    """
    if label.ndim == 1:
        label = jax.nn.one_hot(label, max_classes, dtype=jnp.float32)
    elif label.ndim != 2 or label.shape[1] != max_classes:
        raise ValueError(
            f'label has shape {label.shape}: must be class numbers [B] '
            f'or multi-hot rows [B, {max_classes}]'
        )
    return Targets(
        label=label[:, None].astype(jnp.float32),  # [B, 1, C]
        dataset=dataset[:, None],
        lam=jnp.ones((dataset.shape[0], 1), jnp.float32),
        weight=weight,
    )
