"""Computes AVA's mean average precision from csv files, as the official evaluation does.

    python -m multitrain_jax.ava_eval --groundtruth=ava_val_v2.2.csv --detections=detections.csv \\
        --labelmap=ava_action_list_v2.2_for_activitynet_2019.pbtxt \\
        --exclusions=ava_val_excluded_timestamps_v2.2.csv

Ground truth has lines `video,timestamp,x1,y1,x2,y2,action[,person]`, detections
`video,timestamp,x1,y1,x2,y2,action,score`, boxes as shares of the frame. A line `video,timestamp`
of the ground truth is a key frame without anybody: detections there are wrong; on key frames that
it does not list they do not count. Only the actions of the label map are evaluated. A box is found
when a detection of its action overlaps it by at least half (intersection over union).
"""

import argparse
from collections.abc import Sequence
import json
import os

import numpy as np

from multitrain_jax.errors import ArgumentParser, run_command
from multitrain_jax.evaluation.box_metrics import (
    OFFICIAL,
    PYSLOWFAST,
    THIRDS,
    Protocol,
    Rows,
    average_precisions,
    check_some_match,
    frequency_thirds,
)

_PROTOCOLS = {'official': OFFICIAL, 'pyslowfast': PYSLOWFAST}


class KeyFrames:
    """Numbers for the key frames of several files; the excluded ones have none."""

    def __init__(self, excluded: set[tuple[str, int]] = frozenset()):
        self._numbers: dict[tuple[str, int], int] = {}
        self._excluded = excluded

    def number(self, video: str, microseconds: int) -> int | None:
        """A new number for a new key frame; None for an excluded one."""
        moment = (video, microseconds)
        if moment in self._excluded:
            return None
        return self._numbers.setdefault(moment, len(self._numbers))


def read_rows(
    path: str | os.PathLike, key_frames: KeyFrames, *, scores: bool
) -> tuple[Rows, np.ndarray]:
    """Reads a csv file of ground truth, or of detections (with `scores`). Lines of excluded key
    frames are left out.

    Returns:
        The rows, and i64[n], numbers of the key frames that have a line without a box.

    Raises:
        ValueError: the file cannot be read, or a line is damaged; names the line.
    """
    from data_pipelines.annotations import ava_files, files

    kept, listed, last = [], set(), ('', '', None)
    wanted = 'video,timestamp,x1,y1,x2,y2,action,' + ('score' if scores else '[person]')
    for where, cells in files.read_csv(path):
        # AVA-Kinetics has key frames on which nobody is annotated: two columns, or empty ones
        # behind.
        empty = not scores and not any(cells[2:])
        if len(cells) not in ((8,) if scores else (2, 7, 8)):
            raise ValueError(f'{where}: {len(cells)} columns, wanted {wanted}')
        if (cells[0], cells[1]) != last[:2]:  # lines of one key frame stand together
            last = (cells[0], cells[1], key_frames.number(*ava_files.moment(cells, where)))
        if last[2] is None:
            continue
        if empty:
            listed.add(last[2])
            continue
        try:
            # An action may be written 12 or 12.0, as PySlowFast writes it.
            kept.append((last[2], *map(float, cells[2:7]), float(cells[7]) if scores else 0.0))
        except ValueError as error:
            raise ValueError(
                f'{where}: not a number among {",".join(cells[2:])}; wanted {wanted}'
            ) from error
    values = np.array(kept, np.float64).reshape(-1, 7)
    bad = np.flatnonzero(~np.isfinite(values).all(1) | (values[:, 5] % 1 != 0))
    if len(bad):
        raise ValueError(
            f'{os.fspath(path)}: {values[bad[0], 1:].tolist()}: a number is infinite, or the '
            'action is not whole'
        )
    rows = Rows(
        values[:, 0].astype(np.int64),
        values[:, 5].astype(np.int64),
        values[:, 1:5],
        values[:, 6] if scores else None,
    )
    return rows, np.array(sorted(listed), np.int64)


