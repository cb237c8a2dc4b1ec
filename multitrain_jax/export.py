"""Writes what predictions need of a run: parameters, and `model.json` with all else.

python -m multitrain_jax.export --workdir=runs/quickstart --output=exports/quickstart
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
from pathlib import Path
import shutil
from typing import Any, Literal

from flax import nnx

from multitrain_jax import config_reading
from multitrain_jax.augment.normalize import Rgb
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints import runs
from multitrain_jax.checkpoints.checksums import array_checksums, first_difference
from multitrain_jax.checkpoints.trained_model import read_run
from multitrain_jax.config import Config, LocalisationConfig, with_datasets
from multitrain_jax.errors import ArgumentParser, UserError, run_command
from multitrain_jax.models.multitrain import MultiTrainConfig, MultiTrainModel

_MODEL_FILE, _PARAMS = 'model.json', 'params'
_FORMAT, _VERSION = 'multitrain_jax export', 1
_MOST_VIEWS = 1000  # along a video
_MOST_PIXELS = 8192  # of the short side


@dataclasses.dataclass(frozen=True)
class ExportedDataset:
    """One head of an export: its classes, and how its dataset's videos are sampled."""

    classes: tuple[str, ...]
    multi_label: bool
    sampling: Literal['strided', 'uniform', 'key_frame']
    stride: int
    target_frame_rate: float | None
    localisation: bool = False  # the classes are actions in boxes
    train_counts: tuple[int, ...] = ()  # boxes with each action in training
    action_ids: tuple[int, ...] = ()  # numbers of the actions in files of the official format

    def __post_init__(self):
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError('classes: must be names, each once')
        if not 1 <= self.stride < 2**31:
            raise ValueError(f'stride={self.stride} must be at least 1')
        if self.target_frame_rate is not None and not self.target_frame_rate > 0:
            raise ValueError(f'target_frame_rate={self.target_frame_rate} must be positive')


@dataclasses.dataclass(frozen=True)
class ExportInfo:
    """`model.json`: architecture, datasets, preprocessing."""

    model: MultiTrainConfig
    datasets: Mapping[str, ExportedDataset]  # the heads of either kind are in this order
    mean: Rgb  # of pixels scaled to 0..1
    std: Rgb
    short_side: int  # pixels, before cropping to the backbone's image size
    temporal_views: int
    spatial_views: Literal[1, 3]
    localisation: LocalisationConfig | None = None  # which boxes are tested

    def __post_init__(self):
        # A file that was edited must not put wrong names on a head's outputs.
        for kind, heads, localises in (
            ('num_classes', self.model.num_classes, False),
            ('num_actions', self.model.num_actions, True),
        ):
            named = tuple(
                len(entry.classes)
                for entry in self.datasets.values()
                if entry.localisation == localises
            )
            if named != (heads or ()):
                raise ValueError(
                    f'datasets: have {list(named)} classes, but the heads (model.{kind}) {list(heads or ())}'
                )
        if not self.model.backbone.image_size <= self.short_side <= _MOST_PIXELS:
            raise ValueError(
                f'short_side={self.short_side} must be from {self.model.backbone.image_size} (the image size) to {_MOST_PIXELS}'
            )
        if not 1 <= self.temporal_views <= _MOST_VIEWS:
            raise ValueError(
                f'temporal_views={self.temporal_views} must be from 1 to {_MOST_VIEWS}'
            )
        if not min(self.std) > 0:
            raise ValueError(f'std={self.std} must be positive')


def write_export(
    output: str | os.PathLike,
    params: Mapping[str, Any],
    config: Config,
    datasets: Sequence[DatasetSpec],
) -> None:
    """Writes the export of a run's parameters, those that only training needs left out; see `write_model`."""
    info = export_info(config, datasets)
    parts = {'backbone', 'heads', 'localisation_heads'} | (
        {'projections'} if info.model.projections else set()
    )
    write_model(output, info, {name: value for name, value in params.items() if name in parts})


