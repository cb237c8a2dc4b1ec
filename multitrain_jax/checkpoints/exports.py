"""Exports: parameters of what predictions need, and `model.json` with all that is needed to use
them.

Imported PyTorch checkpoints are kept in the same form.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
from pathlib import Path
import shutil
from typing import Annotated, Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp

from data_pipelines.settings import Range, settings
from multitrain_jax import config_reading
from multitrain_jax.augment.normalize import Rgb
from multitrain_jax.batch import DatasetSpec, classifying, localising, sampling_of
from multitrain_jax.checkpoints.checksums import array_checksums, first_difference
from multitrain_jax.config import Config, LocalisationConfig, with_datasets
from multitrain_jax.errors import UserError, first_line, naming
from multitrain_jax.models.multitrain import MultiTrainConfig, abstract_model
from multitrain_jax.models.parameters import named_leaves

_MODEL_FILE, _PARAMS = 'model.json', 'params'
_FORMAT, _VERSION = 'multitrain_jax export', 1
_MOST_PIXELS = 8192  # of the short side


def _model_rules(info: 'ModelInfo') -> None:
    # A file that was edited must not put wrong names on a head's outputs.
    datasets = tuple(info.datasets.values())
    for field, specs in (
        ('num_classes', classifying(datasets)),
        ('num_actions', localising(datasets)),
    ):
        named, heads = [len(spec.classes) for spec in specs], getattr(info.model, field) or ()
        if named != list(heads):
            raise ValueError(
                f'datasets: have {named} classes, but the heads (model.{field}) {list(heads)}'
            )
    if not info.model.backbone.image_size <= info.short_side <= _MOST_PIXELS:
        raise ValueError(
            f'short_side={info.short_side} must be from {info.model.backbone.image_size} '
            f'(the image size) to {_MOST_PIXELS}'
        )
    if not min(info.std) > 0:
        raise ValueError(f'std={info.std} must be positive')


@settings(rules=_model_rules)
class ModelInfo:
    """What a trained model says of itself: architecture, datasets, preprocessing (`model.json`)."""

    model: MultiTrainConfig
    datasets: Mapping[str, DatasetSpec]  # the heads of either kind are in this order
    mean: Rgb  # of pixels scaled to 0..1
    std: Rgb
    short_side: int  # pixels, before cropping to the backbone's image size
    temporal_views: Annotated[int, Range(ge=1, le=1000)]  # along a video
    spatial_views: Literal[1, 3]
    localisation: LocalisationConfig | None = None  # which boxes are tested


def model_info(config: Config, datasets: Sequence[DatasetSpec]) -> ModelInfo:
    """What the model of a run says of itself, to be used on any machine."""
    model = with_datasets(config, datasets)
    return ModelInfo(
        model=dataclasses.replace(model, backbone=model.backbone.for_inference()),
        datasets={
            spec.name: dataclasses.replace(spec, **sampling_of(config.datasets[spec.name]))
            for spec in datasets
        },
        mean=config.augment.mean,
        std=config.augment.std,
        short_side=config.evaluation.short_side,
        temporal_views=config.evaluation.temporal_views,
        spatial_views=config.evaluation.spatial_views,
        localisation=config.localisation,
    )


def for_inference(info: ModelInfo, params: Mapping[str, Any]) -> tuple[ModelInfo, dict[str, Any]]:
    """Both without what only training needs: expander, projections that no prediction uses."""
    projections = info.model.projections and info.model.add_projected > 0
    model = dataclasses.replace(info.model, projections=projections, expander=False)
    parts = {'backbone', 'heads', 'localisation_heads', *['projections'] * projections}
    kept = {name: branch for name, branch in params.items() if name in parts}
    return dataclasses.replace(info, model=model), kept


def check_output(output: str | os.PathLike) -> Path:
    """The directory that an export may be written to.

    Raises:
        UserError: it holds something else.
    """
    if not os.fspath(output):
        raise UserError('--output= is empty; name the directory of the export')
    path = Path(output).expanduser().resolve()
    in_use = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if in_use and not is_export(path):
        raise UserError(f'--output={output}: exists and is no export; choose another directory')
    return path


def write_export(output: str | os.PathLike, info: ModelInfo, params: Mapping[str, Any]) -> None:
    """Writes an export directory: `params/` (Orbax) and `model.json`. Replaces an older export
    there.

    Args:
        output: the directory.
        info: what `model.json` says.
        params: f32 arrays of the model that it describes, nested dicts.

    Raises:
        UserError: `output` holds something else.
    """
    output = check_output(output)
    unfinished = output.with_name(output.name + '.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise UserError(f'--output={output}: cannot be made ({error.strerror})') from error
    save_tree(unfinished / _PARAMS, params)
    content = {
        'format': _FORMAT,
        'version': _VERSION,
        **config_reading.to_dict(info),
        'datasets': {name: spec.to_dict() for name, spec in info.datasets.items()},
        'checksums': array_checksums(params),
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (unfinished / _MODEL_FILE).write_text(text + '\n', encoding='utf-8')
    replaced = output.with_name(output.name + '.replaced')
    shutil.rmtree(replaced, ignore_errors=True)
    if output.exists():
        os.replace(output, replaced)
    os.replace(unfinished, output)
    shutil.rmtree(replaced, ignore_errors=True)


def is_export(directory: str | os.PathLike) -> bool:
    """Whether `read_export` would find a description there."""
    return (Path(directory).expanduser() / _MODEL_FILE).exists()


def models_below(directory: str | os.PathLike) -> str:
    """For an error: names the exports in a directory, or in its `export`, as probes leave them."""
    found = [
        str(path.parent)
        for pattern in ('*', 'export/*')
        for path in sorted(Path(directory).expanduser().glob(f'{pattern}/{_MODEL_FILE}'))
    ]
    return f'; models in it: {", ".join(found)}' if found else ''


def read_export(directory: Path) -> tuple[ModelInfo, dict[str, Any]]:
    """(description, parameters) of an export.

    Raises:
        UserError: one of another version, or one that does not fit its own description.
    """
    path = directory / _MODEL_FILE
    try:
        with naming(path):
            content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not JSON ({error})') from error
    if not isinstance(content, dict) or content.pop('format', None) != _FORMAT:
        raise UserError(f'{path}: not the description of an export')
    if content.pop('version', None) != _VERSION:
        raise UserError(f'{path}: an export of another version; this code reads version {_VERSION}')
    stored = content.pop('checksums', None)  # an export of an earlier version has none
    datasets = content.get('datasets')
    if isinstance(datasets, dict):
        content['datasets'] = {
            name: DatasetSpec.from_dict(name, entry, f'{path}.datasets.{name}')
            for name, entry in datasets.items()
        }
    info = config_reading.build(ModelInfo, content, str(path))
    params = load_tree(directory / _PARAMS, abstract_model(info.model)[1])
    changed = stored and first_difference(stored, params)
    if changed:
        raise UserError(
            f'{directory}: damaged: the numbers of {changed} are not those that were exported; '
            'export again'
        )
    return info, params


def save_tree(directory: str | os.PathLike, tree: Any) -> None:
    """Writes one pytree of NumPy arrays as an Orbax checkpoint (blocking, atomic, replacing what
    was there).

    Of several processes only the one that calls takes part.
    """
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix='alone'
    )
    with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
        checkpointer.save(Path(directory).resolve(), tree, force=True)


def load_tree(directory: str | os.PathLike, like: Any) -> Any:
    """Reads what `save_tree` wrote into the structure of `like`, as NumPy arrays.

    Raises:
        UserError: the checkpoint is of another structure or other shapes, or damaged.
    """
    directory = Path(directory).resolve()
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            description = checkpointer.metadata(directory).item_metadata
        except (FileNotFoundError, ValueError) as error:
            raise UserError(
                f'{directory}: not a readable checkpoint ({first_line(error)})'
            ) from error
        if description is None:
            raise UserError(
                f'{directory}: not a readable checkpoint (files of it are missing or damaged)'
            )
        stored = description.tree
        problem = _shape_problem(stored, like)
        if problem:
            raise UserError(f'{directory}: checkpoint of another architecture: {problem}')
        try:
            # To NumPy, where the target is a NumPy array: no device layout is stored or asked for.
            target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
            return checkpointer.restore(directory, target)
        except Exception as error:  # whatever the libraries make of damaged files
            raise UserError(f'{directory}: damaged: {first_line(error)}') from error


def _shape_problem(stored: Any, like: Any) -> str | None:
    have, want = (
        {name: tuple(leaf.shape) for name, leaf in named_leaves(tree)} for tree in (stored, like)
    )
    for name in want:
        if name not in have:
            return f'parameter {name} is missing'
        if have[name] != want[name]:
            return f'parameter {name} has shape {list(have[name])}, must be {list(want[name])}'
    extra = [name for name in have if name not in want]
    return f'parameter {extra[0]} is not part of this model' if extra else None
