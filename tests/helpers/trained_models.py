"""Small trained models (random parameters) of every architecture, to be exported."""

import dataclasses
import pathlib

import jax
import numpy as np

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.exports import ModelInfo
from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.inference.model import Model
from multitrain_jax.models.heads import Projections, class_mask
from multitrain_jax.models.localisation_head import LocalisationHeadConfig
from multitrain_jax.models.multitrain import MultiTrainConfig, abstract_model
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.variants import public_form
from multitrain_jax.models.vit import ViTConfig

MVIT = MViTConfig(
    num_frames=4,
    image_size=32,
    width=8,
    stage_blocks=(1, 2),
    kv_stride=(1, 4, 4),
    query_strides=((1, 1, 1), (1, 2, 2)),
)
PUBLIC = dataclasses.replace(public_form(MVIT), distance_rounding='float32')
VIT = ViTConfig(
    num_frames=4, image_size=32, width=24, blocks=2, heads=2, mlp_width=44, patch_stride=(2, 8, 8)
)
BACKBONES = {
    'mvit': MVIT,
    'mvit with class token': dataclasses.replace(MVIT, class_token=True),
    'public mvit': PUBLIC,
    'videomae': dataclasses.replace(VIT, attention_bias='qv'),
    'vivit': dataclasses.replace(
        VIT, positions='learned', class_token=True, pooling='first', activation='tanh'
    ),
    'vjepa2': dataclasses.replace(VIT, positions='rotary', pooling='attentive', pooler_blocks=2),
}
GYM = DatasetSpec('gym', ('run', 'jump', 'läuft'), stride=3, target_frame_rate=25.0)
TOOLS = DatasetSpec('tools', ('saw', 'cut'), multi_label=True, sampling='uniform')
SCENES = DatasetSpec(
    'scenes', ('stand', 'walk', 'sit', 'talk'), localisation=True, sampling='key_frame', stride=2
)

CLIPS = np.random.default_rng(7).integers(0, 256, (3, 4, 32, 32, 3), np.uint8)
BOXES = np.array([[[0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]]] * 3, np.float32)


def outputs_of(trained: TrainedModel) -> dict[str, np.ndarray]:
    """What an export must give of `CLIPS` and `BOXES`, computed by `Model`."""
    model = Model(trained)
    found = {f'logits/{name}': own for name, own in model.logits(CLIPS).items()}
    if trained.info.model.num_actions:
        for name, scores in model.localise(CLIPS, BOXES).items():
            found[f'logits/{name}'] = np.log(scores) - np.log1p(-scores)
    return found | {'embedding': model.embed(CLIPS)}


def make(
    backbone: MViTConfig | ViTConfig,
    specs: tuple[DatasetSpec, ...] = (GYM, TOOLS),
    *,
    seed: int = 0,
    box_head: LocalisationHeadConfig = LocalisationHeadConfig(),
    **changes,
) -> TrainedModel:
    """A model of random parameters whose padding is zero; `changes` are of the MultiTrainConfig."""
    actions = tuple(len(spec.classes) for spec in specs if spec.localisation)
    model = MultiTrainConfig(
        backbone,
        tuple(len(spec.classes) for spec in specs if not spec.localisation),
        num_actions=actions or None,
        localisation_head=box_head if actions else None,
        **dict(head_hidden=0, projections=False, expander=False) | changes,
    )
    generator = np.random.default_rng(seed)
    draw = lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, abstract_model(model)[1])
    if model.num_classes:
        mask = class_mask(model.num_classes)
        params['heads']['kernel'] *= mask[:, None]
        params['heads']['bias'] *= mask
    if model.projections and not model.projection_rank:
        rows = np.stack([mask[Projections.sources(len(mask), d)] for d in range(len(mask))])
        params['projections']['kernel'] *= rows[..., None] * mask[:, None, None]
    info = ModelInfo(
        model=model,
        datasets={spec.name: spec for spec in specs},
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        short_side=40,
        temporal_views=2,
        spatial_views=3,
    )
    return TrainedModel('small', pathlib.Path('small'), info, params)
