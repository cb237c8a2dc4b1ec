"""A report as JSON and as text for people."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.inspection.report import Report, SplitReport
from data_pipelines.inspection.text import bytes_text, some, table


def as_json(report: Report) -> dict:
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


def as_text(report: Report, top: int) -> Iterator[str]:
    """Lines: a table of the splits, boxes, and the `top` most and least frequent classes."""
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
    yield title
    yield ''
    splits = {name: _split_as_json(split) for name, split in report.splits.items()}
    heads = ['split', 'records', 'shards', 'size', 'frames (median)', 'seconds (median)']
    rows = [
        [
            name,
            str(facts['good_records']),
            str(facts['shards']),
            bytes_text(facts['bytes']),
            _range(facts['frames'], '{:.0f}'),
            _range(facts['seconds'], '{:.1f}'),
            _list(facts['frame_sizes']),
            _list(facts['frame_rates']),
        ]
        for name, facts in splits.items()
    ]
    yield from table([[*heads, 'frame sizes', 'frames/s'], *rows], left=(0, 6, 7))
    for name, facts in splits.items():
        yield from _boxes(name, facts)
    yield from _classes(report, top)
    for name, split in report.splits.items():
        for note in split.notes:
            yield f'note: {name}: {note}'


def _boxes(name: str, facts: dict) -> Iterator[str]:
    boxes, proposals = facts['boxes'], facts['proposals']
    if boxes is None:
        return
    text = f'{name}: {boxes["sum"]:.0f} boxes, {_range(boxes, "{:.0f}")} per key frame'
    if proposals['sum']:
        text += f'; {proposals["sum"]:.0f} proposals, {_range(proposals, "{:.0f}")} per key frame'
        if boxes['sum']:
            share = 100 * facts['covered_boxes'] / boxes['sum']
            text += f', which meet {share:.1f} % of the boxes (IoU 0.5)'
    yield text


def _classes(report: Report, top: int) -> Iterator[str]:
    """Counts of the most and the least frequent classes, in the order of the training split."""
    splits = [name for name, split in report.splits.items() if split.records]
    if not splits or not report.classes:
        return
    counts = {name: report.splits[name].class_counts() for name in splits}
    columns = dict(counts)
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
        [f'... {len(order) - 2 * top} more', *[''] * (len(columns) + 1)]
        if number is None
        else [report.classes[number], str(number), *(str(c[number]) for c in columns.values())]
        for number in shown
    ]
    if rows:
        yield ''
        yield from table([['class', 'number', *columns], *rows])
    for name in splits:
        empty = [report.classes[number] for number in order if not counts[name][number]]
        if empty:
            yield f'{len(empty)} classes have no record in {name!r}: {some(empty, 5)}'


def _range(spread: dict | None, form: str) -> str:
    if spread is None:
        return '?'
    low, middle, high = (form.format(spread[key]) for key in ('least', 'median', 'most'))
    return low if low == high else f'{low} ({middle}) {high}'


def _list(counts: dict[str, int]) -> str:
    shown = [f'{value} ({count})' if len(counts) > 1 else value for value, count in counts.items()]
    return ', '.join(shown[:3]) + (f', {len(shown) - 3} more' if len(shown) > 3 else '')
