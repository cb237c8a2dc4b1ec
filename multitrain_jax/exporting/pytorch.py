"""Checkpoints that the original code loads: PySlowFast's, MultiTrain's (the authors'),
torchvision's.

`import_torch` reads them back bit for bit. PySlowFast and torchvision have one linear classifier,
so each dataset becomes a file of its own; MultiTrain's file holds all heads and, out of a run,
projections.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import os
from pathlib import Path
import re
from typing import Any

import numpy as np

from multitrain_jax.batch import DatasetSpec, classifying
from multitrain_jax.checkpoints.exports import ModelInfo
from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.errors import UserError
from multitrain_jax.exporting.directory import new_directory, places_of, unlike, write_description
from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.ops.relative_position import distance_index
from multitrain_jax.ops.windows import pooled_size
from multitrain_jax.pytorch import naming
from multitrain_jax.weights.warm_start import flatten

FILES = {'multitrain': 'model.pyth', 'pyslowfast': 'model.pyth', 'torchvision': 'model.pth'}
CONFIG, CLASSES = 'model.yaml', 'classes.txt'
# What their code computes: values of our backbone's fields.
_WANTED = {
    'multitrain': dict(
        skip_input=('raw',),
        pool_norm_epsilon=(1e-5,),
        positions=('separate',),
        class_token=(False,),
    ),
    'pyslowfast': dict(skip_input=('normalised',), pool_norm_epsilon=(1e-6,)),
    'torchvision': dict(
        skip_input=('normalised',),
        pool_norm_epsilon=(1e-6,),
        positions=('relative',),
        class_token=(True,),
        mlp_ratio=(4.0,),
    ),
}
_ROUNDING = {'pyslowfast': 'float32', 'torchvision': 'float64'}  # of relative positions
# Sizes that are written into MultiTrain's code.
_HEAD_HIDDEN, _EXPANDER_HIDDEN = 2048, 4096


def write(
    output: str | os.PathLike, trained: TrainedModel, style: str, notes: list[str]
) -> list[Path]:
    """Writes a directory, or one for each dataset, with the checkpoint and what belongs to it.

    Args:
        output: the directory; of several datasets with files of their own, that of their
            directories.
        trained: the model.
        style: one of `naming.STYLES`.
        notes: gets a line for whatever is not exported as it is.

    Returns:
        The directories.

    Raises:
        UserError: their code has no such model, PyTorch is missing, or the directory is in use.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(f'--format={style} needs PyTorch: pip install torch') from error
    info = trained.info
    flat = {path: np.asarray(array) for path, array in flatten(trained.params).items()}
    if style == 'multitrain' and len(info.model.num_classes) + info.model.head_hidden > 1:
        datasets = classifying(trained.datasets)
        for spec in trained.datasets:
            if spec.localisation:
                notes.append(f'{spec.name}: left out, MultiTrain has no head for boxes')
        names = _without_underscores(datasets, notes)
        model, flat = _for_multitrain(info.model, flat, notes)
        _check(model, style)
        with new_directory(output) as directory:
            _write(directory, info, model, datasets, names, flat, style)
        return [Path(output)]
    if not trained.datasets:
        raise UserError(f'--format={style}: the model has no head')
    places = places_of(output, trained.datasets)
    alone = [_one_head(info.model, flat, trained.datasets, spec) for spec in trained.datasets]
    for model, _ in alone:  # before anything is written
        _check(model, style)
    for spec, (model, own) in zip(trained.datasets, alone):
        with new_directory(places[spec.name]) as directory:
            _write(directory, info, model, [spec], (), own, style)
    return list(places.values())


def _one_head(
    model: MultiTrainConfig,
    flat: Mapping[str, np.ndarray],
    datasets: Sequence[DatasetSpec],
    spec: DatasetSpec,
) -> tuple[MultiTrainConfig, dict[str, np.ndarray]]:
    """The model of one dataset alone: (architecture, parameters)."""
    alike = [other.name for other in datasets if other.localisation == spec.localisation]
    number, own = alike.index(spec.name), dict(flat)
    alone: dict[str, Any] = dict(projections=False, expander=False)
    if spec.localisation:
        alone |= dict(num_classes=(), num_actions=(len(spec.classes),))
        for name in ('kernel', 'bias'):
            head = flat[f'localisation_heads/{number}/output/{name}']
            own[f'localisation_heads/0/output/{name}'] = head
    else:
        alone |= dict(num_classes=(len(spec.classes),), num_actions=None, localisation_head=None)
        for path in ('heads/kernel', 'heads/bias'):  # padded to the most classes of any dataset
            own[path] = flat[path][number : number + 1, ..., : len(spec.classes)]
    return dataclasses.replace(model, **alone), own


