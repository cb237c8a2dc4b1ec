"""Takes a step again whose loss or gradient was not finite, and says where that begins.

    python run.py --config=... --workdir=runs/x --config.replay=runs/x/non_finite/step_1234.npz

Give the run's config and overrides with it. The batch comes from the file, the state from the
newest checkpoint that is not after the step, and the steps between the two are taken again first,
so that everything is as it was.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import logging
from pathlib import Path
import traceback
from typing import Any

import jax
from jax.experimental import checkify
import numpy as np

from multitrain_jax import experiment
from multitrain_jax.batch import BatchSource
from multitrain_jax.checkpoints import runs
from multitrain_jax.config import Config, NonFiniteConfig, read_stored_config
from multitrain_jax.errors import UserError
from multitrain_jax.models.parameters import named_leaves
from multitrain_jax.parallel.compilation_cache import keep_compiled
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import data_mesh, place, replicate, whole
from multitrain_jax.parallel.prefetch import prefetch
from multitrain_jax.training import non_finite
from multitrain_jax.training.run_start import check_same_run, run_meta
from multitrain_jax.training.train_step import TrainState

_log = logging.getLogger('multitrain_jax')
_ROOT = Path(__file__).resolve().parent.parent
# They hand on what other devices have computed.
_COLLECTIVES = ('psum', 'psum_invariant', 'all_gather', 'all_gather_invariant', 'reduce_scatter')


def replay(
    config: Config,
    workdir: Path,
    *,
    source: BatchSource | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> str:
    """Takes the step of the file `config.replay` again; returns the report.

    Args:
        config: of the run.
        workdir: of the run.
        source: its batches; None: the records that the config names. Only read when steps have to
            be taken before.
        devices: to run on; None: all.

    Raises:
        UserError: the file is no batch of a run, or the workdir is that of another run.
    """
    keep_compiled(config.compilation_cache_dir)
    step, batch = non_finite.load_batch(config.replay)
    if source is None:
        from multitrain_jax.record_data import RecordData

        source = RecordData(config, host=jax.process_index(), num_hosts=jax.process_count())
    never_stopping = dataclasses.replace(
        config, non_finite=NonFiniteConfig('skip', max_skips=2**30)
    )
    prepared = experiment.prepare(
        never_stopping,
        source.datasets,
        experiment.open_devices(config, devices),
        experiment.run_length(config, source),
    )
    driver = prepared.driver
    begin, state, origin = _newest_state(workdir, step, prepared, run_meta(config, source))
    if state is None:
        state = prepared.first_state(workdir)
    _log.info('from %s; taking %d steps to come to step %d', origin, step - begin, step)
    state = place(state.replace(skipped=np.zeros((), np.int32)), prepared.shardings)
    with contextlib.closing(
        prefetch(source.train_batches(begin, step - begin), driver.to_devices)
    ) as batches:
        for clips in batches:
            state, _ = prepared.train_step(state, clips)
    before = jax.device_get(whole(state))  # the step takes the state over
    _, terms = prepared.train_step(state, driver.to_devices(_own_rows(batch)))
    terms = jax.device_get(terms)
    finite = non_finite.is_finite(terms)
    outcome = 'finite this time' if finite else non_finite.describe(step, terms)

    lines = [
        f'step {step}, from {origin}'
        + (f', {step - begin} steps after it' if step > begin else ''),
        f'  batch: {_not_finite_arrays(batch)}',
        f'  parameters: {_not_finite_arrays(dict(named_leaves(before.params)))}',
        f'  norms of the parameters: {_norms(before.params)}',
        f'  outcome: {outcome}',
        *(
            f'    {name:40} {total / count:.6g}'
            for name, (total, count) in sorted(terms.items())
            if count > 0
        ),
    ]
    if not non_finite.is_finite(terms):
        lines += [f'  {line}' for line in _first_nan(prepared.replica_step, before, batch, devices)]
    return '\n'.join(lines)


def _newest_state(
    workdir: Path, step: int, prepared: experiment.Experiment, meta: Mapping[str, Any]
) -> tuple[int, TrainState | None, str]:
    """(step, state, what it is) of the newest checkpoint up to `step`; state None: of the start."""
    found = (0, None, 'the start of the run')
    for directory in (workdir, non_finite.state_directory(workdir)):
        if not (directory / 'checkpoints').is_dir():
            continue
        with contextlib.closing(runs.RunCheckpoints(directory, keep=None)) as saved:
            steps = [number for number in saved.all_steps() if found[0] < number <= step]
            if steps:
                stored = saved.read_meta(steps[-1])
                check_same_run(stored, meta, workdir)
                config = read_stored_config(stored['config'])
                found = (
                    steps[-1],
                    prepared.restore(saved, steps[-1], config),
                    f'checkpoint {saved.directory / str(steps[-1])}',
                )
    return found


def _own_rows(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """This host's shard of the batch of all hosts."""
    host, hosts = jax.process_index(), jax.process_count()
    clips = len(batch['dataset'])
    if clips % hosts:
        raise UserError(f'the batch has {clips} clips, which do not divide over {hosts} hosts')
    rows = slice(host * clips // hosts, (host + 1) * clips // hosts)
    return {name: array[rows] for name, array in batch.items()}


def _not_finite_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Where a value that is not finite stands."""
    found = []
    for name, array in arrays.items():
        if jax.numpy.issubdtype(array.dtype, jax.numpy.floating):
            places = np.argwhere(~np.isfinite(np.asarray(array, np.float32)))
            if len(places):
                found.append(
                    f'{name} has {len(places)} of {array.size}, the first at {places[0].tolist()}'
                )
    return 'all values are finite' if not found else f'not finite: {"; ".join(found)}'


def _norms(params: Mapping[str, Any]) -> str:
    squares = {
        name: sum(float(np.sum(np.square(x, dtype=np.float64))) for x in jax.tree.leaves(part))
        for name, part in params.items()
    }
    return ', '.join(f'{name} {square**0.5:.4g}' for name, square in squares.items())


def _first_nan(
    replica_step: Any, state: TrainState, batch: Mapping[str, np.ndarray], devices: Any
) -> list[str]:
    """The operations that made numbers into no numbers, on each replica the first one."""
    if jax.process_count() > 1:
        return ['give the command to one process, to search for the operation where it begins']
    _log.info(
        'searching the operation where it begins (every operation is checked: compiling takes '
        'some minutes) ...'
    )
    # One replica per device, however the run has divided its model.
    driver = Pmap(data_mesh(devices))
    checked = checkify.checkify(
        lambda state, shard: replica_step(state, shard)[1], errors=checkify.nan_checks
    )
    error, _ = driver.eval_step(checked)(replicate(state, driver.mesh), driver.to_devices(batch))
    exception = error.get_exception()
    if exception is None:
        return ['no operation made a NaN: numbers became too large (infinity)']
    found = getattr(exception, 'error_mapping', {(0,): exception})  # by replica
    own = {replica: one for replica, one in found.items() if one.prim not in _COLLECTIVES}
    return [
        f'first NaN, replica {replica[0]}: {_place(one)}'
        for replica, one in sorted((own or found).items())
    ]


def _place(error: Any) -> str:
    """Primitive and line of our code of a checkify error."""
    frames = traceback.extract_tb(error.traceback_info.as_python_traceback())
    ours = [
        frame for frame in frames if Path(frame.filename).is_relative_to(_ROOT / 'multitrain_jax')
    ]
    if not ours:
        return f'{error.prim}'
    return (
        f'{error.prim} at {Path(ours[-1].filename).relative_to(_ROOT)}:{ours[-1].lineno} '
        f'({ours[-1].name}): {ours[-1].line}'
    )
