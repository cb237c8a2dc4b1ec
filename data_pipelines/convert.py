"""Videos and annotations -> record shards, their index and ``dataset.json``.

    python -m data_pipelines.convert folder --videos=VIDEOS --output=DIR/motions
    python -m data_pipelines.convert pyslowfast --csv train=train.csv --csv validation=val.csv \\
        --classes=classes.txt --path_prefix=/data/kinetics --output=DIR/kinetics

Both lead to ``convert``, which can be called from Python as well.
"""

import argparse
from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import os
import pathlib
import sys
import time
from typing import Any

import tqdm

from data_pipelines import records
from data_pipelines.annotations import Annotations
from data_pipelines.annotations import folder
from data_pipelines.annotations import pyslowfast
from data_pipelines.conversion import plan as planning
from data_pipelines.conversion.shard import Options
from data_pipelines.conversion.workers import run_jobs
from data_pipelines.dataset_info import DatasetInfo
from data_pipelines.dataset_info import save_dataset_info
from data_pipelines.dataset_info import SplitInfo

FAILURES = 'failures.csv'
DAMAGED = 'damaged.csv'


def convert(
    annotations: Annotations,
    output: str | os.PathLike,
    *,
    name: str | None = None,
    workers: int | None = None,
    shards: int | None = None,
    short_side: int | None = None,
    frame_rate: float | None = None,
    quality: int = 90,
    max_seconds: float | None = None,
    damaged: str = 'keep',
    max_failures: float = 0.1,
    progress: bool = True,
    arguments: Mapping[str, Any] | None = None,
) -> DatasetInfo:
    """Converts videos to records.

    Restarting after an interruption keeps the shards that are finished, as long as videos,
    annotations and options are the same. The shards do not depend on the number of workers. Splits
    that an earlier call put into ``output`` stay, if they have the same classes and frame rate.

    Args:
      annotations: the clips, for example from ``annotations.folder.read_folder``.
      output: directory of the dataset; made if missing.
      name: the dataset's name; None takes the directory's.
      workers: processes; None takes one per CPU.
      shards: files per split (at most one per clip); None takes one per 128 clips, 16 to 1024.
      short_side: pixels of the shorter side; None keeps each video's own size.
      frame_rate: frames per second; None keeps each video's own frames.
      quality: JPEG quality, 1 to 100.
      max_seconds: stores only so much of each clip; None stores all.
      damaged: 'keep' stores what decodes of a damaged video, 'skip' counts it as a failure.
      max_failures: share of videos that may fail, 0 to 1.
      progress: shows a progress bar on standard error.
      arguments: what else to write into ``dataset.json`` about where the clips came from.

    Returns:
      What was written to ``dataset.json``. Failed videos are listed there and in ``failures.csv``,
      those stored in part in ``damaged.csv``.

    Raises:
      ValueError: bad arguments, too many failures, or an output that holds something else.
      OSError: a shard cannot be written (disk full), or worker processes do not start.
    """
    options = Options(frame_rate, short_side, quality, max_seconds, damaged)
    for option, value in (('workers', workers), ('shards', shards)):
        if value is not None and value < 1:
            raise ValueError(f'{option}={value}: must be at least 1')
    if not 0 <= max_failures <= 1:
        raise ValueError(f'max_failures={max_failures}: must be 0 to 1, a share of the videos')
    planning.check_annotations(annotations)
    output = pathlib.Path(os.path.abspath(output))
    if output.exists() and not output.is_dir():
        raise ValueError(f'{output}: exists and is no directory; choose another output')
    try:
        (output / planning.NOTES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f'{output}: cannot be made or written ({error.strerror})') from error

    with planning.locked(output):
        kept = planning.splits_to_keep(output, annotations, options)
        plans = [
            plan
            for split, clips in annotations.splits.items()
            for plan in planning.plan_split(split, clips, annotations.classes, options, shards)
        ]
        planning.remove_leftovers(output, annotations, plans)
        results = {plan.name: plan.finished_result(output) for plan in plans}
        if None in results.values():
            planning.forget(output, annotations, kept)
        _convert_open(output, plans, results, options, workers or _cpus(), progress)
        splits = {
            split: _summarise(plans, results, split, len(annotations.classes))
            for split in annotations.splits
        }
        everything = {**kept, **splits}
        _write_list(output / FAILURES, 'reason', {s: i.failures for s, i in everything.items()})
        _write_list(output / DAMAGED, 'damage', {s: i.damaged for s, i in everything.items()})
        _check_failures(output, splits, max_failures)
        for split in splits:
            records.save_index(output, split, records.build_index(output, split))
        info = DatasetInfo(
            name=name or output.name,
            classes=annotations.classes,
            multi_label=annotations.multi_label,
            splits=everything,
            frame_rate=frame_rate,
            arguments={**(arguments or {}), **dataclasses.asdict(options)},
        )
        save_dataset_info(output, info)
        return info


