"""Training: the state, the step of one replica, and the loop around it."""

from collections.abc import Callable, Mapping, Sequence
import concurrent.futures
import dataclasses
import functools
import logging
import math
import os
from pathlib import Path
import time
from typing import Any

from flax import nnx
import flax.struct
import jax
import jax.numpy as jnp
import optax

from multitrain_jax import checkpoints, export, metrics, parallel, results, scoring
from multitrain_jax.accuracy import DatasetResult
from multitrain_jax.augment.pipeline import augment_train
from multitrain_jax.batch import BatchSource, DatasetSpec, check_batch
from multitrain_jax.config import Config, with_classes
from multitrain_jax.dataclass_config import to_dict
from multitrain_jax.errors import UserError
from multitrain_jax.models.multitrain import MultiTrainModel, count_parameters
from multitrain_jax.objectives.total import DatasetObjective, objective
from multitrain_jax.optimizer import build_optimizer, learning_rate_schedule
from multitrain_jax.progress import Countdown, duration, timed

_log = logging.getLogger('multitrain_jax')


@flax.struct.dataclass
class TrainState:
    """All that changes during training.

    Attributes:
        step: i32[], updates done.
        params: float32 parameters, nested dicts.
        opt_state: of the optimizer.
        key: PRNG key of the run; step keys are folded from it.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array


def init_state(config: Config, datasets: Sequence[DatasetSpec], tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step, a function of the config's seed."""
    params_key, run_key = jax.random.split(jax.random.key(config.seed))
    model = build_model(config, datasets, params_key)
    params = nnx.to_pure_dict(nnx.state(model))
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), run_key)


def build_model(config: Config, datasets: Sequence[DatasetSpec], key: jax.Array) -> MultiTrainModel:
    """The model for the datasets' numbers of classes."""
    return MultiTrainModel(
        with_classes(config.model, tuple(len(spec.classes) for spec in datasets)), rngs=nnx.Rngs(key)
    )


def abstract_model(config: Config, datasets: Sequence[DatasetSpec]) -> tuple[nnx.GraphDef, Any]:
    """(graph definition, parameters as shapes), without computing anything."""
    model = nnx.eval_shape(functools.partial(build_model, config, datasets, jax.random.key(0)))
    graphdef, params = nnx.split(model)
    return graphdef, nnx.to_pure_dict(params)


