"""Tests a trained model on its datasets, or others of the same classes, with any number of views.

    python -m multitrain_jax.evaluate --workdir=runs/quickstart --temporal_views=5 --spatial_views=1
    python -m multitrain_jax.evaluate --config=configs/multitrain.py --config.data_root=/data --checkpoint=exports/best
    python -m multitrain_jax.evaluate --checkpoint=exports/best --datasets kinetics400=/data/kinetics400_test --split=test
    python -m multitrain_jax.evaluate --ensemble a/motions_predictions.npz b/motions_predictions.npz

Prints a table, and writes into --output for every dataset
    metrics.json                    top-1 and top-5 accuracy (multi-label: mean average precision)
    NAME_classes.csv                the same class by class
    NAME_confusion.csv, .png        videos of each class (row) taken for each class (column)
    NAME_predictions.npz            video names, labels, classes, averaged scores
and for datasets with boxes, instead of the last two,
    detections_NAME.csv             video,timestamp,x1,y1,x2,y2,action,score, for multitrain_jax.ava_eval

Data and protocol come from --config; without it, from the config that the run was trained with. The model
always comes from the checkpoint.
"""

import argparse
import csv
import dataclasses
import json
import logging
import os
from pathlib import Path
import sys
from typing import Any

import numpy as np

from multitrain_jax import config_reading
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.errors import ArgumentParser, UserError, run_command
from multitrain_jax.evaluation.box_results import (
    ActionResult,
    BoxScores,
    per_action,
    summarise_boxes,
    write_detections,
)
from multitrain_jax.evaluation.metrics import (
    DatasetResult,
    accuracy_table,
    confusion_matrix,
    per_class,
    summarise,
)
from multitrain_jax.evaluation.predictions import Predictions, ensemble, save
from multitrain_jax.parallel.hosts import FLAG_HELP, joined
from multitrain_jax.reporting.heat_map import MOST_NAMES, heat_map
from multitrain_jax.reporting.progress import set_up_logging, timed

