"""The order of the training samples that a schedule asks for, by name and numbers.

`None` as schedule is "concatenate": samples of the union of the datasets, each record once per epoch
(`sampling.TrainingOrder`). For the others see `schedules.py`.
"""

from collections.abc import Sequence
import dataclasses
from typing import Literal

import numpy as np

from data_pipelines.order import schedules
from data_pipelines.order.epochs import TrainingOrder, host_share
from data_pipelines.order.schedules import ScheduledOrder


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """A schedule for datasets numbered from 0.

    Attributes:
        kind: 'weighted', 'alternating', 'uniform' ('weighted' by batch, all alike), 'accumulated', or 'task_by_task'.
        batch_sizes: clips of each dataset in a batch of its own. Ignored by 'weighted' by example.
        by: 'weighted': what is drawn, the dataset of each 'example' or that of each 'batch'.
        weights: 'weighted': of each dataset; None: its number of records to the power of `size_power`.
        size_power: see `weights`.
        order: 'task_by_task': numbers of the datasets; None: ascending.
        epochs: 'task_by_task': visits to each record; the last dataset goes on beyond them.
    """

    kind: Literal['weighted', 'alternating', 'uniform', 'accumulated', 'task_by_task']
    batch_sizes: Sequence[int]
    by: Literal['example', 'batch'] = 'example'
    weights: Sequence[float] | None = None
    size_power: float = 1.0
    order: Sequence[int] | None = None
    epochs: float = 1.0

    def probabilities(self, sizes: Sequence[int]) -> np.ndarray:
        """f64[N] with which datasets of so many records are drawn."""
        if self.kind != 'weighted':
            return schedules.proportions(sizes, 0.0)
        if self.weights is None:
            return schedules.proportions(sizes, self.size_power)
        weights = np.asarray(self.weights, np.float64)
        return weights / weights.sum()


def make_order(
    sizes: Sequence[int],
    schedule: ScheduleOptions | None,
    *,
    batch_size: int,
    repeats: int = 1,
    seed: int = 0,
    num_hosts: int = 1,
) -> TrainingOrder | ScheduledOrder:
    """The order of the samples of datasets of so many records.

    Args:
        sizes: records of each dataset.
        schedule: None: concatenate.
        batch_size: clips of a batch of several datasets.
        repeats: samples of a record per epoch; they share a batch.
        seed: of the order.
        num_hosts: over which every batch must divide.

    Raises:
        ValueError: numbers that do not fit.
    """
    if schedule is None:
        host_share(batch_size, 0, num_hosts)  # Refuses what does not divide.
        return TrainingOrder(sizes, batch_size=batch_size, repeats=repeats, seed=seed)
    if min(sizes, default=0) < 1 or len(schedule.batch_sizes) != len(sizes):
        raise ValueError(
            f'{schedule.kind}: need one batch size for each dataset, and records in each; got '
            f'batch_sizes={list(schedule.batch_sizes)} and sizes {list(sizes)}'
        )
    by_example = schedule.kind == 'weighted' and schedule.by == 'example'
    own = [batch_size] if by_example else schedule.batch_sizes
    for size in own:
        if size < 1 or size % repeats:
            raise ValueError(
                f'{schedule.kind}: batch_size={size} must be a positive multiple of repeats={repeats}, '
                'because the samples of one record share a batch'
            )
    for size in [sum(own)] if schedule.kind == 'accumulated' else own:
        host_share(size, 0, num_hosts)
    steps = _schedule(sizes, schedule, batch_size, repeats, seed)
    places = {sum(own)} if schedule.kind == 'accumulated' else set(own)
    return ScheduledOrder(
        sizes,
        steps,
        repeats=repeats,
        seed=seed,
        batch_size=places.pop() if len(places) == 1 else None,
    )


def _schedule(
    sizes: Sequence[int], schedule: ScheduleOptions, batch_size: int, repeats: int, seed: int
) -> schedules.Schedule:
    own = schedule.batch_sizes
    if schedule.kind == 'alternating':
        return schedules.alternating(own)
    if schedule.kind == 'accumulated':
        return schedules.accumulated(own)
    if schedule.kind == 'task_by_task':
        order = list(range(len(sizes))) if schedule.order is None else list(schedule.order)
        if sorted(order) != list(range(len(sizes))):
            raise ValueError(
                f'task_by_task: order={order} must name each of {len(sizes)} datasets once'
            )
        # Rounded so that all steps together are the whole run's, and nobody's share is off by more than a step.
        exact = [schedule.epochs * sizes[dataset] * repeats / own[dataset] for dataset in order]
        ends = np.maximum(np.round(np.cumsum(exact)).astype(np.int64), 1)
        steps = np.zeros(len(sizes), np.int64)
        steps[order] = np.diff(ends, prepend=0)
        if not steps.all():
            raise ValueError(
                f'task_by_task: no step is left for dataset {steps.argmin()} in {schedule.epochs:g} epochs; give it '
                'smaller batches, or train longer'
            )
        return schedules.task_by_task(steps, own, order)
    probabilities = schedule.probabilities(sizes)
    if schedule.kind == 'weighted' and schedule.by == 'example':
        return schedules.weighted_by_example(probabilities, batch_size, seed, repeats=repeats)
    if schedule.kind in ('weighted', 'uniform'):
        return schedules.weighted_by_batch(probabilities, own, seed)
    raise ValueError(f'there is no schedule {schedule.kind!r}')


def clips_per_step(
    sizes: Sequence[int], schedule: ScheduleOptions | None, *, batch_size: int
) -> float:
    """Clips of a batch, over all hosts, in the mean of the run."""
    if schedule is None or (schedule.kind == 'weighted' and schedule.by == 'example'):
        return float(batch_size)
    own = np.asarray(schedule.batch_sizes, np.float64)
    if schedule.kind == 'accumulated':
        return float(own.sum())
    if schedule.kind == 'alternating':
        return float(own.mean())
    if schedule.kind == 'task_by_task':
        return float(sum(sizes) / (np.asarray(sizes) / own).sum())
    return float(schedule.probabilities(sizes) @ own)
