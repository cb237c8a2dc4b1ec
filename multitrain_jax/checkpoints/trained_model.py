"""A trained model, whatever it was kept as: export, import, run, or one of its checkpoints."""

from collections.abc import Mapping
import dataclasses
import os
from pathlib import Path
from typing import Any

from flax import nnx
import numpy as np

from multitrain_jax.batch import DatasetSpec, classifying
from multitrain_jax.checkpoints import exports, runs
from multitrain_jax.checkpoints.exports import ModelInfo
from multitrain_jax.config import Config, read_stored_config
from multitrain_jax.errors import UserError
from multitrain_jax.models.heads import Projections
from multitrain_jax.models.multitrain import abstract_model


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model in memory.

    Attributes:
        name: what the user called it.
        directory: of the export, or of the run.
        info: architecture, datasets, preprocessing. Of a run, with what only training needs.
        params: f32 parameters of that architecture as NumPy arrays, nested dicts.
        step: updates done; None: an export or import, which does not say.
        config: the run's experiment; None likewise.
    """

    name: str
    directory: Path
    info: ModelInfo
    params: Mapping[str, Any]
    step: int | None = None
    config: Config | None = None

    @property
    def datasets(self) -> tuple[DatasetSpec, ...]:
        """In the order of the heads of either kind."""
        return tuple(self.info.datasets.values())

    @property
    def graphdef(self) -> nnx.GraphDef:
        """Of the architecture."""
        return abstract_model(self.info.model)[0]

    def for_inference(self) -> 'TrainedModel':
        """Without what only training needs."""
        info, params = exports.for_inference(self.info, self.params)
        return dataclasses.replace(self, info=info, params=params)

    def export(self, output: str | os.PathLike) -> None:
        """Writes what predictions need of it, see `exports.write_export`."""
        exports.write_export(output, *exports.for_inference(self.info, self.params))

    def projections(self) -> dict[tuple[str, str], np.ndarray]:
        """{(source, target): f32[classes of source, classes of target]}, target by target.

        Raises:
            UserError: the model has none.
        """
        datasets = classifying(self.datasets)
        if not self.info.model.projections or len(datasets) < 2:
            if self.config is None:
                reason = (
                    'an export, which has no projections (they are for training); '
                    'give the workdir of the run, or one of its checkpoints'
                )
            elif len(datasets) > 1:
                reason = 'a model without projections: config.model.projections was off'
            else:
                reason = 'a model without projections: it was trained on one dataset'
            raise UserError(f'{self.name}: {reason}')
        model = nnx.merge(self.graphdef, self.params)
        matrices = np.asarray(model.projections.matrices())  # [N, N - 1, C, C]
        return {
            (datasets[o].name, target.name): matrices[
                d, j, : len(datasets[o].classes), : len(target.classes)
            ]
            for d, target in enumerate(datasets)
            for j, o in enumerate(Projections.sources(len(datasets), d))
        }


def open_trained(
    path: str | os.PathLike, step: int | None = None, *, argument: str = 'MODEL'
) -> TrainedModel:
    """Reads a trained model.

    Args:
        path: an export or import, a workdir, its `checkpoints`, or one of these,
            `WORKDIR/checkpoints/STEP`.
        step: which checkpoint of a run; None: the one that `path` names, or the newest that is not
            damaged.
        argument: what error messages call `path`.

    Raises:
        UserError: there is no such model, or a damaged one.
    """
    where = f'{argument}={path}'
    if not os.fspath(path):
        raise UserError(f'{where} is empty; name an export, an import, a run or a checkpoint')
    place = Path(path).expanduser().resolve()
    if place.is_file():
        raise UserError(
            f'{where}: a file, not a directory; import PyTorch checkpoints first: '
            f'python -m multitrain_jax.import_torch --checkpoint={path} --output=DIR'
        )
    if exports.is_export(place):
        if step is not None:
            raise UserError(f'{where} is an export, which has no steps; leave --step out')
        return TrainedModel(str(path), place, *exports.read_export(place))
    found = _find_run(place)
    if found is None:
        raise UserError(
            f'{where}: neither a run (directory "checkpoints") nor an export or import '
            f'(file model.json){exports.models_below(path)}'
        )
    workdir, named = found
    if named is not None and step is not None and named != step:
        raise UserError(f'{where} names another checkpoint than --step={step}; give one of the two')
    return _read_run(workdir, named if step is None else step, str(path), where)


def _find_run(place: Path) -> tuple[Path, int | None] | None:
    """(workdir, step that the path names); None: no place of a run."""
    if (place / 'checkpoints').is_dir():
        return place, None
    if place.is_dir() and place.name == 'checkpoints':
        return place.parent, None
    if place.is_dir() and place.parent.name == 'checkpoints' and place.name.isdecimal():
        return place.parent.parent, int(place.name)
    return None


def _read_run(workdir: Path, step: int | None, name: str, where: str) -> TrainedModel:
    saved = runs.RunCheckpoints(workdir, keep=None)

    def read(number: int) -> TrainedModel:
        meta = saved.read_meta(number)
        config = read_stored_config(meta['config'])
        datasets = [
            DatasetSpec.from_dict(dataset, entry, where)
            for dataset, entry in meta['datasets'].items()
        ]
        info = exports.model_info(config, datasets)
        params = saved.restore_params(number, abstract_model(info.model)[1])
        return TrainedModel(name, workdir, info, params, number, config)

    try:
        steps = saved.all_steps()
        if not steps:
            raise UserError(f'{where}: no checkpoint in it yet')
        if step is not None and step not in steps:
            raise UserError(f'{where}: no checkpoint of step {step}; it has {steps}')
        return saved.read_newest(read) if step is None else read(step)
    finally:
        saved.close()
