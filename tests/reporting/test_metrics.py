"""Figures of merit against plain loops, and metrics over steps."""

import concurrent.futures
import importlib.util
import logging

import numpy as np
import pytest

from multitrain_jax.reporting import metrics


def test_merge_is_the_weighted_mean_and_leaves_out_what_never_occurred():
    steps = [
        {'loss': (2.0, 1.0), 'top1/a': (3.0, 4.0), 'top1/b': (0.0, 0.0)},
        {'loss': (4.0, 1.0), 'top1/a': (0.0, 2.0), 'top1/b': (0.0, 0.0)},
    ]
    assert metrics.merge(steps) == {'loss': 3.0, 'top1/a': 0.5}


def test_top_k_hits_counts_ties_against_the_clip():
    scores = np.array([[3.0, 3.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    labels = np.array([0, 0, 0, 2])
    assert metrics.top_k_hits(scores, labels, 1).tolist() == [False, True, False, False]
    assert metrics.top_k_hits(scores, labels, 2).tolist() == [True, True, False, False]
    assert metrics.top_k_hits(scores, labels, 3).tolist() == [True] * 4


def test_average_precision_of_tied_scores_does_not_depend_on_the_order():
    """All scores equal say nothing: precision at every positive is the share of positives."""
    positives = np.array([True, False, False, True])
    for order in (positives, positives[::-1]):
        assert metrics.average_precision(np.zeros(4), order) == 0.5
    assert np.isnan(metrics.average_precision(np.zeros(2), np.zeros(2, bool)))


def test_without_tensorflow_metrics_go_to_the_log(monkeypatch, caplog):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'tensorflow' else find(name)
    )
    with caplog.at_level(logging.INFO, 'multitrain_jax'):
        writer = metrics.open_writer('/nowhere', is_main_host=True)
        writer.write_scalars(7, {'loss': 0.5})
        writer.close()
    assert 'tensorflow not installed' in caplog.text and '[7] loss=0.5' in caplog.text


def test_a_writer_that_is_being_opened_is_waited_for_at_its_first_use():
    written = []

    class Writer:
        def write_scalars(self, step, scalars):
            written.append((step, scalars))

    opening = concurrent.futures.Future()
    writer = metrics.OpeningWriter(opening)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: writer.write_scalars(7, {'loss': 0.5}))
        assert not written and not writing.done()
        opening.set_result(Writer())
        writing.result()
    assert written == [(7, {'loss': 0.5})]
    failed = concurrent.futures.Future()
    failed.set_exception(OSError('disk full'))
    with pytest.raises(OSError, match='disk full'):
        metrics.OpeningWriter(failed).flush()
