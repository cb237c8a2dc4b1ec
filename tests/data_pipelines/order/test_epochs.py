from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from data_pipelines.order import epochs

_orders = st.tuples(
    st.lists(st.integers(1, 13), min_size=1, max_size=4),  # sizes
    st.integers(1, 3),  # repeats
    st.integers(1, 4),  # batch size / repeats
    st.integers(0, 2**64 - 1),  # seed
)


def _visit(sample):
    return sample.dataset, sample.record, sample.repeat


@settings(max_examples=60, deadline=None)
@given(_orders)
def test_every_epoch_visits_every_record_once(drawn):
    sizes, repeats, groups, seed = drawn
    order = epochs.TrainingOrder(sizes, batch_size=groups * repeats, repeats=repeats, seed=seed)
    expected = Counter(
        (dataset, record, repeat)
        for dataset, size in enumerate(sizes)
        for record in range(size)
        for repeat in range(repeats)
    )
    assert order.samples_per_epoch == expected.total()
    visits = {epoch: Counter() for epoch in range(3)}
    for step in range(-(-3 * order.samples_per_epoch // order.batch_size)):
        batch = order.batch(step)
        assert len(batch) == order.batch_size
        # The samples of one record share the batch, but are no neighbours: mixup pairs those.
        for record in range(groups):
            assert len({sample[1:4] for sample in batch[record::groups]}) == 1
        for sample in batch:
            if sample.epoch < 3:
                visits[sample.epoch][_visit(sample)] += 1
    assert all(visits[epoch] == expected for epoch in range(3))


@settings(max_examples=30, deadline=None)
@given(_orders, st.sampled_from([1, 2, 3, 6]), st.integers(0, 50))
def test_the_global_batch_does_not_depend_on_the_number_of_hosts(drawn, num_hosts, step):
    sizes, repeats, groups, seed = drawn
    order = epochs.TrainingOrder(sizes, batch_size=6 * groups * repeats, repeats=repeats, seed=seed)
    shares = [order.batch(step, host, num_hosts) for host in range(num_hosts)]
    assert len({len(share) for share in shares}) == 1
    assert sum(shares, []) == order.batch(step)


def test_order_changes_with_the_epoch_and_the_seed_only():
    first = epochs.epoch_permutation(100, 3, 0)
    assert sorted(first) == list(range(100))
    assert first.tolist() != list(range(100))
    np.testing.assert_array_equal(epochs.epoch_permutation(100, 3, 0), first)
    assert (epochs.epoch_permutation(100, 3, 1) != first).any()
    assert (epochs.epoch_permutation(100, 4, 0) != first).any()


def test_order_is_the_one_of_earlier_versions():
    # A change here means that interrupted runs no longer continue with the batches they would
    # have seen: never update these numbers without saying so in the release notes.
    assert epochs.epoch_permutation(8, 1, 0).tolist() == [5, 1, 2, 0, 7, 4, 3, 6]
    rng = epochs.record_generator(1, epochs.Sample(0, 2, 1, 7, 0))
    assert rng.bit_generator.random_raw() == 13840445429713563734


def test_streams_are_philox_of_key_and_counter():
    key, counter = np.array([2**64 - 1, 5], np.uint64), np.array([0, 1, 2, 2**63], np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key, counter=counter))
    got = np.random.Generator(epochs.generator(5, 2**64 - 1, (1, 2, 2**63)))
    for draw in (
        lambda rng: rng.random(5),
        lambda rng: rng.integers(7, size=9),
        lambda rng: rng.normal(size=3),
    ):
        np.testing.assert_array_equal(draw(got), draw(expected))


def test_record_generators_differ_in_every_word_and_repeat_exactly():
    base = epochs.Sample(position=0, epoch=2, dataset=1, record=5, repeat=0)
    samples = [
        base,
        base._replace(epoch=3),
        base._replace(dataset=0),
        base._replace(dataset=2),
        base._replace(record=6),
        base._replace(repeat=1),
    ]
    draws = {tuple(epochs.record_generator(9, s).integers(2**40, size=4)) for s in samples}
    assert len(draws) == len(samples)
    assert tuple(epochs.record_generator(8, base).integers(2**40, size=4)) not in draws
    # The place in the sequence is not an ingredient: hosts and batch sizes do not matter.
    moved = base._replace(position=77)
    assert tuple(epochs.record_generator(9, moved).integers(2**40, size=4)) in draws


def test_records_in_order_of_number_get_unrelated_random_numbers():
    draws = [
        epochs.record_generator(0, epochs.Sample(0, 0, 0, record, 0)).random()
        for record in range(2000)
    ]
    assert abs(np.mean(draws) - 0.5) < 0.03
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.07


def test_stand_ins_are_the_following_records_and_never_the_same_clip_again():
    order = epochs.TrainingOrder([3, 4], batch_size=2, repeats=2, seed=5)
    regular = [order.sample(position) for position in range(14)]
    for position, sample in enumerate(regular):
        for skipped in range(1, 7):
            stand_in = order.sample(position, skipped)
            following = regular[(position + 2 * skipped) % 14]
            assert stand_in[2:4] == following[2:4] and stand_in.epoch == sample.epoch
            assert stand_in.repeat == sample.repeat + 2 * skipped


@pytest.mark.parametrize('num_records', [0, 1, 5, 12, 13])
@pytest.mark.parametrize('num_hosts', [1, 2, 5])
def test_evaluation_shares_cover_all_records_with_equal_work(num_records, num_hosts):
    shares = [epochs.evaluation_share(num_records, host, num_hosts) for host in range(num_hosts)]
    assert sorted(record for share in shares for record in share) == list(range(num_records))
    batches = epochs.num_evaluation_batches(num_records, 3, 2 * num_hosts, num_hosts)
    assert batches == max(-(-len(share) * 3 // 2) for share in shares)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: epochs.TrainingOrder([], batch_size=2), 'at least one record'),
        (lambda: epochs.TrainingOrder([3, 0], batch_size=2), r'at least one record.*\[3, 0\]'),
        (lambda: epochs.TrainingOrder([3], batch_size=5, repeats=2), 'multiple of repeats=2'),
        (lambda: epochs.TrainingOrder([3], batch_size=2, seed=-1), 'seed'),
        (lambda: epochs.host_share(5, 0, 2), 'batch_size=5.*num_hosts=2'),
        (lambda: epochs.host_share(4, 2, 2), 'host=2'),
        (lambda: epochs.evaluation_share(4, -1, 2), 'host=-1'),
    ],
)
def test_impossible_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
