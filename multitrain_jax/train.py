"""Training from first to last: the state is made or restored, the loop, evaluation, export."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import logging
import os
from pathlib import Path
import time
from typing import Any

from flax import nnx
import jax

from multitrain_jax import experiment
from multitrain_jax.batch import Batch, BatchSource, DatasetSpec, check_batch
from multitrain_jax.checkpoints import exports, runs
from multitrain_jax.config import Config
from multitrain_jax.errors import Interrupted
from multitrain_jax.evaluation import results
from multitrain_jax.evaluation.metrics import DatasetResult
from multitrain_jax.experiment import Experiment
from multitrain_jax.models.multitrain import count_parameters
from multitrain_jax.parallel import layout
from multitrain_jax.parallel.compilation_cache import keep_compiled
from multitrain_jax.parallel.hosts import barrier
from multitrain_jax.parallel.mesh import place, whole
from multitrain_jax.parallel.prefetch import prefetch
from multitrain_jax.reporting import writers
from multitrain_jax.reporting.progress import duration, timed
from multitrain_jax.training import interruptions, non_finite
from multitrain_jax.training.board import Board
from multitrain_jax.training.run_start import Start, run_meta, start_or_continue
from multitrain_jax.training.step_log import StepLog
from multitrain_jax.training.train_step import TrainState, inference_params
from multitrain_jax.training.workdir import held, make_workdir, write_request

_log = logging.getLogger('multitrain_jax')


def train_and_evaluate(
    config: Config,
    workdir: str | os.PathLike,
    *,
    source: BatchSource | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> results.RunResults:
    """Trains as configured, evaluates, exports; continues where `workdir` stopped.

    Args:
        config: the experiment.
        workdir: gets checkpoints, TensorBoard files, `export/`, `results.json`.
        source: batches; None: the records that the config names, read by `data_pipelines`.
        devices: to run on; None: all.

    Raises:
        UserError: a mistake in the config or the data, or a workdir of another run.
        Interrupted: SIGTERM or SIGINT came; what has been done is saved.
    """
    driver = experiment.open_devices(config, devices)
    workdir = make_workdir(workdir)
    keep_compiled(config.compilation_cache_dir)
    with held(workdir):
        if source is None:
            from multitrain_jax.record_data import RecordData  # the only door to data_pipelines

            source = RecordData(config, host=jax.process_index(), num_hosts=jax.process_count())
        length = experiment.run_length(config, source)
        prepared = experiment.prepare(config, source.datasets, driver, length)
        _describe(prepared, source)
        return _run(prepared, source, workdir)


def _run(prepared: Experiment, source: BatchSource, workdir: Path) -> results.RunResults:
    config, main_host = prepared.config, jax.process_index() == 0
    meta = run_meta(config, source)
    with contextlib.ExitStack() as closing:
        saved = runs.RunCheckpoints(workdir, keep=config.checkpoint.keep)
        closing.callback(saved.close)
        start = start_or_continue(
            saved,
            workdir,
            meta,
            prepared.length.steps,
            first_state=lambda: prepared.first_state(workdir),
            restore=lambda step, stored: prepared.restore(saved, step, stored),
        )
        if isinstance(start, results.RunResults):
            return start
        if main_host:
            write_request(workdir, config)
        # TensorBoard's writer imports TensorFlow, which takes seconds: meanwhile the first step is
        # made ready and compiled.
        beside = concurrent.futures.ThreadPoolExecutor(1, 'writer')
        writer = writers.OpeningWriter(
            beside.submit(
                writers.open_writer, str(workdir), is_main_host=main_host, also=config.writers
            )
        )
        closing.callback(writer.close)
        closing.callback(writer.flush)
        best = None
        if config.checkpoint.keep_best:
            best = runs.BestCheckpoint(workdir)
            closing.callback(best.close)
        stop = closing.enter_context(interruptions.listen())
        run = _Loop(prepared, source, workdir, saved, best, meta, writer, stop)
        state, clips_per_second = run.train(start)
        accuracy = run.last_evaluation(state)
        _log.info('exporting to %s', workdir / 'export')
        params = jax.device_get(whole(inference_params(state)))
        outcome = results.RunResults(
            prepared.length.steps, accuracy, clips_per_second, str(workdir), best and best.best
        )
        if main_host:
            info = exports.model_info(config, source.datasets)
            exports.write_export(workdir / 'export', *exports.for_inference(info, params))
            results.save(workdir, outcome)
        barrier('results')
    return outcome


class _Loop:
    """The loop of a run: steps, and between them evaluation and checkpoints."""

    def __init__(
        self,
        prepared: Experiment,
        source: BatchSource,
        workdir: Path,
        saved: runs.RunCheckpoints,
        best: runs.BestCheckpoint | None,
        meta: Mapping[str, Any],
        writer: Any,
        stop: interruptions.StopRequests,
    ):
        self._experiment, self._source, self._workdir = prepared, source, workdir
        self._saved, self._best, self._meta = saved, best, meta
        self._writer, self._stop = writer, stop
        config, self._total = prepared.config, prepared.length.steps
        self._board = Board(config, prepared.datasets, prepared.abstract_params, workdir, writer)
        self._evaluate_every = round(config.evaluation.every_epochs * prepared.length.per_epoch)
        self._log: StepLog | None = None

    def train(self, start: Start) -> tuple[TrainState, float]:
        """All steps from a start: (state, median clips per second).

        The order is a contract: evaluate the state, save it, then take the next batch and step.
        """
        prepared, config = self._experiment, self._experiment.config
        state = place(start.state, prepared.shardings)
        if start.step == self._total:
            return state, float('nan')
        self._log = log = StepLog(
            self._source,
            every_steps=config.log_every_steps,
            clips_per_step=experiment.clips_per_step(config, self._source),
            first_step=start.step,
            total_steps=self._total,
            schedule=prepared.schedule,
            watch=non_finite.Watch(
                self._workdir, self._source, self._saved, config.non_finite.most
            ),
            writer=self._writer,
        )
        batches = prefetch(
            _first_checked(
                self._source.train_batches(start.step, self._total - start.step),
                prepared,
                self._board.keep,
            ),
            prepared.driver.to_devices,
        )
        started = time.monotonic()
        _log.info('compiling the training step (the first time takes longest) ...')
        # What goes between host and devices in the loop is meant to: a forgotten conversion would
        # make every step wait. What several processes tell each other goes over the devices, so
        # that there it is not forbidden.
        guard = jax.transfer_guard('disallow' if jax.process_count() == 1 else 'allow')
        with contextlib.closing(batches), guard:
            try:
                for step in range(start.step, self._total):
                    self._between_steps(start, state, step)
                    waiting = time.monotonic()
                    batch = next(batches)
                    log.waited += time.monotonic() - waiting
                    state, terms = prepared.train_step(state, batch)
                    if step == start.step:
                        jax.block_until_ready(terms)
                        taken = duration(time.monotonic() - started)
                        _log.info('compiled, first step done after %s', taken)
                        self._board.begin()
                        self._board.show_first(state.key, step)
                        log.countdown.restart(step + 1)
                    log.add(step, terms)
                log.flush()
            except non_finite.NonFiniteStep as error:
                non_finite.save_state(self._workdir, state, self._meta, error.step)
                raise
        self._saved.save(self._total, state, self._meta)
        rates = sorted(log.rates)
        return state, rates[len(rates) // 2] if rates else float('nan')

    def last_evaluation(self, state: TrainState) -> dict[str, DatasetResult]:
        """Evaluates the state after the last step, and waits for its checkpoint."""
        try:
            accuracy = self._evaluate(state, self._total)
        except interruptions.StopRequested:
            raise self._interrupted(self._total) from None
        self._saved.wait()
        return accuracy

    def _between_steps(self, start: Start, state: TrainState, step: int) -> None:
        """Evaluates and saves the state after `step` updates where that is due.

        Raises:
            Interrupted: the run was asked to stop; the state is saved.
        """
        new = step > start.step  # else it comes from a checkpoint, or is the first
        every = self._evaluate_every
        evaluation_due = every > 0 and step % every == 0 and (new or start.evaluation_due)
        try:
            if evaluation_due:
                self._log.flush()
                self._evaluate(state, step)
                evaluation_due = False
                self._log.countdown.restart(step)
            if new and step % self._experiment.config.checkpoint.every_steps == 0:
                self._save(state, step)
            self._stop.check()
        except interruptions.StopRequested:
            if new:
                self._save(state, step, evaluation_due=evaluation_due)
            raise self._interrupted(step) from None

    def _save(self, state: TrainState, step: int, *, evaluation_due: bool = False) -> None:
        self._log.flush()  # a state whose loss was not finite is never saved
        self._writer.flush()  # a killed run has lost no metrics of the steps before its checkpoint
        self._saved.save(step, state, {**self._meta, 'evaluation_due': evaluation_due})

    def _evaluate(self, state: TrainState, step: int) -> dict[str, DatasetResult]:
        prepared = self._experiment

        def eval_step(params, batch):
            self._stop.check()  # raises between two batches
            return prepared.eval_step(params, batch)

        with timed(f'evaluating at step {step}'):
            params = layout.for_evaluation(
                inference_params(state), prepared.driver.mesh, prepared.model
            )
            scores: list[tuple[DatasetSpec, Any]] = []
            accuracy = results.evaluate(
                eval_step,
                params,
                self._source,
                prepared.driver,
                lambda *own: scores.append(own),
            )
        self._writer.write_scalars(step, results.scalars(accuracy))
        self._board.evaluated(step, params, scores, accuracy)
        self._writer.flush()
        if self._best is not None:
            which = prepared.config.checkpoint.keep_best
            figure = results.figure(accuracy, which)
            if self._best.offer(step, state, self._meta, figure):
                place = self._workdir / runs.BEST
                _log.info(
                    'best so far: step %d, %s %.1f%%; kept in %s', step, which, 100 * figure, place
                )
        return accuracy

    def _interrupted(self, step: int) -> Interrupted:
        self._saved.wait()
        reason = self._stop.name or 'a signal to another process'
        saved = self._saved
        where = f'saved in {saved.directory}' if saved.all_steps() else 'nothing to save'
        return Interrupted(
            f'{reason} after step {step} of {self._total}, {where}; the same command goes on '
            'from there'
        )


def _first_checked(
    batches: Iterator[Batch], prepared: Experiment, keep: Callable[[Batch], None]
) -> Iterator[Batch]:
    """The batches, the first of which has been checked against the contract, and `keep` has it."""
    backbone, localisation = prepared.config.model.backbone, prepared.config.localisation
    with contextlib.ExitStack() as closing:
        if hasattr(batches, 'close'):
            closing.callback(batches.close)
        for number, batch in enumerate(batches):
            if not number:
                check_batch(
                    batch,
                    num_frames=backbone.num_frames,
                    image_size=backbone.image_size,
                    datasets=prepared.datasets,
                    max_boxes=localisation and localisation.max_boxes,
                )
                keep(batch)
            yield batch


def _describe(prepared: Experiment, source: BatchSource) -> None:
    config, mesh = prepared.config, prepared.driver.mesh
    device = mesh.devices.flat[0]
    _log.info(
        '%d x %s (%s), %d process(es)',
        mesh.size,
        device.device_kind,
        device.platform,
        jax.process_count(),
    )
    undivided = config.model.backbone.undivided(config.parallel.model)
    if undivided:
        _log.info(
            'parallel.model=%d does not divide the attention heads of %s: each device computes all '
            'of that attention, and shares the rest',
            config.parallel.model,
            undivided,
        )
    parameters = count_parameters(nnx.merge(prepared.graphdef, prepared.abstract_params))
    _log.info(
        'model: %s parameters (%s)',
        f'{parameters["total"]:,}',
        ', '.join(f'{name} {count:,}' for name, count in parameters.items() if name != 'total'),
    )
    if config.optimizer.frozen:
        _log.info('frozen: %s', ', '.join(config.optimizer.frozen))
    for spec in source.datasets:
        kinds = ('actions in boxes', 'key frames') if spec.localisation else ('classes', 'videos')
        _log.info(
            'dataset %s: %d %s, %d evaluation %s',
            spec.name,
            len(spec.classes),
            kinds[0],
            spec.evaluation_records,
            kinds[1],
        )
    _log.info(
        '%d training samples per epoch, batch %g, schedule %s, %g epochs: %d steps',
        source.samples_per_epoch,
        experiment.clips_per_step(config, source),
        config.schedule.kind,
        config.epochs,
        prepared.length.steps,
    )
