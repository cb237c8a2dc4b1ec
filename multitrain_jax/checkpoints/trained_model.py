"""What a run has trained, read back from one of its checkpoints."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from flax import nnx

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints import runs
from multitrain_jax.config import Config, read_stored_config, with_datasets
from multitrain_jax.errors import UserError
from multitrain_jax.models.multitrain import MultiTrainConfig, MultiTrainModel


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """One checkpoint of a run.

    Attributes:
        workdir: of the run.
        step: updates done.
        config: the experiment.
        datasets: names and classes, in the order of the heads.
        model: the architecture.
        params: f32 parameters as NumPy arrays, nested dicts.
    """

    workdir: Path
    step: int
    config: Config
    datasets: tuple[DatasetSpec, ...]
    model: MultiTrainConfig
    params: dict[str, Any]


def find_run(path: str | os.PathLike) -> tuple[Path, int | None] | None:
    """(workdir, step that the path names) of what `read_run` takes; None when it is no such place."""
    path = Path(path).expanduser().resolve()
    if (path / 'checkpoints').is_dir():
        return path, None
    if path.is_dir() and path.name == 'checkpoints':
        return path.parent, None
    if path.is_dir() and path.parent.name == 'checkpoints' and path.name.isdecimal():
        return path.parent.parent, int(path.name)
    return None


def read_run(
    path: str | os.PathLike, step: int | None = None, *, argument: str = '--workdir'
) -> TrainedRun:
    """Reads a checkpoint.

    Args:
        path: a workdir, its `checkpoints`, or one of these, `WORKDIR/checkpoints/STEP`.
        step: which checkpoint; None: the one that `path` names, or the newest that is not damaged.
        argument: what error messages call `path`.

    Raises:
        UserError: no such checkpoint, or a damaged one.
    """
    found = find_run(path)
    if found is None:
        raise UserError(f'{argument}={path}: no run here (no directory "checkpoints" in it)')
    workdir, named = found
    if named is not None and step is not None and named != step:
        raise UserError(
            f'{argument}={path} names another checkpoint than --step={step}; give one of the two'
        )
    step = named if step is None else step
    saved = runs.RunCheckpoints(workdir, keep=None)
    try:
        steps = saved.all_steps()
        if not steps:
            raise UserError(f'{argument}={path}: no checkpoint in it yet')
        if step is not None and step not in steps:
            raise UserError(f'{argument}={path}: no checkpoint of step {step}; it has {steps}')
        return (
            saved.read_newest(lambda newest: _read(saved, workdir, newest))
            if step is None
            else _read(saved, workdir, step)
        )
    finally:
        saved.close()


def _read(saved: runs.RunCheckpoints, workdir: Path, step: int) -> TrainedRun:
    meta = saved.read_meta(step)
    config = read_stored_config(meta['config'])
    datasets = tuple(
        DatasetSpec(
            name,
            tuple(entry['classes']),
            entry['multi_label'],
            localisation=entry.get('localisation', False),
            train_counts=tuple(entry.get('train_counts', ())),
            action_ids=tuple(entry.get('action_ids', ())),
        )
        for name, entry in meta['datasets'].items()
    )
    model = with_datasets(config, datasets)
    model = dataclasses.replace(
        model, backbone=model.backbone.for_inference()
    )  # to be used on any machine
    shapes = nnx.eval_shape(lambda: MultiTrainModel(model, rngs=nnx.Rngs(0)))
    params = saved.restore_params(step, nnx.to_pure_dict(nnx.state(shapes)))
    return TrainedRun(workdir, step, config, datasets, model, params)
