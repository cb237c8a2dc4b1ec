"""Box geometry against plain formulas, box by box."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.clip import boxes
from data_pipelines.clip.crops import Window
from data_pipelines.options import BoxOptions
from data_pipelines.storage.regions import Regions

SIZE = (100, 200)  # height, width


def regions(annotated, labels=None, proposals=(), scores=()):
    count = len(annotated)
    return Regions(
        key_frame=0,
        timestamp=0,
        boxes=np.array(annotated, np.float32).reshape(-1, 4),
        labels=np.eye(max(count, 1), dtype=np.float32)[:count]
        if labels is None
        else np.array(labels, np.float32),
        persons=np.arange(count),
        proposals=np.array(proposals, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
    )


def random_boxes(count, seed=0):
    corners = np.random.default_rng(seed).uniform(0, 1, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


def plain_overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


@pytest.mark.parametrize('flip', [False, True])
def test_boxes_in_a_window(flip):
    window = Window(top=20, left=30, height=50, width=60)
    given = random_boxes(20)
    for box, moved in zip(given, boxes.in_window(given, window, SIZE, flip), strict=True):
        x1, x2 = ((x * 200 - 30) / 60 for x in (box[0], box[2]))
        y1, y2 = ((y * 100 - 20) / 50 for y in (box[1], box[3]))
        expected = (1 - x2, y1, 1 - x1, y2) if flip else (x1, y1, x2, y2)
        np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_overlaps_and_visible_parts():
    ours, theirs = random_boxes(12, 1), random_boxes(9, 2)
    got = boxes.overlaps(ours, theirs)
    for i, a in enumerate(ours):
        for j, b in enumerate(theirs):
            assert got[i, j] == pytest.approx(plain_overlap(a, b), abs=1e-12)
    shifted = ours + [0.4, -0.3, 0.4, -0.3]
    inside = [
        max(0, min(b[2], 1) - max(b[0], 0)) * max(0, min(b[3], 1) - max(b[1], 0)) for b in shifted
    ]
    whole = [(b[2] - b[0]) * (b[3] - b[1]) for b in shifted]
    np.testing.assert_allclose(boxes.visible(shifted), np.array(inside) / whole, atol=1e-12)


def test_covered_boxes():
    annotated = np.array([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]], np.float32)
    exactly_half = np.array([[0.0, 0.0, 0.25, 1.0]], np.float32)  # binary fractions
    less = np.array([[0.0, 0.0, 0.24, 1.0]], np.float32)
    two = np.array([[0.5, 0.1, 1.0, 0.9], [0.0, 0.0, 1.0, 1.0]], np.float32)
    assert boxes.covered(annotated, exactly_half).tolist() == [True, False]
    assert boxes.covered(annotated, less).tolist() == [False, False]
    assert boxes.covered(annotated, two).tolist() == [True, True]  # the whole frame: exactly half
    assert boxes.covered(annotated, np.zeros((0, 4), np.float32)).tolist() == [False, False]
    assert boxes.covered(np.zeros((0, 4), np.float32), two).tolist() == []


def test_boxes_that_the_crop_leaves_too_little_of_are_dropped():
    # The window is the left half of the picture; the boxes are inside, 60 %, 40 % and 0 % in it.
    found = regions(
        [(0.1, 0.2, 0.3, 0.6), (0.35, 0, 0.6, 1), (0.4, 0, 0.65, 1), (0.6, 0.1, 0.9, 0.9)]
    )
    window = Window(0, 0, 100, 100)

    def kept(min_visible):
        options = BoxOptions(min_visible=min_visible)
        return boxes.training_boxes(np.random.default_rng(0), found, window, SIZE, False, options)

    clip = kept(0.5)
    np.testing.assert_allclose(clip.boxes, [(0.2, 0.2, 0.6, 0.6), (0.7, 0, 1, 1)], atol=1e-6)
    np.testing.assert_array_equal(clip.labels, np.eye(4)[:2])
    assert clip.boxes.dtype == clip.labels.dtype == np.float32
    np.testing.assert_array_equal(kept(0.3).labels, np.eye(4)[:3])
    np.testing.assert_array_equal(
        kept(0.0).labels, np.eye(4)[:3]
    )  # what is not seen at all never counts
    assert kept(1.0).boxes.shape == (1, 4)
    nothing = boxes.training_boxes(
        np.random.default_rng(0), found, Window(0, 190, 10, 10), SIZE, True, BoxOptions()
    )
    assert nothing.boxes.shape == (0, 4) and nothing.labels.shape == (0, 4)


def test_jitter_moves_sides_in_proportion_and_never_out_or_over():
    box = np.array([[0.4, 0.3, 0.6, 0.7]])
    moved = boxes.jittered(np.random.default_rng(0), np.repeat(box, 20000, 0), 0.1) - box
    np.testing.assert_allclose(moved.std(0), [0.02, 0.04, 0.02, 0.04], rtol=0.03)
    np.testing.assert_allclose(moved.mean(0), 0, atol=0.001)
    for amount in (0.3, 3.0):
        wild = boxes.jittered(np.random.default_rng(1), random_boxes(5000) * 1.4 - 0.2, amount)
        assert (wild >= 0).all() and (wild <= 1).all()
        assert (wild[:, :2] <= wild[:, 2:]).all()
        seen = boxes.visible(random_boxes(5000) * 1.4 - 0.2) > 0
        assert (boxes.area(wild[seen]) > 0).all()


def test_jitter_comes_from_the_clips_generator():
    found = regions(random_boxes(6))
    options = BoxOptions(jitter=0.1, min_visible=0)

    def clip(seed, options=options):
        return boxes.training_boxes(
            np.random.default_rng(seed), found, Window(0, 0, 100, 200), SIZE, False, options
        )

    np.testing.assert_array_equal(clip(0).boxes, clip(0).boxes)
    assert (clip(0).boxes != clip(1).boxes).any()
    np.testing.assert_allclose(clip(0, BoxOptions()).boxes, found.boxes, atol=1e-6)


def test_proposals_that_overlap_enough_train_with_the_labels_of_the_best():
    annotated, detected = random_boxes(7, 3), random_boxes(200, 4)
    detected = np.concatenate([detected, annotated + 0.01])
    found = regions(annotated, proposals=detected, scores=np.ones(len(detected)))
    got = boxes.with_proposals(found, 0.5)
    expected_boxes, expected_labels = list(found.boxes), list(range(7))
    for proposal in found.proposals.astype(float):
        overlaps = [plain_overlap(proposal, box) for box in found.boxes.astype(float)]
        if max(overlaps) >= 0.5:
            expected_boxes.append(proposal)
            expected_labels.append(int(np.argmax(overlaps)))
    assert len(expected_boxes) >= 14
    np.testing.assert_allclose(got.boxes, expected_boxes, atol=1e-7)
    np.testing.assert_array_equal(got.labels.argmax(1), expected_labels)
    nobody = regions([], proposals=detected, scores=np.ones(len(detected)))
    assert boxes.with_proposals(nobody, 0.5).boxes.shape == (0, 4)

    def trained(on_proposals):
        options = BoxOptions(max_boxes=500, train_on_proposals=on_proposals, proposal_iou=0.5)
        whole = Window(0, 0, 100, 200)
        return boxes.training_boxes(
            np.random.default_rng(0), found, whole, SIZE, False, options
        ).boxes

    assert len(trained(False)) == 7
    np.testing.assert_allclose(trained(True), np.clip(got.boxes, 0, 1), atol=1e-6)


def test_of_too_many_boxes_training_takes_a_random_subset():
    found = regions(random_boxes(10))
    taken = [
        boxes.training_boxes(
            np.random.default_rng(seed),
            found,
            Window(0, 0, 100, 200),
            SIZE,
            False,
            BoxOptions(max_boxes=3),
        )
        for seed in range(300)
    ]
    for clip in taken:
        numbers = clip.labels.argmax(1)
        assert len(set(numbers)) == 3
        np.testing.assert_allclose(clip.boxes, found.boxes[numbers], atol=1e-6)
    shares = (
        np.bincount(np.concatenate([clip.labels.argmax(1) for clip in taken]), minlength=10) / 300
    )
    assert (abs(shares - 0.3) < 0.12).all()


def test_candidates_are_the_best_proposals_or_the_annotation():
    found = regions(
        random_boxes(3), proposals=random_boxes(6, 5), scores=[0.5, 0.9, 0.8, 0.95, 0.2, 0.85]
    )
    got = boxes.candidates(found, BoxOptions(min_candidate_score=0.8))
    np.testing.assert_array_equal(got.boxes, found.proposals[[3, 1, 5, 2]])
    np.testing.assert_allclose(got.scores, [0.95, 0.9, 0.85, 0.8])
    assert got.dropped == 0
    fewer = boxes.candidates(found, BoxOptions(min_candidate_score=0.8, max_boxes=3))
    np.testing.assert_array_equal(fewer.boxes, got.boxes[:3])
    assert fewer.dropped == 1
    truth = boxes.candidates(found, BoxOptions(candidates='ground_truth'))
    np.testing.assert_array_equal(truth.boxes, found.boxes)
    np.testing.assert_array_equal(truth.scores, 1)
    # Where the annotation says nothing, nothing is tested: it could be neither right nor wrong.
    unlisted = dataclasses.replace(found, listed=False)
    for kind in ('proposals', 'ground_truth'):
        assert not len(boxes.candidates(unlisted, BoxOptions(candidates=kind)).boxes)


def test_candidates_count_in_views_that_show_half_of_them():
    """A picture of 100 x 200, seen through its left and its right 100 columns,
    and a mirrored middle.
    """
    views = [
        (Window(0, 0, 100, 100), SIZE, False),
        (Window(0, 100, 100, 100), SIZE, False),
        (Window(0, 50, 100, 100), SIZE, True),
    ]
    given = np.array(
        [(0.1, 0.2, 0.3, 0.4), (0.45, 0, 0.55, 1), (0.6, 0, 0.9, 1), (0.0, 0.1, 0.99, 0.2)],
        np.float32,
    )
    moved, mask = boxes.in_views(given, views)
    # The last one is half visible in the left and the middle view only (0.5 / 0.99, 0.49 / 0.99).
    np.testing.assert_array_equal(mask.T, [(1, 0, 0), (1, 1, 1), (0, 1, 1), (1, 0, 1)])
    np.testing.assert_allclose(moved[0, 0], (0.2, 0.2, 0.6, 0.4), atol=1e-6)
    np.testing.assert_allclose(moved[:2, 1], [(0.9, 0, 1, 1), (0, 0, 0.1, 1)], atol=1e-6)
    np.testing.assert_allclose(moved[2, 1], (0.4, 0, 0.6, 1), atol=1e-6)
    np.testing.assert_array_equal(moved[~mask], 0)
    # Seen a little by the first view only, and not at all.
    narrow = [(Window(0, 0, 100, 20), SIZE, False), (Window(0, 10, 100, 20), SIZE, False)]
    _, mask = boxes.in_views(np.array([(0.1, 0, 0.9, 1), (0.5, 0, 0.9, 1)]), narrow)
    np.testing.assert_array_equal(mask.T, [(0, 1), (0, 0)])


def test_views_of_nothing():
    found = regions([])
    views = boxes.boxes_in_views(found, [(Window(0, 0, 10, 10), SIZE, False)], BoxOptions())
    assert views.boxes.shape == (1, 0, 4) and views.mask.shape == (1, 0)
    assert views.candidates.dropped == 0 and views.truth.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(max_boxes=0),
        dict(jitter=-1),
        dict(min_visible=2),
        dict(proposal_iou=0),
        dict(candidates='all'),
    ],
)
def test_options_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BoxOptions(**wrong)
