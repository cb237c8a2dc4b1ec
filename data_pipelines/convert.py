"""Videos and annotations -> record shards, their index and ``dataset.json``.

    python -m data_pipelines.convert folder --videos=VIDEOS --output=DIR/motions
    python -m data_pipelines.convert pyslowfast --csv train=train.csv --csv validation=val.csv \\
        --classes=classes.txt --path_prefix=/data/kinetics --output=DIR/kinetics

Both lead to ``convert``, which can be called from Python as well.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import io
import json
import math
import os
import pathlib
import re
import sys
import time
from typing import Any

import tqdm

from data_pipelines import records
from data_pipelines.annotations import Annotations
from data_pipelines.annotations import Clip
from data_pipelines.annotations import folder
from data_pipelines.annotations import pyslowfast
from data_pipelines.convert_shard import Options
from data_pipelines.convert_workers import run_jobs
from data_pipelines.dataset_info import DatasetInfo
from data_pipelines.dataset_info import FILE_NAME
from data_pipelines.dataset_info import load_dataset_info
from data_pipelines.dataset_info import save_dataset_info
from data_pipelines.dataset_info import SplitInfo

FAILURES = 'failures.csv'
DAMAGED = 'damaged.csv'
_NOTES = '.convert'  # what is known of finished shards, for restarts
_VERSION = 1  # raise it when the same arguments come to give other shards
_SPLIT_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]*')


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

    Restarting after an interruption keeps the shards that are finished, as long as videos, annotations
    and options are the same. The shards do not depend on the number of workers. Splits that an earlier
    call put into ``output`` stay, if they have the same classes and frame rate.

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
      What was written to ``dataset.json``. Failed videos are listed there and in ``failures.csv``, those
      stored in part in ``damaged.csv``.

    Raises:
      ValueError: bad arguments, too many failures, or an output directory that holds something else.
    """
    options = Options(frame_rate, short_side, quality, max_seconds, damaged)
    for option, value in (('workers', workers), ('shards', shards)):
        if value is not None and value < 1:
            raise ValueError(f'{option}={value}: must be at least 1')
    if not 0 <= max_failures <= 1:
        raise ValueError(f'max_failures={max_failures}: must be 0 to 1, a share of the videos')
    _check_annotations(annotations)
    output = pathlib.Path(os.path.abspath(output))
    if output.exists() and not output.is_dir():
        raise ValueError(f'{output}: exists and is no directory; choose another output')
    try:
        (output / _NOTES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f'{output}: cannot be made or written ({error.strerror})') from error

    with _locked(output):
        kept = _splits_to_keep(output, annotations, options)
        plans = [
            plan
            for split, clips in annotations.splits.items()
            for plan in _plan_split(output, split, clips, annotations.classes, options, shards)
        ]
        _remove_leftovers(output, annotations, plans)
        results = {plan.name: plan.finished_result(output) for plan in plans}
        open_plans = [plan for plan in plans if results[plan.name] is None]
        if open_plans:
            _forget(output, annotations, kept)
        clips_before = sum(len(plan.clips) for plan in plans if results[plan.name] is not None)
        failures_before = sum(len(r['failures']) for r in results.values() if r is not None)
        with tqdm.tqdm(
            total=sum(len(plan.clips) for plan in plans),
            initial=clips_before,
            desc=f'convert {name or output.name}',
            unit='clip',
            disable=not progress,
        ) as bar:
            failed = failures_before

            def on_clip(count: int, failures: int) -> None:
                nonlocal failed
                failed += failures
                bar.set_postfix(failed=failed, refresh=False)
                bar.update(count)

            def on_result(plan: '_ShardPlan', result: dict) -> None:
                results[plan.name] = plan.note(output, result)

            jobs = [(plan, plan.job(output, options)) for plan in open_plans]
            run_jobs(jobs, workers or _cpus(), on_clip, on_result)

        splits = {
            split: _summarise(plans, results, split, len(annotations.classes))
            for split in annotations.splits
        }
        _write_list(output / FAILURES, 'reason', {s: i.failures for s, i in {**kept, **splits}.items()})
        _write_list(output / DAMAGED, 'damage', {s: i.damaged for s, i in {**kept, **splits}.items()})
        _check_failures(output, splits, max_failures)
        for split in splits:
            records.save_index(output, split, records.build_index(output, split))
        info = DatasetInfo(
            name=name or output.name,
            classes=annotations.classes,
            multi_label=annotations.multi_label,
            splits={**kept, **splits},
            frame_rate=frame_rate,
            arguments={**(arguments or {}), **dataclasses.asdict(options)},
        )
        save_dataset_info(output, info)
        return info


