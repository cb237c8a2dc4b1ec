"""Files of a test: figures, tables, predictions, detections, pictures."""

from collections.abc import Iterator, Mapping
import contextlib
import csv
import dataclasses
import itertools
import json
import os
from pathlib import Path
import shutil
from typing import Any

import numpy as np

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation.box_metrics import (
    ActionResult,
    BoxScores,
    per_action,
    surest,
)
from multitrain_jax.evaluation.metrics import (
    DatasetResult,
    Scores,
    confusion_matrix,
    most_mistaken,
    per_class,
)
from multitrain_jax.evaluation.predictions import Predictions, save
from multitrain_jax.reporting.heat_map import MOST_NAMES, heat_map

METRICS_FILE = 'metrics.json'
SUREST = 4  # boxes that the model is surest of, wrong and right
FAILED = 'failed'  # below the directory of a test: files of one that has no figure of some dataset


def write(
    output: Path,
    spec: DatasetSpec,
    scores: Scores | BoxScores,
    *,
    detections: bool = True,
    pictures: bool = True,
) -> None:
    """Writes all files of one dataset but `metrics.json`.

    Args:
        output: their directory.
        spec: of the dataset.
        scores: of the test.
        detections: with those of datasets with boxes.
        pictures: with that of the confusions, where clips have one label.
    """
    if spec.localisation:
        _write_boxes(output, spec, scores, detections)
    else:
        _write_labels(output, spec, scores, pictures)


def _write_boxes(output: Path, spec: DatasetSpec, scores: BoxScores, detections: bool) -> None:
    if detections:
        write_detections(output / f'detections_{spec.name}.csv', scores, spec)
    rows, right = surest(scores, SUREST)
    lines = [
        [scores.record[frame], scores.name[frame], int(is_right)]
        + [f'{side:.6g}' for side in box]
        + [spec.classes[action], f'{score:.6g}']
        for frame, is_right, box, action, score in zip(
            rows.key_frame, right, rows.box, rows.action, rows.score
        )
    ]
    header = ['record', 'name', 'right', 'x1', 'y1', 'x2', 'y2', 'action', 'score']
    _write_csv(output / f'{spec.name}_surest.csv', header, lines)
    fields = [field.name for field in dataclasses.fields(ActionResult)]
    actions = [dataclasses.astuple(action) for action in per_action(scores, spec)]
    _write_csv(output / f'{spec.name}_classes.csv', fields, actions)


def _write_labels(output: Path, spec: DatasetSpec, scores: Scores, pictures: bool) -> None:
    save(output / f'{spec.name}_predictions.npz', Predictions(spec, scores))
    classes = per_class(scores, spec)
    fields = [
        'name',
        'videos',
        *(['average_precision'] if spec.multi_label else ['top1', 'top5', 'taken_for']),
    ]
    rows = [[getattr(entry, field) for field in fields] for entry in classes]
    _write_csv(output / f'{spec.name}_classes.csv', fields, rows)
    if not spec.multi_label:
        matrix = confusion_matrix(scores, spec)
        rows = [[name, *counts] for name, counts in zip(spec.classes, matrix.tolist())]
        _write_csv(output / f'{spec.name}_confusion.csv', ['', *spec.classes], rows)
        if pictures:
            _draw_confusion(output / f'{spec.name}_confusion.png', matrix, spec)


def _draw_confusion(path: Path, matrix: np.ndarray, spec: DatasetSpec) -> None:
    """Draws shares of each class's videos; of many classes those with most mistakes."""
    shown, shares = most_mistaken(matrix, MOST_NAMES)
    title = f'{spec.name}: {matrix.sum()} videos'
    if len(shown) < len(spec.classes):
        title += f'\n(the {len(shown)} of {len(spec.classes)} classes with most mistakes)'
    names = [spec.classes[number] for number in shown]
    heat_map(
        path,
        shares,
        rows=names,
        columns=names,
        title=title,
        row_title='class',
        column_title='taken for',
        value_title="share of the class's videos",
        signed=False,
    )


def write_metrics(
    output: Path,
    results: dict[str, DatasetResult],
    about: dict[str, Any],
    details: dict[str, Any] | None = None,
) -> None:
    datasets = {
        name: {key: value for key, value in dataclasses.asdict(result).items() if value is not None}
        | (details or {}).get(name, {})
        for name, result in results.items()
    }
    known = [result.primary for result in results.values() if result.primary is not None]
    average = sum(known) / len(known) if known else None
    content = {**about, 'datasets': datasets, 'average': average}
    (output / METRICS_FILE).write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + '\n', encoding='utf-8'
    )


def _write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(['' if cell is None else cell for cell in row] for row in rows)


@contextlib.contextmanager
def unfinished(output: Path) -> Iterator[Path]:
    """A directory in `output` to write into, for `publish`; gone when the context ends.

    Raises:
        UserError: it cannot be made.
    """
    place, made = output / '.unfinished', not output.exists()
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    except OSError as error:
        raise UserError(f'--output={output}: cannot be made ({error.strerror})') from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if made and not any(output.iterdir()):
            output.rmdir()


def publish(place: Path, output: Path) -> None:
    """Moves all files of a directory to another one, the figures last; other files there stay."""
    output.mkdir(exist_ok=True)
    for path in sorted(place.iterdir(), key=lambda path: path.name == METRICS_FILE):
        os.replace(path, output / path.name)


def place_for(directory: Path, name: str, about: Mapping[str, Any]) -> Path:
    """Where in a directory the files of a test go: `name`, or `name_2`, ... where it holds another
    test's.

    Args:
        directory: of all tests of a model.
        name: of the protocol.
        about: what `metrics.json` says of the test: fields, and below `datasets` those of each.
    """
    for number in itertools.count(1):
        place = directory / (name if number == 1 else f'{name}_{number}')
        try:
            there = json.loads((place / METRICS_FILE).read_text(encoding='utf-8'))
        except (OSError, ValueError, RecursionError):
            return place  # free, or left by something else
        if _says(there, json.loads(json.dumps(about))):
            return place


def _says(content: Any, about: Any) -> bool:
    """Whether all that `about` says is also said in the content, of the same datasets."""
    if not isinstance(about, dict):
        return content == about
    if not isinstance(content, dict):
        return False
    datasets = content.get('datasets', {})
    if not isinstance(datasets, dict) or datasets.keys() != about.get('datasets', {}).keys():
        return False
    return all(name in content and _says(content[name], value) for name, value in about.items())


def write_detections(path: str | os.PathLike, scores: BoxScores, spec: DatasetSpec) -> None:
    """Writes the official csv: video, timestamp (seconds), x1, y1, x2, y2, action, score; no
    header.

    Actions have the numbers of the dataset's own annotations, or count from 1.
    """
    ids = spec.action_ids or range(1, len(spec.classes) + 1)
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        for frame, box, score in zip(scores.frame, scores.box, scores.score):
            video, _, timestamp = scores.name[frame].rpartition(',')
            where = (video, timestamp, *(f'{side:.6g}' for side in box))
            writer.writerows(
                (*where, action, f'{value:.6g}') for action, value in zip(ids, score.tolist())
            )
