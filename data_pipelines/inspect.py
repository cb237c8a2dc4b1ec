"""Tells what a directory of records holds and whether each record is sound, and draws a picture of it.

    python -m data_pipelines.inspect DIR
    python -m data_pipelines.inspect DIR --quick --json --no_sheet

The exit code is 0 where all is well, 1 where something is damaged, 2 where DIR holds no records.
"""

import argparse
from collections.abc import Sequence
import json
import os
import sys

import cv2
import tqdm

from data_pipelines import files
from data_pipelines.command_line import ArgumentParser, check_picture_name, exit_code
from data_pipelines.cores import available_cores
from data_pipelines.inspection import checks
from data_pipelines.inspection.contact_sheet import contact_sheet
from data_pipelines.inspection.describe import as_json, as_text
from data_pipelines.inspection.report import Report
from data_pipelines.storage.record_index import find_splits

_SHOWN_PROBLEMS = 20  # without --json


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog='python -m data_pipelines.inspect',
        description='Counts what a directory of records holds, checks every record (checksums, '
        'format, that every frame decodes, index and dataset.json) and draws sample clips. Exits '
        'with 1 where something is damaged.',
        epilog='example: python -m data_pipelines.inspect data/mine --sheet=mine.jpg',
    )
    parser.add_argument('directory', metavar='DIR', help="directory of shards, ours or DMVR's")
    parser.add_argument(
        '--quick', action='store_true', help='do not decode all frames, only look at the first'
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
    report = _inspect(args)
    if args.json:
        print(json.dumps(as_json(report), indent=1, ensure_ascii=False))
    else:
        print(*as_text(report, args.top), sep='\n')
    if not args.no_sheet:
        _draw(report, args)
    problems = report.all_problems()
    if not args.json:
        print()
        for problem in problems[:_SHOWN_PROBLEMS]:
            print(problem)
        if len(problems) > _SHOWN_PROBLEMS:
            print(f'... {len(problems) - _SHOWN_PROBLEMS} more, see --json')
        checked = 'headers, checksums and first frames' if args.quick else 'every frame'
        print(f'{len(problems)} problems' if problems else f'all is well ({checked} checked)')
    return 1 if problems else 0


def _inspect(args: argparse.Namespace) -> Report:
    splits = find_splits(args.directory)
    total = sum(
        files.size(files.join(args.directory, name))
        for shards in splits.values()
        for name in shards
    )
    with tqdm.tqdm(total=total, desc='inspect', unit='B', unit_scale=True, leave=False) as bar:
        return checks.inspect_directory(
            args.directory,
            quick=args.quick,
            threads=args.threads or available_cores(),
            on_progress=bar.update,
        )


def _draw(report: Report, args: argparse.Namespace) -> None:
    """Draws the contact sheet; says where it is."""
    if not any(split.records for split in report.splits.values()):
        return  # what is wrong is told by the problems
    path = args.sheet or files.join(args.directory, 'contact_sheet.jpg')
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
