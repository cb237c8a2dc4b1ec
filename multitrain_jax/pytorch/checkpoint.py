"""What is in a checkpoint file of PyTorch: arrays, and beside them PySlowFast's configuration."""

from collections.abc import Mapping, Sequence
import dataclasses
from pathlib import Path
import pickle
import re
from typing import Any

import numpy as np

from multitrain_jax.augment.normalize import Rgb
from multitrain_jax.errors import UserError
from multitrain_jax.ops.windows import Triple

# Under these names training scripts keep the parameters, next to the optimizer's state and more.
# Of V-JEPA 2's two encoders the papers evaluate the averaged one; averages alone come last.
_WRAPPERS = (
    'model_state',
    'state_dict',
    'model',
    'module',
    'target_encoder',
    'encoder',
    'model_ema',
    'state_dict_ema',
)
_MAX_NUMBERS = 4 << 30  # of all tensors; MViTv2-L has 0.2 G
# What wrappers of models put before every name, one or several of them.
_PREFIXES = re.compile(r'((module|model|backbone)\.)+')


def read_torch(
    path: str, key: str | None = None, notes: list[str] | None = None
) -> tuple[dict[str, np.ndarray], str | None]:
    """({name: NumPy array}, text of PySlowFast's configuration or None) of a checkpoint file.

    Only tensors and plain data are read (`weights_only=True`): nothing in the file is run.

    Args:
        path: of the file.
        key: under which the state dict lies; None: the first of the usual ones.
        notes: gets a line where the file holds more.

    Raises:
        UserError: PyTorch is missing, or the file is no such checkpoint.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            'reading PyTorch checkpoints needs PyTorch: pip install torch pyyaml'
        ) from error
    if not Path(path).expanduser().is_file():
        raise UserError(f'--checkpoint={path}: no such file')
    try:
        content = torch.load(Path(path).expanduser(), map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f'--checkpoint={path}: no checkpoint, or one that holds more than tensors and plain '
            'data, '
            'which could run code and is not read; save its state_dict() alone with torch.save'
        ) from error
    except Exception as error:  # its unpickler stumbles over other files in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f'--checkpoint={path}: cannot be read by torch.load ({reason})') from error
    if not isinstance(content, Mapping):
        raise UserError(f'--checkpoint={path}: holds a {type(content).__name__}, not a state dict')
    text = content.get('cfg') if isinstance(content.get('cfg'), str) else None
    state = _state_dict(path, content, key)
    if notes is not None and state is not content:
        others = [str(name) for name, value in content.items() if value is not state]
        notes.append(f'beside the state dict, left out: {", ".join(others) or "nothing"}')
    tensors = {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise UserError(
            f'--checkpoint={path}: no state dict in it; it holds {", ".join(map(str, content))}'
        )
    # Of few bytes, where a stride is 0.
    if sum(tensor.numel() for tensor in tensors.values()) > _MAX_NUMBERS:
        raise UserError(
            f'--checkpoint={path}: its tensors have more than {_MAX_NUMBERS >> 30} G numbers'
        )
    tensors = without_prefixes(tensors)
    try:
        return {name: tensor.float().numpy() for name, tensor in tensors.items()}, text
    except (TypeError, RuntimeError) as error:  # sparse, quantised, complex, on no device
        raise UserError(
            f'--checkpoint={path}: holds tensors that are no plain arrays of numbers'
        ) from error


def without_prefixes(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Names without what torch.compile, DataParallel, Lightning and the like put before them.

    Of two names that would become one, the second stays as it is.
    """
    result: dict[str, Any] = {}
    for name, value in tensors.items():
        short = name.replace('_orig_mod.', '')
        if prefix := _PREFIXES.match(short):
            short = short[prefix.end() :]
        result[name if short in result else short] = value
    return result


