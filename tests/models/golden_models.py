"""Golden state dicts loaded into our models."""

from flax import nnx
import jax
import numpy as np

from multitrain_jax import torch_names
from multitrain_jax.models.multitrain import MultiTrainConfig, MultiTrainModel
from tests.golden import reference_path


def flat(state: nnx.State) -> dict[str, np.ndarray]:
    """Our parameters, or their gradients or shapes, by path."""
    return {'/'.join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)}


def load(name: str, config: MultiTrainConfig, datasets=()) -> MultiTrainModel:
    """A model with the parameters of a golden file; fails unless every array found its place."""
    arrays = dict(np.load(reference_path(f'{name}_params.npz')))
    style = torch_names.style_of(arrays)
    model = MultiTrainModel(config, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    entries = torch_names.entries_of(config, style, datasets)
    zeros = {path: np.zeros_like(array) for path, array in flat(state).items()}
    params, report = torch_names.from_torch(arrays, entries, zeros)
    assert not report.ignored and not report.missing
    for path, leaf in nnx.to_flat_state(state):
        leaf[...] = jax.numpy.asarray(params['/'.join(map(str, path))])
    return nnx.merge(graph, state)


def golden(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(reference_path(f'{name}_io.npz')))


def channels_last(clips: np.ndarray) -> np.ndarray:
    return clips.transpose(0, 2, 3, 4, 1)
