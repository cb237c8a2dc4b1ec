"""How a run begins: where its last good checkpoint is, from another model's parameters, or at random."""

from collections.abc import Mapping, Sequence
import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import optax

from multitrain_jax.batch import BatchSource, DatasetSpec, classifying
from multitrain_jax.checkpoints import runs
from multitrain_jax.config import Config, with_datasets
from multitrain_jax.config_reading import to_dict
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation import results
from multitrain_jax.reporting.progress import timed
from multitrain_jax.training import train_step
from multitrain_jax.training.train_step import TrainState
from multitrain_jax.weights import warm_start
from multitrain_jax.weights.projection_files import start_projections

_log = logging.getLogger('multitrain_jax')


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run goes on from.

    Attributes:
        step: updates done.
        state: after them.
        evaluation_due: the run was stopped while it evaluated this state.
    """

    step: int
    state: TrainState
    evaluation_due: bool = False


def start_or_continue(
    config: Config,
    datasets: Sequence[DatasetSpec],
    tx: optax.GradientTransformation,
    shapes: TrainState,
    workdir: Path,
    saved: runs.RunCheckpoints,
    meta: Mapping[str, Any],
    total_steps: int,
) -> Start | results.RunResults:
    """The newest checkpoint that can be read, or a new state; the results where the run is finished already.

    Args:
        config: the experiment.
        datasets: what it trains on.
        tx: its optimizer.
        shapes: of the state.
        workdir: of the run.
        saved: its checkpoints.
        meta: see `run_meta`; a checkpoint must say the same of itself.
        total_steps: of the run.

    Raises:
        UserError: a workdir of another run, or one whose checkpoints are all damaged or gone.
    """
    finished = results.load(workdir)
    if finished is not None and not saved.all_steps():
        raise UserError(
            f'{workdir} holds the results of a run, but no checkpoints; to train anew use another --workdir'
        )

    def continue_from(step: int) -> Start | results.RunResults:
        stored = saved.read_meta(step)
        runs.check_same_run(stored, meta, workdir)
        if step > total_steps:
            raise UserError(
                f'{workdir} holds a run at step {step}, beyond the {total_steps} steps of config.epochs={config.epochs:g}; '
                'raise config.epochs, or use another --workdir'
            )
        if finished is not None and step == total_steps == finished.steps:
            return finished
        return Start(step, saved.restore(step, shapes), stored.get('evaluation_due', False))

    start = saved.read_newest(continue_from)
    if start is None:
        with timed('initialising'):
            return Start(0, first_state(config, datasets, tx, workdir))
    if isinstance(start, results.RunResults):
        _log.info(
            'this run is finished (step %d of %d); choose another --workdir to train anew',
            start.steps,
            total_steps,
        )
        return start
    saved.set_aside_after(start.step)
    _log.info('resuming at step %d of %d from %s', start.step, total_steps, saved.directory)
    return start


def first_state(
    config: Config, datasets: Sequence[DatasetSpec], tx: optax.GradientTransformation, workdir: Path
) -> TrainState:
    """The state of a new run: random parameters, over them those of `init_from`, then those of `projections_from`."""
    weights = None if config.init_from is None else warm_start.read_weights(config.init_from)
    # It runs once, so it is compiled for a short compile time: 4 s instead of 11 for a small model.
    options = {'xla_backend_optimization_level': 0}
    state = jax.block_until_ready(
        jax.jit(lambda: train_step.init_state(config, datasets, tx), compiler_options=options)()
    )
    if weights is not None:
        params, report = warm_start.initialise(
            jax.device_get(state.params),
            with_datasets(config, datasets),
            datasets,
            weights,
            mean=config.augment.mean,
            std=config.augment.std,
        )
        if jax.process_index() == 0:
            (workdir / warm_start.TABLE_FILE).write_text(f'{report}\n', encoding='utf-8')
        _log.info('parameters, and where they come from:\n%s', report)
        state = train_step.start_from(state, config, jax.tree.map(jax.numpy.asarray, params))
    if config.projections_from is not None:
        start = start_projections(
            config.projections_from, state.params['projections'], classifying(datasets)
        )
        state = train_step.start_from(
            state, config, {'projections': jax.tree.map(jax.numpy.asarray, start)}
        )
    return state


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
    }


def _spec_meta(spec: DatasetSpec) -> dict[str, Any]:
    meta = {'classes': list(spec.classes), 'multi_label': spec.multi_label}
    if spec.localisation:
        meta |= {
            'localisation': True,
            'train_counts': list(spec.train_counts),
            'action_ids': list(spec.action_ids),
        }
    return meta