def _convert_open(
    output: pathlib.Path,
    plans: Sequence[planning.ShardPlan],
    results: dict[str, dict | None],
    options: Options,
    workers: int,
    progress: bool,
) -> None:
    """Converts the shards without a result, and enters their results."""
    jobs = [(plan, plan.job(output, options)) for plan in plans if results[plan.name] is None]
    failed = sum(len(result['failures']) for result in results.values() if result is not None)
    with tqdm.tqdm(
        total=sum(len(plan.clips) for plan in plans),
        initial=sum(len(plan.clips) for plan in plans if results[plan.name] is not None),
        desc=f'convert {output.name}',
        unit='clip',
        disable=not progress or not jobs,
    ) as bar:

        def on_clip(count: int, failures: int) -> None:
            nonlocal failed
            failed += failures
            bar.set_postfix(failed=failed, refresh=False)
            bar.update(count)

        def on_result(plan: planning.ShardPlan, result: dict) -> None:
            results[plan.name] = plan.note(output, result)

        run_jobs(jobs, workers, on_clip, on_result)


def _cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _summarise(
    plans: Sequence[planning.ShardPlan], results: Mapping[str, dict], split: str, num_classes: int
) -> SplitInfo:
    plans = [plan for plan in plans if plan.split == split]
    counts, failures, damaged = [0] * num_classes, [], []
    for plan in plans:
        result = results[plan.name]
        for label, count in result['class_counts'].items():
            counts[int(label)] += count
        failures += [tuple(failure) for failure in result['failures']]
        damaged += [tuple(damage) for damage in result['damaged']]
    clips = sum(len(plan.clips) for plan in plans)
    return SplitInfo(
        records=clips - len(failures),
        shards=len(plans),
        class_counts=tuple(counts),
        failures=tuple(sorted(failures)),
        damaged=tuple(sorted(damaged)),
    )


def _write_list(
    path: pathlib.Path, column: str, lists: Mapping[str, Sequence[tuple[str, str]]]
) -> None:
    """Writes a csv of (split, file, text); none if there is nothing to tell."""
    rows = [(split, file, text) for split, items in lists.items() for file, text in items]
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(('split', 'file', column))
    writer.writerows(rows)
    records.write_atomically(path, text.getvalue().encode(errors='backslashreplace'))


def _check_failures(
    output: pathlib.Path, splits: Mapping[str, SplitInfo], max_failures: float
) -> None:
    failed = sum(len(split.failures) for split in splits.values())
    total = failed + sum(split.records for split in splits.values())
    for name, split in splits.items():
        if not split.records:
            file, reason = split.failures[0]
            raise ValueError(
                f'{output}: all {len(split.failures)} videos of the split {name!r} failed; '
                f'the first: {file}: {reason}; the others: {output / FAILURES}'
            )
    if failed > max_failures * total:
        raise ValueError(
            f'{output}: {failed} of {total} videos failed, more than max_failures={max_failures:g} '
            f'allows; see {output / FAILURES}; mend them, or allow more, and run it again '
            '(what is done is kept)'
        )


