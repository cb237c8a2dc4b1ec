"""What a directory of records holds, whether every record is sound, and a picture of it: the command.

    python -m data_pipelines.inspect DIR
    python -m data_pipelines.inspect DIR --quick --json --no_sheet

The exit code is 0 where all is well, 1 where something is damaged, 2 where DIR holds no records.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
import json
import os
import sys

import cv2
import numpy as np
import tqdm

from data_pipelines import files
from data_pipelines.command_line import ArgumentParser, check_picture_name, exit_code
from data_pipelines.cores import available_cores
from data_pipelines.inspection import checks
from data_pipelines.inspection.checks import Report, SplitReport
from data_pipelines.inspection.contact_sheet import contact_sheet

_SHOWN_PROBLEMS = 20  # without --json


def _as_json(report: Report) -> dict:
    """All that the report knows, but no list of every record."""
    return {
        'directory': report.directory,
        'name': None if report.info is None else report.info.name,
        'localisation': any(
            r.actions is not None for s in report.splits.values() for r in s.records
        ),
        'classes': {str(number): name for number, name in report.classes.items()},
        'splits': {name: _split_as_json(split) for name, split in report.splits.items()},
        'problems': [vars(problem) for problem in report.all_problems()],
        'ok': not report.all_problems(),
    }


def _split_as_json(split: SplitReport) -> dict:
    good = split.records
    return {
        'shards': len(split.shards),
        'bytes': split.size,
        'records': split.scanned,
        'good_records': len(good),
        'frames': _spread([record.frames for record in good]),
        'seconds': _spread([record.seconds for record in good if record.seconds is not None]),
        'frame_sizes': _common(f'{width}x{height}' for width, height in (r.size for r in good)),
        'frame_rates': _common(
            'unknown' if r.frame_rate is None else f'{r.frame_rate:.6g}' for r in good
        ),
        'class_counts': _numbered(split.class_counts()),
        'box_counts': _numbered(split.box_counts()),
        'boxes': _spread([r.boxes for r in good if r.actions is not None]),
        'proposals': _spread([r.proposals for r in good if r.actions is not None]),
        'covered_boxes': sum(r.covered for r in good),
        'notes': split.notes,
    }


def _spread(values: Sequence[float]) -> dict | None:
    if not values:
        return None
    low, middle, high = (float(np.quantile(values, share)) for share in (0, 0.5, 1))
    return {'least': low, 'median': middle, 'most': high, 'sum': float(np.sum(values))}


def _common(values) -> dict[str, int]:
    """Value -> how often, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _numbered(counts: Counter) -> dict[str, int]:
    return {str(number): counts[number] for number in sorted(counts)}


# --------------------------------------------------------------------------------------------------
# Text


def _print_report(report: Report, top: int) -> None:
    title = report.directory
    if report.info is not None:
        kind = (
            'boxes on key frames'
            if report.info.localisation
            else ('several labels per clip' if report.info.multi_label else 'one label per clip')
        )
        title += f': {report.info.name!r}, {len(report.classes)} classes, {kind}'
    else:
        title += f': {len(report.classes)} classes (no dataset.json)'
    print(title)
    splits = {name: _split_as_json(split) for name, split in report.splits.items()}
    rows = {
        name: {
            'split': name,
            'records': str(facts['good_records']),
            'shards': str(facts['shards']),
            'size': _bytes(facts['bytes']),
            'frames (median)': _range(facts['frames'], '{:.0f}'),
            'seconds (median)': _range(facts['seconds'], '{:.1f}'),
            'frame sizes': _list(facts['frame_sizes']),
            'frames/s': _list(facts['frame_rates']),
        }
        for name, facts in splits.items()
    }
    print()
    heads = list(next(iter(rows.values())))
    _print_table(heads, [list(row.values()) for row in rows.values()], left=(0, 6, 7))
    for name, facts in splits.items():
        _print_boxes(name, facts)
    _print_classes(report, top)


def _print_boxes(name: str, facts: dict) -> None:
    boxes, proposals = facts['boxes'], facts['proposals']
    if boxes is None:
        return
    text = f'{name}: {boxes["sum"]:.0f} boxes, {_range(boxes, "{:.0f}")} per key frame'
    if proposals['sum']:
        text += f'; {proposals["sum"]:.0f} proposals, {_range(proposals, "{:.0f}")} per key frame'
        if boxes['sum']:
            share = 100 * facts['covered_boxes'] / boxes['sum']
            text += f', which meet {share:.1f} % of the boxes (IoU 0.5)'
    print(text)


def _print_classes(report: Report, top: int) -> None:
    """Counts of the most and the least frequent classes, in the order of the training split."""
    splits = [name for name, split in report.splits.items() if split.records]
    if not splits or not report.classes:
        return
    counts = {name: report.splits[name].class_counts() for name in splits}
    columns = {name: counts[name] for name in splits}
    for name in splits:
        if any(record.actions is not None for record in report.splits[name].records):
            columns[f'{name} boxes'] = report.splits[name].box_counts()
    first = counts['train' if 'train' in counts else splits[0]]
    order = sorted(report.classes, key=lambda number: (-first[number], number))
    if len(order) > 2 * top:
        shown = [*order[:top], None, *order[len(order) - top :]] if top else []
    else:
        shown = order
    rows = [
        (f'... {len(order) - 2 * top} more', *[''] * (len(columns) + 1))
        if number is None
        else (report.classes[number], str(number), *(str(c[number]) for c in columns.values()))
        for number in shown
    ]
    if rows:
        print()
        _print_table(('class', 'number', *columns), rows, left=(0,))
    for name in splits:
        empty = [report.classes[number] for number in order if not counts[name][number]]
        if empty:
            print(f'{len(empty)} classes have no record in {name!r}: {_shorten(empty)}')


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        print('  '.join(cells).rstrip())


def _range(spread: dict | None, form: str) -> str:
    if spread is None:
        return '?'
    low, middle, high = (form.format(spread[key]) for key in ('least', 'median', 'most'))
    return low if low == high else f'{low} ({middle}) {high}'


def _list(counts: dict[str, int]) -> str:
    shown = [f'{value} ({count})' if len(counts) > 1 else value for value, count in counts.items()]
    return ', '.join(shown[:3]) + (f', {len(shown) - 3} more' if len(shown) > 3 else '')


def _shorten(names: Sequence[str]) -> str:
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


def _bytes(size: float) -> str:
    for unit in ('B', 'KiB', 'MiB', 'GiB'):
        if size < 1024:
            return f'{size:.0f} {unit}' if unit == 'B' else f'{size:.1f} {unit}'
        size /= 1024
    return f'{size:.2f} TiB'


# --------------------------------------------------------------------------------------------------
# Command


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
        print(json.dumps(_as_json(report), indent=1, ensure_ascii=False))
    else:
        _print_report(report, args.top)
        for name, split in report.splits.items():
            for note in split.notes:
                print(f'note: {name}: {note}')
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
    splits = checks.find_splits(args.directory)
    total = sum(
        files.size(files.join(args.directory, name))
        for shards in splits.values()
        for name in shards
    )
    with tqdm.tqdm(
        total=total, desc='inspect', unit='B', unit_scale=True, unit_divisor=1024, leave=False
    ) as bar:
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
