"""Checkpoints of a run by Orbax: save, find, check, restore.

A checkpoint `WORKDIR/checkpoints/STEP` holds `state` (parameters, their moving average, optimizer, step, key) and
`meta` (architecture, datasets with class names, data position, config). The step number is the data position: batch
number n is a function of the config and n alone.
"""

from collections.abc import Mapping
import json
import os
from pathlib import Path
from typing import Any

from flax import traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp

from multitrain_jax.errors import UserError
from multitrain_jax.parameters import merge


class RunCheckpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: str | os.PathLike, *, keep: int):
        """Opens (or makes) `workdir/checkpoints`; `keep`: newest ones to keep."""
        self.directory = Path(workdir).expanduser().resolve() / 'checkpoints'
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, enable_async_checkpointing=True
            ),
        )

    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint; None when there is none."""
        return self._manager.latest_step()

    def all_steps(self) -> list[int]:
        """Steps of all finished checkpoints, rising."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
        """Saves in the background; False when `step` is there already. Arrays are copied first."""
        if step in self._manager.all_steps():
            return False
        return self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(_storable(state)), meta=ocp.args.JsonSave(dict(meta))),
            force=True,  # the loop decides when
        )

    def read_meta(self, step: int) -> dict[str, Any]:
        """What the checkpoint says of itself."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step`, as NumPy arrays in the structure of `like` (arrays or ShapeDtypeStructs)."""
        target = _storable(like)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(jax.tree.map(_on_host, target)))
        )['state']
        return _unstorable(restored, like)

    def restore_params(self, step: int, like: Any) -> Any:
        """The model's parameters to use, NumPy arrays in the structure of `like`: the moving average where kept."""
        path = self.directory / str(step) / 'state'
        with ocp.PyTreeCheckpointer() as checkpointer:
            averaged = _named_leaves(checkpointer.metadata(path).item_metadata.tree.get('ema') or {})
            flat = traverse_util.flatten_dict(jax.tree.map(_on_host, like))
            parts = {'params': {}, 'ema': {}}
            for leaf_path, leaf in flat.items():
                parts['ema' if '.'.join(map(str, leaf_path)) in averaged else 'params'][leaf_path] = leaf
            target = {part: traverse_util.unflatten_dict(leaves) for part, leaves in parts.items() if leaves}
            args = ocp.args.PyTreeRestore(
                target,
                restore_args=jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), target),
                partial_restore=True,
            )
            restored = checkpointer.restore(path, args=args)
        return merge(*restored.values())

    def wait(self) -> None:
        """Returns when all saves are on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then ends the background threads."""
        self._manager.wait_until_finished()
        self._manager.close()


def check_same_run(stored: Mapping[str, Any], current: Mapping[str, Any], where: Any) -> None:
    """A checkpoint continues only the run that wrote it: same architecture, classes, batches and kind of state.

    Raises:
        UserError: names the first field that differs, with both values.
    """
    for part in ('datasets', 'model', 'data_order', 'state'):
        difference = _first_difference(stored.get(part), json.loads(json.dumps(current[part])), part)
        if difference:
            path, old, new = difference
            raise UserError(
                f'{where} holds a run with other settings: {path} was {old!r}, is {new!r} now; '
                'use another --workdir, or set it back'
            )


def save_tree(directory: str | os.PathLike, tree: Any) -> None:
    """Writes one pytree of arrays as an Orbax checkpoint (blocking, atomic, replacing what was there)."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(directory).resolve(), tree, force=True)


def load_tree(directory: str | os.PathLike, like: Any) -> Any:
    """Reads what `save_tree` wrote into the structure of `like`, as NumPy arrays.

    Raises:
        UserError: the checkpoint is of another structure or other shapes.
    """
    directory = Path(directory).resolve()
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            stored = checkpointer.metadata(directory).item_metadata.tree
        except (FileNotFoundError, ValueError, AttributeError) as error:
            raise UserError(f'{directory}: not a readable checkpoint ({error})') from error
        problem = _shape_problem(stored, like)
        if problem:
            raise UserError(f'{directory}: checkpoint of another architecture: {problem}')
        return checkpointer.restore(directory, jax.tree.map(_on_host, like))


def _on_host(leaf: Any) -> Any:
    """Orbax restores to NumPy where the target is a NumPy array: no device layout is stored or asked for."""
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
        lambda value, leaf: jax.random.wrap_key_data(value) if _is_key(leaf) else value, restored, like
    )


def _first_difference(old: Any, new: Any, path: str) -> tuple[str, Any, Any] | None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            found = _first_difference(old.get(key), new.get(key), f'{path}.{key}')
            if found:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new)):
            found = _first_difference(a, b, f'{path}[{i}]')
            if found:
                return found
        return None
    return None if old == new else (path, old, new)


def _named_leaves(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by name, `backbone.stages.0.first...`, of arrays or what describes them."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: hasattr(node, 'shape'))[0]
    return {
        '.'.join(str(getattr(key, 'key', getattr(key, 'idx', key))) for key in path): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _shape_problem(stored: Any, like: Any) -> str | None:
    have, want = _named_leaves(stored), _named_leaves(like)
    for name in want:
        if name not in have:
            return f'parameter {name} is missing'
        if have[name] != want[name]:
            return f'parameter {name} has shape {list(have[name])}, must be {list(want[name])}'
    extra = [name for name in have if name not in want]
    return f'parameter {extra[0]} is not part of this model' if extra else None
