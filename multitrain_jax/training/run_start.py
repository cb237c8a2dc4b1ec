"""How a run begins: where its last good checkpoint is, or anew."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import fnmatch
import json
import logging
from pathlib import Path
from typing import Any

from multitrain_jax.batch import BatchSource
from multitrain_jax.checkpoints import exports, runs
from multitrain_jax.config import Config, read_stored_config
from multitrain_jax.config_reading import to_dict
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation import results
from multitrain_jax.reporting.progress import timed
from multitrain_jax.training.train_step import TrainState

_log = logging.getLogger('multitrain_jax')

# A run goes on with other settings than it began with, by this rule: what changes only speed, or
# what is kept and shown, is free; what cannot be carried over is refused; all else, which changes
# the experiment, is told. Patterns are of fields of the config.
_FREE = (
    'parallel.*',
    'cpu_devices',
    'compilation_cache_dir',
    'input.num_threads',
    'input.num_processes',
    'input.tf_data_service',
    'model.backbone.remat',
    'model.backbone.remat_attention',
    'model.backbone.attention',
    'checkpoint.*',
    'evaluation.batch_size',
    'evaluation.every_epochs',
    'log_every_steps',
    'log_images',
    'writers',
    'replay',
)
# Of the model, what its parameters do not depend on; the rest of it is refused.
_TOLD = (
    'model.head_dropout',
    'model.logit_dropout',
    'model.add_projected',
    'model.backbone.stochastic_depth',
    'model.backbone.init_std',
    'model.backbone.dtype',
    'model.localisation_head.dropout',
)
_REASONS = {
    'datasets': 'its heads are for those classes',
    'model': 'its parameters are of that model',
    'data_order': 'a step is a place in the data, which would be another one',
    'state': 'its checkpoints hold other arrays',
}


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
    saved: runs.RunCheckpoints,
    workdir: Path,
    meta: Mapping[str, Any],
    total_steps: int,
    first_state: Callable[[], TrainState],
    restore: Callable[[int, Config], TrainState],
) -> Start | results.RunResults:
    """The newest checkpoint that can be read, or a new state; the results where the run is finished
    already.

    Args:
        saved: checkpoints of the run.
        workdir: of the run.
        meta: see `run_meta`; a checkpoint must say the same of itself.
        total_steps: of the run.
        first_state: makes a new state.
        restore: reads that of a step; it is told the config that was stored with it.

    Raises:
        UserError: a workdir of another run, or one whose checkpoints are all damaged or gone.
    """
    finished = results.load(workdir)
    if finished is not None and not saved.all_steps():
        raise UserError(
            f'{workdir} holds the results of a run, but no checkpoints; to train anew use another '
            '--workdir'
        )

    def continue_from(step: int) -> Start | results.RunResults:
        stored = saved.read_meta(step)
        changed = check_same_run(stored, meta, workdir)
        if step > total_steps:
            raise UserError(
                f'{workdir} holds a run at step {step}, beyond the {total_steps} steps of '
                f'config.epochs={meta["config"]["epochs"]:g}; raise config.epochs, or use another '
                '--workdir'
            )
        if finished is not None and step == total_steps == finished.steps:
            return finished
        state = restore(step, read_stored_config(stored['config']))
        if changed:
            _log.info('the run goes on with other settings: %s', '; '.join(changed))
        return Start(step, state, stored.get('evaluation_due', False))

    start = saved.read_newest(continue_from)
    if start is None:
        with timed('initialising'):
            return Start(0, first_state())
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


def run_meta(config: Config, source: BatchSource) -> dict[str, Any]:
    """What a checkpoint says of itself, beside its arrays."""
    info = exports.model_info(config, source.datasets)
    return {
        'model': to_dict(config.model),
        'datasets': {name: spec.to_dict() for name, spec in info.datasets.items()},
        'data_order': {'samples_per_epoch': source.samples_per_epoch},
        'config': to_dict(config),
    }


def check_same_run(stored: Mapping[str, Any], current: Mapping[str, Any], where: Any) -> list[str]:
    """Whether a run may go on from a checkpoint: by the table at the top of this file.

    Args:
        stored: what the checkpoint says of itself.
        current: what the run says of itself, see `run_meta`.
        where: the workdir, for messages.

    Returns:
        What is another now and changes the experiment, one text each: field, value, value now.

    Raises:
        UserError: names the first field that cannot be carried over, with both values and the
            reason.
    """
    before, now = _comparable(stored), _comparable(current)
    for part, reason in _REASONS.items():
        for path, old, new in _differences(before[part], now[part], part):
            raise UserError(
                f'{where} holds a run with other settings: {path} was {old!r}, is {new!r} now; '
                f'use another --workdir, or set it back ({reason})'
            )
    return [
        f'{path} was {old!r}, is {new!r} now'
        for path, old, new in _differences(before['config'], now['config'], 'config')
        if not _matches(path.removeprefix('config.'), _FREE)
    ]


def _comparable(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint and a run are compared in; what an older one lacks is as by default."""
    config = read_stored_config(meta['config'])
    tree = json.loads(json.dumps(to_dict(config)))
    head = (tree['localisation'] or {}).get('head')
    model = _without({**tree['model'], 'localisation_head': head}, (*_FREE, *_TOLD), 'model')
    fields = ('classes', 'multi_label', 'localisation')
    return {
        'datasets': {
            name: {field: entry.get(field, False) for field in fields}
            for name, entry in meta['datasets'].items()
        },
        'model': {
            name: model[name] for name in model if name not in ('num_classes', 'num_actions')
        },
        'data_order': {
            'seed': config.seed,
            'batch_size': config.batch_size,
            'repeats': config.input.repeats,
            'samples_per_epoch': meta['data_order']['samples_per_epoch'],
            'schedule': tree['schedule'],
            'batch_sizes': config.batch_sizes if config.schedule.by_dataset else None,
        },
        'state': {
            'frozen': list(config.optimizer.frozen),
            'ema': config.optimizer.ema_decay > 0,
            'learned_dataset_weights': config.objective.learned_dataset_weights,
            'learned_informative_weights': config.objective.learned_informative_weights,
        },
        'config': tree,
    }


def _without(tree: Any, patterns: Sequence[str], path: str) -> Any:
    """A nested dict without the fields whose path one of the patterns fits."""
    if not isinstance(tree, Mapping):
        return tree
    return {
        name: _without(value, patterns, f'{path}.{name}')
        for name, value in tree.items()
        if not _matches(f'{path}.{name}', patterns)
    }


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """(path, value in the one, value in the other) of all that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f'{path}.{key}')
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new)):
            yield from _differences(a, b, f'{path}[{i}]')
    elif old != new:
        yield path, old, new