@dataclasses.dataclass(frozen=True)
class _ShardPlan:
    """One shard to be written."""

    split: str
    name: str
    clips: tuple[Clip, ...]
    classes: Mapping[int, str]  # those that its clips have
    fingerprint: str

    def job(self, output: pathlib.Path, options: Options) -> dict:
        """The job of ``convert_shard.main``."""
        return {
            'path': str(output / self.name),
            'clips': [dataclasses.asdict(clip) for clip in self.clips],
            'classes': self.classes,
            'options': dataclasses.asdict(options),
            'known_failures': {},
        }

    def note(self, output: pathlib.Path, result: dict) -> dict:
        """Notes that the shard is finished, for a restart."""
        note = {
            'fingerprint': self.fingerprint,
            'bytes': (output / self.name).stat().st_size,
            'result': result,
        }
        records.write_atomically(output / _NOTES / f'{self.name}.json', json.dumps(note).encode())
        return result

    def finished_result(self, output: pathlib.Path) -> dict | None:
        """The result, if an earlier run has finished this very shard."""
        try:
            note = json.loads((output / _NOTES / f'{self.name}.json').read_bytes())
            size = (output / self.name).stat().st_size
        except (OSError, ValueError):
            return None
        same = note['fingerprint'] == self.fingerprint and note['bytes'] == size
        return note['result'] if same else None


def _plan_split(
    output: pathlib.Path,
    split: str,
    clips: Sequence[Clip],
    classes: Sequence[str],
    options: Options,
    shards: int | None,
) -> Iterator[_ShardPlan]:
    """Deals the clips of a split to its shards: clip i to shard i mod the number of shards."""
    if shards is None:
        shards = min(1024, max(16, math.ceil(len(clips) / 128)))
    shards = min(shards, len(clips))
    for number in range(shards):
        own = tuple(clips[number::shards])
        names = {label: classes[label] for clip in own for label in clip.labels}
        content = [_VERSION, dataclasses.asdict(options), sorted(names.items())]
        content += [(c.key, c.labels, c.start, c.end, _size_and_time(c.path)) for c in own]
        fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        yield _ShardPlan(split, records.shard_name(split, number, shards), own, names, fingerprint)


