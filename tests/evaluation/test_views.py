"""Evaluation: every video once, whatever divides by what; averages as NumPy computes them."""

import dataclasses
import functools
import logging
import threading

from flax import nnx
import jax
from jax.experimental import multihost_utils
import numpy as np
import pytest

from multitrain_jax.evaluation import views
from multitrain_jax.evaluation.metrics import Scores, summarise
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import data_mesh, replicate
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401


@functools.cache
def scored(devices: int, multi_label: bool, records: int, per_video: int):
    """Scores of the second dataset, and what they are computed from."""
    config = tiny.config(objective__lambda_inf=0.0)
    flags = {'shades': multi_label, 'colours': multi_label}
    source = tiny.ArraySource(
        config, multi_label=flags, evaluation_records=records, views=per_video
    )
    driver = Pmap(data_mesh(jax.devices()[:devices]))
    model = tiny.model(config, source.datasets, 3)
    graphdef, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    step = views.make_eval_step(graphdef, source.datasets, config.augment, driver)
    scores = views.score_dataset(step, replicate(params, driver.mesh), source, 1, driver)
    return config, source, model, scores


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize('multi_label', [False, True])
@pytest.mark.parametrize('devices', [1, 8])
def test_views_are_averaged_per_video(devices, multi_label):
    """7 videos of 3 views in batches of 8: neither divides, the last batch is padded."""
    config, source, model, scores = scored(devices, multi_label, 7, 3)
    clips = np.stack([source.clip(3, 1, record, view) for record in range(7) for view in range(3)])
    normalised = (clips / np.float32(255) - np.array(config.augment.mean)) / np.array(
        config.augment.std
    )
    logits = np.asarray(jax.jit(lambda x: model(x).logits)(normalised.astype(np.float32)))[1]
    logits = logits[:, :5].astype(np.float64)
    each = 1 / (1 + np.exp(-logits)) if multi_label else softmax(logits)
    expected = each.reshape(7, 3, 5).mean(axis=1)
    np.testing.assert_array_equal(scores.record, np.arange(7))
    np.testing.assert_allclose(scores.score, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 1e-3  # videos do differ
    if multi_label:
        expected = [source.multi_hot(1, record, 5) for record in range(7)]
        np.testing.assert_array_equal(scores.label, expected)
    else:
        np.testing.assert_array_equal(scores.label, np.arange(7) % 5)


def test_a_missing_view_is_noticed():
    config, source, _, _ = scored(1, False, 7, 3)
    source = tiny.ArraySource(config, evaluation_records=7, views=3)
    true_batches = source.evaluation_batches

    def with_a_hole(dataset):
        for batch in true_batches(dataset):
            weight = batch['weight'].copy()
            weight[batch['record'] == 4] *= batch['view'][batch['record'] == 4] != 1
            yield batch | {'weight': weight}

    source.evaluation_batches = with_a_hole
    driver = Pmap(data_mesh(jax.devices()[:1]))
    constant = lambda params, share: jax.numpy.zeros((1, *share['dataset'].shape[1:], 5))
    with pytest.raises(RuntimeError, match='record 4 has 2 views instead of 3'):
        views.score_dataset(constant, None, source, 1, driver)


def test_the_time_left_does_not_count_compilation(monkeypatch, caplog):
    """100 s for the first batch, 1 s for each of the others."""
    clock = [0.0]
    monkeypatch.setattr(views.time, 'monotonic', lambda: clock[0])
    monkeypatch.setattr(views, '_SECONDS_BETWEEN_REPORTS', 0.5)
    calls = []

    def step(params, batch):
        clock[0] += 1.0 if calls else 100.0
        calls.append(None)
        return jax.numpy.zeros((1, *batch['dataset'].shape[1:], 5))

    source = tiny.ArraySource(tiny.config(), evaluation_records=20, views=4)  # 10 batches of 8
    driver = Pmap(data_mesh(jax.devices()[:1]))
    with caplog.at_level(logging.INFO, 'multitrain_jax'):
        views.score_dataset(step, None, source, 1, driver)
    left = [message.rpartition(', ')[2] for message in caplog.messages if ' views/s' in message]
    assert left == [f'{10 - batch}s left' for batch in range(2, 11)]


def spec(**changes):
    plain = tiny.ArraySource(tiny.config()).datasets[1]
    return dataclasses.replace(plain, **changes)


def test_top_k_of_ties_and_order():
    score = np.array(
        [
            [0.2, 0.2, 0.2, 0.2, 0.2],  # all equal: no hit, at no k
            [0.5, 0.5, 0.0, 0.0, 0.0],  # a tie for the first place: not top-1, but top-5
            [0.1, 0.2, 0.3, 0.25, 0.15],  # label 0 is the last of 5
            [0.1, 0.2, 0.4, 0.2, 0.1],
        ],
        np.float32,
    )
    result = summarise(Scores(np.arange(4), score, np.array([0, 1, 0, 2])), spec())
    assert (result.videos, result.top1, result.top5) == (4, 0.25, 1.0)
    assert result.mean_average_precision is None and result.primary == 0.25


def test_scores_that_are_not_numbers_are_no_hit():
    score = np.full((2, 5), np.nan, np.float32)
    result = summarise(Scores(np.arange(2), score, np.array([0, 1])), spec())
    assert (result.top1, result.top5) == (0.0, 0.0)


def test_mean_average_precision_is_the_mean_over_classes_that_occur():
    rng = np.random.default_rng(0)
    score = rng.random((30, 5)).astype(np.float32)
    label = (rng.random((30, 5)) < 0.3).astype(np.float32)
    label[:, 3] = 0  # never occurs
    expected = []
    for c in (0, 1, 2, 4):
        ranks = [1 + (score[:, c] > score[i, c]).sum() for i in range(30) if label[i, c]]
        above = [sum(r <= rank for r in ranks) for rank in ranks]
        expected.append(np.mean([n / rank for n, rank in zip(above, ranks)]))
    result = summarise(Scores(np.arange(30), score, label), spec(multi_label=True))
    np.testing.assert_allclose(result.mean_average_precision, np.mean(expected), rtol=1e-12)
    assert result.top1 is None and result.primary == result.mean_average_precision


def test_hosts_gather_everyones_videos(monkeypatch):
    """Two hosts as two threads: 3 videos here, 1 there; names of different lengths and letters."""
    barrier, given = threading.Barrier(2, timeout=60), {}

    def allgather(array):
        host = int(threading.current_thread().name)
        given[host] = np.asarray(array)
        barrier.wait()
        both = np.stack([given[0], given[1]])
        barrier.wait()
        return both

    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(multihost_utils, 'process_allgather', allgather)
    score = np.random.default_rng(0).random((4, 5)).astype(np.float32)
    names = ('a.mp4', 'ordner/ä.mp4', 'c', 'a long name.mp4')
    shares = [
        Scores(np.array(rows), score[rows], np.array(rows) % 5, tuple(names[row] for row in rows))
        for rows in ([0, 2, 1], [3])
    ]
    found = {}

    def gather(host):
        found[host] = views._gather_hosts(shares[host])

    threads = [threading.Thread(target=gather, args=(host,), name=str(host)) for host in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for host in (0, 1):
        order = [0, 2, 1, 3]
        np.testing.assert_array_equal(found[host].record, order)
        np.testing.assert_array_equal(found[host].score, score[order])
        np.testing.assert_array_equal(found[host].label, order)
        assert found[host].name == tuple(names[row] for row in order)
