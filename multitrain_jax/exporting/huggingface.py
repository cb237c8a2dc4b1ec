"""A trained model as directories of Hugging Face's transformers, one for each classifying dataset.

`AutoModelForVideoClassification.from_pretrained` loads them, and `import_torch` reads them back bit
for bit. transformers' models are VideoMAE (sine positions), ViViT (learned ones, class token) and
V-JEPA 2 (rotary ones, attentive pooling), each with one linear classifier.
"""

from collections.abc import Mapping
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from multitrain_jax.batch import DatasetSpec, classifying
from multitrain_jax.checkpoints.exports import ModelInfo
from multitrain_jax.errors import UserError
from multitrain_jax.exporting.directory import new_directory, places_of, unlike, write_arrays
from multitrain_jax.models.vit import ViTConfig
from multitrain_jax.pytorch import vit
from multitrain_jax.pytorch.huggingface import CONFIG, OWN, PREPROCESSORS, WEIGHTS
from multitrain_jax.pytorch.naming import to_torch
from multitrain_jax.weights.warm_start import flatten

_ARCHITECTURES = {
    'videomae': ('VideoMAEForVideoClassification', 'VideoMAEImageProcessor'),
    'vivit': ('VivitForVideoClassification', 'VivitImageProcessor'),
    'vjepa2': ('VJEPA2ForVideoClassification', 'VJEPA2VideoProcessor'),
}
_GELU = {'exact': 'gelu', 'tanh': 'gelu_pytorch_tanh'}
# transformers makes V-JEPA 2's predictor, which no classifier uses, whether or not there is one.
_PREDICTOR = dict(
    pred_hidden_size=1,
    pred_num_attention_heads=1,
    pred_num_hidden_layers=0,
    pred_num_mask_tokens=1,
)


def write_directories(
    output: str | os.PathLike, info: ModelInfo, params: Mapping[str, Any]
) -> list[Path]:
    """Writes them: to `output`, or with several datasets to its folders of their names.

    Raises:
        UserError: transformers has no such model, or something is there already.
    """
    datasets = classifying(tuple(info.datasets.values()))
    if not datasets:
        raise UserError('--format=huggingface: the model has no classifying head')
    style, config = describe(info)
    flat = {path: np.asarray(array) for path, array in flatten(params).items()}
    places = places_of(output, datasets)
    for number, spec in enumerate(datasets):
        model = dataclasses.replace(
            info.model, num_classes=(len(spec.classes),), projections=False, expander=False
        )
        own = flat | {
            path: flat[path][number : number + 1] for path in ('heads/kernel', 'heads/bias')
        }
        arrays = to_torch(own, list(vit.entries_of(model, style)))
        with new_directory(places[spec.name]) as directory:
            _write(directory, info, spec, style, config, arrays)
    return list(places.values())