def _for_multitrain(
    model: MultiTrainConfig, flat: dict[str, np.ndarray], notes: list[str]
) -> tuple[MultiTrainConfig, dict[str, np.ndarray]]:
    """What their code has a place for, of the heads and of what only training needs."""
    projections = model.projections and len(model.num_classes) > 1
    if projections and model.projection_rank:
        flat = flat | {
            'projections/kernel': flat['projections/left'] @ flat['projections/right'],
        }
    expander = model.expander and model.expander_hidden == _EXPANDER_HIDDEN
    if model.expander and not expander:
        notes.append(
            f'the expander is left out: its hidden width is {model.expander_hidden}, in the '
            f"authors' code always {_EXPANDER_HIDDEN}; only training uses it"
        )
    alone = dict(num_actions=None, localisation_head=None, projection_rank=0)
    return (
        dataclasses.replace(model, projections=projections, expander=expander, **alone),
        flat,
    )


def _without_underscores(datasets: Sequence[DatasetSpec], notes: list[str]) -> tuple[str, ...]:
    """Names that their code can take apart again: a projection is called A_B."""
    names = tuple(re.sub(r'[^\w-]|_', '', spec.name) for spec in datasets)
    if len(set(names)) < len(names) or not all(names):
        raise UserError(
            f'--format=multitrain: without underscores and dots the datasets would be called '
            f'{", ".join(names)}; each needs another name'
        )
    for spec, name in zip(datasets, names):
        if name != spec.name:
            notes.append(f'{spec.name} is called {name}: the authors split names at underscores')
    return names


def _check(model: MultiTrainConfig, style: str) -> None:
    """Raises UserError where their code computes something else."""
    backbone = model.backbone
    if not isinstance(backbone, MViTConfig):
        raise UserError(
            f'--format={style}: is for MViTv2; plain transformers have --format=huggingface'
        )
    problems = unlike(backbone, _WANTED[style], 'model.backbone')
    if model.num_classes:
        hidden = (0, _HEAD_HIDDEN) if style == 'multitrain' else (0,)
        problems += unlike(model, {'head_hidden': hidden}, 'model')
    if model.add_projected:
        problems.append('model.add_projected must be 0')
    rounding = _ROUNDING.get(style)
    if backbone.relative_positions and rounding and _rounds_otherwise(backbone, rounding):
        problems.append(
            f'distances are rounded as {rounding}, which at this size of clips gives other ones '
            f'than model.backbone.distance_rounding={backbone.distance_rounding!r}'
        )
    if model.localisation_head is not None:
        problems += _problems_of_boxes(model, style)
    if not model.num_classes and model.num_actions is None:
        problems.append('it has no head of whole clips')
    if problems:
        raise UserError(f'--format={style}: {"; ".join(problems)}')


def _problems_of_boxes(model: MultiTrainConfig, style: str) -> list[str]:
    head, backbone = model.localisation_head, model.backbone
    if style != 'pyslowfast':
        return ['it has no head for boxes, only --format=pyslowfast has']
    problems = []
    if head.context:
        problems.append('config.localisation.head.context must be False')
    if head.sampling_ratio:
        problems.append('config.localisation.head.sampling_ratio must be 0')
    if backbone.image_size % backbone.token_stride[1]:
        problems.append(
            f'boxes of {backbone.image_size} px are no whole number of its last tokens, which '
            f'are {backbone.token_stride[1]} px apart'
        )
    return problems


def _rounds_otherwise(backbone: MViTConfig, rounding: str) -> bool:
    sizes = {
        pair
        for block in itertools.chain(*backbone.block_shapes())
        for pair in zip(
            *(pooled_size(block.grid, s) for s in (block.query_stride, block.kv_stride))
        )
    }
    return any(
        (distance_index(*pair, backbone.distance_rounding) != distance_index(*pair, rounding)).any()
        for pair in sizes
    )


def _write(
    directory: Path,
    info: ModelInfo,
    model: MultiTrainConfig,
    datasets: Sequence[DatasetSpec],
    names: Sequence[str],
    flat: Mapping[str, np.ndarray],
    style: str,
) -> None:
    import torch

    arrays = naming.to_torch(flat, naming.entries_of(model, style, names))
    # Copies: PyTorch would keep all of an array that a tensor is a view of.
    state = {name: torch.from_numpy(np.array(array, order='C')) for name, array in arrays.items()}
    described: dict[str, Any] = {'checkpoint': FILES[style]}
    if style == 'torchvision':
        torch.save(state, directory / FILES[style])
    else:
        text = _config_text(info, model, datasets, names, style)
        (directory / CONFIG).write_text(text, encoding='utf-8')
        content = {
            'epoch': 0,
            'model_state': state,
            'optimizer_state': {'state': {}, 'param_groups': []},
            'cfg': text,
        }
        torch.save(content, directory / FILES[style])
        described['config'] = CONFIG
    for number, spec in enumerate(datasets):
        file = f'{names[number]}_{CLASSES}' if len(datasets) > 1 else CLASSES
        (directory / file).write_text(''.join(f'{c}\n' for c in spec.classes), encoding='utf-8')
    backbone = model.backbone
    clip = ('B', 3, backbone.num_frames, backbone.image_size, backbone.image_size)
    write_description(
        directory,
        info,
        datasets=datasets,
        format=f'PyTorch, {style}',
        files=described,
        inputs={'clips': {'shape': clip, 'dtype': 'float32', 'pixels': '(0..1 - mean) / std'}},
        heads=dict(zip((spec.name for spec in datasets), names)) or None,
    )


