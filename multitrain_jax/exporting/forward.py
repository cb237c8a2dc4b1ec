"""A trained model as one function of named arrays: what StableHLO and ONNX hold."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx
import jax
import numpy as np

from multitrain_jax.augment.pipeline import prepare_eval
from multitrain_jax.batch import classifying, localising
from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.models.parameters import named_leaves

Arrays = Mapping[str, jax.Array]


def parameters(trained: TrainedModel) -> dict[str, np.ndarray]:
    """f32 by name, `backbone.stages.0.first...`."""
    return {name: np.asarray(array) for name, array in named_leaves(trained.params)}


def make_forward(trained: TrainedModel) -> Callable[..., dict[str, jax.Array]]:
    """`forward(parameters, clips, boxes) -> outputs`, without `boxes` where no dataset has any.

    Clips are u8[B, T, H, W, 3], boxes f32[B, M, 4] as shares of width and height (x1, y1, x2, y2).
    The outputs are `embedding` f32[B, D] and the logits of every dataset NAME, before softmax or
    sigmoid: `logits/NAME` f32[B, C], of a localising one f32[B, M, A].

    Args:
        trained: the model, for inference.
    """
    info, graphdef = trained.info, trained.graphdef
    names = [name for name, _ in named_leaves(trained.params)]
    structure = jax.tree.structure(trained.params)

    def forward(parameters: Arrays, clips: jax.Array, boxes: jax.Array | None = None):
        params = jax.tree.unflatten(structure, [parameters[name] for name in names])
        video = prepare_eval(clips, mean=info.mean, std=info.std)
        outputs = nnx.merge(graphdef, params)(video, boxes)
        found = {'embedding': outputs.embedding}
        for number, spec in enumerate(classifying(trained.datasets)):
            found[f'logits/{spec.name}'] = outputs.logits[number, :, : len(spec.classes)]
        for number, spec in enumerate(localising(trained.datasets)):
            found[f'logits/{spec.name}'] = outputs.actions[number]
        return found

    return forward


def inputs(trained: TrainedModel) -> dict[str, dict[str, Any]]:
    """Shape and type by name of what goes in beside the parameters; letters are any number."""
    backbone = trained.info.model.backbone
    clip = backbone.num_frames, backbone.image_size, backbone.image_size, 3
    found = {'clips': {'shape': ('B', *clip), 'dtype': 'uint8'}}
    if localising(trained.datasets):
        found['boxes'] = {'shape': ('B', 'M', 4), 'dtype': 'float32'}
    return found


def outputs(trained: TrainedModel) -> dict[str, dict[str, Any]]:
    """Shape and type by name of what comes out."""
    shapes = {'embedding': ('B', trained.info.model.backbone.embedding_width)}
    for spec in (*classifying(trained.datasets), *localising(trained.datasets)):
        leading = ('B', 'M') if spec.localisation else ('B',)
        shapes[f'logits/{spec.name}'] = (*leading, len(spec.classes))
    return {name: {'shape': shape, 'dtype': 'float32'} for name, shape in shapes.items()}