def _write(
    directory: Path,
    info: ModelInfo,
    spec: DatasetSpec,
    style: str,
    config: Mapping[str, Any],
    arrays: dict[str, np.ndarray],
) -> None:
    architecture, processor = _ARCHITECTURES[style]
    if style == 'vjepa2':
        arrays |= _unused_predictor(config['hidden_size'])
    description = {
        'architectures': [architecture],
        'model_type': style,
        **config,
        'dtype': 'float32',
        'id2label': {str(number): name for number, name in enumerate(spec.classes)},
        'label2id': {name: number for number, name in enumerate(spec.classes)},
        'problem_type': f'{"multi" if spec.multi_label else "single"}_label_classification',
        OWN: {
            'dataset': spec.name,
            'sampling': spec.sampling,
            'stride': spec.stride,
            'target_frame_rate': spec.target_frame_rate,
            'temporal_views': info.temporal_views,
            'spatial_views': info.spatial_views,
        },
    }
    side = info.model.backbone.image_size
    preprocessing = {
        'do_resize': True,
        'size': {'shortest_edge': info.short_side},
        'do_center_crop': True,
        'crop_size': {'height': side, 'width': side},
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': list(info.mean),
        'image_std': list(info.std),
    }
    kind = 'video_processor_type' if style == 'vjepa2' else 'image_processor_type'
    preprocessing[kind] = processor
    if style == 'vivit':
        preprocessing['offset'] = False
    write_arrays(directory / WEIGHTS, arrays)
    for name, content in (
        (PREPROCESSORS[style == 'vjepa2'], preprocessing),
        (CONFIG, description),
    ):
        (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n')


def describe(info: ModelInfo) -> tuple[str, dict[str, Any]]:
    """(model type, fields of config.json) of a backbone with linear heads.

    Raises:
        UserError: transformers has no such model; says what is in the way.
    """
    backbone, model = info.model.backbone, info.model
    if not isinstance(backbone, ViTConfig):
        raise UserError('--format=huggingface: transformers has no MViTv2 of videos')
    style = {'sine': 'videomae', 'learned': 'vivit', 'rotary': 'vjepa2'}[backbone.positions]
    stride, size = backbone.patch_stride, backbone.image_size
    wanted = {
        'videomae': dict(class_token=(False,), pooling=('norm_of_mean', 'first')),
        'vivit': dict(class_token=(True,), pooling=('first',)),
        'vjepa2': dict(pooling=('attentive',)),
    }[style] | dict(attention_bias=('qv', 'none') if style == 'videomae' else ('qkv', 'none'))
    problems = unlike(backbone, wanted, 'model.backbone')
    if model.head_hidden:
        problems.append(f'model.head_hidden={model.head_hidden} must be 0: its head is one layer')
    if model.add_projected:
        problems.append('model.add_projected must be 0')
    if backbone.position_grid not in (None, backbone.patch_grid):
        problems.append(
            f'positions of a grid {backbone.position_grid} are interpolated for '
            f'{backbone.patch_grid}'
        )
    if stride[1] != stride[2] and style != 'vivit':
        problems.append(f'model.backbone.patch_stride={stride} must be as high as wide')
    if problems:
        name = _ARCHITECTURES[style][0]
        raise UserError(f"--format=huggingface: transformers' {name}: {'; '.join(problems)}")
    common = dict(
        hidden_size=backbone.width,
        num_hidden_layers=backbone.blocks,
        num_attention_heads=backbone.heads,
        hidden_act=_GELU[backbone.activation],
        layer_norm_eps=backbone.norm_epsilon,
    )
    if style == 'vjepa2':
        # transformers multiplies by this ratio and cuts.
        ratio = backbone.mlp_width / backbone.width
        if int(backbone.width * ratio) != backbone.mlp_width:
            ratio = math.nextafter(ratio, math.inf)
        return style, common | _PREDICTOR | dict(
            patch_size=stride[1],
            crop_size=size,
            frames_per_clip=backbone.num_frames,
            tubelet_size=stride[0],
            mlp_ratio=ratio,
            qkv_bias=backbone.attention_bias == 'qkv',
            num_pooler_layers=backbone.pooler_blocks,
        )
    common |= dict(
        image_size=size, num_frames=backbone.num_frames, intermediate_size=backbone.mlp_width
    )
    if style == 'vivit':
        return style, common | dict(
            tubelet_size=list(stride), qkv_bias=backbone.attention_bias == 'qkv'
        )
    return style, common | dict(
        patch_size=stride[1],
        tubelet_size=stride[0],
        qv_bias=backbone.attention_bias == 'qv',
        use_mean_pooling=backbone.pooling == 'norm_of_mean',
    )


def _unused_predictor(width: int) -> dict[str, np.ndarray]:
    shapes = {
        'embeddings.mask_tokens': (1, 1, 1, 1),
        'embeddings.predictor_embeddings.weight': (1, width),
        'embeddings.predictor_embeddings.bias': (1,),
        'layernorm.weight': (1,),
        'layernorm.bias': (1,),
        'proj.weight': (width, 1),
        'proj.bias': (width,),
    }
    return {f'vjepa2.predictor.{n}': np.zeros(shape, np.float32) for n, shape in shapes.items()}
