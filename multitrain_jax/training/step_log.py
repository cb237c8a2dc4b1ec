"""The metrics of training steps: gathered on the device, reported every so many steps."""

from collections.abc import Iterable, Mapping
import logging
import math
from typing import Any

import jax
import numpy as np

from multitrain_jax.batch import BatchSource
from multitrain_jax.optimizer import RateSchedule
from multitrain_jax.reporting.progress import Countdown, duration
from multitrain_jax.training.non_finite import Watch

_log = logging.getLogger('multitrain_jax')
# Numbers of the schedule are data: another one compiles nothing.
_rate = jax.jit(lambda schedule, step: schedule(step))
Terms = Mapping[str, tuple[Any, Any]]


def merge(many: Iterable[Terms]) -> dict[str, float]:
    """Means of (sum, count) terms over several steps; a term that was never counted is left out."""
    totals: dict[str, np.ndarray] = {}
    for terms in many:
        for name, pair in terms.items():
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    return {name: float(total / count) for name, (total, count) in totals.items() if count > 0}


class StepLog:
    """Metrics of the steps since the last report.

    They stay on the device until the next step is under way.
    """

    def __init__(
        self,
        source: BatchSource,
        *,
        every_steps: int,
        clips_per_step: float,
        first_step: int,
        total_steps: int,
        schedule: RateSchedule,
        watch: Watch,
        writer: Any,
    ):
        """Starts counting.

        Args:
            source: names of the datasets, size of an epoch.
            every_steps: how often metrics are reported.
            clips_per_step: in the mean of the run.
            first_step, total_steps: of this run.
            schedule: learning rate of an update.
            watch: looks at steps that are not finite.
            writer: gets the metrics.
        """
        self._source, self._every_steps, self._total_steps = source, every_steps, total_steps
        self._clips_per_step = clips_per_step
        self._schedule = jax.device_put(schedule)
        self._learning_rate(first_step)  # compiled now and not among the steps
        self._watch, self._writer = watch, writer
        self._kept: list[tuple[int, Any]] = []
        self.countdown = Countdown(total_steps, first_step)
        self.waited = 0.0
        self.rates: list[float] = []

    def add(self, step: int, terms: Any) -> None:
        """Takes the metrics of a step; reports those before it when a report is due.

        Waits for the step before, so that the devices have one step to go on with, and not dozens:
        each that is under way holds its batch on the devices, a stop would have to wait for all of
        them, and the next batch would be asked for long before it is needed.
        """
        if self._kept:
            jax.block_until_ready(self._kept[-1][1])
        if self._kept and (self._kept[-1][0] + 1) % self._every_steps == 0:
            self.flush()
        self._kept.append((step, terms))

    def flush(self) -> None:
        """Writes the means since the last report.

        Raises:
            NonFiniteStep: a loss or gradient is not finite, and no more may be passed over.
        """
        if not self._kept:
            return
        kept = [(step, jax.device_get(terms)) for step, terms in self._kept]
        self._kept = []
        finite = [(step, terms) for step, terms in kept if self._watch.check(step, terms)]
        done = kept[-1][0] + 1
        steps_per_second, seconds_left = self.countdown.update(done)
        clips_per_second = steps_per_second * self._clips_per_step
        values = merge(terms for _, terms in finite)
        # The optimizer counts the updates that it has made: a step that was passed over is none.
        step, terms = (finite or kept)[-1]
        values['learning_rate'] = self._learning_rate(step - int(terms['skipped_updates'][0]))
        if steps_per_second > 0:  # not where only the step that was compiled has been done
            self.rates.append(clips_per_second)
            values['clips_per_second'] = clips_per_second
            values['data_wait_share'] = self.waited * steps_per_second / len(kept)
        values['epoch'] = done * self._clips_per_step / self._source.samples_per_epoch
        self.waited = 0.0
        values['skipped_updates'] = float(kept[-1][1]['skipped_updates'][0])
        self._writer.write_scalars(done, {f'train/{name}': x for name, x in values.items()})
        top1 = ' '.join(
            f'{spec.name} {values[f"top1/{spec.name}"]:.0%}'
            for spec in self._source.datasets
            if f'top1/{spec.name}' in values
        )
        _log.info(
            'step %d/%d  epoch %.1f  loss %.3f  %s%.0f clips/s  %s left',
            done,
            self._total_steps,
            values['epoch'],
            values.get('loss', math.nan),
            f'top-1 of training clips: {top1}  ' if top1 else '',
            clips_per_second,
            duration(seconds_left),
        )

    def _learning_rate(self, step: int) -> float:
        return float(jax.device_get(_rate(self._schedule, jax.device_put(step))))
