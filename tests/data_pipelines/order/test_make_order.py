"""Schedules from words to batches: shares, epochs, hosts, resuming, stand-ins."""

import collections
import dataclasses

import numpy as np
import pytest

from data_pipelines.options import OrderOptions, ScheduleOptions, Source
from data_pipelines.order import schedules
from data_pipelines.order.epochs import TrainingOrder
from data_pipelines.order.schedules import clips_per_step, make_order
from data_pipelines.storage.reader import RecordReader
from tests.helpers.batches import train_batches, training_plan
from tests.helpers.box_records import box_dataset
from tests.helpers.tiny_records import flat_dataset

SIZES = (12, 30, 6)
BATCHES = (4, 6, 2)
SOURCES = [Source(name, name, 'train', batch_size=size) for name, size in zip('abc', BATCHES)]
SPEC = dict(num_frames=2, crop_size=16, short_side=(16, 20))

ALL = {
    'concatenate': ScheduleOptions(),
    'weighted': ScheduleOptions('weighted', weights={'a': 3, 'b': 1, 'c': 4}),
    'weighted by size': ScheduleOptions('weighted', size_power=0.5),
    'weighted by batch': ScheduleOptions(
        'weighted', by='batch', weights={'a': 0.5, 'b': 0.25, 'c': 0.25}
    ),
    'alternating': ScheduleOptions('alternating'),
    'uniform': ScheduleOptions('uniform'),
    'accumulated': ScheduleOptions('accumulated'),
    'task by task': ScheduleOptions('task_by_task', order=('b', 'c', 'a')),
}
ROOTS = np.sqrt(SIZES)
SHARES = {  # of each dataset in the clips
    'concatenate': np.array(SIZES) / 48,
    'weighted': np.array([3, 1, 4]) / 8,
    'weighted by size': ROOTS / ROOTS.sum(),
    'weighted by batch': np.array([2, 1.5, 0.5]) / 4,
    'alternating': np.array(BATCHES) / 12,
    'uniform': np.array(BATCHES) / 12,
    'accumulated': np.array(BATCHES) / 12,
    'task by task': np.array(SIZES) / 48,
}


def options(name, **changes):
    return OrderOptions(**{**dict(batch_size=8, seed=2, epochs=4.0), **changes}, schedule=ALL[name])


def make(name, **changes):
    return make_order(SOURCES, SIZES, options(name), **changes)


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """Two that classify and one that localises."""
    root = tmp_path_factory.mktemp('schedules')
    rectangles = [(20, 20, 70, 90)]
    made = [
        flat_dataset(root / 'a', SIZES[0]),
        flat_dataset(root / 'b', SIZES[1]),
        box_dataset(root / 'c', [rectangles] * SIZES[2]),
    ]
    return [dataclasses.replace(one, batch_size=size) for one, size in zip(made, BATCHES)]


@pytest.mark.parametrize('name', ALL)
def test_shares_and_epochs(name):
    """A long run, by counting: each dataset's share, and each record once per epoch."""
    samples, clips = make(name), clips_per_step(SOURCES, SIZES, options(name))
    # A whole number of rounds: all of task_by_task's four epochs, and blocks of 1000 draws of the
    # others.
    steps = 20 + 12 + 12 if name == 'task by task' else 3 * schedules.BLOCK
    visits, given = collections.Counter(), 0
    for step in range(steps):
        for sample in samples.batch(step):
            visits[sample.dataset, sample.record, sample.epoch] += 1
            given += 1
    assert max(visits.values()) == 1
    records = collections.Counter((dataset, epoch) for dataset, _, epoch in visits)
    if name == 'concatenate':
        per_epoch = collections.Counter(epoch for _, _, epoch in visits)
        assert set(list(per_epoch.values())[:-1]) == {48}
        assert [records[dataset, 7] for dataset in range(3)] == list(SIZES)
    else:
        for dataset, size in enumerate(SIZES):
            epochs = sorted(epoch for number, epoch in records if number == dataset)
            assert epochs == list(range(len(epochs)))
            assert all(records[dataset, epoch] == size for epoch in epochs[:-1])
    counts = np.array(
        [sum(n for (d, _), n in records.items() if d == dataset) for dataset in range(3)]
    )
    tolerance = {'concatenate': 0.001, 'weighted by size': 0.001, 'uniform': 0.001}.get(name, 1e-9)
    np.testing.assert_allclose(counts / counts.sum(), SHARES[name], atol=tolerance)
    assert given / steps == pytest.approx(clips, rel=0.001)


