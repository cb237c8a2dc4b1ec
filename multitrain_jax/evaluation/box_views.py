"""Test of a localising dataset: every candidate box is scored in the views that show it, and the scores averaged."""

from collections.abc import Callable

import numpy as np

from multitrain_jax.batch import BatchSource
from multitrain_jax.evaluation.box_metrics import Rows
from multitrain_jax.evaluation.box_results import BoxScores
from multitrain_jax.evaluation.views import run_views
from multitrain_jax.parallel.drivers import Driver
from multitrain_jax.parallel.hosts import gather_names, gather_rows


class _KeyFrame:
    """What the views of one key frame add up to."""

    def __init__(self, batch, row: int, actions: int):
        real, labelled = batch['candidate_mask'][row] > 0, batch['truth_mask'][row] > 0
        self.name = str(batch['name'][row]) if 'name' in batch else str(batch['record'][row])
        self.box = batch['candidate'][row][real]
        self.total, self.views, self.shown = (
            np.zeros((real.sum(), actions)),
            0,
            np.zeros(real.sum()),
        )
        self.truth_box = batch['truth_box'][row][labelled]
        self.truth_label = batch['truth_label'][row][labelled, :actions] > 0

    def add(self, batch, row: int, scores: np.ndarray) -> None:
        real = batch['candidate_mask'][row] > 0
        seen = (batch['box_mask'][row][real] > 0).astype(np.float64)
        self.total += seen[:, None] * scores[real]
        self.shown += seen
        self.views += 1


def score_boxes(
    eval_step: Callable, params, source: BatchSource, dataset: int, driver: Driver
) -> BoxScores:
    """Runs all views of a localising dataset, on every host for all hosts' key frames.

    Raises:
        RuntimeError: a key frame got another number of views than the protocol has (a defect of the data source).
    """
    spec = source.datasets[dataset]
    actions = len(spec.classes)
    frames: dict[int, _KeyFrame] = {}

    def collect(batch, scores: np.ndarray) -> None:
        for row in np.flatnonzero(batch['weight'] > 0):
            record = int(batch['record'][row])
            if record not in frames:
                frames[record] = _KeyFrame(batch, row, actions)
            frames[record].add(batch, row, scores[row][:, :actions])

    run_views(eval_step, params, source, dataset, driver, collect)
    uneven = [
        (record, frame.views) for record, frame in frames.items() if frame.views != spec.views
    ]
    if uneven:
        record, views = uneven[0]
        raise RuntimeError(
            f'{spec.name}: record {record} has {views} views instead of {spec.views}'
        )
    order = sorted(frames)
    ours = [frames[record] for record in order]

    def joined(parts: list[np.ndarray], *shape: int, dtype=np.float32) -> np.ndarray:
        rows = np.concatenate(parts) if parts else np.zeros((0, *shape))
        return gather_rows(np.ascontiguousarray(rows, dtype))

    seen = [frame.shown > 0 for frame in ours]
    true = [np.nonzero(frame.truth_label) for frame in ours]  # (box, action) of each row
    number = dict(zip(gather_rows(np.array(order, np.int32)).tolist(), range(10**9)))

    def frame_numbers(counts) -> np.ndarray:
        records = joined(
            [np.full(count, record) for count, record in zip(counts, order)], dtype=np.int32
        )
        return np.array([number[record] for record in records.tolist()], np.int64)

    return BoxScores(
        name=gather_names([frame.name for frame in ours]),
        frame=frame_numbers([which.sum() for which in seen]),
        box=joined([frame.box[which] for frame, which in zip(ours, seen)], 4),
        score=joined(
            [frame.total[which] / frame.shown[which, None] for frame, which in zip(ours, seen)],
            actions,
        ),
        unseen=int(
            gather_rows(np.array([sum(int((~which).sum()) for which in seen)], np.int32)).sum()
        ),
        truth=Rows(
            frame_numbers([len(box) for box, _ in true]),
            joined([action for _, action in true], dtype=np.int32).astype(np.int64),
            joined([frame.truth_box[box] for frame, (box, _) in zip(ours, true)], 4),
        ),
    )
