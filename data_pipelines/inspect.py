"""Tells what a directory of records holds and whether each record is sound, and draws it.

    python -m data_pipelines.inspect DIR
    python -m data_pipelines.inspect DIR --quick --json --no_sheet
    python -m data_pipelines.inspect DIR DIR DIR --quick --no_sheet --leaks=leaks.csv

Of several directories also which videos one trains on and another tests on. The exit code is 0
where all is well, 1 where something is damaged, 2 where DIR holds no records.
"""

import argparse
from collections.abc import Iterator, Sequence
import dataclasses
import json
import os
import sys

import cv2
import tqdm

from data_pipelines import files
from data_pipelines.command_line import ArgumentParser, check_picture_name, exit_code
from data_pipelines.cores import available_cores
from data_pipelines.inspection import checks, leakage
from data_pipelines.inspection.contact_sheet import contact_sheet
from data_pipelines.inspection.describe import as_json, as_text
from data_pipelines.inspection.report import Report
from data_pipelines.inspection.text import table
from data_pipelines.settings import spelt_out
from data_pipelines.storage.record_index import find_splits

_SHOWN = 20  # problems and leaks, without --json


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog='python -m data_pipelines.inspect',
        description='Counts what a directory of records holds, checks every record (checksums, '
        'format, that every frame decodes, index and dataset.json) and draws sample clips. Exits '
        'with 1 where something is damaged.',
        epilog='example: python -m data_pipelines.inspect data/mine --sheet=mine.jpg',
    )
    parser.add_argument(
        'directories', nargs='+', metavar='DIR', help="directory of shards, ours or DMVR's"
    )
    parser.add_argument(
        '--quick', action='store_true', help='do not decode all frames, only look at the first'
    )
    parser.add_argument(
        '--video_root',
        action='append',
        default=[],
        metavar='DIR',
        help='where the videos are that records link to: of all directories, or, given several '
        'times, of each of them in turn',
    )
    parser.add_argument('--json', action='store_true', help='print everything as JSON')
    parser.add_argument(
        '--sheet',
        metavar='FILE',
        help='where to draw sample clips, .jpg or .png (default: DIR/contact_sheet.jpg)',
    )
    parser.add_argument('--no_sheet', action='store_true', help='do not draw sample clips')
    parser.add_argument(
        '--clips', type=int, default=16, metavar='N', help='clips to draw (default: 16)'
    )
    parser.add_argument(
        '--seed', type=int, default=0, metavar='N', help='another one draws other clips'
    )
    parser.add_argument(
        '--top',
        type=int,
        default=10,
        metavar='N',
        help='print so many of the most and of the least frequent classes (default: 10)',
    )
    parser.add_argument(
        '--leaks',
        metavar='FILE',
        help='write a csv of all videos that one split (called train...) is trained on and another '
        'tested on; also of one directory',
    )
    parser.add_argument('--threads', type=int, help='threads (default: one per CPU)')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    return exit_code(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    for name, value, least in (
        ('threads', args.threads, 1),
        ('clips', args.clips, 1),
        ('seed', args.seed, 0),
        ('top', args.top, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f'--{name}={value}: must be at least {least}')
    if args.sheet:
        check_picture_name('--sheet', args.sheet)
        if len(args.directories) > 1:
            raise ValueError('--sheet is of one directory; several each get DIR/contact_sheet.jpg')
    roots, reports = _video_roots(args), []
    for number, directory in enumerate(args.directories):
        report = _inspect(directory, roots[number], args)
        reports.append(report)
        if not args.json:
            _print(*([''] if number else []), *as_text(report, args.top))
        if not args.no_sheet:
            _draw(report, args)
        if not args.json:
            _print(*_problems(report, args.quick))
    leaks = _leaks(roots, args) if len(reports) > 1 or args.leaks else None
    if args.json:
        content = [as_json(report) for report in reports]
        if leaks is not None:
            content = {'datasets': content, 'leaks': [dataclasses.asdict(leak) for leak in leaks]}
        print(
            json.dumps(content if leaks is not None else content[0], indent=1, ensure_ascii=False)
        )
    elif leaks is not None:
        _print('', *_leaks_as_text(leaks))
    return 1 if any(report.all_problems() for report in reports) else 0


def _print(*lines: str) -> None:
    print(*map(spelt_out, lines), sep='\n')


def _problems(report: Report, quick: bool) -> Iterator[str]:
    problems = report.all_problems()
    yield ''
    yield from map(str, problems[:_SHOWN])
    if len(problems) > _SHOWN:
        yield f'... {len(problems) - _SHOWN} more, see --json'
    checked = 'headers, checksums and first frames' if quick else 'every frame'
    yield f'{len(problems)} problems' if problems else f'all is well ({checked} checked)'


def _video_roots(args: argparse.Namespace) -> list[str | None]:
    """Of each directory."""
    given, count = args.video_root, len(args.directories)
    if len(given) > 1 and len(given) != count:
        raise ValueError(f'--video_root is given {len(given)} times for {count} directories')
    return given if len(given) > 1 else (given or [None]) * count


def _leaks(roots: Sequence[str | None], args: argparse.Namespace) -> list[leakage.Leak]:
    """What is trained on and tested on; writes it to --leaks."""
    wanted = [
        (directory, split, root)
        for directory, root in zip(args.directories, roots)
        for split in find_splits(directory)
    ]
    splits = []
    with tqdm.tqdm(desc='compare', unit='clip', leave=False) as bar:
        for directory, split, root in wanted:
            videos = leakage.read_videos(
                directory,
                split,
                video_root=root,
                threads=args.threads or available_cores(),
                on_progress=bar.update,
            )
            splits.append((leakage.trains(split), videos))
    leaks = leakage.find_leaks(splits)
    if args.leaks:
        files.write_csv(args.leaks, leakage.as_rows(leaks))
    return leaks


def _leaks_as_text(leaks: Sequence[leakage.Leak]) -> Iterator[str]:
    if not leaks:
        yield 'no video is trained on in one split and tested on in another'
        return
    yield 'trained on and tested on:'
    rows = [
        [leak.trained, leak.tested, *map(str, (leak.count('name'), leak.count('content')))]
        + [f'{len(leak.matches)} of {leak.clips}']
        for leak in leaks
    ]
    heads = ['trained on in', 'tested on in', 'by name', 'by content', 'tested clips']
    yield from table([heads, *rows], left=(0, 1))
    matches = [(leak, match) for leak in leaks for match in leak.matches]
    for leak, match in matches[:_SHOWN]:
        yield (f'{leak.tested}: {match.tested} is {match.trained} of {leak.trained} ({match.same})')
    if len(matches) > _SHOWN:
        yield f'... {len(matches) - _SHOWN} more; --leaks=FILE.csv lists all'


def _inspect(directory: str, video_root: str | None, args: argparse.Namespace) -> Report:
    splits = find_splits(directory)
    total = sum(
        files.size(files.join(directory, name)) for shards in splits.values() for name in shards
    )
    with tqdm.tqdm(total=total, desc='inspect', unit='B', unit_scale=True, leave=False) as bar:
        return checks.inspect_directory(
            directory,
            quick=args.quick,
            video_root=video_root,
            threads=args.threads or available_cores(),
            on_progress=bar.update,
        )


def _draw(report: Report, args: argparse.Namespace) -> None:
    """Draws the contact sheet; says where it is."""
    if not any(split.records for split in report.splits.values()):
        return  # what is wrong is told by the problems
    path = args.sheet or files.join(report.directory, 'contact_sheet.jpg')
    image = contact_sheet(report, clips=args.clips, seed=args.seed)
    good, encoded = cv2.imencode(os.path.splitext(path)[1], image[..., ::-1])
    if not good:
        raise ValueError(f'{path}: cannot be encoded; draw fewer --clips')
    try:
        files.write_atomically(path, encoded.tobytes())
    except OSError as error:
        text = f'{path}: cannot be written ({error.strerror or error}); choose another --sheet'
        if args.sheet:
            raise ValueError(text) from error
        print(f'no picture: {text}', file=sys.stderr)  # a read-only directory is no fault
        return
    print(f'sample clips: {path}', file=sys.stderr if args.json else sys.stdout)


if __name__ == '__main__':
    sys.exit(main())
