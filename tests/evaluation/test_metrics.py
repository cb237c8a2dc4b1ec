"""Figures class by class against counting by hand."""

import math

import numpy as np
import pytest

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.evaluation.metrics import (
    ClassResult,
    DatasetResult,
    Scores,
    accuracy_table,
    average_precision,
    confusion_matrix,
    per_class,
    summarise,
    top_k_hits,
)

SPEC = DatasetSpec('animals', ('cat', 'dog', 'owl', 'fox'))


def test_classes_and_confusions_by_hand():
    score = np.array(
        [
            [0.6, 0.2, 0.1, 0.1],  # a cat
            [0.1, 0.6, 0.2, 0.1],  # a cat, taken for a dog
            [0.3, 0.3, 0.2, 0.2],  # a cat; its tie with dog counts as a mistake
            [0.1, 0.2, 0.6, 0.1],  # a dog, taken for an owl
            [0.0, 0.1, 0.2, 0.7],  # a fox
            [np.nan] * 4,  # a fox without a score: no hit
        ],
        np.float32,
    )
    scores = Scores(np.arange(6), score, np.array([0, 0, 0, 1, 3, 3]))
    matrix = confusion_matrix(scores, SPEC)
    assert matrix.sum() == 6 and matrix.trace() == 2
    np.testing.assert_array_equal(matrix[:2], [[1, 2, 0, 0], [0, 0, 1, 0]])
    assert matrix[3, 3] == 1 and matrix[3].sum() == 2
    cat, dog, owl, fox = per_class(scores, SPEC)
    assert cat == ClassResult('cat', 3, 1 / 3, 1.0, taken_for='dog')
    assert dog == ClassResult('dog', 1, 0.0, 1.0, taken_for='owl')
    assert owl == ClassResult('owl', 0)
    assert (fox.videos, fox.top1, fox.top5) == (2, 0.5, 0.5)
    assert summarise(scores, SPEC).top1 == matrix.trace() / 6


def test_multi_label_classes_have_average_precisions():
    spec = DatasetSpec('animals', SPEC.classes[:3], multi_label=True)
    score = np.array([[0.9, 0.5, 0.1], [0.8, 0.6, 0.2], [0.7, 0.1, 0.3]], np.float32)
    label = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    cat, dog, owl = per_class(Scores(np.arange(3), score, label), spec)
    assert (cat.videos, cat.top1) == (2, None)
    np.testing.assert_allclose(cat.average_precision, (1 + 2 / 3) / 2)  # at ranks 1 and 3
    np.testing.assert_allclose(dog.average_precision, (1 + 2 / 3) / 2)
    assert owl == ClassResult('owl', 0)  # no video carries it


def test_table_averages_over_datasets():
    text = accuracy_table({'a': DatasetResult(10, 0.5, 0.75), 'b': DatasetResult(30, 0.25, 1.0)})
    assert [line.split() for line in text.splitlines()[2:] if not line.startswith('-')] == [
        ['a', '10', '50.0', '75.0'],
        ['b', '30', '25.0', '100.0'],
        ['average', '40', '37.5', '87.5'],
    ]
    mixed = accuracy_table(
        {'a': DatasetResult(10, 0.5, 0.75), 'm': DatasetResult(5, mean_average_precision=0.2)}
    )
    assert mixed.splitlines()[-1].split() == ['average', '15', '50.0', '75.0', '20.0']


def test_top_k_hits_counts_ties_against_the_clip():
    scores = np.array([[3.0, 3.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    labels = np.array([0, 0, 0, 2])
    assert top_k_hits(scores, labels, 1).tolist() == [False, True, False, False]
    assert top_k_hits(scores, labels, 2).tolist() == [True, True, False, False]
    assert top_k_hits(scores, labels, 3).tolist() == [True] * 4


def test_average_precision_of_tied_scores_does_not_depend_on_the_order():
    """All scores equal say nothing: precision at every positive is the share of positives."""
    positives = np.array([True, False, False, True])
    for order in (positives, positives[::-1]):
        assert average_precision(np.zeros(4), order) == 0.5
    assert np.isnan(average_precision(np.zeros(2), np.zeros(2, bool)))


def test_the_loss_of_several_labels_is_binary_and_a_mean_over_classes():
    rng = np.random.default_rng(0)
    score = rng.uniform(0.05, 0.95, (4, 3)).astype(np.float32)
    label = rng.integers(0, 2, (4, 3)).astype(np.float32)
    spec = DatasetSpec('m', ('a', 'b', 'c'), multi_label=True)
    expected = np.mean(
        [-math.log(p if y else 1 - p) for p, y in zip(score.ravel().tolist(), label.ravel())]
    )
    assert summarise(Scores(np.arange(4), score, label), spec).loss == pytest.approx(expected)