def make_train_step(
    config: Config, datasets: Sequence[DatasetSpec], graphdef: nnx.GraphDef, tx: optax.GradientTransformation
) -> Callable:
    """`step(state, share) -> (state, metrics)` for one replica's share of the batch, under the axis `data`.

    Metrics are (sum, count) pairs over the global batch: the objective's terms and `gradient_norm`.
    """
    objective_datasets = [
        DatasetObjective(spec.name, len(spec.classes), config.datasets[spec.name].loss_weight, spec.multi_label)
        for spec in datasets
    ]
    max_classes = max(len(spec.classes) for spec in datasets)

    def loss_fn(params, part, key, first_slot):
        augment_key, model_key = jax.random.split(key)
        video, targets = augment_train(
            part['video'], part['label'], part['dataset'], part['weight'],
            key=augment_key, first_slot=first_slot, config=config.augment, max_classes=max_classes,
        )  # fmt: skip
        model = nnx.merge(graphdef, params)
        outputs = model(video, key=jax.random.fold_in(model_key, first_slot), training=True)
        return objective(outputs, targets, config.objective, objective_datasets, axis_name=parallel.DATA_AXIS)

    def train_step(state, share):
        replica = jax.lax.axis_index(parallel.DATA_AXIS)
        key = jax.random.fold_in(state.key, state.step)
        pieces = config.accumulation_steps
        size = share['video'].shape[0] // pieces  # clips of one piece on one replica

        def gradients(piece_and_part):
            piece, part = piece_and_part
            # Augmentation follows from a clip's place in the global batch, however the batch is cut.
            first_slot = (replica * pieces + piece) * size
            (_, terms), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, part, key, first_slot)
            return grads, terms

        if pieces == 1:
            grads, terms = gradients((0, share))
        else:
            parts = {name: x.reshape(pieces, size, *x.shape[1:]) for name, x in share.items()}

            def accumulate(total, piece_and_part):
                return jax.tree.map(jnp.add, total, gradients(piece_and_part)), None

            shapes = jax.eval_shape(gradients, (0, jax.tree.map(lambda x: x[0], parts)))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            (grads, terms), _ = jax.lax.scan(accumulate, zeros, (jnp.arange(pieces), parts))
            grads = jax.tree.map(lambda x: x / pieces, grads)

        grads = jax.lax.pmean(grads, parallel.DATA_AXIS)
        terms = jax.lax.psum(terms, parallel.DATA_AXIS)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        terms['gradient_norm'] = (optax.global_norm(grads), 1.0)
        return TrainState(state.step + 1, params, opt_state, state.key), terms

    return train_step


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same through a run."""

    config: Config
    source: BatchSource
    workdir: Path
    mesh: jax.sharding.Mesh
    total_steps: int
    graphdef: nnx.GraphDef
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
    mesh = parallel.data_mesh(devices)
    clips = parallel.check_divides(config.batch_size, mesh, 'batch_size', config.accumulation_steps)
    parallel.check_divides(config.evaluation.batch_size, mesh, 'evaluation.batch_size')
    config.augment.check_batch(clips)
    workdir = make_workdir(workdir)
    if config.compilation_cache_dir:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser(config.compilation_cache_dir))
    # TensorBoard's writer imports TensorFlow, which takes seconds: meanwhile data and model are made ready.
    importing = concurrent.futures.ThreadPoolExecutor(1, 'writer').submit(metrics.import_writers)
    if source is None:
        from multitrain_jax.record_data import RecordData  # the only door to data_pipelines

        source = RecordData(config, host=jax.process_index(), num_hosts=jax.process_count())

    total_steps = max(1, round(config.epochs * source.samples_per_epoch / config.batch_size))
    steps_per_epoch = source.samples_per_epoch / config.batch_size
    schedule = learning_rate_schedule(config.optimizer, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    graphdef, abstract_params = abstract_model(config, source.datasets)
    tx = build_optimizer(config.optimizer, schedule, abstract_params)
    _describe(config, source, mesh, total_steps)

    meta = run_meta(config, source)
    saved = checkpoints.RunCheckpoints(workdir, keep=config.checkpoint.keep)
    finished = results.load(workdir)
    latest = saved.latest_step()
    if latest is None:
        # It runs once, so it is compiled for a short compile time: 4 s instead of 11 for a small model.
        options = {'xla_backend_optimization_level': 0}
        with timed('initialising'):
            state = jax.block_until_ready(
                jax.jit(lambda: init_state(config, source.datasets, tx), compiler_options=options)()
            )
    else:
        checkpoints.check_same_run(saved.read_meta(latest), meta, workdir)
        if finished is not None and latest == total_steps == finished.steps:
            _log.info('this run is finished (step %d of %d); choose another --workdir to train anew', latest, total_steps)
            return finished
        if latest > total_steps:
            raise UserError(
                f'{workdir} holds a run at step {latest}, beyond the {total_steps} steps of config.epochs={config.epochs:g}; '
                'raise config.epochs, or use another --workdir'
            )
        state = saved.restore(latest, jax.eval_shape(lambda: init_state(config, source.datasets, tx)))
        _log.info('resuming at step %d of %d from %s', latest, total_steps, saved.directory)

    importing.result()
    writer = metrics.open_writer(str(workdir), is_main_host=jax.process_index() == 0)
    run = _Run(
        config, source, workdir, mesh, total_steps, graphdef, schedule,
        train_step=parallel.map_train_step(make_train_step(config, source.datasets, graphdef, tx), mesh),
        eval_step=scoring.make_eval_step(graphdef, source.datasets, config.augment, mesh),
        saved=saved, meta=meta, writer=writer,
    )  # fmt: skip
    try:
        state, clips_per_second = _train(run, parallel.replicate(state, mesh), int(state.step))
        accuracy = _evaluate(run, state, total_steps)
        saved.wait()
        _log.info('exporting to %s', workdir / 'export')
        params = jax.device_get(state.params)
        export.write_export(workdir / 'export', params, config, source.datasets)
        outcome = results.RunResults(total_steps, accuracy, clips_per_second, str(workdir))
        results.save(workdir, outcome)
    finally:
        saved.close()
        writer.flush()
        writer.close()
    return outcome


def _train(run: _Run, state: TrainState, first_step: int) -> tuple[TrainState, float]:
    """The loop. Its order is a contract: evaluate the state, save it, then take the next batch and step."""
    config = run.config
    evaluate_every = round(config.evaluation.every_epochs * run.source.samples_per_epoch / config.batch_size)
    if first_step == run.total_steps:
        return state, float('nan')
    batches = parallel.prefetch(
        run.source.train_batches(first_step, run.total_steps - first_step),
        functools.partial(_to_devices_checked, run, first=[True]),
    )
    log = _StepLog(run, first_step)
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


class _StepLog:
    """Metrics of the steps since the last report. They stay on the device until the next step is under way."""

    def __init__(self, run: _Run, first_step: int):
        self._run = run
        self._kept: list[tuple[int, Any]] = []
        self.countdown = Countdown(run.total_steps, first_step)
        self.waited = 0.0
        self.rates: list[float] = []

    def add(self, step: int, terms: Any) -> None:
        """Takes the metrics of a step; reports those before it when a report is due."""
        if self._kept and (self._kept[-1][0] + 1) % self._run.config.log_every_steps == 0:
            self.flush()
        self._kept.append((step, terms))

    def flush(self) -> None:
        """Writes the means since the last report.

        Raises:
            UserError: a loss is not finite.
        """
        if not self._kept:
            return
        kept = [(step, jax.device_get(terms)) for step, terms in self._kept]
        self._kept = []
        for step, terms in kept:
            if not math.isfinite(terms['loss'][0]):
                last = self._run.saved.latest_step()
                raise UserError(
                    f'the loss of step {step} is not finite ({terms["loss"][0]}); the last good checkpoint is '
                    f'{"none" if last is None else f"step {last}"} in {self._run.saved.directory}. '
                    'Lower config.optimizer.peak_learning_rate, or look at the data'
                )
        done = kept[-1][0] + 1
        steps_per_second, seconds_left = self.countdown.update(done)
        clips_per_second = steps_per_second * self._run.config.batch_size
        values = metrics.merge(terms for _, terms in kept)
        values['learning_rate'] = float(self._run.schedule(done - 1))
        if steps_per_second > 0:  # not where only the step that was compiled has been done
            self.rates.append(clips_per_second)
            values['clips_per_second'] = clips_per_second
            values['data_wait_share'] = self.waited * steps_per_second / len(kept)
        values['epoch'] = done * self._run.config.batch_size / self._run.source.samples_per_epoch
        self.waited = 0.0
        self._run.writer.write_scalars(done, values)
        top1 = ' '.join(
            f'{spec.name} {values[f"top1/{spec.name}"]:.0%}'
            for spec in self._run.source.datasets
            if f'top1/{spec.name}' in values
        )
        _log.info(
            'step %d/%d  epoch %.1f  loss %.3f  top-1 of training clips: %s  %.0f clips/s  %s left',
            done, self._run.total_steps, values['epoch'], values['loss'], top1, clips_per_second,
            duration(seconds_left),
        )  # fmt: skip


def _to_devices_checked(run: _Run, batch, first: list[bool]):
    if first:  # emptied after the first batch
        first.clear()
        backbone = run.config.model.backbone
        check_batch(
            batch, num_frames=backbone.num_frames, image_size=backbone.image_size, datasets=run.source.datasets
        )
    return parallel.to_devices(batch, run.mesh)


def _evaluate(run: _Run, state: TrainState, step: int) -> dict[str, DatasetResult]:
    with timed(f'evaluating at step {step}'):
        accuracy = scoring.evaluate(run.eval_step, state.params, run.source, run.mesh)
    run.writer.write_scalars(step, results.scalars(accuracy))
    return accuracy


def run_meta(config: Config, source: BatchSource) -> dict[str, Any]:
    """What a checkpoint says of itself, beside its arrays."""
    return {
        'model': to_dict(config.model),
        'datasets': {spec.name: {'classes': list(spec.classes), 'multi_label': spec.multi_label} for spec in source.datasets},
        'data_order': {
            'seed': config.seed,
            'batch_size': config.batch_size,
            'repeats': config.input.repeats,
            'samples_per_epoch': source.samples_per_epoch,
        },
        'config': to_dict(config),
    }  # fmt: skip


def make_workdir(workdir: str | os.PathLike) -> Path:
    path = Path(workdir).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            (path / 'log.txt').touch()
    except OSError as error:
        raise UserError(f'--workdir={workdir}: cannot be made or written ({error.strerror})') from error
    return path


def _describe(config: Config, source: BatchSource, mesh: jax.sharding.Mesh, total_steps: int) -> None:
    device = mesh.devices.flat[0]
    model = nnx.eval_shape(functools.partial(build_model, config, source.datasets, jax.random.key(0)))
    counts = count_parameters(model)
    _log.info('%d x %s (%s), %d process(es)', mesh.size, device.device_kind, device.platform, jax.process_count())
    _log.info(
        'model: %s parameters (%s)',
        f'{counts.pop("total"):,}', ', '.join(f'{name} {count:,}' for name, count in counts.items()),
    )  # fmt: skip
    for spec in source.datasets:
        _log.info('dataset %s: %d classes, %d evaluation videos', spec.name, len(spec.classes), spec.evaluation_records)
    _log.info(
        '%d training samples per epoch, batch %d, %g epochs: %d steps',
        source.samples_per_epoch, config.batch_size, config.epochs, total_steps,
    )  # fmt: skip
