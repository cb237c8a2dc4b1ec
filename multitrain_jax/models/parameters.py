"""Parameters by name: which of them train, and the parts of a tree.

Parameters are nested dicts. The name of one is its path, `backbone/stages/0/first/mlp/fc1/kernel`.
"""

from collections.abc import Mapping, Sequence
import fnmatch
from typing import Any

from flax import traverse_util
import jax

from multitrain_jax.errors import UserError


def partition(
    params: Mapping[Any, Any], frozen: Sequence[str]
) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """(parameters that train, frozen ones), without the branches that hold none.

    Args:
        params: nested dicts.
        frozen: patterns, each of the first parts of a path: `backbone`, `backbone/stages/*/first`.

    Raises:
        UserError: a pattern that matches no parameter, or nothing is left to train.
    """
    flat = traverse_util.flatten_dict(params)
    parts = {path: [str(part) for part in path] for path in flat}
    stays = {}
    for pattern in frozen:
        matched = [path for path in flat if _matches(parts[path], pattern.split('/'))]
        if not matched:
            raise UserError(
                f'config.optimizer.frozen: {pattern!r} matches no parameter; '
                f'names begin with {", ".join(sorted({names[0] for names in parts.values()}))} '
                f'and look like {"/".join(parts[next(iter(flat))])}'
            )
        stays |= {path: flat[path] for path in matched}
    if len(stays) == len(flat):
        raise UserError(f'config.optimizer.frozen={tuple(frozen)} leaves nothing to train')
    trains = {path: leaf for path, leaf in flat.items() if path not in stays}
    return traverse_util.unflatten_dict(trains), traverse_util.unflatten_dict(stays)


def merge(*parts: Mapping[Any, Any]) -> dict[Any, Any]:
    """One tree of several with different branches; of two with the same leaf, the later one's."""
    flat = {}
    for part in parts:
        flat |= traverse_util.flatten_dict(part)
    return traverse_util.unflatten_dict(flat)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Leaves by name, `params.backbone.stages.0.first...`; whatever has a shape is a leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: hasattr(node, 'shape')
    )[0]
    return [('.'.join(map(_part, path)), leaf) for path, leaf in leaves]


def _part(key: Any) -> str:
    return str(next(getattr(key, field) for field in ('key', 'idx', 'name') if hasattr(key, field)))


def _matches(path: list[str], pattern: list[str]) -> bool:
    return len(pattern) <= len(path) and all(map(fnmatch.fnmatchcase, path, pattern))