def test_task_by_task_takes_its_order_and_visits_each_record_in_every_epoch():
    """12 records in batches of 4, 30 in 6, 6 in 2, four epochs: 20 steps of dataset 1, 12, 12."""
    samples = make('task by task')
    tasks = [samples.batch(step)[0].dataset for step in range(60)]
    assert tasks == [1] * 20 + [2] * 12 + [0] * 28
    seen = collections.Counter(
        (s.dataset, s.record) for step in range(44) for s in samples.batch(step)
    )
    assert set(seen.values()) == {4} and len(seen) == 48
    mean = clips_per_step(SOURCES, SIZES, options('task by task'))
    assert mean * 44 == pytest.approx(48 * 4)


def test_steps_of_tasks_are_those_of_the_run_whatever_rounding_does():
    for epochs in (1.0, 1.3, 2.7):
        sources = [Source(name, name, 'x', batch_size=n) for name, n in zip('abc', (5, 7, 4))]
        order = OrderOptions(epochs=epochs, schedule=ScheduleOptions('task_by_task'))
        samples = make_order(sources, SIZES, order)
        steps = round(epochs * 48 / clips_per_step(sources, SIZES, order))
        counts = np.bincount([samples.batch(step)[0].dataset for step in range(steps)])
        np.testing.assert_allclose(counts, epochs * np.array(SIZES) / (5, 7, 4), atol=1)


@pytest.mark.parametrize('name', ALL)
def test_batches_from_any_step_are_those_of_an_uninterrupted_run(name, sources):
    options = dict(**SPEC, batch_size=8, seed=5, epochs=4, schedule=ALL[name])
    whole = list(train_batches(sources, **options, num_steps=9, num_threads=1))
    for start in (1, 4, 8):
        resumed = list(
            train_batches(sources, **options, start_step=start, num_steps=9 - start, num_threads=2)
        )
        for batch, other in zip(whole[start:], resumed, strict=True):
            assert batch.keys() == other.keys()
            for key in batch:
                np.testing.assert_array_equal(batch[key], other[key], err_msg=key)


@pytest.mark.parametrize('name', ALL)
def test_hosts_share_batches_of_any_size(name, sources):
    options = dict(**SPEC, batch_size=8, seed=5, epochs=4, schedule=ALL[name], num_steps=5)
    whole = list(train_batches(sources, **options))
    halves = [list(train_batches(sources, **options, host=host, num_hosts=2)) for host in (0, 1)]
    for batch, *parts in zip(whole, *halves, strict=True):
        for key in batch:
            np.testing.assert_array_equal(batch[key], np.concatenate([part[key] for part in parts]))


@pytest.mark.parametrize('name', ALL)
def test_what_is_told_of_batches_beforehand(name, sources):
    plan = training_plan(sources, **SPEC, batch_size=8, epochs=4, schedule=ALL[name], num_hosts=2)
    sizes = {len(plan.batch(step)[0]['dataset']) for step in range(60)}
    for array, (shape, kind) in plan.element_spec.items():
        batch, _ = plan.batch(0)
        assert batch[array].dtype == kind and batch[array].shape[1:] == shape[1:]
        assert shape[0] == (sizes.copy().pop() if len(sizes) == 1 else None)
    assert plan.samples_per_epoch == 48
    plan.close()


