"""Where the arrays of a training state lie: whole on every device, or divided among some."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.ops.tensor_parallel import MODEL_AXIS
from multitrain_jax.parallel.mesh import DATA_AXIS

# What the devices along `model` share, by the last parts of a parameter's name, and the axis it is
# divided along, counted from the last, since identical blocks and heads are stacked along leading
# ones.
_MLP = {('fc1', 'kernel'): -1, ('fc1', 'bias'): -1, ('fc2', 'kernel'): -2}
# Rows of qkv, because its columns are put in another order for use (`PoolingAttention`).
_ATTENTION = {('qkv', 'kernel'): -2, ('output', 'kernel'): -2}
_HEADS = {('heads', 'hidden_kernel'): -1, ('heads', 'hidden_bias'): -1, ('heads', 'kernel'): -2}

# Fields of the training state that no replica needs whole.
_DIVIDED_OVER_DATA = ('opt_state', 'ema')


def state_shardings(
    state: Any, mesh: Mesh, model: MultiTrainConfig, *, shard_optimizer: bool = False
) -> Any:
    """The sharding of every array of a training state (or of parameters alone, or of their shapes).

    Without an axis `model` in the mesh every device has all of everything. With it, the kernels
    that it shares are divided among its devices, and so are their averages and moments.

    Args:
        state: arrays or shapes; parameters are nested dicts, wherever in it they are.
        mesh: the devices.
        model: architecture.
        shard_optimizer: whether optimizer state and moving average are divided over `data`, too
            (ZeRO-1, arXiv 1910.02054), each array along its longest axis that can be.
    """

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        spec: list[str | None] = [None] * len(leaf.shape)
        name = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        axis = _model_axis(name, model, mesh.shape.get(MODEL_AXIS, 1))
        if axis is not None and _divides(mesh, MODEL_AXIS, leaf.shape[axis]):
            spec[axis] = MODEL_AXIS
        if shard_optimizer and getattr(path[0], 'name', None) in _DIVIDED_OVER_DATA:
            free = [
                n
                for n, size in enumerate(leaf.shape)
                if spec[n] is None and _divides(mesh, DATA_AXIS, size)
            ]
            if free:
                spec[max(free, key=lambda n: leaf.shape[n])] = DATA_AXIS
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(sharding, state)


def for_evaluation(params: Any, mesh: Mesh, model: MultiTrainConfig) -> Any:
    """Parameters for evaluation: not divided over `data`, or each batch would gather them anew."""
    if MODEL_AXIS not in mesh.shape:
        return params
    return jax.device_put(params, state_shardings(params, mesh, model))


def _divides(mesh: Mesh, axis: str, size: int) -> bool:
    """Whether there are devices along a mesh axis, and they divide an array's axis."""
    devices = mesh.shape.get(axis, 1)
    return devices > 1 and size % devices == 0


def _model_axis(path: tuple, model: MultiTrainConfig, devices: int) -> int | None:
    """Axis of a parameter that is divided along `model`, counted from the last; None: none."""
    name = path[-2:]
    if path[:1] == ('expander',) or path[-3:-2] == ('mlp',):
        return _MLP.get(name)
    if path[-3:-2] == ('attention',):
        heads = model.backbone.attention_heads(path[path.index('backbone') + 1 :])
        return None if heads % devices else _ATTENTION.get(name)
    return _HEADS.get(name) if model.head_hidden else None