def _state_dict(path: str, content: Mapping[str, Any], key: str | None) -> Mapping[str, Any]:
    """The mapping that holds the parameters, wherever in it they are."""
    if key is not None:
        if not isinstance(content.get(key), Mapping):
            raise UserError(
                f'--checkpoint={path}: no state dict {key!r}; it holds '
                f'{", ".join(map(str, content))}'
            )
        return content[key]
    inside = next((content[n] for n in _WRAPPERS if isinstance(content.get(n), Mapping)), None)
    return content if inside is None else _state_dict(path, inside, None)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a configuration, what matters to a trained model; None: not said.

    Attributes:
        num_frames: of a clip.
        image_size: pixels of the training crop.
        stride: step between frames, counted at `target_frame_rate`.
        target_frame_rate: frames per second.
        patch_stride: of the patch convolution.
        query_strides: strides of queries by block; blocks that are not there have (1, 1, 1).
        kv_stride: of keys and values in the first block.
        mean: of pixels scaled to 0..1.
        std: likewise.
        dataset: that it was trained on, in PySlowFast's words.
        sigmoid: for each of its heads, whether scores are sigmoids.
        temporal_views: of its test protocol.
        spatial_views: likewise.
        short_side: pixels of its test videos before cropping.
        classes: names of the classes of its head.
        uniform: whether clips span the whole video.
        detection: whether its head reads regions of the key frame.
    """

    num_frames: int | None = None
    image_size: int | None = None
    stride: int | None = None
    target_frame_rate: float | None = None
    patch_stride: Triple | None = None
    query_strides: Mapping[int, Triple] | None = None
    kv_stride: Triple | None = None
    mean: Rgb | None = None
    std: Rgb | None = None
    dataset: str | None = None
    sigmoid: tuple[bool, ...] = ()
    temporal_views: int | None = None
    spatial_views: int | None = None
    short_side: int | None = None
    classes: tuple[str, ...] | None = None
    uniform: bool | None = None
    detection: bool = False


def read_settings(text: str) -> Settings:
    """Reads the configuration of PySlowFast or MultiTrain.

    Raises:
        ValueError: not the text of such a configuration.
    """
    import yaml

    try:
        content = yaml.safe_load(text)  # makes plain data only
        data, mvit, model, test = (
            _group(content, name) for name in ('DATA', 'MVIT', 'MODEL', 'TEST')
        )
        pairs = mvit.get('POOL_KV_STRIDE') or ()
        kv = mvit.get('POOL_KV_STRIDE_ADAPTIVE') or next(
            (pair[1:] for pair in pairs if pair[0] == 0), None
        )
        queries = mvit.get('POOL_Q_STRIDE')
        strides = None if queries is None else {pair[0]: _triple(pair[1:]) for pair in queries}
        activations = (
            model.get('MULTI_HEAD_ACT') if model.get('USE_MULTI_HEAD') else [model.get('HEAD_ACT')]
        )
        return Settings(
            num_frames=data.get('NUM_FRAMES'),
            image_size=data.get('TRAIN_CROP_SIZE'),
            stride=data.get('SAMPLING_RATE'),
            target_frame_rate=None if data.get('TARGET_FPS') is None else float(data['TARGET_FPS']),
            patch_stride=_triple(mvit.get('PATCH_STRIDE'), time=2),
            query_strides=strides,
            kv_stride=_triple(kv),
            mean=_rgb(data.get('MEAN')),
            std=_rgb(data.get('STD')),
            dataset=_group(content, 'TRAIN').get('DATASET'),
            sigmoid=tuple(activation == 'sigmoid' for activation in activations or ()),
            temporal_views=test.get('NUM_ENSEMBLE_VIEWS'),
            spatial_views=test.get('NUM_SPATIAL_CROPS'),
            detection=bool(_group(content, 'DETECTION').get('ENABLE')),
        )
    except (
        yaml.YAMLError,
        AttributeError,
        TypeError,
        ValueError,
        IndexError,
        RecursionError,  # nested too deeply
    ) as error:
        raise ValueError(f'not the configuration of PySlowFast ({type(error).__name__})') from error


def _group(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    group = content.get(name, {})
    if not isinstance(group, Mapping):
        raise TypeError(name)
    return group


def _triple(values: Sequence[int] | None, time: int = 1) -> Triple | None:
    """(t, h, w) of three numbers, or of the two of an image model."""
    if values is None:
        return None
    t, h, w = map(int, values if len(values) == 3 else (time, *values))
    return t, h, w


def _rgb(values: Sequence[float] | None) -> Rgb | None:
    if values is None:
        return None
    r, g, b = map(float, values)
    return r, g, b