def _config_text(
    info: ModelInfo,
    model: MultiTrainConfig,
    datasets: Sequence[DatasetSpec],
    names: Sequence[str],
    style: str,
) -> str:
    """What their configuration says of model and clips, to be merged into their defaults."""
    import yaml

    backbone, spec = model.backbone, datasets[0]
    starts = np.cumsum([0, *backbone.stage_blocks]).tolist()
    strides = dict(zip(starts, map(list, backbone.query_strides)))
    activations = ['sigmoid' if s.multi_label or s.localisation else 'softmax' for s in datasets]
    data: dict[str, Any] = {
        'NUM_FRAMES': backbone.num_frames,
        'SAMPLING_RATE': spec.stride,
        'TRAIN_CROP_SIZE': backbone.image_size,
        'TEST_CROP_SIZE': backbone.image_size,
        'TRAIN_JITTER_SCALES': [info.short_side, info.short_side * 5 // 4],
        'INPUT_CHANNEL_NUM': [3],
        'MEAN': list(info.mean),
        'STD': list(info.std),
    }
    if spec.target_frame_rate:
        data['TARGET_FPS'] = round(spec.target_frame_rate)  # theirs must be a whole number
    mvit = {
        'DEPTH': backbone.depth,
        'NUM_HEADS': backbone.heads,
        'EMBED_DIM': backbone.width,
        'MLP_RATIO': float(backbone.mlp_ratio),
        'DIM_MUL': [[start, 2.0] for start in starts[1:-1]],
        'HEAD_MUL': [[start, 2.0] for start in starts[1:-1]],
        'PATCH_KERNEL': list(backbone.patch_kernel),
        'PATCH_STRIDE': list(backbone.patch_stride),
        'PATCH_PADDING': [size // 2 for size in backbone.patch_kernel],
        'POOL_KVQ_KERNEL': [3, 3, 3],
        'POOL_KV_STRIDE_ADAPTIVE': list(backbone.kv_stride),
        'POOL_Q_STRIDE': [[i, *strides.get(i, (1, 1, 1))] for i in range(backbone.depth)],
        'CLS_EMBED_ON': backbone.class_token,
        'SEP_POS_EMBED': backbone.positions == 'separate',
        'DROPPATH_RATE': float(backbone.stochastic_depth),
        'MODE': 'conv',
        'NORM': 'layernorm',
    }
    own_model: dict[str, Any] = {
        'ARCH': 'mvit',
        'MODEL_NAME': 'MViT',
        'NUM_CLASSES': len(spec.classes),
        'HEAD_ACT': activations[0],
    }
    tree: dict[str, Any] = {'DATA': data, 'MODEL': own_model, 'MVIT': mvit}
    if style == 'pyslowfast':
        relative = backbone.relative_positions
        mvit |= dict(
            DIM_MUL_IN_ATT=True,
            RESIDUAL_POOLING=True,
            SEPARATE_QKV=False,
            USE_ABS_POS=not relative,
            REL_POS_SPATIAL=relative,
            REL_POS_TEMPORAL=relative,
        )
        if spec.localisation:
            tree['DETECTION'] = {
                'ENABLE': True,
                'ALIGNED': True,
                'ROI_XFORM_RESOLUTION': model.localisation_head.output_size,
                'SPATIAL_SCALE_FACTOR': backbone.token_stride[1],
            }
    else:
        mvit |= dict(CHANNEL_EXPAND_FRONT=True, Q_POOL_ALL=True, Q_POOL_RESIDUAL=True)
        mvit['POOL_Q_STRIDE'] = [s for s in mvit['POOL_Q_STRIDE'] if max(s[1:]) > 1]
        if names:
            own_model |= dict(
                USE_MULTI_HEAD=True,
                MULTI_DATASETS=list(names),
                MULTI_NUM_CLASSES=[len(s.classes) for s in datasets],
                MULTI_HEAD_ACT=activations,
                MULTI_USE_MLP=model.head_hidden > 0,
                MULTI_ADD_CROSS_PROJ=model.projections,
                USE_INF_LOSS=model.expander,  # else their code makes none
                USE_INF_EXPANDER=model.expander,
            )
    tree['TEST'] = {
        'NUM_ENSEMBLE_VIEWS': info.temporal_views,
        'NUM_SPATIAL_CROPS': info.spatial_views,
    }
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)