def export_info(config: Config, datasets: Sequence[DatasetSpec]) -> ExportInfo:
    """What an export of a run says of itself. Its model lacks what only training uses."""
    return ExportInfo(
        model=dataclasses.replace(
            with_datasets(config, datasets),
            projections=config.model.add_projected > 0,
            expander=False,
            backbone=config.model.backbone.for_inference(),
        ),
        datasets={
            spec.name: ExportedDataset(
                spec.classes,
                spec.multi_label,
                entry.sampling,
                entry.stride,
                entry.target_frame_rate,
                spec.localisation,
                spec.train_counts,
                spec.action_ids,
            )
            for spec, entry in ((spec, config.datasets[spec.name]) for spec in datasets)
        },
        mean=config.augment.mean,
        std=config.augment.std,
        short_side=config.evaluation.short_side,
        temporal_views=config.evaluation.temporal_views,
        spatial_views=config.evaluation.spatial_views,
        localisation=config.localisation,
    )


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


def write_model(output: str | os.PathLike, info: ExportInfo, params: Mapping[str, Any]) -> None:
    """Writes an export directory: `params/` (Orbax) and `model.json`. Replaces an older export there.

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
    runs.save_tree(unfinished / _PARAMS, params)
    content = {
        'format': _FORMAT,
        'version': _VERSION,
        **config_reading.to_dict(info),
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


def read_export(directory: str | os.PathLike) -> tuple[ExportInfo, nnx.GraphDef, dict[str, Any]]:
    """(description, graph definition, parameters) of an export.

    Raises:
        UserError: no export, one of another version, or one that does not fit its own description.
    """
    directory = Path(directory).expanduser().resolve()
    path = directory / _MODEL_FILE
    if not path.exists() and is_export(directory / 'export'):
        raise UserError(f'{directory}: the workdir of a run; its export is {directory / "export"}')
    if not path.exists():
        raise UserError(
            f'{directory}: no export here ({_MODEL_FILE} is missing); '
            'give WORKDIR/export, or make one: python -m multitrain_jax.export --workdir=... --output=...'
        )
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not JSON ({error})') from error
    if not isinstance(content, dict) or content.pop('format', None) != _FORMAT:
        raise UserError(f'{path}: not the description of an export')
    if content.pop('version', None) != _VERSION:
        raise UserError(f'{path}: an export of another version; this code reads version {_VERSION}')
    stored = content.pop('checksums', None)  # an export of an earlier version has none
    info = config_reading.build(ExportInfo, content, str(path))
    model = nnx.eval_shape(lambda: MultiTrainModel(info.model, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    params = runs.load_tree(directory / _PARAMS, nnx.to_pure_dict(state))
    changed = stored and first_difference(stored, params)
    if changed:
        raise UserError(
            f'{directory}: damaged: the numbers of {changed} are not those that were exported; export again'
        )
    return info, graphdef, params


def export_run(
    workdir: str | os.PathLike, output: str | os.PathLike, step: int | None = None
) -> int:
    """Exports a checkpoint of a run; returns its step.

    Args:
        workdir: of the run.
        output: the export's directory.
        step: which checkpoint; None: the newest.

    Raises:
        UserError: no such checkpoint.
    """
    check_output(output)
    run = read_run(workdir, step)
    write_export(output, run.params, run.config, run.datasets)
    return run.step


def main() -> int:
    parser = ArgumentParser(
        prog='python -m multitrain_jax.export',
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument('--workdir', required=True, help='of the run')
    parser.add_argument(
        '--output', required=True, help='directory of the export; an older export there is replaced'
    )
    parser.add_argument('--step', type=int, help='which checkpoint (default: the newest)')
    args = parser.parse_args()
    step = export_run(args.workdir, args.output, args.step)
    print(f'exported step {step} to {args.output}')
    return 0


if __name__ == '__main__':
    run_command(main)
