"""Steps whose loss or gradient is not finite, on the host: they are told, and what is needed to
look at them is kept.

They do not change the model, see `train_step.keep_if_finite`. `WORKDIR/non_finite/` gets the batch
of such a step, `step_N.npz`, and where the run stops because of it the state before that step, as a
checkpoint. `multitrain_jax.replay` takes the step again.
"""

from collections.abc import Iterator, Mapping
import contextlib
import logging
import math
import os
from pathlib import Path
import re
from typing import Any

import jax
import numpy as np

from multitrain_jax.atomic import complete_or_absent
from multitrain_jax.batch import Batch, BatchSource
from multitrain_jax.checkpoints.runs import RunCheckpoints
from multitrain_jax.errors import UserError
from multitrain_jax.npz import read_npz

_log = logging.getLogger('multitrain_jax')
_DIRECTORY = 'non_finite'
_STEP = 'step'  # in the npz, beside the arrays of the batch


class NonFiniteStep(UserError):
    """The run stops at a step: its `step` is the number of updates before it."""

    def __init__(self, text: str, step: int):
        super().__init__(text)
        self.step = step


class Watch:
    """Looks at the metrics of all steps of a run."""

    def __init__(self, workdir: Path, source: BatchSource, saved: RunCheckpoints, max_skips: int):
        """Begins.

        Args:
            workdir: of the run.
            source: of its batches.
            saved: its checkpoints, the last of which is named.
            max_skips: steps that may be passed over in the whole run.
        """
        self._workdir, self._source, self._saved = workdir, source, saved
        self._max_skips = max_skips

    def check(self, step: int, terms: Mapping[str, Any]) -> bool:
        """Whether the step of these terms (on the host) was finite; one that was passed over is
        told.

        Raises:
            NonFiniteStep: it was not, and no more may be passed over.
        """
        if is_finite(terms):
            return True
        try:
            file = save_batch(self._workdir, self._source, step)
            look = f'to look at the step, give the same command with --config.replay={file}'
        except (OSError, ValueError) as error:  # what has happened is told all the same
            look = f'its batch could not be kept ({error})'
        last, skipped = self._saved.latest_step(), int(terms['skipped_updates'][0])
        text = (
            f'{describe(step, terms)}; the last good checkpoint is '
            f'{"none" if last is None else f"step {last}"} in {self._saved.directory}; {look}'
        )
        if skipped > self._max_skips:
            remedy = 'lower config.optimizer.peak_learning_rate, ' + (
                f'or raise config.non_finite.max_skips={self._max_skips}'
                if self._max_skips
                else 'or go on without it: --config.non_finite.action=skip'
            )
            raise NonFiniteStep(f'{text}; {remedy}', step)
        _log.warning('%s; passed over, %d of at most %d', text, skipped, self._max_skips)
        return False


def is_finite(terms: Mapping[str, Any]) -> bool:
    """Whether the step of these terms was, on the host."""
    return math.isfinite(terms['loss'][0]) and math.isfinite(terms['gradient_norm'][0])


def describe(step: int, terms: Mapping[str, Any]) -> str:
    """What was not finite in a step, whose clips it had, and the gradient norms of all parts."""
    means = {name: float(total / count) for name, (total, count) in terms.items() if count > 0}
    what = 'gradient' if math.isfinite(means['loss']) else 'loss'
    value = means['gradient_norm'] if what == 'gradient' else means['loss']
    losses = [
        name
        for name, mean in means.items()
        if not math.isfinite(mean) and 'gradient_norm' not in name
    ]

    def told(kind: str, form: str) -> str:
        own = [(name, mean) for name, mean in means.items() if name.startswith(f'{kind}/')]
        return ', '.join(f'{name.partition("/")[2]} {mean:{form}}' for name, mean in own)

    return (
        f'the {what} of step {step} is not finite ({value}); terms that are not: '
        f'{", ".join(losses) or "none"}; clips: {told("share", ".0%") or "unknown"}; '
        f'gradient norms: {told("gradient_norm", ".3g")}'
    )


def save_batch(workdir: Path, source: BatchSource, step: int) -> Path:
    """Keeps this host's shard of a step's batch, which the source gives again for that step."""
    with contextlib.closing(_once(source.train_batches(step, 1))) as batches:
        batch = next(batches)
    path = state_directory(workdir) / _file_name(step, jax.process_index(), jax.process_count())
    path.parent.mkdir(exist_ok=True)
    with complete_or_absent(path) as temporary, open(temporary, 'wb') as file:
        np.savez(file, **{_STEP: np.int64(step)}, **batch)
    return path


def load_batch(path: str | os.PathLike) -> tuple[int, Batch]:
    """(step, the batch of all hosts) of what `save_batch` wrote; of several hosts' files any one is
    named.

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
        shards = [read_npz(file) for file in files]
        steps = {int(shard.pop(_STEP)) for shard in shards}
        batch = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f'config.replay={path}: not a batch that a run has saved in WORKDIR/{_DIRECTORY} '
            f'({reason})'
        ) from error
    if len(steps) != 1:
        raise UserError(
            f'config.replay={path}: the files of the {len(files)} hosts are of different steps, '
            f'{sorted(steps)}'
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
