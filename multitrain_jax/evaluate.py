"""Tests a trained model on its datasets, or others of the same classes, with any number of views.

    python -m multitrain_jax.evaluate runs/quickstart --temporal_views=5 --spatial_views=1
    python -m multitrain_jax.evaluate exports/best --config=configs/multitrain.py \\
        --config.data_root=/data
    python -m multitrain_jax.evaluate exports/best --datasets \\
        kinetics400=/data/kinetics400_test --split=test
    python -m multitrain_jax.evaluate --ensemble a/motions_predictions.npz b/motions_predictions.npz

Prints a table, and writes into --output for every dataset (of a test that fails, into
OUTPUT/failed)
    metrics.json                    top-1 and top-5 accuracy (multi-label: mean average precision)
    NAME_classes.csv                the same class by class
    NAME_confusion.csv, .png        videos of each class (row) taken for each class (column)
    NAME_predictions.npz            video names, labels, classes, averaged scores
and for datasets with boxes, instead of the last two,
    detections_NAME.csv             video,timestamp,x1,y1,x2,y2,action,score, for
                                    multitrain_jax.ava_eval
    NAME_surest.csv                 what the model is surest of, wrong and right, on a few key
                                    frames: the report shows them

Data and protocol come from --config; without it, from the config that the run was trained with. The
model always comes from the checkpoint.
"""

import argparse
import logging
from pathlib import Path
import sys
from typing import Any

from multitrain_jax import config_reading
from multitrain_jax.errors import ArgumentParser, UserError, run_command
from multitrain_jax.evaluation import files
from multitrain_jax.evaluation.box_metrics import BoxScores, summary
from multitrain_jax.evaluation.metrics import Scores, accuracy_table
from multitrain_jax.evaluation.predictions import ensemble
from multitrain_jax.model_argument import ModelArgument, add_model_argument, model_argument
from multitrain_jax.parallel.hosts import FLAG_HELP, joined
from multitrain_jax.reporting.progress import set_up_logging, timed

_log = logging.getLogger('multitrain_jax')


def _arguments() -> tuple[argparse.Namespace, ModelArgument | None, list[str]]:
    parser = ArgumentParser('multitrain_jax.evaluate', __doc__)
    add = parser.add_argument
    add_model_argument(parser)
    add(
        '--ensemble',
        nargs='+',
        metavar='FILE',
        help='average *_predictions.npz of one dataset instead',
    )
    add('--config', metavar='FILE', help='and --config.FIELD=VALUE: data and protocol')
    add(
        '--datasets',
        nargs='+',
        metavar='DATASET',
        help='NAME: a dataset of the config; NAME=DIR: the head of that name, the data of this '
        'directory;\n'
        'DIR: the head with the same classes (default: all of the config)',
    )
    add('--split', help="(default: the config's evaluation_split, else validation)")
    add(
        '--video_root',
        metavar='DIR',
        help="where the videos are that records link to, of all datasets (default: the config's)",
    )
    add('--temporal_views', type=int, help='clips along the video')
    add('--spatial_views', type=int, choices=(1, 3), help='crops of each clip')
    add(
        '--candidates',
        choices=('proposals', 'ground_truth'),
        help='boxes that are scored, where clips have boxes',
    )
    add('--short_side', type=int, help='pixels, before cropping')
    add('--batch_size', type=int, help='views per batch, over all devices of all hosts')
    add(
        '--output',
        help='directory of the files (default: one named after the protocol, in MODEL/evaluation)',
    )
    add('--multi_host', action='store_true', help=FLAG_HELP['multi_host'])
    add('--coordinator_address', help=FLAG_HELP['coordinator_address'])
    add('--num_processes', type=int, help=FLAG_HELP['num_processes'])
    add('--process_id', type=int, help=FLAG_HELP['process_id'])
    own, others = config_reading.split_arguments(sys.argv[1:])
    args = parser.parse_args(others)
    if args.ensemble:
        return args, None, own
    return args, model_argument(parser, args), own


def main() -> int:
    args, model, config_arguments = _arguments()
    from multitrain_jax.config import load_values  # after the arguments: it brings JAX

    config_values = load_values(config_arguments)
    if args.ensemble:
        found = ensemble(args.ensemble)
        spec, output = found.spec, Path(args.output or 'ensemble').expanduser()
        with files.unfinished(output) as place:
            files.write(place, spec, found.scores)
            result = summary(found.scores, spec)
            about = {'ensemble': [str(path) for path in args.ensemble]}
            files.write_metrics(place, {spec.name: result}, about)
            files.publish(place, output)
        print(accuracy_table({spec.name: result}))
        print(f'\nfiles: {output}')
        return 0

    with joined(args.multi_host, args.coordinator_address, args.num_processes, args.process_id):
        _test(model, args, config_values)
    return 0


def _test(model: ModelArgument, args: argparse.Namespace, config_values: Any) -> None:
    """Tests one model on all datasets that were asked for, and writes and prints the results."""
    import jax  # after the arguments: mistakes in them are answered at once

    from multitrain_jax.evaluation.setup import open_evaluation
    from multitrain_jax.parallel.compilation_cache import keep_compiled
    from multitrain_jax.parallel.host_memory import keep_freed_memory

    keep_compiled()
    keep_freed_memory()
    set_up_logging(process=jax.process_index())
    setup = open_evaluation(
        model.open(),
        config_values=config_values,
        chosen=args.datasets,
        split=args.split,
        video_root=args.video_root,
        protocol={
            name: getattr(args, name)
            for name in ('temporal_views', 'spatial_views', 'short_side', 'batch_size')
            if getattr(args, name) is not None
        },
        candidates=args.candidates,
    )
    output = setup.output if args.output is None else Path(args.output).expanduser()
    if jax.process_index():
        for head in setup.tested:
            _scores(setup, head)
        return
    with files.unfinished(output) as place:
        results, details = {}, {}
        for head in setup.tested:
            spec, scores = setup.source.datasets[head], _scores(setup, head)
            files.write(place, spec, scores)
            results[spec.name] = summary(scores, spec)
            damaged = spec.evaluation_records - len(scores.name)
            details[spec.name] = {'damaged': damaged, **setup.describe(head)}
        files.write_metrics(place, results, setup.about, details)
        print(accuracy_table(results))
        problems = [f'{name}: {found.problem}' for name, found in results.items() if found.problem]
        published = output / files.FAILED if problems else output
        files.publish(place, published)
        print(f'\nfiles: {published}')
    if problems:
        raise UserError('; '.join(problems))


def _scores(setup: Any, head: int) -> Scores | BoxScores:
    """Of the data of one head."""
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
    return scores


if __name__ == '__main__':
    run_command(main)
