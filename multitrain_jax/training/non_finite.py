"""Steps whose loss or gradient is not finite: they do not change the model, and what is needed to look at them is kept.

`WORKDIR/non_finite/` gets the batch of such a step, `step_N.npz`, and where the run stops because of it the state
before that step, as a checkpoint. `multitrain_jax.replay` takes the step again.
"""

from collections.abc import Iterator, Mapping
import contextlib
import math
import os
from pathlib import Path
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from multitrain_jax.batch import Batch, BatchSource
from multitrain_jax.checkpoints.runs import RunCheckpoints
from multitrain_jax.errors import UserError
from multitrain_jax.npz import read_npz

_DIRECTORY = 'non_finite'
_STEP = 'step'  # in the npz, beside the arrays of the batch


class NonFiniteStep(UserError):
    """The run stops at a step: its `step` is the number of updates before it."""

    def __init__(self, text: str, step: int):
        super().__init__(text)
        self.step = step


def gradient_norms(grads: Mapping[str, Any]) -> dict[str, tuple[jax.Array, float]]:
    """Terms `gradient_norm`, of all gradients together, and `gradient_norm/PART` of backbone, heads, ..."""
    parts = {
        f'gradient_norm/{name}': (optax.global_norm(part), 1.0) for name, part in grads.items()
    }
    return {'gradient_norm': (optax.global_norm(grads), 1.0), **parts}


def unless_not_finite(
    old: Any, new: Any, terms: Mapping[str, Any], max_skips: int
) -> tuple[Any, dict[str, Any]]:
    """The state after a step, on the device: `new`, but unchanged by an update that is not finite.

    Such a step is counted and passed over. After more than `max_skips` of them nothing changes any more, not even the
    number of steps: when the host hears of it, some steps later, it still has the state in which it happened.

    Args:
        old, new: `TrainState` before and after.
        terms: of the step; equal on all replicas.
        max_skips: steps to pass over in the whole run.

    Returns:
        state; the terms with `skipped_updates`, the number of steps passed over so far.
    """
    finite = jnp.isfinite(terms['loss'][0]) & jnp.isfinite(terms['gradient_norm'][0])
    skipped = old.skipped + ~finite
    stopped = skipped > max_skips
    kept = {
        name: jax.tree.map(
            lambda o, n: jnp.where(finite & ~stopped, n, o), getattr(old, name), getattr(new, name)
        )
        for name in ('params', 'opt_state', 'ema')
    }
    state = new.replace(step=jnp.where(stopped, old.step, new.step), skipped=skipped, **kept)
    return state, {**terms, 'skipped_updates': (skipped.astype(jnp.float32), 1.0)}


def is_finite(terms: Mapping[str, Any]) -> bool:
    """Whether the step of these terms was, on the host."""
    return math.isfinite(terms['loss'][0]) and math.isfinite(terms['gradient_norm'][0])


def describe(step: int, terms: Mapping[str, Any]) -> str:
    """What was not finite in a step, whose clips it had, and the gradient norms of the parts of the model."""
    means = {name: float(total / count) for name, (total, count) in terms.items() if count > 0}
    what = 'gradient' if math.isfinite(means['loss']) else 'loss'
    value = means['gradient_norm'] if what == 'gradient' else means['loss']
    losses = [
        name
        for name, mean in means.items()
        if not math.isfinite(mean) and 'gradient_norm' not in name
    ]
    shares = [
        f'{name.partition("/")[2]} {mean:.0%}'
        for name, mean in means.items()
        if name.startswith('share/')
    ]
    norms = [
        f'{name.partition("/")[2]} {mean:.3g}'
        for name, mean in means.items()
        if name.startswith('gradient_norm/')
    ]
    return (
        f'the {what} of step {step} is not finite ({value}); terms that are not: {", ".join(losses) or "none"}; '
        f'clips: {", ".join(shares) or "unknown"}; gradient norms: {", ".join(norms)}'
    )


def save_batch(workdir: Path, source: BatchSource, step: int) -> Path:
    """Keeps this host's share of a step's batch; the source gives it again, being a function of the step."""
    with contextlib.closing(_once(source.train_batches(step, 1))) as batches:
        batch = next(batches)
    path = state_directory(workdir) / _file_name(step, jax.process_index(), jax.process_count())
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix('.tmp')
    with open(temporary, 'wb') as file:
        np.savez(file, **{_STEP: np.int64(step)}, **batch)
    os.replace(temporary, path)
    return path


def load_batch(path: str | os.PathLike) -> tuple[int, Batch]:
    """(step, the batch of all hosts) of what `save_batch` wrote; of several hosts' files any one is named.

    Raises:
        UserError: no such file, or another one.
    """
    path = Path(path).expanduser()
    files = [path]
    one_of_several = re.fullmatch(r'step_(\d+)-\d{5}-of-(\d{5})\.npz', path.name)
    if one_of_several:
        step, hosts = map(int, one_of_several.groups())
        files = [path.with_name(_file_name(step, host, hosts)) for host in range(hosts)]
    try:
        shares = [read_npz(file) for file in files]
        steps = {int(share.pop(_STEP)) for share in shares}
        batch = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f'config.replay={path}: not a batch that a run has saved in WORKDIR/{_DIRECTORY} ({reason})'
        ) from error
    if len(steps) != 1:
        raise UserError(
            f'config.replay={path}: the files of the {len(files)} hosts are of different steps, {sorted(steps)}'
        )
    return steps.pop(), batch


def save_state(workdir: Path, state: Any, meta: Mapping[str, Any], step: int) -> None:
    """Keeps the state in which a step happened."""
    with contextlib.closing(RunCheckpoints(state_directory(workdir), keep=1)) as saved:
        saved.save(step, state, meta)


def state_directory(workdir: Path) -> Path:
    """Where `save_state` keeps it: what a workdir is for `RunCheckpoints`."""
    return workdir / _DIRECTORY


def _file_name(step: int, host: int, hosts: int) -> str:
    return f'step_{step}.npz' if hosts == 1 else f'step_{step}-{host:05d}-of-{hosts:05d}.npz'


def _once(batches: Iterator[Batch]) -> Iterator[Batch]:
    """A generator, which can be closed; a source's iterator need not be one."""
    yield from batches