# --------------------------------------------------------------------------------------------------
# Command


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--output', required=True, metavar='DIR', help='directory of the dataset')
    common.add_argument('--name', help="the dataset's name (default: the directory's)")
    common.add_argument('--workers', type=int, help='processes (default: one per CPU)')
    common.add_argument(
        '--shards', type=int, help='files per split (default: by the number of clips)'
    )
    common.add_argument(
        '--short_side',
        type=int,
        metavar='PIXELS',
        help='store frames with this shorter side, for example 320 (default: as they are)',
    )
    common.add_argument(
        '--frame_rate',
        type=float,
        metavar='FPS',
        help="stored frames per second (default: each video's own)",
    )
    common.add_argument(
        '--quality', type=int, default=90, help='JPEG quality, 1 to 100 (default: 90)'
    )
    common.add_argument(
        '--max_seconds',
        type=float,
        metavar='S',
        help='store only the first S seconds of each clip (default: all)',
    )
    common.add_argument(
        '--damaged',
        choices=('keep', 'skip'),
        default='keep',
        help='keep what can be decoded of a damaged video, listed in damaged.csv, or skip it '
        '(default: keep)',
    )
    common.add_argument(
        '--max_failures',
        type=float,
        default=0.1,
        metavar='SHARE',
        help='fail if more than this share of the videos cannot be converted (default: 0.1)',
    )
    parser = argparse.ArgumentParser(
        prog='python -m data_pipelines.convert',
        description='Converts videos and annotations to record shards that training reads.',
        epilog='example: python -m data_pipelines.convert folder --videos=my_videos '
        '--output=data/mine '
        '--short_side=320',
    )
    formats = parser.add_subparsers(dest='format', required=True, metavar='FORMAT')
    by_folder = formats.add_parser(
        'folder',
        parents=[common],
        help='one folder per class: VIDEOS/SPLIT/CLASS/*.mp4 or VIDEOS/CLASS/*.mp4',
        description='Converts a tree with one folder per class: VIDEOS/SPLIT/CLASS/*.mp4, or '
        'VIDEOS/CLASS/*.mp4 for a single split.',
        epilog='example: python -m data_pipelines.convert folder --videos=my_videos '
        '--output=data/mine',
    )
    by_folder.add_argument('--videos', required=True, metavar='DIR', help='the tree')
    by_folder.add_argument(
        '--split',
        action='append',
        metavar='NAME',
        help='split to convert, may be repeated (default: all); for VIDEOS/CLASS/*.mp4 the name '
        'to give it '
        '(default: train)',
    )
    by_csv = formats.add_parser(
        'pyslowfast',
        parents=[common],
        help="PySlowFast's csv files of lines \"path label\"",
        description='Converts the videos listed in csv files of PySlowFast: lines "path label", '
        'separated by '
        'a space or a comma, label a class number.',
        epilog='example: python -m data_pipelines.convert pyslowfast --csv train=train.csv '
        '--csv validation=val.csv --classes=classes.txt --path_prefix=/videos '
        '--output=data/kinetics',
    )
    by_csv.add_argument(
        '--csv',
        action='append',
        required=True,
        metavar='SPLIT=FILE',
        help='one split; may be repeated',
    )
    by_csv.add_argument(
        '--classes',
        metavar='FILE',
        help='class names, one per line (default: classes are called 0, 1, ...)',
    )
    by_csv.add_argument(
        '--path_prefix', default='', metavar='DIR', help='what the paths are relative to'
    )
    return parser


def _read_annotations(args: argparse.Namespace) -> Annotations:
    if args.format == 'folder':
        return folder.read_folder(args.videos, args.split)
    csv_files = {}
    for value in args.csv:
        split, separator, path = value.partition('=')
        if not separator or not split or not path:
            raise ValueError(f'--csv={value}: wanted SPLIT=FILE, for example --csv train=train.csv')
        if split in csv_files:
            raise ValueError(f'--csv={value}: the split {split!r} is given twice')
        csv_files[split] = path
    return pyslowfast.read_pyslowfast(
        csv_files, classes_file=args.classes, path_prefix=args.path_prefix
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    began = time.monotonic()
    source = {
        key: getattr(args, key)
        for key in ('format', 'videos', 'csv', 'classes', 'path_prefix')
        if hasattr(args, key)
    }
    try:
        info = convert(
            _read_annotations(args),
            args.output,
            name=args.name,
            workers=args.workers,
            shards=args.shards,
            short_side=args.short_side,
            frame_rate=args.frame_rate,
            quality=args.quality,
            max_seconds=args.max_seconds,
            damaged=args.damaged,
            max_failures=args.max_failures,
            arguments=source,
        )
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted; the same command goes on where this one stopped', file=sys.stderr)
        return 130
    splits = [f'{split.records} {name}' for name, split in info.splits.items()]
    print(
        f'{args.output}: {" + ".join(splits)} clips of {len(info.classes)} classes '
        f'in {time.monotonic() - began:.1f} s'
    )
    for file, problems in (
        (FAILURES, [f for split in info.splits.values() for f in split.failures]),
        (DAMAGED, [d for split in info.splits.values() for d in split.damaged]),
    ):
        if problems:
            verb = 'failed' if file == FAILURES else 'are damaged and were stored in part'
            print(f'{len(problems)} videos {verb}: {os.path.join(args.output, file)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
