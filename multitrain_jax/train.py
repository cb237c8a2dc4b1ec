"""Training from first to last: the state is made or restored, the loop, evaluation, export."""

from collections.abc import Callable, Mapping, Sequence
import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import os
from pathlib import Path
import time
from typing import Any

from flax import nnx
import jax

from multitrain_jax import export
from multitrain_jax.batch import BatchSource, check_batch
from multitrain_jax.checkpoints import runs
from multitrain_jax.checkpoints.best import BestCheckpoint
from multitrain_jax.config import Config, with_datasets
from multitrain_jax.errors import Interrupted, UserError
from multitrain_jax.evaluation import in_training, results, views
from multitrain_jax.evaluation.metrics import DatasetResult
from multitrain_jax.models.multitrain import count_parameters
from multitrain_jax.optimizer import build_optimizer, learning_rate_schedule
from multitrain_jax.parallel import layout
from multitrain_jax.parallel.drivers import Driver, open_driver
from multitrain_jax.parallel.hosts import barrier
from multitrain_jax.parallel.mesh import check_divides, place, whole
from multitrain_jax.parallel.prefetch import prefetch
from multitrain_jax.reporting import metrics
from multitrain_jax.reporting.progress import duration, timed
from multitrain_jax.training import interruptions, non_finite, train_step
from multitrain_jax.training.run_start import Start, run_meta, start_or_continue
from multitrain_jax.training.step_log import StepLog
from multitrain_jax.training.train_step import TrainState