_log = logging.getLogger('multitrain_jax')


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = ArgumentParser(
        prog='python -m multitrain_jax.evaluate',
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument('--workdir', help='of a run')
    model.add_argument(
        '--checkpoint', help='an export or import, a workdir, or WORKDIR/checkpoints/STEP'
    )
    model.add_argument(
        '--ensemble',
        nargs='+',
        metavar='FILE',
        help='average *_predictions.npz of one dataset instead',
    )
    parser.add_argument('--step', type=int, help='which checkpoint of a run (default: the newest)')
    parser.add_argument(
        '--config', metavar='FILE', help='and --config.FIELD=VALUE: data and protocol'
    )
    parser.add_argument(
        '--datasets',
        nargs='+',
        metavar='DATASET',
        help='NAME: a dataset of the config; NAME=DIR: the head of that name, the data of this directory;\n'
        'DIR: the head with the same classes (default: all of the config)',
    )
    parser.add_argument('--split', help="(default: the config's evaluation_split, else validation)")
    parser.add_argument('--temporal_views', type=int, help='clips along the video')
    parser.add_argument('--spatial_views', type=int, choices=(1, 3), help='crops of each clip')
    parser.add_argument(
        '--candidates',
        choices=('proposals', 'ground_truth'),
        help='boxes that are scored, where clips have boxes',
    )
    parser.add_argument('--short_side', type=int, help='pixels, before cropping')
    parser.add_argument(
        '--batch_size', type=int, help='views per batch, over all devices of all hosts'
    )
    parser.add_argument(
        '--output', help='directory of the files (default: "evaluation" beside the checkpoint)'
    )
    parser.add_argument('--multi_host', action='store_true', help=FLAG_HELP['multi_host'])
    parser.add_argument('--coordinator_address', help=FLAG_HELP['coordinator_address'])
    parser.add_argument('--num_processes', type=int, help=FLAG_HELP['num_processes'])
    parser.add_argument('--process_id', type=int, help=FLAG_HELP['process_id'])
    own, others = config_reading.split_arguments(sys.argv[1:])
    return parser.parse_args(others), own


def main() -> int:
    args, config_arguments = _arguments()
    from multitrain_jax.config import Config  # after the arguments: it brings JAX

    config_values = config_reading.load_config_file(config_arguments, Config)
    if args.ensemble:
        found = ensemble(args.ensemble)
        output = Path(args.output or 'ensemble').expanduser()
        result = write_dataset(_make_directory(output), found)
        _write_metrics(
            output, {found.spec.name: result}, {'ensemble': [str(path) for path in args.ensemble]}
        )
        print(accuracy_table({found.spec.name: result}))
        print(f'\nfiles: {output}')
        return 0

    with joined(args.multi_host, args.coordinator_address, args.num_processes, args.process_id):
        _test(args, config_values)
    return 0


def _test(args: argparse.Namespace, config_values: Any) -> None:
    """Tests one model on all datasets that were asked for, and writes and prints the results."""
    import jax  # after the arguments: mistakes in them are answered at once

    from multitrain_jax.evaluation.setup import open_evaluation
    from multitrain_jax.parallel.host_memory import keep_freed_memory

    keep_freed_memory()
    set_up_logging(process=jax.process_index())
    setup = open_evaluation(
        args.workdir or args.checkpoint,
        argument='--workdir' if args.workdir else '--checkpoint',
        step=args.step,
        config_values=config_values,
        chosen=args.datasets,
        split=args.split,
        protocol={
            name: getattr(args, name)
            for name in ('temporal_views', 'spatial_views', 'short_side', 'batch_size')
            if getattr(args, name) is not None
        },
        candidates=args.candidates,
    )
    output = Path(args.output or setup.default_output).expanduser()
    main_host = jax.process_index() == 0
    if main_host:
        _make_directory(output)
    results, details = {}, {}
    for head in setup.tested:
        spec = setup.source.datasets[head]
        videos = 'key frames' if spec.localisation else 'videos'
        with timed(
            f'testing {spec.name} ({spec.evaluation_records} {videos}, {spec.views} views of each)'
        ):
            scores = setup.score(head)
        unreadable = spec.evaluation_records - len(scores.name)
        if unreadable:
            _log.warning(
                '%s: %d of %d %s are damaged and do not count',
                spec.name,
                unreadable,
                spec.evaluation_records,
                videos,
            )
        details[spec.name] = {'views': spec.views, 'damaged': unreadable, **setup.describe(head)}
        if spec.localisation:
            results[spec.name] = (
                write_boxes(output, spec, scores) if main_host else summarise_boxes(scores, spec)
            )
        else:
            results[spec.name] = (
                write_dataset(output, Predictions(spec, scores))
                if main_host
                else summarise(scores, spec)
            )
    if main_host:
        _write_metrics(output, results, setup.about, details)
        print(accuracy_table(results))
        print(f'\nfiles: {output}')
    problems = [f'{name}: {result.problem}' for name, result in results.items() if result.problem]
    if problems:
        raise UserError('; '.join(problems))


def write_boxes(output: Path, spec: DatasetSpec, scores: BoxScores) -> DatasetResult:
    """As `write_dataset`, of a dataset whose clips have boxes."""
    write_detections(output / f'detections_{spec.name}.csv', scores, spec)
    fields = [field.name for field in dataclasses.fields(ActionResult)]
    _write_csv(
        output / f'{spec.name}_classes.csv',
        fields,
        [dataclasses.astuple(action) for action in per_action(scores, spec)],
    )
    return summarise_boxes(scores, spec)


def write_dataset(output: Path, predictions: Predictions) -> DatasetResult:
    """Writes all files of one dataset but `metrics.json`, whose content is returned."""
    spec, scores = predictions.spec, predictions.scores
    save(output / f'{spec.name}_predictions.npz', predictions)
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
        _draw_confusion(output / f'{spec.name}_confusion.png', matrix, predictions)
    return summarise(scores, spec)


def _draw_confusion(path: Path, matrix: np.ndarray, predictions: Predictions) -> None:
    """Shares of each class's videos; of many classes those with most mistakes."""
    spec = predictions.spec
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shown = np.arange(len(spec.classes))
    title = f'{spec.name}: {matrix.sum()} videos'
    if len(shown) > MOST_NAMES:
        mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
        shown = np.sort(np.argsort(-mistakes, kind='stable')[:MOST_NAMES])
        title += f'\n(the {len(shown)} of {len(spec.classes)} classes with most mistakes)'
    names = [spec.classes[number] for number in shown]
    heat_map(
        path,
        shares[np.ix_(shown, shown)],
        rows=names,
        columns=names,
        title=title,
        row_title='class',
        column_title='taken for',
        value_title="share of the class's videos",
        signed=False,
    )


def _write_metrics(
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
    (output / 'metrics.json').write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + '\n', encoding='utf-8'
    )


def _write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(['' if cell is None else cell for cell in row] for row in rows)


def _make_directory(path: str | os.PathLike) -> Path:
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--output={path}: cannot be made ({error.strerror})') from error
    return path


if __name__ == '__main__':
    run_command(main)
