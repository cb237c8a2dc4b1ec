"""The arrays of a batch: made empty, filled row by row. What they hold is told in `pipeline.py`."""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from data_pipelines.clip.boxes import LabelledBoxes, ViewBoxes
from data_pipelines.datasets.base import ClipDataset, Views
from data_pipelines.options import ClipSize
from data_pipelines.workers import ArrayPool, Batch, ElementSpec

# While an evaluation batch is being filled: what each row's key frame has, as its number of places
# is not known yet.
_TRUTH, _DROPPED = 'truth', 'dropped'


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes of a batch's arrays.

    Attributes:
        clip: of a clip.
        num_classes: C, classes of a multi-hot label; None: labels are class numbers.
        max_boxes: M; None: no dataset has boxes.
        num_actions: A, classes of a box.
    """

    clip: ClipSize
    num_classes: int | None
    max_boxes: int | None
    num_actions: int

    def video(self, rows: int) -> tuple[int, ...]:
        """Shape of so many clips."""
        return rows, self.clip.num_frames, self.clip.crop_size, self.clip.crop_size, 3


def layout(clip: ClipSize, datasets: Sequence[ClipDataset]) -> Layout:
    """Of batches of clips of these datasets."""
    localising = [dataset for dataset in datasets if dataset.localises]
    classifying = [dataset for dataset in datasets if not dataset.localises]
    multi_hot = any(dataset.multi_label for dataset in classifying)
    return Layout(
        clip=clip,
        num_classes=max(len(dataset.classes) for dataset in classifying) if multi_hot else None,
        max_boxes=max((dataset.source.boxes.max_boxes for dataset in localising), default=None),
        num_actions=max((len(dataset.classes) for dataset in localising), default=0),
    )


def new_training_batch(sizes: Layout, rows: int, pool: ArrayPool) -> Batch:
    """Every row is to be filled by `write_training_row`, and its video and dataset."""
    batch = {
        'video': pool.empty(sizes.video(rows), np.uint8),
        'dataset': np.zeros(rows, np.int32),
        'label': _new_labels(sizes, rows),
        'weight': np.ones(rows, np.float32),
    }
    if sizes.max_boxes is not None:
        batch['boxes'] = np.zeros((rows, sizes.max_boxes, 4), np.float32)
        batch['box_label'] = np.zeros((rows, sizes.max_boxes, sizes.num_actions), np.float32)
        batch['box_mask'] = np.zeros((rows, sizes.max_boxes), np.float32)
    return batch


def new_evaluation_batch(
    sizes: Layout, rows: int, dataset: int, pool: ArrayPool, filled: int
) -> Batch:
    """All of it is padding, until rows are filled; `finish` makes it what users get.

    `filled`: rows whose video is going to be written; those after are black.
    """
    video = pool.empty(sizes.video(rows), np.uint8)
    video[max(0, filled) :] = 0
    batch = {
        'video': video,
        'dataset': np.full(rows, dataset, np.int32),
        'weight': np.zeros(rows, np.float32),
        'record': np.full(rows, -1, np.int32),
        'view': np.zeros(rows, np.int32),
        'name': np.full(rows, '', object),
    }
    if sizes.max_boxes is None:
        batch['label'] = _new_labels(sizes, rows)
    else:
        places = rows, sizes.max_boxes
        batch |= {name: np.zeros((*places, 4), np.float32) for name in ('boxes', 'candidate')}
        batch |= {
            name: np.zeros(places, np.float32)
            for name in ('box_mask', 'candidate_score', 'candidate_mask')
        }
        nothing = LabelledBoxes(
            np.zeros((0, 4), np.float32), np.zeros((0, sizes.num_actions), np.float32)
        )
        batch[_TRUTH] = np.empty(rows, object)
        batch[_TRUTH][:] = [nothing] * rows
        batch[_DROPPED] = np.zeros(rows, np.int64)
    return batch


def _new_labels(sizes: Layout, rows: int) -> np.ndarray:
    if sizes.num_classes is None:
        return np.zeros(rows, np.int32)
    return np.zeros((rows, sizes.num_classes), np.float32)


def write_training_row(batch: Batch, row: int, found: np.ndarray | LabelledBoxes) -> None:
    """`found`: what `ClipDataset.write_training_clip` returned."""
    if isinstance(found, LabelledBoxes):
        count, actions = found.labels.shape
        batch['boxes'][row, :count] = found.boxes
        batch['box_label'][row, :count, :actions] = found.labels
        batch['box_mask'][row, :count] = 1
    else:
        _write_label(batch, row, found)


def write_view(batch: Batch, row: int, view: int, views: Views) -> None:
    """`views`: what `ClipDataset.write_views` returned."""
    batch['view'][row], batch['name'][row] = view, views.name
    found = views.found
    if isinstance(found, ViewBoxes):
        count = len(found.candidates.boxes)
        batch['boxes'][row, :count] = found.boxes[view]
        batch['box_mask'][row, :count] = found.mask[view]
        batch['candidate'][row, :count] = found.candidates.boxes
        batch['candidate_score'][row, :count] = found.candidates.scores
        batch['candidate_mask'][row, :count] = 1
        batch[_TRUTH][row] = found.truth
        batch[_DROPPED][row] = found.candidates.dropped
    else:
        _write_label(batch, row, found)


def _write_label(batch: Batch, row: int, labels: np.ndarray) -> None:
    """`labels`: i64[number of labels], as many as the record has."""
    if batch['label'].ndim == 1:
        batch['label'][row] = labels[0]
    else:
        batch['label'][row, labels] = 1


class CandidateCounts(NamedTuple):
    """Of the records whose first view is in a batch: how many, their candidates, those left out."""

    records: int = 0
    candidates: int = 0
    dropped: int = 0


def finish(batch: Batch) -> tuple[Batch, CandidateCounts]:
    """A filled evaluation batch, with the ground truth as arrays, and what to count in it."""
    if _TRUTH not in batch:
        return batch, CandidateCounts()
    batch = dict(batch)
    truth, dropped = batch.pop(_TRUTH), batch.pop(_DROPPED)
    places = max(1, *(len(row.boxes) for row in truth))
    rows, actions = len(truth), truth[0].labels.shape[1]
    batch['truth_box'] = np.zeros((rows, places, 4), np.float32)
    batch['truth_label'] = np.zeros((rows, places, actions), np.float32)
    batch['truth_mask'] = np.zeros((rows, places), np.float32)
    for row, (boxes, labels) in enumerate(truth):
        batch['truth_box'][row, : len(boxes)] = boxes
        batch['truth_label'][row, : len(boxes)] = labels
        batch['truth_mask'][row, : len(boxes)] = 1
    first = (batch['view'] == 0) & (batch['weight'] > 0)
    candidates = batch['candidate_mask'][first].sum()
    return batch, CandidateCounts(int(first.sum()), int(candidates), int(dropped[first].sum()))


def element_spec(batch: Batch, free_axes: dict[str, int]) -> ElementSpec:
    """Name -> (shape, type) of the arrays of batches like this one.

    Args:
        batch: an example.
        free_axes: name -> axis whose length differs from batch to batch; it is None in the shape.
    """

    def shape(name: str, array: np.ndarray) -> tuple[int | None, ...]:
        free = free_axes.get(name)
        return tuple(None if axis == free else size for axis, size in enumerate(array.shape))

    return {name: (shape(name, array), array.dtype) for name, array in batch.items()}
