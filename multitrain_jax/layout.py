"""Where the arrays of a training state lie: whole on every device, or divided among some."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.ops.tensor_parallel import MODEL_AXIS

# What the devices along `model` share, by the last parts of a parameter's name, and the axis it is divided along,
# counted from the last, since identical blocks and heads are stacked along leading ones.
_MLP = {
    ('fc1', 'kernel'): -1,
    ('fc1', 'bias'): -1,
    ('fc2', 'kernel'): -2,
}
# Rows of qkv, because its columns are put in another order for use (`PoolingAttention`).
_ATTENTION = {
    ('qkv', 'kernel'): -2,
    ('output', 'kernel'): -2,
}
_HEADS = {
    ('heads', 'hidden_kernel'): -1,
    ('heads', 'hidden_bias'): -1,
    ('heads', 'kernel'): -2,
}


def state_shardings(state: Any, mesh: Mesh, model: MultiTrainConfig) -> Any:
    """The sharding of every array of a training state (or of parameters alone, or of their shapes).

    Without an axis `model` in the mesh every device has all of everything. With it, the kernels that it shares are
    divided among its devices, and so are their averages and moments.

    Args:
        state: arrays or shapes; parameters are nested dicts, wherever in it they are.
        mesh: the devices.
        model: architecture.
    """
    devices = mesh.shape.get(MODEL_AXIS, 1)

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        axis = _model_axis(tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey)), model, devices)
        spec = [None] * len(leaf.shape)
        if devices > 1 and axis is not None and leaf.shape[axis] % devices == 0:
            spec[axis] = MODEL_AXIS
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(sharding, state)


def _model_axis(path: tuple, model: MultiTrainConfig, devices: int) -> int | None:
    """Axis of a parameter that is divided along `model`, counted from the last; None: none."""
    name = path[-2:]
    if path[:1] == ('expander',) or path[-3:-2] == ('mlp',):
        return _MLP.get(name)
    if path[-3:-2] == ('attention',):
        return None if _heads(path, model) % devices else _ATTENTION.get(name)
    return _HEADS.get(name) if model.head_hidden else None


def _heads(path: tuple, model: MultiTrainConfig) -> int:
    """Attention heads of the block that a parameter is of, `backbone/stages/NUMBER/...`."""
    return model.backbone.heads * 2 ** int(path[path.index('stages') + 1])


def undivided_stages(model: MultiTrainConfig, mesh: Mesh) -> list[int]:
    """Stages, counted from 1, whose attention the devices along `model` do not share: they do not divide the heads."""
    devices = mesh.shape.get(MODEL_AXIS, 1)
    stages = range(len(model.backbone.stage_blocks))
    return [stage + 1 for stage in stages if model.backbone.heads * 2**stage % devices]
