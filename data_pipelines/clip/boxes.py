"""Boxes through the geometry of clips: which boxes a clip shows, and where.

Arithmetic only. Boxes are rows (x1, y1, x2, y2), shares of the width and height of a picture: 0 to
1 inside it.
"""

from typing import NamedTuple

import numpy as np

from data_pipelines.clip.crops import Window
from data_pipelines.options import BoxOptions
from data_pipelines.storage.regions import Regions

_GOOD_VIEW = 0.5  # part of a candidate's area that a test view must show to count


class LabelledBoxes(NamedTuple):
    """Boxes and their actions: f32[n, 4] and f32[n, A], multi-hot."""

    boxes: np.ndarray
    labels: np.ndarray


class Candidates(NamedTuple):
    """Boxes to be tested, f32[n, 4] in the whole frame, scores f32[n], how many more there were."""

    boxes: np.ndarray
    scores: np.ndarray
    dropped: int


class ViewBoxes(NamedTuple):
    """The boxes of one record's test views.

    Attributes:
        boxes: f32[V, n, 4], the candidates in each view, clipped; 0 where not to be read.
        mask: bool[V, n], which to read.
        candidates: in the whole frame.
        truth: what is annotated, in the whole frame.
    """

    boxes: np.ndarray
    mask: np.ndarray
    candidates: Candidates
    truth: LabelledBoxes


def in_window(boxes: np.ndarray, window: Window, size: tuple[int, int], flip: bool) -> np.ndarray:
    """Boxes of a picture, in a window of it: f64[n, 4], below 0 and above 1 what lies outside.

    Args:
        boxes: f[n, 4].
        window: in pixels of the picture.
        size: (height, width) of the picture.
        flip: the window is shown mirrored.
    """
    (height, width), boxes = size, np.asarray(boxes, np.float64)
    offset = np.array([window.left, window.top] * 2)
    moved = (boxes * [width, height, width, height] - offset) / np.tile(
        [window.width, window.height], 2
    )
    if flip:
        moved = np.stack([1 - moved[:, 2], moved[:, 1], 1 - moved[:, 0], moved[:, 3]], axis=1)
    return moved


def area(boxes: np.ndarray) -> np.ndarray:
    """f[...] of f[..., 4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip(boxes: np.ndarray) -> np.ndarray:
    """What is inside the picture; a box that is not touches an edge and has no area."""
    return np.clip(boxes, 0, 1)


def visible(boxes: np.ndarray) -> np.ndarray:
    """f[n] the part of each box's area that is inside the picture; the boxes must have an area."""
    return area(clip(boxes)) / area(boxes)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """f[...] intersection over union of boxes f[..., 4], broadcast; one of a pair has an area."""
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    return shared / (area(a) + area(b) - shared)


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """f[n, k] intersection over union of each of f[n, 4] with each of f[k, 4]."""
    return iou(boxes[:, None], others[None])


def covered(boxes: np.ndarray, proposals: np.ndarray) -> np.ndarray:
    """Which boxes, f[M, 4], some proposal, f[P, 4], meets with an IoU of 0.5: bool[M]."""
    return (overlaps(boxes, proposals) >= 0.5).any(axis=1)


def jittered(rng: np.random.Generator, boxes: np.ndarray, amount: float) -> np.ndarray:
    """f64[n, 4] with each side moved by a deviate of `amount` widths or heights, then clipped.

    Sides that pass each other change names; a box of which nothing is left in the picture stays as
    it was.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    moved = boxes + amount * np.tile(sides, 2) * rng.standard_normal(boxes.shape)
    moved = np.concatenate(
        [np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])], axis=1
    )
    return np.where(area(clip(moved))[:, None] > 0, clip(moved), clip(boxes))


def with_proposals(found: Regions, iou: float) -> LabelledBoxes:
    """The annotated boxes, then a detector's that overlap one by `iou`, with its labels."""
    if not len(found.boxes) or not len(found.proposals):
        return LabelledBoxes(found.boxes, found.labels)
    overlap = overlaps(found.proposals.astype(np.float64), found.boxes.astype(np.float64))  # [P, M]
    good, best = overlap.max(axis=1) >= iou, overlap.argmax(axis=1)
    return LabelledBoxes(
        np.concatenate([found.boxes, found.proposals[good]]),
        np.concatenate([found.labels, found.labels[best[good]]]),
    )


def training_boxes(
    rng: np.random.Generator,
    found: Regions,
    window: Window,
    size: tuple[int, int],
    flip: bool,
    options: BoxOptions,
) -> LabelledBoxes:
    """The boxes of a training clip, at most `options.max_boxes`; none of them may be in it.

    Args:
        rng: of the clip.
        found: the record's key frame.
        window, size, flip: how its pixels are taken, see `in_window`.
        options: of the dataset.

    Returns:
        Boxes in the clip, inside it and with an area.
    """
    boxes, labels = (
        with_proposals(found, options.proposal_iou)
        if options.train_on_proposals
        else (found.boxes, found.labels)
    )
    boxes = in_window(boxes, window, size, flip)
    seen = visible(boxes)
    kept = np.flatnonzero((seen >= options.min_visible) & (seen > 0))
    if len(kept) > options.max_boxes:
        kept = np.sort(rng.permutation(kept)[: options.max_boxes])
    boxes = jittered(rng, boxes[kept], options.jitter) if options.jitter else clip(boxes[kept])
    return LabelledBoxes(boxes.astype(np.float32), labels[kept])


def candidates(found: Regions, options: BoxOptions) -> Candidates:
    """Boxes of a key frame to test, highest scores first; none if nobody knows who is on it."""
    if not found.listed:
        boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    elif options.candidates == 'ground_truth':
        boxes, scores = found.boxes, np.ones(len(found.boxes), np.float32)
    else:
        good = found.scores >= options.min_candidate_score
        boxes, scores = found.proposals[good], found.scores[good]
    order = np.argsort(-scores, kind='stable')
    kept = order[: options.max_boxes]
    return Candidates(boxes[kept], scores[kept], len(order) - len(kept))


def in_views(
    boxes: np.ndarray, views: list[tuple[Window, tuple[int, int], bool]]
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates in each test view, f32[V, n, 4], clipped, and which to test there, bool[V, n].

    Those of which a view shows half of the area; one that no view shows so well: where most of it
    is seen, if any.

    Args:
        boxes: f[n, 4] in the whole frame.
        views: arguments of `in_window` for each.
    """
    moved = np.stack([in_window(boxes, *view) for view in views])  # [V, n, 4]
    seen = visible(moved)
    mask = seen >= _GOOD_VIEW
    missed = np.flatnonzero(~mask.any(axis=0) & (seen > 0).any(axis=0))
    mask[seen[:, missed].argmax(axis=0), missed] = True
    return np.where(mask[..., None], clip(moved), 0).astype(np.float32), mask


def boxes_in_views(
    found: Regions, views: list[tuple[Window, tuple[int, int], bool]], options: BoxOptions
) -> ViewBoxes:
    """The boxes of a record's test views; `views` as in `in_views`."""
    tested = candidates(found, options)
    return ViewBoxes(
        *in_views(tested.boxes, views), tested, LabelledBoxes(found.boxes, found.labels)
    )