def test_repeats_stay_in_the_batch_of_their_record(sources):
    for name in ALL:
        samples = make(name, repeats=2)
        for step in range(6):
            batch = samples.batch(step)
            seen = collections.Counter((s.dataset, s.record, s.epoch) for s in batch)
            assert set(seen.values()) == {2}
            assert len({(s.dataset, s.record, s.epoch, s.repeat) for s in batch}) == len(batch)
            assert samples.samples_per_epoch == 96


@pytest.mark.parametrize('name', [name for name in ALL if name != 'concatenate'])
def test_damaged_records_are_replaced_by_others_of_their_dataset(name, tmp_path):
    sources = [
        flat_dataset(tmp_path / 'a', 5, batch_size=4),
        flat_dataset(tmp_path / 'b', 4, batch_size=6),
    ]
    weights = ALL[name].weights and {key: ALL[name].weights[key] for key in 'ab'}
    schedule = dataclasses.replace(ALL[name], weights=weights, order=None)
    options = dict(**SPEC, batch_size=6, seed=1, epochs=4, schedule=schedule, num_steps=8)
    sound = list(train_batches(sources, **options))
    reader = RecordReader(tmp_path / 'b', 'train')
    path = tmp_path / 'b' / reader.shard_of(2)
    data = bytearray(path.read_bytes())
    data[int(reader.index.offsets[2]) + 40] ^= 1
    path.write_bytes(data)
    with train_batches(sources, **options, max_bad_records=1) as batches:
        mended = list(batches)
        assert batches.bad_records == 1
    for batch, before in zip(mended, sound, strict=True):
        np.testing.assert_array_equal(batch['dataset'], before['dataset'])
        damaged = (before['dataset'] == 1) & (before['label'] == 2)
        np.testing.assert_array_equal(batch['label'][~damaged], before['label'][~damaged])
        np.testing.assert_array_equal(batch['video'][~damaged], before['video'][~damaged])
        assert not ((batch['dataset'] == 1) & (batch['label'] == 2)).any()


def test_no_schedule_is_the_order_of_the_union():
    samples = make('concatenate')
    assert isinstance(samples, TrainingOrder)
    plain = TrainingOrder(SIZES, batch_size=8, seed=2)
    assert [samples.batch(step) for step in range(9)] == [plain.batch(step) for step in range(9)]


@pytest.mark.parametrize(
    ('schedule', 'changes', 'message'),
    [
        ('alternating', dict(repeats=4), 'batch_size=6 must be a positive multiple of repeats=4'),
        ('uniform', dict(num_hosts=4), 'num_hosts=4'),
        ('weighted', dict(batch_size=7, repeats=2), 'batch_size=7'),
        ('concatenate', dict(num_hosts=3), 'num_hosts=3'),
    ],
)
def test_numbers_that_do_not_fit_are_named(schedule, changes, message):
    order = options(schedule, batch_size=changes.pop('batch_size', 8))
    with pytest.raises(ValueError, match=message):
        make_order(SOURCES, SIZES, order, **changes)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (
            dict(kind='task_by_task', order=('a', 'a', 'b')),
            'schedule.order names a, a, b: must name each of the datasets a, b, c once',
        ),
        (
            dict(kind='weighted', weights={'a': 1.0}),
            'schedule.weights names a: must name each of the datasets a, b, c once',
        ),
        (dict(kind='weighted', weights={'a': 1, 'b': 1, 'c': -1}), 'each must not be negative'),
        (dict(kind='random'), "kind='random' must be one of 'concatenate', 'weighted'"),
        (dict(kind='uniform', order=('a',)), 'needs kind="task_by_task", which is \'uniform\''),
    ],
)
def test_schedules_that_do_not_fit_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        make_order(SOURCES, SIZES, OrderOptions(schedule=ScheduleOptions(**fields)))


def test_a_dataset_without_a_step_is_named():
    sources = [*SOURCES[:2], dataclasses.replace(SOURCES[2], batch_size=2000)]
    with pytest.raises(ValueError, match='no step is left for dataset c in 4 epochs'):
        make_order(sources, SIZES, options('task by task'))