def evaluate_files(
    groundtruth: str | os.PathLike,
    detections: str | os.PathLike,
    labelmap: str | os.PathLike,
    *,
    exclusions: str | os.PathLike | None = None,
    training: str | os.PathLike | None = None,
    protocol: Protocol = OFFICIAL,
) -> dict:
    """The figures of a detections file.

    Args:
        groundtruth, detections, labelmap: files, see this module.
        exclusions: csv of key frames that do not count, lines `video,timestamp`.
        training: ground truth of the training videos, whose counts divide the actions into thirds.
        protocol: how to match.

    Returns:
        `map` and `average_precision` by action name (None: no ground truth); counts of what was
        read; with `training`, `thirds`: for 'frequent', 'middle' and 'rare' the mean over its
        actions, their number and their training boxes.

    Raises:
        ValueError: a file cannot be read, or a line is damaged.
        UserError: nothing matches, see `check_some_match`.
    """
    from data_pipelines.annotations import ava_files

    names = ava_files.read_actions(labelmap)
    actions = np.array(list(names))
    key_frames = KeyFrames(ava_files.read_excluded(exclusions) if exclusions else frozenset())
    truth, listed = read_rows(groundtruth, key_frames, scores=False)
    found, _ = read_rows(detections, key_frames, scores=True)
    others = int((~np.isin(found.action, actions)).sum())
    check_some_match(
        truth.take(np.isin(truth.action, actions)), found.take(np.isin(found.action, actions))
    )
    precision = average_precisions(truth, found, actions, protocol=protocol, listed=listed)
    result = {
        'map': float(np.nanmean(precision)),
        'key_frames': len(np.union1d(truth.key_frame, listed)),
        'boxes': len(truth),
        'detections': len(found),
        'detections_of_other_actions': others,
        'actions': len(actions),
        'actions_without_groundtruth': int(np.isnan(precision).sum()),
        'average_precision': {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(names.values(), precision)
        },
    }
    if training is not None:
        rows, _ = read_rows(training, KeyFrames(), scores=False)
        counts = np.array([(rows.action == action).sum() for action in actions])
        result['thirds'] = {}
        for third, which in zip(THIRDS, frequency_thirds(counts)):
            known = precision[which][~np.isnan(precision[which])]
            result['thirds'][third] = {
                'map': float(known.mean()) if len(known) else None,
                'actions': len(which),
                'training_boxes': int(counts[which].sum()),
            }
    return result


def _table(result: dict) -> str:
    def percent(value: float | None) -> str:
        return '    -' if value is None else f'{100 * value:5.1f}'

    width = max(map(len, result['average_precision']))
    by_value = sorted(
        result['average_precision'].items(),
        key=lambda pair: -(pair[1] if pair[1] is not None else -1),
    )
    lines = [f'{name:<{width}}  {percent(value)}' for name, value in by_value]
    lines += ['', f'{"mAP@0.5 IoU, %":<{width}}  {percent(result["map"])}']
    for third, values in result.get('thirds', {}).items():
        lines.append(
            f'{third:<{width}}  {percent(values["map"])}   {values["actions"]} actions, '
            f'{values["training_boxes"]} boxes in training'
        )
    lines.append(
        f'{result["key_frames"]} key frames, {result["boxes"]} boxes, {result["detections"]} '
        f'detections ({result["detections_of_other_actions"]} of actions that are not evaluated); '
        f'{result["actions_without_groundtruth"]} of {result["actions"]} actions without ground '
        'truth'
    )
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(
        'multitrain_jax.ava_eval', __doc__, argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--groundtruth', required=True, metavar='CSV')
    add('--detections', required=True, metavar='CSV')
    add('--labelmap', required=True, metavar='PBTXT', help='actions that are evaluated')
    add('--exclusions', metavar='CSV', help='key frames that do not count')
    add(
        '--training',
        metavar='CSV',
        help='training ground truth: also the frequent, middle and rare thirds',
    )
    add(
        '--protocol',
        choices=tuple(_PROTOCOLS),
        default='official',
        help="official: ActivityNet's, at most 50 detections a key frame; pyslowfast: all of "
        'them, matched in the order of '
        'the file, wrong where nothing is annotated (default: %(default)s)',
    )
    add('--json', action='store_true', help='print JSON instead of a table')
    args = parser.parse_args(argv)
    result = evaluate_files(
        args.groundtruth,
        args.detections,
        args.labelmap,
        exclusions=args.exclusions,
        training=args.training,
        protocol=_PROTOCOLS[args.protocol],
    )
    print(json.dumps(result, indent=1, ensure_ascii=False) if args.json else _table(result))
    return 0


if __name__ == '__main__':
    run_command(main)
