"""Training clips for programs that read by Grain (https://google-grain.readthedocs.io)."""

from collections.abc import Sequence
import functools
import operator

import numpy as np

from data_pipelines.options import ClipSize, InputOptions, OrderOptions, Source
from data_pipelines.plans import TrainingPlan
from data_pipelines.workers import DamageLog, Job, fill


class ClipSource:
    """The rows of our training batches, by number: what Grain calls a `RandomAccessDataSource`.

    With B rows in this host's batches, item i is row i % B of the batch of step i // B. So ::

        grain.MapDataset.source(ClipSource([source], size, order, num_steps=1000)).batch(B)

    gives the batches of `train_batches`, by Grain's threads or processes, which may start anywhere.
    Records are in random order already.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        size: ClipSize,
        order: OrderOptions,
        options: InputOptions = InputOptions(),
        *,
        num_steps: int,
        host: int = 0,
        num_hosts: int = 1,
    ):
        """Arguments and errors: see `pipeline.train_batches`.

        Every process of Grain's bears with `max_bad_records` of its own.
        """
        self._arguments = sources, size, order, options
        self._more = dict(num_steps=num_steps, host=host, num_hosts=num_hosts)
        self._plan = TrainingPlan(sources, size, order, options, host=host, num_hosts=num_hosts)
        ((rows,), _) = self._plan.element_spec['dataset']
        if rows is None:
            raise ValueError('a schedule whose batches differ in size has no rows by number')
        self._rows, self._length = rows, num_steps * rows
        self._samples = functools.lru_cache(maxsize=4)(self._plan.samples)
        self._damage = DamageLog(options.max_bad_records)

    def __reduce__(self):
        return functools.partial(ClipSource, **self._more), self._arguments

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: int) -> dict[str, np.ndarray]:
        """A row: the arrays of a training batch without their first axis."""
        number = operator.index(item)
        if not 0 <= number < self._length:
            raise IndexError(f'item {number} of {self._length}')
        step, row = divmod(number, self._rows)
        batch = self._plan.new_batch(1)
        self._damage.add(fill(self._plan, Job(self._samples(step)[row], [(batch, 0)])))
        return {name: array[0] for name, array in batch.items()}
