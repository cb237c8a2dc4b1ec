"""What a run shows beside scalars: settings, clips of its first step, files of evaluations."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from pathlib import Path
import tempfile
from typing import Any

import jax
import numpy as np

from multitrain_jax.batch import Batch, DatasetSpec
from multitrain_jax.checkpoints import exports
from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.config import MODEL_FIELDS_FROM_ELSEWHERE, Config, stored_tree
from multitrain_jax.evaluation import files
from multitrain_jax.evaluation.box_metrics import BoxScores
from multitrain_jax.evaluation.metrics import DatasetResult, Scores
from multitrain_jax.parallel.mesh import whole
from multitrain_jax.reporting.projections import draw, projections_of
from multitrain_jax.training import preview
from multitrain_jax.training.workdir import commands

EVALUATION = 'evaluation/training'  # in the workdir: files of the newest evaluation
_CLIPS = 8


class Board:
    """Of one run; only the first host writes."""

    def __init__(
        self,
        config: Config,
        datasets: Sequence[DatasetSpec],
        abstract_params: Mapping[str, Any],
        workdir: Path,
        writer: Any,
    ):
        self._config, self._datasets, self._abstract_params = config, datasets, abstract_params
        self._workdir, self._writer = workdir, writer
        self._main_host = jax.process_index() == 0
        self._images = config.log_images
        self._first: Batch | None = None

    def begin(self) -> None:
        """Writes config and command."""
        if not self._main_host:
            return
        config = self._config
        text = json.dumps(stored_tree(config), indent=2, ensure_ascii=False)
        self._writer.write_texts(
            0, {'config': _code(text), 'command': _code('\n'.join(commands(self._workdir)[-1:]))}
        )
        self._writer.write_hparams(changed_settings(config))

    def keep(self, batch: Batch) -> None:
        """Takes the first batch that this host reads."""
        if self._images and self._main_host:
            group = self._config.augment.mix_group
            self._first = {name: a[: max(_CLIPS, group)].copy() for name, a in batch.items()}

    def show_first(self, run_key: jax.Array, step: int) -> None:
        """Shows clips of the kept batch as they entered its step."""
        if self._first is None:
            return
        with jax.transfer_guard('allow'):
            found = preview.samples(
                self._first,
                self._datasets,
                self._config.augment,
                jax.device_get(run_key),
                step,
                most=_CLIPS,
            )
        self._first = None
        self._writer.write_images(step, {'train/clips': preview.sheet(found)[None]})
        lines = [f'{row}. {preview.caption(sample)}' for row, sample in enumerate(found, 1)]
        self._writer.write_texts(step, {'train/labels': _code('\n'.join(lines))})

    def evaluated(
        self,
        step: int,
        params: Mapping[str, Any],
        scores: Sequence[tuple[DatasetSpec, Scores | BoxScores]],
        accuracy: Mapping[str, DatasetResult],
    ) -> None:
        """Writes an evaluation's files in place of the one before's, and shows its pictures."""
        branch = params.get('projections') if self._images else None
        if branch is not None:
            branch = jax.device_get(whole(branch))  # on all hosts
        if not self._main_host:
            return
        output, images = self._workdir / EVALUATION, {}
        with files.unfinished(output) as place:
            for spec, own in scores:
                files.write(place, spec, own, detections=False, pictures=self._images)
                picture = place / f'{spec.name}_confusion.png'
                if picture.exists():  # not of boxes, nor of several labels
                    images[f'evaluation/{spec.name}/confusion'] = _read(picture)
            about = {'checkpoint': str(self._workdir), 'step': step}
            files.write_metrics(place, accuracy, about)
            files.publish(place, output)
        if branch is not None:
            images |= self._projections(branch)
        if images:
            self._writer.write_images(step, images)

    def _projections(self, branch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        info = exports.model_info(self._config, self._datasets)
        params = {**self._abstract_params, 'projections': branch}
        trained = TrainedModel('run', self._workdir, info, params, config=self._config)
        found = {}
        with tempfile.TemporaryDirectory() as folder, jax.transfer_guard('allow'):
            for projection in projections_of(trained):
                picture = Path(folder) / 'picture.png'
                draw(projection, picture, {})
                found[f'projections/{projection.source}_to_{projection.target}'] = _read(picture)
        return found


def changed_settings(config: Config) -> dict[str, bool | int | float | str]:
    """Fields that differ from the defaults, by name."""

    def leaves(group: Any, usual: Any, prefix: str) -> dict[str, Any]:
        found = {}
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            default = field.default if usual is None else getattr(usual, field.name)
            name = f'{prefix}{field.name}'
            groups = value if isinstance(value, Mapping) else {}
            if dataclasses.is_dataclass(value):
                same = type(default) is type(value)
                found |= leaves(value, default if same else None, f'{name}.')
            elif groups and all(map(dataclasses.is_dataclass, groups.values())):
                for key, entry in groups.items():
                    found |= leaves(entry, None, f'{name}.{key}.')
            elif value != default:
                plain = isinstance(value, (bool, int, float, str))
                found[name] = value if plain else str(value)
        return found

    found = leaves(config, Config(), '')
    for field in MODEL_FIELDS_FROM_ELSEWHERE:
        found.pop(f'model.{field}', None)
    return found


def _code(text: str) -> str:
    """Markdown in which nothing of the text means anything."""
    return '\n'.join(f'    {line}' for line in text.splitlines())


def _read(picture: Path) -> np.ndarray:
    """u8[1, H, W, 3]."""
    import cv2

    return cv2.imread(str(picture))[None, ..., ::-1]
