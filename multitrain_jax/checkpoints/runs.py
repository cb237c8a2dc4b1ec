"""Checkpoints of a run by Orbax: save, find, check, restore.

A checkpoint `WORKDIR/checkpoints/STEP` holds `state` (parameters, their moving average, optimizer,
step, key), `meta` (architecture, datasets with class names, data position, config) and `checksums`
of both. The step number is the data position: batch number n is a function of the config and n
alone.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import logging
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any, TypeVar

from flax import traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp

from multitrain_jax.checkpoints.checksums import array_checksums, first_difference, text_checksum
from multitrain_jax.errors import UserError, first_line, storage_problem
from multitrain_jax.models.parameters import merge, named_leaves
from multitrain_jax.parallel.hosts import barrier, on_all_hosts

_log = logging.getLogger('multitrain_jax')
T = TypeVar('T')
BEST = 'best'  # in the workdir
# Of `TrainState`; checkpoints of earlier versions have none of them, and 0 is meant.
_LATER_FIELDS = ('skipped',)
_FIGURE = 'figure'  # in the description of the best checkpoint


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read, or in which something else stands than what was saved."""


class RunCheckpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: str | os.PathLike, *, keep: int | None):
        """Opens `workdir/checkpoints`.

        Args:
            workdir: of the run.
            keep: newest ones to keep; what a killed run has left half-written is deleted. None:
                only to read.

        Raises:
            UserError: the directory is to be written, and cannot be.
        """
        self.directory = Path(workdir).expanduser().resolve() / 'checkpoints'
        reading = keep is None
        if not reading:
            _check_writable(self.directory)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=not reading,
                cleanup_tmp_directories=not reading,
                read_only=reading,
                enable_async_checkpointing=not reading,
            ),
        )

    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint; None when there is none."""
        return self._manager.latest_step()

    def all_steps(self) -> list[int]:
        """Steps of all finished checkpoints, rising."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
        """Saves in the background; False when `step` is there already. Arrays are copied first.

        Raises:
            UserError: this save, or the one before it, could not be written.
        """
        if step in self._manager.all_steps():
            return False
        state, meta = _storable(state), dict(meta)
        checksums = {'state': array_checksums(state), 'meta': text_checksum(meta)}
        with self._writing():
            return self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    meta=ocp.args.JsonSave(meta),
                    checksums=ocp.args.JsonSave(checksums),
                ),
                force=True,  # the loop decides when
            )

    def read_meta(self, step: int) -> dict[str, Any]:
        """What the checkpoint says of itself.

        Raises:
            DamagedCheckpoint: it cannot be read.
        """
        with self._reading(step):
            meta = self._read_json(step, 'meta')
            stored = self._read_checksums(step)
            if stored is not None and stored['meta'] != text_checksum(meta):
                raise ValueError('its description is not what was saved')
        return meta

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step`, as NumPy arrays in the structure of `like` (arrays or
        ShapeDtypeStructs).

        Raises:
            DamagedCheckpoint: it cannot be read.
        """
        target = jax.tree.map(_on_host, _storable(like))
        with self._reading(step):
            later = self._later_fields(step, target)
            if later:
                fields = [field.name for field in dataclasses.fields(target)]
                target = {name: getattr(target, name) for name in fields if name not in later}
            args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
            restored = self._manager.restore(step, args=args)['state']
            self._check(step, restored)
        return _unstorable(type(like)(**restored, **later) if later else restored, like)

    def restore_params(self, step: int, like: Any) -> Any:
        """The model's parameters to use, NumPy arrays in the structure of `like`: the moving
        average where kept.

        Raises:
            DamagedCheckpoint: it cannot be read.
        """
        with self._reading(step), ocp.PyTreeCheckpointer() as checkpointer:
            averaged = dict(named_leaves(self._stored_tree(step).get('ema') or {}))
            flat = traverse_util.flatten_dict(jax.tree.map(_on_host, like))
            parts = {'params': {}, 'ema': {}}
            for path, leaf in flat.items():
                part = 'ema' if '.'.join(map(str, path)) in averaged else 'params'
                parts[part][path] = leaf
            target = {part: traverse_util.unflatten_dict(own) for part, own in parts.items() if own}
            to_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), target)
            args = ocp.args.PyTreeRestore(target, restore_args=to_numpy, partial_restore=True)
            restored = checkpointer.restore(self.directory / str(step) / 'state', args=args)
            self._check(step, restored)
        return merge(*restored.values())

    def read_newest(self, read: Callable[[int], T]) -> T | None:
        """`read(step)` of the newest checkpoint that can be read, on all hosts; None when there is
        none at all.

        Damaged ones are named in the log.

        Raises:
            UserError: there are checkpoints, and all are damaged.
        """
        problem = None
        for step in reversed(self.all_steps()):
            result, own = None, None
            try:
                result = read(step)
            except DamagedCheckpoint as error:
                own = error
            if on_all_hosts(own is None):
                return result
            problem = own or DamagedCheckpoint(
                f'checkpoint {self.directory / str(step)}: another host cannot read it'
            )
            _log.warning('%s; trying the one before it', problem)
        if problem is not None:
            raise UserError(
                f'no checkpoint in {self.directory} can be read: {problem}. Bring one back, or '
                'start anew in another --workdir'
            )
        return None

    def set_aside_after(self, step: int) -> None:
        """Moves later steps' damaged checkpoints, whose places are needed, out of the way."""
        for later in (other for other in self.all_steps() if other > step):
            aside = self.directory.with_name('damaged_checkpoints') / str(later)
            if jax.process_index() == 0:
                shutil.rmtree(aside, ignore_errors=True)
                aside.parent.mkdir(exist_ok=True)
                os.replace(self.directory / str(later), aside)
            _log.warning('moved the damaged checkpoint of step %d to %s', later, aside)
        barrier('damaged checkpoints')
        self._manager.reload()

    def wait(self) -> None:
        """Returns when all saves are on disk; raises what went wrong in the background."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then ends the background threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Tells in one line that the disk takes no checkpoint, and which one is still good."""
        try:
            yield
        except Exception as error:
            reason = storage_problem(error)
            if reason is None:
                raise
            self._manager.reload()  # it counts the failed one, which is not there
            last = self.latest_step()
            raise UserError(
                f'a checkpoint could not be written to {self.directory}: {reason}. The last good '
                f'one is {"none" if last is None else f"step {last}"}; make room there, or let it '
                'be written; then the same command goes on from it'
            ) from error

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Whatever the libraries make of damaged files: the checkpoint is named."""
        try:
            yield
        except Exception as error:
            raise DamagedCheckpoint(
                f'checkpoint {self.directory / str(step)} is damaged: {first_line(error)}'
            ) from error

    def _stored_tree(self, step: int) -> Mapping[str, Any]:
        self._manager.wait_until_finished()
        with ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.metadata(self.directory / str(step) / 'state').item_metadata.tree

    def _later_fields(self, step: int, target: Any) -> dict[str, Any]:
        """Fields of the state that a checkpoint of an earlier version does not have."""
        stored = self._stored_tree(step)
        names = [name for name in _LATER_FIELDS if hasattr(target, name) and name not in stored]
        return {name: np.zeros_like(getattr(target, name)) for name in names}

    def _read_json(self, step: int, item: str) -> dict[str, Any]:
        args = ocp.args.Composite(**{item: ocp.args.JsonRestore()})
        return self._manager.restore(step, args=args)[item]

    def _read_checksums(self, step: int) -> dict[str, Any] | None:
        """None: a checkpoint of an earlier version, which has none."""
        there = (self.directory / str(step) / 'checksums').exists()
        return self._read_json(step, 'checksums') if there else None

    def _check(self, step: int, restored: Any) -> None:
        stored = self._read_checksums(step)
        changed = stored and first_difference(stored['state'], restored)
        if changed:
            raise ValueError(f'the numbers of {changed} are not those that were saved')


def _check_writable(directory: Path) -> None:
    """Now, and not when the first checkpoint has been computed."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UserError(f'{directory}: checkpoints cannot be written ({error.strerror})') from error


class BestCheckpoint:
    """Keep-best: the checkpoint of the state that was best in the evaluations of a run.

    `WORKDIR/best` is to commands what a workdir is: `--config.init_from=WORKDIR/best`.

    Attributes:
        best: (step, figure) of the one that is kept; None: none yet.
    """

    def __init__(self, workdir: Path):
        """Opens `WORKDIR/best`.

        Raises:
            UserError: its checkpoint is damaged.
        """
        self._saved = RunCheckpoints(workdir / BEST, keep=1)
        found = self._saved.read_newest(lambda step: (step, self._saved.read_meta(step)[_FIGURE]))
        self.best: tuple[int, float] | None = found

    def offer(self, step: int, state: Any, meta: Mapping[str, Any], figure: float | None) -> bool:
        """Keeps the state if the figure of its evaluation is better than that of the one before."""
        if figure is None or not figure > (self.best[1] if self.best else float('-inf')):
            return False
        self.best = step, figure
        self._saved.save(step, state, {**meta, _FIGURE: figure})
        return True

    def close(self) -> None:
        """Waits until it is on disk."""
        self._saved.close()


def _on_host(leaf: Any) -> Any:
    """Orbax restores to NumPy where the target is NumPy: no device layout is asked for."""
    return np.empty(leaf.shape, leaf.dtype)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(leaf, 'dtype', np.float32), jax.dtypes.prng_key)


def _storable(state: Any) -> Any:
    """Typed PRNG keys as the numbers behind them."""

    def convert(leaf: Any) -> Any:
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, leaf)
        return jax.random.key_data(leaf)

    return jax.tree.map(convert, state)


def _unstorable(restored: Any, like: Any) -> Any:
    return jax.tree.map(
        lambda value, leaf: jax.random.wrap_key_data(value) if _is_key(leaf) else value,
        restored,
        like,
    )