def _cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _size_and_time(path: str) -> tuple[int, int] | None:
    """Tells a replaced video from the one that was converted."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _check_annotations(annotations: Annotations) -> None:
    classes = annotations.classes
    if len(set(classes)) != len(classes):
        raise ValueError('the annotations name a class twice')
    if not annotations.splits:
        raise ValueError('the annotations hold no split')
    for split, clips in annotations.splits.items():
        if not _SPLIT_NAME.fullmatch(split) or '-of-' in split:
            raise ValueError(f'split {split!r}: the name must be made of letters, digits and _ . -')
        if not clips:
            raise ValueError(f'split {split!r}: no videos in it')
        keys = set()
        for clip in clips:
            if clip.key in keys:
                raise ValueError(f'split {split!r}: two clips are called {clip.key!r}')
            keys.add(clip.key)
            if not clip.labels or not all(0 <= label < len(classes) for label in clip.labels):
                raise ValueError(
                    f'split {split!r}: {clip.key!r} has the classes {clip.labels}, wanted at least one, '
                    f'each 0 to {len(classes) - 1}'
                )


@contextlib.contextmanager
def _locked(output: pathlib.Path) -> Iterator[None]:
    """Keeps a second conversion out of the same directory."""
    with open(output / _NOTES / 'lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f'{output}: another conversion is writing here; wait for it') from error
        yield


def _splits_to_keep(
    output: pathlib.Path, annotations: Annotations, options: Options
) -> dict[str, SplitInfo]:
    """Splits of an earlier conversion that this one does not replace."""
    if not (output / FILE_NAME).exists():
        return {}
    info = load_dataset_info(output)
    kept = {s: split for s, split in info.splits.items() if s not in annotations.splits}
    if kept:
        here = f'{output}: holds the split {next(iter(kept))!r} already,'
        if info.classes != annotations.classes or info.multi_label != annotations.multi_label:
            raise ValueError(
                f'{here} with other classes than these videos have; all splits need the same classes: '
                'convert them together, or choose another output'
            )
        if info.frame_rate != options.frame_rate:
            raise ValueError(
                f'{here} at frame_rate={info.frame_rate}, not {options.frame_rate}; '
                'convert both alike, or choose another output'
            )
    return kept


def _remove_leftovers(
    output: pathlib.Path, annotations: Annotations, plans: Sequence[_ShardPlan]
) -> None:
    """Removes unfinished files, and shards that an earlier conversion dealt differently."""
    planned = {plan.name for plan in plans}
    for split in annotations.splits:
        ours = re.compile(re.escape(split) + r'-\d{5,}-of-\d{5,}')
        unfinished = re.compile(ours.pattern + r'\.[0-9a-f]{32}\.tmp')
        for path in output.iterdir():
            if unfinished.fullmatch(path.name):
                path.unlink()
            elif ours.fullmatch(path.name) and path.name not in planned:
                note = output / _NOTES / f'{path.name}.json'
                if not note.exists():
                    raise ValueError(
                        f'{path}: a shard that this command did not write; '
                        'choose another output, or move it away'
                    )
                path.unlink()
                note.unlink()


def _forget(
    output: pathlib.Path, annotations: Annotations, kept: Mapping[str, SplitInfo]
) -> None:
    """Takes back what was said about splits whose shards are about to change."""
    for split in annotations.splits:
        (output / f'{split}.index').unlink(missing_ok=True)
    if kept:
        info = load_dataset_info(output)
        save_dataset_info(output, dataclasses.replace(info, splits=kept))
    else:
        (output / FILE_NAME).unlink(missing_ok=True)


def _summarise(
    plans: Sequence[_ShardPlan], results: Mapping[str, dict], split: str, num_classes: int
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
            f'{output}: {failed} of {total} videos failed, more than max_failures={max_failures:g} allows; '
            f'see {output / FAILURES}; mend them, or allow more, and run it again (the rest is kept)'
        )


# ---------------------------------------------------------------------------------------------------
# Command


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--output', required=True, metavar='DIR', help='directory of the dataset')
    common.add_argument('--name', help="the dataset's name (default: the directory's)")
    common.add_argument('--workers', type=int, help='processes (default: one per CPU)')
    common.add_argument('--shards', type=int, help='files per split (default: by the number of clips)')
    common.add_argument(
        '--short_side',
        type=int,
        metavar='PIXELS',
        help='store frames with this shorter side, for example 320 (default: as they are)',
    )
    common.add_argument(
        '--frame_rate', type=float, metavar='FPS', help="stored frames per second (default: each video's own)"
    )
    common.add_argument('--quality', type=int, default=90, help='JPEG quality, 1 to 100 (default: 90)')
    common.add_argument(
        '--max_seconds', type=float, metavar='S', help='store only the first S seconds of each clip (default: all)'
    )
    common.add_argument(
        '--damaged',
        choices=('keep', 'skip'),
        default='keep',
        help='keep what can be decoded of a damaged video, listed in damaged.csv, or skip it (default: keep)',
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
        epilog='example: python -m data_pipelines.convert folder --videos=my_videos --output=data/mine '
        '--short_side=320',
    )
    formats = parser.add_subparsers(dest='format', required=True, metavar='FORMAT')
    by_folder = formats.add_parser(
        'folder',
        parents=[common],
        help='one folder per class: VIDEOS/SPLIT/CLASS/*.mp4 or VIDEOS/CLASS/*.mp4',
        description='Converts a tree with one folder per class: VIDEOS/SPLIT/CLASS/*.mp4, or '
        'VIDEOS/CLASS/*.mp4 for a single split.',
        epilog='example: python -m data_pipelines.convert folder --videos=my_videos --output=data/mine',
    )
    by_folder.add_argument('--videos', required=True, metavar='DIR', help='the tree')
    by_folder.add_argument(
        '--split',
        action='append',
        metavar='NAME',
        help='split to convert, may be repeated (default: all); for VIDEOS/CLASS/*.mp4 the name to give it '
        '(default: train)',
    )
    by_csv = formats.add_parser(
        'pyslowfast',
        parents=[common],
        help="PySlowFast's csv files of lines \"path label\"",
        description='Converts the videos listed in csv files of PySlowFast: lines "path label", separated by '
        'a space or a comma, label a class number.',
        epilog='example: python -m data_pipelines.convert pyslowfast --csv train=train.csv '
        '--csv validation=val.csv --classes=classes.txt --path_prefix=/videos --output=data/kinetics',
    )
    by_csv.add_argument(
        '--csv', action='append', required=True, metavar='SPLIT=FILE', help='one split; may be repeated'
    )
    by_csv.add_argument(
        '--classes', metavar='FILE', help='class names, one per line (default: classes are called 0, 1, ...)'
    )
    by_csv.add_argument('--path_prefix', default='', metavar='DIR', help='what the paths are relative to')
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
    return pyslowfast.read_pyslowfast(csv_files, classes_file=args.classes, path_prefix=args.path_prefix)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    began = time.monotonic()
    source = {key: getattr(args, key) for key in ('format', 'videos', 'csv', 'classes', 'path_prefix') if hasattr(args, key)}
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
