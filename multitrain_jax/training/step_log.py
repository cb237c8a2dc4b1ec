"""The metrics of training steps: gathered on the device, reported every so many steps."""

from collections.abc import Callable
import logging
import math
from pathlib import Path
from typing import Any

import jax

from multitrain_jax.batch import BatchSource
from multitrain_jax.checkpoints.runs import RunCheckpoints
from multitrain_jax.config import Config
from multitrain_jax.reporting import metrics
from multitrain_jax.reporting.progress import Countdown, duration
from multitrain_jax.training import non_finite

_log = logging.getLogger('multitrain_jax')


class StepLog:
    """Metrics of the steps since the last report. They stay on the device until the next step is under way."""

    def __init__(
        self,
        config: Config,
        source: BatchSource,
        clips_per_step: float,
        *,
        first_step: int,
        total_steps: int,
        schedule: Callable,
        workdir: Path,
        saved: RunCheckpoints,
        writer: Any,
    ):
        """Starts counting.

        Args:
            config: the experiment.
            source: names of the datasets, size of an epoch.
            clips_per_step: in the mean of the run.
            first_step, total_steps: of this run.
            schedule: learning rate of a step.
            workdir: gets the batch of a step that is not finite.
            saved: named where a loss is not finite.
            writer: gets the metrics.
        """
        self._config, self._source, self._total_steps = config, source, total_steps
        self._clips_per_step = clips_per_step
        self._schedule = jax.jit(schedule)
        self._learning_rate(first_step)  # compiled now and not among the steps
        self._workdir, self._saved, self._writer = workdir, saved, writer
        self._kept: list[tuple[int, Any]] = []
        self.countdown = Countdown(total_steps, first_step)
        self.waited = 0.0
        self.rates: list[float] = []

    def add(self, step: int, terms: Any) -> None:
        """Takes the metrics of a step; reports those before it when a report is due.

        Waits for the step before, so that the devices have one step to go on with, and not dozens: each that is under
        way holds its batch on the devices, a stop would have to wait for all of them, and the next batch would be
        asked for long before it is needed.
        """
        if self._kept:
            jax.block_until_ready(self._kept[-1][1])
        if self._kept and (self._kept[-1][0] + 1) % self._config.log_every_steps == 0:
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
        for step, terms in kept:
            if not non_finite.is_finite(terms):
                self._report_not_finite(step, terms)
        done = kept[-1][0] + 1
        steps_per_second, seconds_left = self.countdown.update(done)
        clips_per_second = steps_per_second * self._clips_per_step
        values = metrics.merge(terms for _, terms in kept if non_finite.is_finite(terms))
        values['learning_rate'] = self._learning_rate(done - 1)
        if steps_per_second > 0:  # not where only the step that was compiled has been done
            self.rates.append(clips_per_second)
            values['clips_per_second'] = clips_per_second
            values['data_wait_share'] = self.waited * steps_per_second / len(kept)
        values['epoch'] = done * self._clips_per_step / self._source.samples_per_epoch
        self.waited = 0.0
        values['skipped_updates'] = float(kept[-1][1]['skipped_updates'][0])
        self._writer.write_scalars(done, values)
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
        return float(jax.device_get(self._schedule(jax.device_put(step))))

    def _report_not_finite(self, step: int, terms: Any) -> None:
        try:
            file = non_finite.save_batch(self._workdir, self._source, step)
            look = f'to look at the step, give the same command with --config.replay={file}'
        except (OSError, ValueError) as error:  # what has happened is told all the same
            look = f'its batch could not be kept ({error})'
        last, skipped, most = (
            self._saved.latest_step(),
            int(terms['skipped_updates'][0]),
            self._config.non_finite.most,
        )
        text = (
            f'{non_finite.describe(step, terms)}; the last good checkpoint is '
            f'{"none" if last is None else f"step {last}"} in {self._saved.directory}; '
            f'{look}'
        )
        if skipped > most:
            remedy = 'lower config.optimizer.peak_learning_rate, ' + (
                f'or raise config.non_finite.max_skips={most}'
                if most
                else 'or go on without it: --config.non_finite.action=skip'
            )
            raise non_finite.NonFiniteStep(f'{text}; {remedy}', step)
        _log.warning('%s; passed over, %d of at most %d', text, skipped, most)
