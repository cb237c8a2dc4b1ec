"""Directories in the layout of Hugging Face's transformers: config.json, weights, preprocessing.

Weights are read as arrays (safetensors) without PyTorch; nothing in them is run.
"""

from collections.abc import Mapping
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from multitrain_jax.errors import UserError
from multitrain_jax.pytorch.checkpoint import Settings, read_torch

CONFIG, WEIGHTS = 'config.json', 'model.safetensors'
OWN = 'multitrain_jax'  # in config.json, what only this code has a use for
PREPROCESSORS = ('preprocessor_config.json', 'video_preprocessor_config.json')
_TORCH_WEIGHTS = 'pytorch_model.bin'
# Where the weights are in several files: {"weight_map": {name: file}}.
_INDEXES = (f'{WEIGHTS}.index.json', f'{_TORCH_WEIGHTS}.index.json')


@dataclasses.dataclass(frozen=True)
class Directory:
    """What a directory holds.

    Attributes:
        arrays: f32 by name.
        config: config.json.
        preprocessor: of PREPROCESSORS, the one that is there; {}: none.
    """

    arrays: Mapping[str, np.ndarray]
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]


def read_directory(path: str) -> Directory:
    """Reads a directory, or the one that a .safetensors file lies in.

    Raises:
        UserError: files are missing or damaged.
    """
    where = Path(path).expanduser()
    file = None
    if where.is_file():
        where, file = where.parent, where.name
    if not (where / CONFIG).is_file():
        raise UserError(
            f'--checkpoint={path}: {CONFIG} is missing; of a Hugging Face model the whole '
            'directory '
            "is needed, of the authors' models the .pth or .pt file"
        )
    preprocessors = [where / name for name in PREPROCESSORS if (where / name).is_file()]
    files = [file] if file else _weight_files(where)
    arrays: dict[str, np.ndarray] = {}
    for name in files:
        if name.endswith('.safetensors'):
            arrays |= read_safetensors(where / name)
        else:
            arrays |= read_torch(str(where / name))[0]
    config = _read_json(where / CONFIG)
    preprocessor = _read_json(preprocessors[0]) if preprocessors else {}
    return Directory(arrays, config, preprocessor)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """f32 arrays by name.

    Raises:
        UserError: not such a file, or a damaged one.
    """
    try:
        import safetensors
    except ImportError as error:
        raise UserError('reading .safetensors needs: pip install safetensors') from error
    try:
        with safetensors.safe_open(path, 'numpy') as file:
            return {name: _float32(name, file.get_tensor(name)) for name in file.keys()}
    except (OSError, safetensors.SafetensorError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'{path}: no safetensors file, or a damaged one ({reason})') from error


def settings_of(directory: Directory) -> Settings:
    """What the description says of clips, pixels and classes.

    Raises:
        UserError: a file that is not of the expected form.
    """
    config, form = directory.config, directory.preprocessor
    try:
        factor = form.get('rescale_factor', 1 / 255) if form.get('do_rescale', True) else 1.0
        offset = 1.0 if form.get('offset', config.get('model_type') == 'vivit') else 0.0
        mean = std = None
        if form:
            # Pixels p of 0..1 become (255 p factor - offset - mean) / std.
            means, stds = form.get('image_mean'), form.get('image_std')
            if not form.get('do_normalize', True) or means is None or stds is None:
                means, stds = (0.0,) * 3, (1.0,) * 3
            mean = tuple((offset + float(m)) / (255 * factor) for m in means)
            std = tuple(float(s) / (255 * factor) for s in stds)
            if len(mean) != 3 or len(std) != 3:
                raise ValueError('image_mean and image_std must be three numbers')
        size = form.get('size') or {}
        size = {'shortest_edge': size} if isinstance(size, int) else size
        short_side = size.get('shortest_edge', size.get('height'))
        labels = config.get('id2label')
        own = config.get(OWN) or {}
        classes = None
        if labels:
            names = {int(number): str(name) for number, name in labels.items()}
            if sorted(names) != list(range(len(names))):
                raise ValueError(f'id2label must number its {len(names)} classes from 0')
            classes = tuple(names[number] for number in range(len(names)))
            if all(name == f'LABEL_{number}' for number, name in enumerate(classes)):
                classes = None  # transformers' names where nobody gave any
        return Settings(
            mean=mean,
            std=std,
            short_side=None if short_side is None else int(short_side),
            classes=classes,
            dataset=_of_type(own, 'dataset', str),
            stride=_of_type(own, 'stride', int),
            target_frame_rate=_of_type(own, 'target_frame_rate', float),
            uniform=own.get('sampling') == 'uniform' if own else None,
            temporal_views=_of_type(own, 'temporal_views', int),
            spatial_views=_of_type(own, 'spatial_views', int),
            sigmoid=(config.get('problem_type') == 'multi_label_classification',),
        )
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f'config.json or its preprocessor: not in the form that transformers writes ({error})'
        ) from error


def _of_type(values: Mapping[str, Any], name: str, kind: type) -> Any:
    value = values.get(name)
    if value is not None and type(value) is not kind:
        raise ValueError(f'{OWN}.{name}={value!r} must be of type {kind.__name__}')
    return value


def _weight_files(where: Path) -> list[str]:
    for name in (WEIGHTS, _TORCH_WEIGHTS):
        if (where / name).is_file():
            return [name]
    for name in _INDEXES:
        if not (where / name).is_file():
            continue
        places = _read_json(where / name).get('weight_map')
        if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
            raise UserError(f'{where / name}: has no "weight_map" of names and files')
        files = sorted(set(places.values()))
        for file in files:
            if Path(file).name != file or not (where / file).is_file():
                raise UserError(f'{where / name}: names {file!r}, which is no file beside it')
        return files
    raise UserError(f'{where}: no weights in it ({WEIGHTS}, {_TORCH_WEIGHTS}, or {_INDEXES[0]})')


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'{path}: not JSON ({error})') from error
    if not isinstance(content, dict):
        raise UserError(f'{path}: not an object')
    return content


def _float32(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in 'fV':  # bfloat16 is a type that NumPy itself does not know
        raise ValueError(f'{name} is of type {array.dtype}')
    return array.astype(np.float32)
