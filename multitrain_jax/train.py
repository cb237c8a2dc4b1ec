"""Training from first to last: the state is made or restored, the loop, evaluation, export."""

from collections.abc import Callable, Mapping, Sequence
import concurrent.futures
import dataclasses
import functools
import logging
import os
from pathlib import Path
import time
from typing import Any

from flax import nnx
import jax
import optax

from multitrain_jax import checkpoints, evaluation, export, initialise, layout, metrics, parallel, results, scoring, train_step
from multitrain_jax.accuracy import DatasetResult
from multitrain_jax.batch import BatchSource, DatasetSpec, check_batch, classifying
from multitrain_jax.config import Config, with_datasets
from multitrain_jax.dataclass_config import to_dict
from multitrain_jax.errors import UserError
from multitrain_jax.models.multitrain import count_parameters
from multitrain_jax.optimizer import build_optimizer, learning_rate_schedule
from multitrain_jax.progress import duration, timed
from multitrain_jax.projection_files import start_projections
from multitrain_jax.step_log import StepLog
from multitrain_jax.train_step import TrainState

_log = logging.getLogger('multitrain_jax')


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same through a run."""

    config: Config
    source: BatchSource
    workdir: Path
    mesh: jax.sharding.Mesh
    total_steps: int
    schedule: Callable
    train_step: Callable
    eval_step: Callable
    saved: checkpoints.RunCheckpoints
    meta: Mapping[str, Any]
    writer: Any


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
    """
    model_devices = config.parallel.model
    mesh = parallel.data_mesh(devices) if model_devices == 1 else parallel.grid_mesh(model_devices, devices)
    for size in _step_sizes(config):
        config.augment.check_batch(parallel.check_divides(size, mesh, 'batch_size', config.accumulation_steps))
    parallel.check_divides(config.evaluation.batch_size, mesh, 'evaluation.batch_size')
    workdir = make_workdir(workdir)
    if config.compilation_cache_dir:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser(config.compilation_cache_dir))
    # TensorBoard's writer imports TensorFlow, which takes seconds: meanwhile data and model are made ready.
    importing = concurrent.futures.ThreadPoolExecutor(1, 'writer').submit(metrics.import_writers)
    if source is None:
        from multitrain_jax.record_data import RecordData  # the only door to data_pipelines

        source = RecordData(config, host=jax.process_index(), num_hosts=jax.process_count())

    steps_per_epoch = source.samples_per_epoch / _clips_per_step(config, source)
    total_steps = max(1, round(config.epochs * steps_per_epoch))
    schedule = learning_rate_schedule(config.optimizer, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    graphdef, abstract_params = train_step.abstract_model(config, source.datasets)
    tx = build_optimizer(config.optimizer, schedule, train_step.training_params(config, abstract_params))
    _describe(config, source, mesh, total_steps, count_parameters(nnx.merge(graphdef, abstract_params)))

    shapes = jax.eval_shape(lambda: train_step.init_state(config, source.datasets, tx))
    shardings = layout.state_shardings(shapes, mesh, with_datasets(config, source.datasets))
    meta = run_meta(config, source)
    saved = checkpoints.RunCheckpoints(workdir, keep=config.checkpoint.keep)
    finished = results.load(workdir)
    if finished is not None and not saved.all_steps():
        raise UserError(f'{workdir} holds the results of a run, but no checkpoints; to train anew use another --workdir')

    def continue_from(step: int) -> tuple[int, TrainState | None]:
        checkpoints.check_same_run(saved.read_meta(step), meta, workdir)
        if step > total_steps:
            raise UserError(
                f'{workdir} holds a run at step {step}, beyond the {total_steps} steps of config.epochs={config.epochs:g}; '
                'raise config.epochs, or use another --workdir'
            )
        if finished is not None and step == total_steps == finished.steps:
            return step, None
        return step, saved.restore(step, shapes)

    found = saved.read_newest(continue_from)
    if found is None:
        with timed('initialising'):
            state = _first_state(config, source.datasets, tx, workdir)
    else:
        latest, state = found
        if state is None:
            _log.info('this run is finished (step %d of %d); choose another --workdir to train anew', latest, total_steps)
            return finished
        saved.set_aside_after(latest)
        _log.info('resuming at step %d of %d from %s', latest, total_steps, saved.directory)

    importing.result()
    writer = metrics.open_writer(str(workdir), is_main_host=jax.process_index() == 0)
    run = _Run(
        config, source, workdir, mesh, total_steps, schedule,
        train_step=parallel.map_train_step(
            train_step.make_train_step(config, source.datasets, graphdef, tx), mesh, shardings
        ),
        eval_step=scoring.make_eval_step(graphdef, source.datasets, config.augment, mesh),
        saved=saved, meta=meta, writer=writer,
    )  # fmt: skip
    try:
        state, clips_per_second = _train(run, jax.device_put(state, shardings), int(state.step))
        accuracy = _evaluate(run, state, total_steps)
        saved.wait()
        _log.info('exporting to %s', workdir / 'export')
        params = jax.device_get(train_step.inference_params(state))
        export.write_export(workdir / 'export', params, config, source.datasets)
        outcome = results.RunResults(total_steps, accuracy, clips_per_second, str(workdir))
        results.save(workdir, outcome)
    finally:
        saved.close()
        writer.flush()
        writer.close()
    return outcome


def _first_state(
    config: Config, datasets: Sequence[DatasetSpec], tx: optax.GradientTransformation, workdir: Path
) -> TrainState:
    """The state of a new run: random parameters, over them those of `init_from`, then those of `projections_from`."""
    weights = None if config.init_from is None else initialise.read_weights(config.init_from)
    # It runs once, so it is compiled for a short compile time: 4 s instead of 11 for a small model.
    options = {'xla_backend_optimization_level': 0}
    state = jax.block_until_ready(
        jax.jit(lambda: train_step.init_state(config, datasets, tx), compiler_options=options)()
    )
    if weights is not None:
        params, report = initialise.initialise(
            jax.device_get(state.params), with_datasets(config, datasets), datasets, weights,
            mean=config.augment.mean, std=config.augment.std,
        )  # fmt: skip
        if jax.process_index() == 0:
            (workdir / initialise.TABLE_FILE).write_text(f'{report}\n', encoding='utf-8')
        _log.info('parameters, and where they come from:\n%s', report)
        state = train_step.start_from(state, config, jax.tree.map(jax.numpy.asarray, params))
    if config.projections_from is not None:
        start = start_projections(config.projections_from, state.params['projections'], classifying(datasets))
        state = train_step.start_from(state, config, {'projections': jax.tree.map(jax.numpy.asarray, start)})
    return state


def _train(run: _Run, state: TrainState, first_step: int) -> tuple[TrainState, float]:
    """The loop. Its order is a contract: evaluate the state, save it, then take the next batch and step."""
    config = run.config
    clips_per_step = _clips_per_step(config, run.source)
    evaluate_every = round(config.evaluation.every_epochs * run.source.samples_per_epoch / clips_per_step)
    if first_step == run.total_steps:
        return state, float('nan')
    batches = parallel.prefetch(
        run.source.train_batches(first_step, run.total_steps - first_step),
        functools.partial(_to_devices_checked, run, first=[True]),
    )
    log = StepLog(
        config, run.source, clips_per_step, first_step=first_step, total_steps=run.total_steps, schedule=run.schedule,
        saved=run.saved, writer=run.writer,
    )  # fmt: skip
    started = time.monotonic()
    _log.info('compiling the training step (the first time takes longest) ...')
    for step in range(first_step, run.total_steps):
        if step > first_step:
            if evaluate_every and step % evaluate_every == 0:
                log.flush()
                _evaluate(run, state, step)
                log.countdown.restart(step)
            if step % config.checkpoint.every_steps == 0:
                log.flush()  # a state whose loss was not finite is never saved
                run.writer.flush()  # a killed run has lost no metrics of the steps before its checkpoint
                run.saved.save(step, state, run.meta)
        waiting = time.monotonic()
        share = next(batches)
        log.waited += time.monotonic() - waiting
        state, terms = run.train_step(state, share)
        if step == first_step:
            jax.block_until_ready(terms)
            _log.info('compiled, first step done after %s', duration(time.monotonic() - started))
            log.countdown.restart(step + 1)
        log.add(step, terms)
    log.flush()
    batches.close()
    run.saved.save(run.total_steps, state, run.meta)
    rates = sorted(log.rates)
    return state, rates[len(rates) // 2] if rates else float('nan')


def _to_devices_checked(run: _Run, batch, first: list[bool]):
    if first:  # emptied after the first batch
        first.clear()
        backbone = run.config.model.backbone
        localisation = run.config.localisation
        check_batch(
            batch, num_frames=backbone.num_frames, image_size=backbone.image_size, datasets=run.source.datasets,
            max_boxes=localisation and localisation.max_boxes,
        )  # fmt: skip
    return parallel.to_devices(batch, run.mesh)


def _evaluate(run: _Run, state: TrainState, step: int) -> dict[str, DatasetResult]:
    with timed(f'evaluating at step {step}'):
        accuracy = evaluation.evaluate(run.eval_step, train_step.inference_params(state), run.source, run.mesh)
    run.writer.write_scalars(step, results.scalars(accuracy))
    return accuracy


def run_meta(config: Config, source: BatchSource) -> dict[str, Any]:
    """What a checkpoint says of itself, beside its arrays."""
    return {
        'model': to_dict(config.model),
        'datasets': {spec.name: _spec_meta(spec) for spec in source.datasets},
        'data_order': {
            'seed': config.seed,
            'batch_size': config.batch_size,
            'repeats': config.input.repeats,
            'samples_per_epoch': source.samples_per_epoch,
            'schedule': None if config.schedule.kind == 'concatenate' else to_dict(config.schedule),
            'batch_sizes': config.batch_sizes if config.schedule.by_dataset else None,
        },
        'state': {
            'frozen': config.optimizer.frozen,
            'ema': config.optimizer.ema_decay > 0,
            'learned_dataset_weights': config.objective.learned_dataset_weights,
            'learned_informative_weights': config.objective.learned_informative_weights,
        },
        'config': to_dict(config),
    }  # fmt: skip


def _spec_meta(spec: DatasetSpec) -> dict[str, Any]:
    meta = {'classes': list(spec.classes), 'multi_label': spec.multi_label}
    if spec.localisation:
        meta |= {'localisation': True, 'train_counts': list(spec.train_counts), 'action_ids': list(spec.action_ids)}
    return meta


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
        raise UserError(f'--workdir={workdir}: cannot be made or written ({error.strerror})') from error
    return path


def _describe(
    config: Config, source: BatchSource, mesh: jax.sharding.Mesh, total_steps: int, parameters: Mapping[str, int]
) -> None:
    device = mesh.devices.flat[0]
    _log.info('%d x %s (%s), %d process(es)', mesh.size, device.device_kind, device.platform, jax.process_count())
    undivided = layout.undivided_stages(config.model, mesh)
    if undivided:
        _log.info(
            'parallel.model=%d does not divide the attention heads of stage %s: each device computes all of that '
            'attention, and shares the rest', config.parallel.model, ', '.join(map(str, undivided)),
        )  # fmt: skip
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
            'dataset %s: %d %s, %d evaluation %s', spec.name, len(spec.classes), kinds[0], spec.evaluation_records, kinds[1]
        )
    _log.info(
        '%d training samples per epoch, batch %g, schedule %s, %g epochs: %d steps',
        source.samples_per_epoch, _clips_per_step(config, source), config.schedule.kind, config.epochs, total_steps,
    )  # fmt: skip
