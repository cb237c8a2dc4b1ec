"""Records drawn by class: as often as the formula says, in every epoch and over all, resumable."""

import collections
import dataclasses

import numpy as np
import pytest

from data_pipelines.options import OrderOptions, ScheduleOptions, Source
from data_pipelines.order import epochs
from data_pipelines.order.balance import BalancedRecords
from data_pipelines.order.schedules import make_order
from data_pipelines.storage.label_index import collect

LONG_TAIL = [0] * 1 + [1] * 3 + [2] * 40 + [3] * 400 + [4] * 156  # 600 records


def expected(labels, power):
    """f64[R]: how often each record is drawn in an epoch, by the definition."""
    frequency = collections.Counter(label for own in labels for label in own)
    bare = sum(not own for own in labels)
    weight = np.array(
        [
            np.mean([frequency[label] ** (power - 1) for label in own])
            if own
            else bare ** (power - 1)
            for own in labels
        ]
    )
    return len(labels) * weight / weight.sum()


def balanced(labels, power, **changes):
    return BalancedRecords(collect(labels), power, **{'seed': 3, 'dataset': 1, **changes})


@pytest.mark.parametrize('power', [0.0, 0.3, 0.5, 1.0])
def test_every_epoch_has_its_share_of_every_class(power):
    labels = [[label] for label in LONG_TAIL]
    found = balanced(labels, power)
    frequency = np.bincount(LONG_TAIL)
    share = 600 * frequency**power / (frequency**power).sum()
    for epoch in (0, 1, 2, 17, 10**9):
        records, visits = found.epoch(epoch)
        drawn = np.bincount(np.array(LONG_TAIL)[records], minlength=5)
        assert np.abs(drawn - share).max() <= 1.01 and len(records) == 600
        times = np.bincount(records, minlength=600)
        assert np.abs(times - expected(labels, power)).max() < 1.01
        assert sorted(zip(records, visits)) == [
            (record, visit) for record in range(600) for visit in range(times[record])
        ]
        assert visits.max() < found.most_visits
    if power == 1:
        assert sorted(records) == list(range(600))


def test_frequent_records_do_not_wait_long():
    labels = [[label] for label in LONG_TAIL]
    found = balanced(labels, 0.0)
    share = expected(labels, 0.0)  # 0.3 for the most frequent class
    total = np.zeros(600)
    for epoch in range(60):
        total += np.bincount(found.epoch(epoch)[0], minlength=600)
        assert np.abs(total - share * (epoch + 1)).max() < 2.5, epoch
    assert total.min() >= 17  # 18 expected


def test_several_labels_and_none():
    rng = np.random.default_rng(0)
    labels = [
        rng.choice(
            6, rng.integers(0, 4), replace=False, p=[0.5, 0.2, 0.15, 0.1, 0.03, 0.02]
        ).tolist()
        for _ in range(300)
    ]
    assert [] in labels
    for power in (0.0, 0.5):
        times = sum(
            np.bincount(balanced(labels, power).epoch(e)[0], minlength=300) for e in range(40)
        )
        np.testing.assert_allclose(times, 40 * expected(labels, power), atol=2.5)


def sources(*balances):
    return [Source('x', name=f'd{n}', split='train', balance=b) for n, b in enumerate(balances)]


SIZES = [600, 50, 7]
SCHEDULES = [
    ScheduleOptions(),
    ScheduleOptions('accumulated'),
    ScheduleOptions('alternating'),
    ScheduleOptions('weighted', size_power=0.5),
    ScheduleOptions('task_by_task'),
]


def orders(schedule, records):
    options = OrderOptions(seed=5, epochs=3.0, batch_size=24, schedule=schedule)
    return make_order(sources(0.0, None, None), SIZES, options, repeats=2, records=records)


@pytest.mark.parametrize('schedule', SCHEDULES, ids=lambda schedule: schedule.kind)
def test_in_every_schedule_and_from_any_step(schedule):
    records = [balanced([[label] for label in LONG_TAIL], 0.0), None, None]
    order, plain = orders(schedule, records), orders(schedule, ())
    steps = range(130)
    batches = [order.batch(step) for step in steps]
    for step in (0, 7, 120):  # another object, started there; and two hosts
        again = orders(schedule, [balanced([[label] for label in LONG_TAIL], 0.0), None, None])
        assert again.batch(step) == batches[step]
        halves = [again.batch(step, host, 2) for host in (0, 1)]
        assert halves[0] + halves[1] == batches[step]
    drawn = collections.Counter()
    for step in steps:
        for ours, theirs in zip(batches[step], plain.batch(step), strict=True):
            assert (ours.dataset, ours.position, ours.epoch) == (
                theirs.dataset,
                theirs.position,
                theirs.epoch,
            )
            if ours.dataset:  # the others keep their order
                assert ours == theirs
            elif ours.epoch == 0:
                drawn[LONG_TAIL[ours.record]] += 1
    if schedule.kind == 'concatenate':
        # All of the first epoch: 600 records in two clips each, of five classes.
        assert sorted(drawn) == [0, 1, 2, 3, 4]
        assert max(abs(count - 240) for count in drawn.values()) <= 2


def test_each_visit_is_another_clip():
    records = [balanced([[label] for label in LONG_TAIL], 0.0), None, None]
    order = orders(ScheduleOptions(), records)
    samples = [sample for step in range(50) for sample in order.batch(step) if not sample.dataset]
    rare = [sample for sample in samples if sample.record == 0 and sample.epoch == 0]
    assert len(rare) > 200
    clips = {epochs.record_generator(5, sample).random() for sample in rare}
    assert len(clips) == len(rare)
    # Those of stand-ins for damaged records, too.
    stand_ins = [order.stand_in(sample, skipped) for sample in rare[:20] for skipped in (1, 2)]
    others = [sample for sample in stand_ins if sample.record == 0]
    assert not clips & {epochs.record_generator(5, sample).random() for sample in others}


def test_the_seed_decides():
    labels = [[label] for label in LONG_TAIL]
    first = balanced(labels, 0.5).epoch(4)[0]
    np.testing.assert_array_equal(first, balanced(labels, 0.5).epoch(4)[0])
    for change in ({'seed': 4}, {'dataset': 0}):
        assert (first != balanced(labels, 0.5, **change).epoch(4)[0]).any()
    assert dataclasses.replace(sources(0.5)[0], balance=None).balance is None
    with pytest.raises(ValueError, match='balance=1.5 must be between 0 and 1'):
        sources(1.5)
