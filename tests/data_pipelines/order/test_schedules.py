"""Schedules against going through the steps one by one."""

import collections
import itertools

import numpy as np
import pytest

from data_pipelines.order import schedules
from data_pipelines.order.schedules import BLOCK, ScheduledOrder

SIZES = (7, 30, 12)
BATCHES = (4, 8, 6)
WEIGHTS = (0.5, 0.125, 0.375)

ALL = {
    'alternating': schedules.alternating(BATCHES),
    'accumulated': schedules.accumulated(BATCHES),
    'weighted by batch': schedules.weighted_by_batch(WEIGHTS, BATCHES, seed=3),
    'weighted by example': schedules.weighted_by_example(WEIGHTS, 8, seed=3),
    'weighted by example, repeated': schedules.weighted_by_example(WEIGHTS, 8, seed=3, repeats=2),
    'task by task': schedules.task_by_task((5, 3, 4), BATCHES),
}


@pytest.mark.parametrize('name', ALL)
def test_every_step_knows_what_came_before_it(name):
    schedule, given = ALL[name], np.zeros(3, np.int64)
    for step in range(300):
        turn = schedule(step)
        np.testing.assert_array_equal(turn.before, given)
        np.testing.assert_array_equal(np.bincount(turn.datasets, minlength=3), turn.counts)
        given += turn.counts


@pytest.mark.parametrize('name', ALL)
def test_each_dataset_is_visited_once_per_epoch_of_its_own(name):
    repeats = 2 if 'repeated' in name else 1
    order = ScheduledOrder(SIZES, ALL[name], repeats=repeats, seed=1)
    visits = collections.defaultdict(list)
    for step in range(40):
        for sample in order.batch(step):
            visits[sample.dataset].append((sample.epoch, sample.record, sample.repeat))
    for dataset, seen in visits.items():
        assert len(set(seen)) == len(seen)
        epochs = collections.Counter(epoch for epoch, _, _ in seen)
        for epoch in range(max(epochs)):  # all but the last are complete
            assert epochs[epoch] == SIZES[dataset] * repeats
    assert set(visits) == {0, 1, 2} or name == 'task by task'


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('hosts', [2])
def test_hosts_share_each_batch(name, hosts):
    order = ScheduledOrder(SIZES, ALL[name], seed=1)
    for step in range(6):
        shares = [order.batch(step, host, hosts) for host in range(hosts)]
        assert list(itertools.chain(*shares)) == order.batch(step)
        assert len({len(share) for share in shares}) == 1


def test_alternating_takes_turns_and_accumulated_takes_all():
    order = ScheduledOrder(SIZES, ALL['alternating'])
    assert [{sample.dataset for sample in order.batch(step)} for step in range(4)] == [
        {0},
        {1},
        {2},
        {0},
    ]
    assert [len(order.batch(step)) for step in range(4)] == [4, 8, 6, 4]
    order = ScheduledOrder(SIZES, ALL['accumulated'])
    assert collections.Counter(sample.dataset for sample in order.batch(5)) == {0: 4, 1: 8, 2: 6}


def test_task_by_task_is_one_after_the_other():
    order = ScheduledOrder(SIZES, ALL['task by task'])
    tasks = [order.batch(step)[0].dataset for step in range(20)]
    assert tasks == [0] * 5 + [1] * 3 + [2] * 12


@pytest.mark.parametrize('name', ['weighted by batch', 'weighted by example'])
def test_shares_are_the_weights_in_every_block_and_order_is_random(name):
    schedule = ALL[name]
    per_step = 1 if 'batch' in name else 8
    drawn = np.concatenate(
        [schedule(step).datasets[:per_step] for step in range(2 * BLOCK // per_step)]
    )
    for block in (drawn[:BLOCK], drawn[BLOCK:]):
        np.testing.assert_array_equal(np.bincount(block), BLOCK * np.array(WEIGHTS))
    assert not np.array_equal(drawn[:BLOCK], drawn[BLOCK:])
    # Neighbours are independent but for the balancing: P(same) is the sum of the squared weights.
    same = (drawn[1:] == drawn[:-1]).mean()
    assert abs(same - np.square(WEIGHTS).sum()) < 0.05
    other = schedules.weighted_by_batch(WEIGHTS, BATCHES, seed=4)
    assert any(
        other(step).datasets[0] != ALL['weighted by batch'](step).datasets[0] for step in range(50)
    )


def test_uneven_weights_round_to_a_thousandth():
    schedule = schedules.weighted_by_batch((1, 1, 1), BATCHES, seed=0)
    counts = np.bincount([schedule(step).datasets[0] for step in range(BLOCK)])
    assert sorted(counts) == [333, 333, 334]


def test_proportions():
    np.testing.assert_allclose(schedules.proportions((100, 400), 1.0), [0.2, 0.8])
    np.testing.assert_allclose(schedules.proportions((100, 400), 0.5), [1 / 3, 2 / 3])
    np.testing.assert_allclose(schedules.proportions((100, 400), 0.0), [0.5, 0.5])


def test_a_stand_in_is_of_the_same_dataset():
    order = ScheduledOrder(SIZES, ALL['alternating'], seed=5)
    sample = order.batch(4)[2]
    stand_ins = [
        order.sample(sample.dataset, sample.position, skipped) for skipped in range(SIZES[1])
    ]
    assert stand_ins[0] == sample
    assert {stand_in.dataset for stand_in in stand_ins} == {1}
    assert {stand_in.record for stand_in in stand_ins} == set(range(SIZES[1]))


def test_datasets_of_one_size_have_different_orders():
    order = ScheduledOrder((50, 50), schedules.accumulated((50, 50)), seed=0)
    first, second = ([s.record for s in order.batch(0) if s.dataset == d] for d in (0, 1))
    assert first != second and sorted(first) == sorted(second)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match='number 1 is less than a 1000th'):
        schedules.weighted_by_batch((1.0, 1e-5), (4, 4), seed=0)
    with pytest.raises(ValueError, match='not negative'):
        schedules.weighted_by_example((1.0, -1.0), 4, seed=0)
    with pytest.raises(ValueError, match='batch_sizes'):
        schedules.alternating((4, 0))
    with pytest.raises(ValueError, match='one number for each of 2'):
        schedules.task_by_task((5,), (4, 4))
    with pytest.raises(ValueError, match='multiples of repeats=3'):
        ScheduledOrder(SIZES, ALL['alternating'], repeats=3).batch(0)
    with pytest.raises(ValueError, match='num_hosts=4'):
        ScheduledOrder(SIZES, ALL['alternating']).batch(2, 0, 4)
