"""The directory of an export for other programs, with a description of what is in it."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import os
from pathlib import Path
import re
import shutil
from typing import Any

import jax
import numpy as np

from multitrain_jax import config_reading
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.exports import ModelInfo
from multitrain_jax.errors import UserError

DESCRIPTION, PARAMETERS = 'description.json', 'parameters.safetensors'


@contextlib.contextmanager
def new_directory(output: str | os.PathLike) -> Iterator[Path]:
    """A directory to write into, which becomes `output` when the context ends without an error.

    Raises:
        UserError: something is there already, or it cannot be made.
    """
    output = Path(output).expanduser().resolve()
    _check_free(output)
    unfinished = output.with_name(f'{output.name}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise UserError(f'--output={output}: cannot be made ({error.strerror})') from error
    try:
        yield unfinished
        os.replace(unfinished, output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def places_of(output: str | os.PathLike, datasets: Sequence[DatasetSpec]) -> dict[str, Path]:
    """Where formats with a single head keep each dataset's: in `output`, or in its folders.

    Raises:
        UserError: a dataset's name is no name of a folder, or something is there already.
    """
    output = Path(output).expanduser().resolve()
    places = {}
    for spec in datasets:
        if not re.fullmatch(r'[\w-][\w.-]*', spec.name):
            raise UserError(f'{spec.name!r} is no name of a folder')
        place = places[spec.name] = output / spec.name if len(datasets) > 1 else output
        _check_free(place)
    return places


def _check_free(place: Path) -> None:
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f'--output={place}: exists; choose another directory')


def unlike(group: Any, wanted: Mapping[str, Sequence[Any]], where: str) -> list[str]:
    """What is not as it must be: a line for each of a group's fields of another value."""
    return [
        f'{where}.{field}={getattr(group, field)!r} must be {" or ".join(map(repr, those))}'
        for field, those in wanted.items()
        if getattr(group, field) not in those
    ]


def write_description(
    directory: Path, info: ModelInfo, *, datasets: Sequence[DatasetSpec], **about: Any
) -> None:
    """Writes `description.json`: what goes in, what comes out, how videos become clips.

    Args:
        directory: of the export.
        info: of the model.
        datasets: whose scores the export gives, in their order.
        **about: what is particular to the format; comes first.
    """
    backbone = info.model.backbone
    content = {
        **about,
        'preprocessing': {
            'colours': 'RGB',
            'short_side': info.short_side,
            'crop': [backbone.image_size, backbone.image_size],
            'frames': backbone.num_frames,
            'mean': list(info.mean),
            'std': list(info.std),
            'temporal_views': info.temporal_views,
            'spatial_views': info.spatial_views,
        },
        'datasets': {
            spec.name: {
                'classes': list(spec.classes),
                'scores': 'sigmoid' if spec.multi_label or spec.localisation else 'softmax',
                'boxes': spec.localisation,
                'sampling': spec.sampling,
                'stride': spec.stride,
                'target_frame_rate': spec.target_frame_rate,
            }
            for spec in datasets
        },
        'model': config_reading.to_dict(info.model),
        'written_with': {'jax': jax.__version__, 'numpy': np.__version__},
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (directory / DESCRIPTION).write_text(f'{text}\n', encoding='utf-8')


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name as safetensors.

    Raises:
        UserError: that package is missing.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise UserError('writing .safetensors needs: pip install safetensors') from error
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, path, metadata={'format': 'pt'})
