"""Small models with random parameters, to be saved, loaded and started from."""

import dataclasses
import pathlib

from flax import nnx
import jax
import numpy as np

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.exports import ModelInfo
from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.models.heads import Projections, class_mask
from multitrain_jax.models.multitrain import MultiTrainConfig, MultiTrainModel
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.vit import ViTConfig
from tests.helpers.golden_models import random_model

GREY, WHITE = (0.45,) * 3, (0.225,) * 3
CLASSES = {'animals': ('cat', 'dog', 'eel'), 'tools': ('axe', 'saw'), 'fruit': ('fig', 'kiwi')}


def backbone(**changes) -> MViTConfig:
    config = MViTConfig(
        num_frames=4,
        image_size=16,
        width=4,
        stage_blocks=(1, 3),
        kv_stride=(1, 2, 2),
        query_strides=((1, 1, 1), (1, 2, 2)),
    )
    return dataclasses.replace(config, **changes)


def plain_backbone(**changes) -> ViTConfig:
    config = ViTConfig(
        num_frames=4,
        image_size=16,
        width=16,
        heads=2,
        blocks=2,
        mlp_width=32,
        patch_stride=(2, 4, 4),
        init_std=0.2,
    )
    return dataclasses.replace(config, **changes)


def architecture(classes=CLASSES, shape=None, **changes) -> MultiTrainConfig:
    config = MultiTrainConfig(
        shape or backbone(), tuple(map(len, classes.values())), head_hidden=6, expander_hidden=7
    )
    return dataclasses.replace(config, **changes)


def make(model: MultiTrainConfig, seed: int) -> MultiTrainModel:
    """A model of random parameters whose padding is zero, as it always is."""
    made = random_model(lambda: MultiTrainModel(model, rngs=nnx.Rngs(0)), seed=seed)
    mask = class_mask(model.num_classes)  # [N, C]
    made.heads.kernel[...] *= mask[:, None]
    made.heads.bias[...] *= mask
    if made.projections is not None:
        rows = np.stack([mask[Projections.sources(len(mask), d)] for d in range(len(mask))])
        if model.projection_rank:
            made.projections.left[...] *= rows[..., None]
            made.projections.right[...] *= mask[:, None, None]
        else:
            made.projections.kernel[...] *= rows[..., None] * mask[:, None, None]
    return made


def trained(classes=CLASSES, **changes) -> TrainedModel:
    """As if it had been read from somewhere."""
    model = architecture(classes, **changes)
    params = jax.device_get(nnx.to_pure_dict(nnx.state(make(model, seed=1))))
    specs = {name: DatasetSpec(name, names) for name, names in classes.items()}
    info = ModelInfo(model, specs, GREY, WHITE, 64, 1, 1)
    return TrainedModel('SOURCE', pathlib.Path('SOURCE'), info, params)
