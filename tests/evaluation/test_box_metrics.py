"""AVA's average precision against golden results of the official evaluators,
and against plain loops.
"""

import csv
import json
import re

import numpy as np
import pytest

from data_pipelines.clip.boxes import iou
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.evaluation.box_metrics import (
    OFFICIAL,
    PYSLOWFAST,
    BoxScores,
    Protocol,
    Rows,
    average_precisions,
    frequency_thirds,
    summarise_boxes,
    surest,
)
from tests.helpers.average_precision import average_precision_by_loops
from tests.helpers.golden import reference_path

VARIANTS = {
    'activitynet': (OFFICIAL, False),
    'activitynet_after_exclusion': (OFFICIAL, True),
    'activitynet_uncapped': (Protocol(max_rows=None), False),
    'activitynet_uncapped_after_exclusion': (Protocol(max_rows=None), True),
    'pyslowfast': (PYSLOWFAST, True),
    'pyslowfast_no_exclusion': (PYSLOWFAST, False),
}


def _golden_rows(name, numbers, excluded):
    with open(reference_path(f'ava_eval_{name}.csv'), newline='') as file:
        lines = [line for line in csv.reader(file) if tuple(line[:2]) not in excluded]
    values = np.array([line[2:] for line in lines], float)
    return Rows(
        np.array([numbers.setdefault(tuple(line[:2]), len(numbers)) for line in lines]),
        values[:, 4].astype(int),
        values[:, :4],
        values[:, 5] if name == 'detections' else None,
    )


@pytest.mark.parametrize('classes', [60, 80])
@pytest.mark.parametrize('variant', VARIANTS)
def test_equal_to_the_official_evaluators(variant, classes):
    protocol, exclude = VARIANTS[variant]
    expected = json.loads(reference_path('ava_eval_expected.json').read_text())['variants'][
        f'{variant}_{classes}'
    ]
    label_map = reference_path(f'ava_eval_labelmap_{classes}.pbtxt').read_text()
    actions = np.array(re.findall(r'\b(?:label_)?id: (\d+)', label_map), int)
    excluded = set()
    if exclude:
        with open(reference_path('ava_eval_excluded.csv'), newline='') as file:
            excluded = {tuple(line) for line in csv.reader(file)}
    numbers = {}
    truth, detections = (
        _golden_rows(name, numbers, excluded) for name in ('groundtruth', 'detections')
    )
    precision = average_precisions(truth, detections, actions, protocol=protocol)
    per_class = [expected['AP@0.5'][str(action)] for action in actions]
    np.testing.assert_allclose(precision, np.array(per_class, float), atol=1e-9)  # None becomes NaN
    assert np.nanmean(precision) == pytest.approx(expected['mAP@0.5'], abs=1e-9)


def _random_rows(rng, count, scores):
    corner = rng.uniform(0, 0.2, (count, 2))
    return Rows(
        rng.integers(0, 6, count),
        rng.integers(1, 5, count),
        np.concatenate([corner, corner + rng.uniform(-0.02, 0.5, (count, 2))], 1),
        rng.permutation(count) / count if scores else None,
    )


@pytest.mark.parametrize('protocol', [OFFICIAL, PYSLOWFAST, Protocol(max_rows=20)])
def test_equal_to_the_definition(protocol):
    rng = np.random.default_rng(0)
    truth, detections = _random_rows(rng, 40, False), _random_rows(rng, 300, True)
    truth = truth.take(truth.key_frame != 2)  # a key frame without annotation
    actions = np.array([1, 2, 4, 9])
    expected = [
        average_precision_by_loops(truth, detections, action, protocol, actions)
        for action in actions
    ]
    assert np.isnan(expected[-1]) and max(expected[:3]) > 0.02
    np.testing.assert_allclose(
        average_precisions(truth, detections, actions, protocol=protocol), expected, atol=1e-12
    )
    # The same key frame, listed without a box: detections there are wrong.
    with_empty = [
        average_precision_by_loops(truth, detections, action, protocol, actions, empty=[2])
        for action in actions
    ]
    assert (with_empty[:3] != expected[:3]) == protocol.ignore_unannotated
    listed = np.array([2])
    np.testing.assert_allclose(
        average_precisions(truth, detections, actions, protocol=protocol, listed=listed),
        with_empty,
        atol=1e-12,
    )


def test_of_a_run_all_key_frames_are_annotated():
    """Two key frames, one of them without anybody; the detection there has the higher score."""
    box = np.array([[0.1, 0.1, 0.5, 0.5]] * 2, np.float32)
    truth = Rows(np.array([0]), np.array([0]), box[:1])
    score, numbers = np.array([[0.5], [0.9]], np.float32), np.array([0, 1])
    scores = BoxScores(('v,0902', 'v,0903'), numbers, box, score, 0, truth, numbers)
    spec = DatasetSpec('own', ('wave',), localisation=True)
    assert summarise_boxes(scores, spec).mean_average_precision == 0.5


def test_what_a_model_is_surest_of():
    """Of four key frames one each; on the first, the second box; wrong where it is elsewhere, or
    shows another action."""
    here, there = [0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 0.9, 0.9]
    box = np.array([here, there, here, there, here], np.float32)
    score = np.array([[0.1, 0.6], [0.9, 0.2], [0.3, 0.7], [0.8, 0.1], [0.2, 0.5]], np.float32)
    truth = Rows(
        np.array([0, 1, 2, 3]), np.array([0, 1, 0, 0]), np.array([there, here, here, here])
    )
    frame, records = np.array([0, 0, 1, 2, 3]), np.array([5, 6, 7, 8])
    scores = BoxScores(('a', 'b', 'c', 'd'), frame, box, score, 0, truth, records)
    rows, right = surest(scores, 8)
    # The first frame's other box is wrong, too.
    assert rows.key_frame.tolist() == [2, 0, 3, 0, 1] and right.tolist() == [False] * 3 + [True] * 2
    assert rows.action.tolist() == [0, 1, 1, 0, 1]
    np.testing.assert_allclose(rows.score, [0.8, 0.6, 0.5, 0.9, 0.7])
    rows, right = surest(scores, 1)
    assert rows.key_frame.tolist() == [2, 0] and right.tolist() == [False, True]


def test_nothing_detected_and_scores_that_are_not_numbers():
    truth = _random_rows(np.random.default_rng(0), 10, False)
    nothing = _random_rows(np.random.default_rng(0), 10, True).take(np.zeros(10, bool))
    assert set(average_precisions(truth, nothing, np.unique(truth.action))) == {0.0}
    wrong = _random_rows(np.random.default_rng(0), 10, True)
    wrong.score[3] = np.nan
    with pytest.raises(ValueError, match='detection 3'):
        average_precisions(truth, wrong, np.array([1]))


def test_iou_by_hand():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1]], float)
    others = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [2, 2, 3, 3]], float)
    np.testing.assert_allclose(iou(boxes, others), [1 / 7, 1, 0])


def test_thirds_by_frequency():
    frequent, middle, rare = frequency_thirds(np.array([5, 100, 0, 7, 50, 6, 1]))
    assert (frequent.tolist(), middle.tolist(), rare.tolist()) == ([1, 3, 4], [0, 5], [2, 6])