_log = logging.getLogger('multitrain_jax')


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same through a run."""

    config: Config
    source: BatchSource
    workdir: Path
    driver: Driver
    total_steps: int
    schedule: Callable
    train_step: Callable
    eval_step: Callable
    saved: runs.RunCheckpoints
    meta: Mapping[str, Any]
    writer: Any
    stop: interruptions.StopRequests
    best: BestCheckpoint | None


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
    driver = driver_of(config, devices)
    workdir = make_workdir(workdir)
    if config.compilation_cache_dir:
        jax.config.update(
            'jax_compilation_cache_dir', os.path.expanduser(config.compilation_cache_dir)
        )
    if source is None:
        from multitrain_jax.record_data import RecordData  # the only door to data_pipelines

        source = RecordData(config, host=jax.process_index(), num_hosts=jax.process_count())

    total_steps, schedule = plan_steps(config, source)
    graphdef, abstract_params = train_step.abstract_model(config, source.datasets)
    tx = build_optimizer(
        config.optimizer,
        schedule,
        train_step.training_params(config, abstract_params),
        config.model.backbone,
    )
    _describe(
        config,
        source,
        driver.mesh,
        total_steps,
        count_parameters(nnx.merge(graphdef, abstract_params)),
    )

    shapes = jax.eval_shape(lambda: train_step.init_state(config, source.datasets, tx))
    shardings = layout.state_shardings(
        shapes,
        driver.mesh,
        with_datasets(config, source.datasets),
        shard_optimizer=config.parallel.shard_optimizer,
    )
    meta = run_meta(config, source)
    saved = runs.RunCheckpoints(workdir, keep=config.checkpoint.keep)
    start = start_or_continue(
        config, source.datasets, tx, shapes, workdir, saved, meta, total_steps
    )
    if isinstance(start, results.RunResults):
        return start

    is_main_host = jax.process_index() == 0
    # TensorBoard's writer imports TensorFlow, which takes seconds: meanwhile the first step is made ready and compiled.
    beside = concurrent.futures.ThreadPoolExecutor(1, 'writer')
    writer = metrics.OpeningWriter(
        beside.submit(metrics.open_writer, str(workdir), is_main_host=is_main_host)
    )
    best = (
        BestCheckpoint(workdir, config.checkpoint.keep_best)
        if config.checkpoint.keep_best
        else None
    )
    with interruptions.listen() as stop:
        run = _Run(
            config,
            source,
            workdir,
            driver,
            total_steps,
            schedule,
            train_step=driver.train_step(
                train_step.make_train_step(config, source.datasets, graphdef, tx), shardings
            ),
            eval_step=views.make_eval_step(graphdef, source.datasets, config.augment, driver),
            saved=saved,
            meta=meta,
            writer=writer,
            stop=stop,
            best=best,
        )
        try:
            state, clips_per_second = _train(run, start, place(start.state, shardings))
            accuracy = _last_evaluation(run, state)
            _log.info('exporting to %s', workdir / 'export')
            params = jax.device_get(whole(train_step.inference_params(state)))
            outcome = results.RunResults(total_steps, accuracy, clips_per_second, str(workdir))
            if jax.process_index() == 0:
                export.write_export(workdir / 'export', params, config, source.datasets)
                results.save(workdir, outcome)
            barrier('results')
        finally:
            saved.close()
            if best is not None:
                best.close()
            writer.flush()
            writer.close()
    return outcome


def driver_of(config: Config, devices: Sequence[jax.Device] | None = None) -> Driver:
    """What runs the steps on the devices of a run; None: all of them.

    Raises:
        UserError: they do not suit `config.parallel` or the attention asked for, or the batches do not divide over them.
    """
    driver = open_driver(config.parallel, devices)
    mesh = driver.mesh
    if config.model.backbone.attention == 'cudnn':
        _check_cudnn(mesh.devices.flat[0], config.parallel.model)
    for size in _step_sizes(config):
        config.augment.check_batch(
            check_divides(size, mesh, 'batch_size', config.accumulation_steps)
        )
    check_divides(config.evaluation.batch_size, mesh, 'evaluation.batch_size')
    return driver


def _check_cudnn(device: jax.Device, devices_per_replica: int) -> None:
    where = "config.model.backbone.attention='cudnn'"
    if device.platform != 'gpu' or float(getattr(device, 'compute_capability', 0)) < 8:
        raise UserError(
            f"{where} needs NVIDIA GPUs of the Ampere generation or newer, here is: {device.device_kind}; use 'xla'"
        )
    if devices_per_replica > 1:
        raise UserError(
            f"{where} does not divide the heads over devices: use config.parallel.model=1, or 'xla'"
        )


def plan_steps(config: Config, source: BatchSource) -> tuple[int, Callable]:
    """(updates of the whole run, learning rate by update).

    Raises:
        ValueError: the warm-up does not end before the run does.
    """
    steps_per_epoch = source.samples_per_epoch / _clips_per_step(config, source)
    total_steps = max(1, round(config.epochs * steps_per_epoch))
    schedule = learning_rate_schedule(
        config.optimizer, total_steps=total_steps, steps_per_epoch=steps_per_epoch
    )
    return total_steps, schedule


def _train(run: _Run, start: Start, state: TrainState) -> tuple[TrainState, float]:
    """The loop. Its order is a contract: evaluate the state, save it, then take the next batch and step."""
    config = run.config
    clips_per_step = _clips_per_step(config, run.source)
    if start.step == run.total_steps:
        return state, float('nan')
    batches = prefetch(
        run.source.train_batches(start.step, run.total_steps - start.step),
        functools.partial(_to_devices_checked, run, first=[True]),
    )
    log = StepLog(
        config,
        run.source,
        clips_per_step,
        first_step=start.step,
        total_steps=run.total_steps,
        schedule=run.schedule,
        workdir=run.workdir,
        saved=run.saved,
        writer=run.writer,
    )
    started = time.monotonic()
    _log.info('compiling the training step (the first time takes longest) ...')
    # What goes between host and devices in the loop is meant to: a forgotten conversion would make every step wait.
    # What several processes tell each other goes over the devices, so that there it is not forbidden.
    guard = jax.transfer_guard('disallow' if jax.process_count() == 1 else 'allow')
    with contextlib.closing(batches), guard:
        try:
            for step in range(start.step, run.total_steps):
                _between_steps(run, log, start, state, step)
                waiting = time.monotonic()
                share = next(batches)
                log.waited += time.monotonic() - waiting
                state, terms = run.train_step(state, share)
                if step == start.step:
                    jax.block_until_ready(terms)
                    _log.info(
                        'compiled, first step done after %s', duration(time.monotonic() - started)
                    )
                    log.countdown.restart(step + 1)
                log.add(step, terms)
            log.flush()
        except non_finite.NonFiniteStep as error:
            non_finite.save_state(run.workdir, state, run.meta, error.step)
            raise
    run.saved.save(run.total_steps, state, run.meta)
    rates = sorted(log.rates)
    return state, rates[len(rates) // 2] if rates else float('nan')


def _between_steps(run: _Run, log: StepLog, start: Start, state: TrainState, step: int) -> None:
    """Evaluates and saves the state after `step` updates where that is due.

    Raises:
        Interrupted: the run was asked to stop; the state is saved.
    """
    new = step > start.step  # else it comes from a checkpoint, or is the first
    every = round(
        run.config.evaluation.every_epochs
        * run.source.samples_per_epoch
        / _clips_per_step(run.config, run.source)
    )
    evaluation_due = every > 0 and step % every == 0 and (new or start.evaluation_due)
    try:
        if evaluation_due:
            log.flush()
            _evaluate(run, state, step)
            evaluation_due = False
            log.countdown.restart(step)
        if new and step % run.config.checkpoint.every_steps == 0:
            _save(run, log, state, step)
        run.stop.check()
    except interruptions.StopRequested:
        if new:
            _save(run, log, state, step, evaluation_due=evaluation_due)
        raise _interrupted(run, step) from None


def _save(
    run: _Run, log: StepLog, state: TrainState, step: int, *, evaluation_due: bool = False
) -> None:
    log.flush()  # a state whose loss was not finite is never saved
    run.writer.flush()  # a killed run has lost no metrics of the steps before its checkpoint
    run.saved.save(step, state, run.meta | {'evaluation_due': evaluation_due})


def _last_evaluation(run: _Run, state: TrainState) -> dict[str, DatasetResult]:
    try:
        accuracy = _evaluate(run, state, run.total_steps)
    except interruptions.StopRequested:
        raise _interrupted(run, run.total_steps) from None
    run.saved.wait()
    return accuracy


def _interrupted(run: _Run, step: int) -> Interrupted:
    run.saved.wait()
    reason = run.stop.name or 'a signal to another process'
    where = f'saved in {run.saved.directory}' if run.saved.all_steps() else 'nothing to save'
    return Interrupted(
        f'{reason} after step {step} of {run.total_steps}, {where}; the same command goes on from there'
    )


def _to_devices_checked(run: _Run, batch, first: list[bool]):
    if first:  # emptied after the first batch
        first.clear()
        backbone = run.config.model.backbone
        localisation = run.config.localisation
        check_batch(
            batch,
            num_frames=backbone.num_frames,
            image_size=backbone.image_size,
            datasets=run.source.datasets,
            max_boxes=localisation and localisation.max_boxes,
        )
    return run.driver.to_devices(batch)


def _evaluate(run: _Run, state: TrainState, step: int) -> dict[str, DatasetResult]:
    def eval_step(params, share):
        run.stop.check()  # raises between two batches
        return run.eval_step(params, share)

    with timed(f'evaluating at step {step}'):
        model = with_datasets(run.config, run.source.datasets)
        params = layout.for_evaluation(train_step.inference_params(state), run.driver.mesh, model)
        accuracy = in_training.evaluate(eval_step, params, run.source, run.driver)
    run.writer.write_scalars(step, results.scalars(accuracy))
    if run.best is not None:
        run.best.offer(step, state, run.meta, accuracy)
    return accuracy


def _step_sizes(config: Config) -> set[int]:
    """Numbers of clips that the batches of a run have."""
    if not config.schedule.by_dataset:
        return {config.batch_size}
    sizes = config.batch_sizes.values()
    return {sum(sizes)} if config.schedule.kind == 'accumulated' else set(sizes)


def _clips_per_step(config: Config, source: BatchSource) -> float:
    return getattr(source, 'clips_per_step', config.batch_size)


def make_workdir(workdir: str | os.PathLike) -> Path:
    path = Path(workdir).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            (path / 'log.txt').touch()
    except OSError as error:
        raise UserError(
            f'--workdir={workdir}: cannot be made or written ({error.strerror})'
        ) from error
    return path


def _describe(
    config: Config,
    source: BatchSource,
    mesh: jax.sharding.Mesh,
    total_steps: int,
    parameters: Mapping[str, int],
) -> None:
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
            'parallel.model=%d does not divide the attention heads of %s: each device computes all of that '
            'attention, and shares the rest',
            config.parallel.model,
            undivided,
        )
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
        _clips_per_step(config, source),
        config.schedule.kind,
        config.epochs,
        total_steps,
    )
