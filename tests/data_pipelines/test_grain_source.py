"""Rows by number are those of the batches; Grain makes the same batches of them."""

import dataclasses
import pickle

import numpy as np
import pytest

from data_pipelines.grain_source import ClipSource
from data_pipelines.options import ClipSize, InputOptions, OrderOptions, ScheduleOptions
from data_pipelines.pipeline import train_batches
from data_pipelines.storage.sequence_example import RecordError
from tests.helpers.batches import assert_equal_batches
from tests.helpers.tiny_records import flat_dataset, flip_byte, two_flat_datasets

SIZE, OPTIONS = ClipSize(3, 16), InputOptions((16, 20), max_bad_records=0)
SHARE = dict(host=1, num_hosts=2)


def _rows(batches):
    return [
        {name: array[row] for name, array in batch.items()}
        for batch in batches
        for row in (0, 1, 2)
    ]


@pytest.mark.parametrize('kind', ['concatenate', 'uniform'])
def test_rows_are_those_of_batches(tmp_path, kind):
    sources = two_flat_datasets(tmp_path)
    order = OrderOptions(batch_size=6, seed=4, schedule=ScheduleOptions(kind))
    items = ClipSource(sources, SIZE, order, OPTIONS, num_steps=4, **SHARE)
    want = _rows(train_batches(sources, SIZE, order, OPTIONS, num_steps=4, **SHARE))
    assert len(items) == len(want) == 12
    for number in (11, 0, 7, 3, np.int64(4)):  # in any order
        for found in (items[number], pickle.loads(pickle.dumps(items))[number]):
            assert list(found) == list(want[number])
            for name, value in found.items():
                np.testing.assert_array_equal(value, want[number][name])
    with pytest.raises(IndexError):
        items[12]


def test_what_cannot_be(tmp_path):
    first, second = two_flat_datasets(tmp_path)
    order = OrderOptions(batch_size=6, schedule=ScheduleOptions('alternating'))
    with pytest.raises(ValueError, match='differ in size'):
        ClipSource(
            [first, dataclasses.replace(second, batch_size=4)], SIZE, order, OPTIONS, num_steps=4
        )
    source = flat_dataset(tmp_path / 'd', 6)
    flip_byte(tmp_path / 'd', 3)
    items = ClipSource([source], SIZE, OrderOptions(batch_size=6), OPTIONS, num_steps=1)
    with pytest.raises(RecordError, match='max_bad_records=0'):
        [items[number] for number in range(6)]


def test_grain_makes_the_same_batches(tmp_path):
    grain = pytest.importorskip('grain')
    sources = two_flat_datasets(tmp_path)
    order = OrderOptions(batch_size=6, seed=4)
    items = ClipSource(sources, SIZE, order, OPTIONS, num_steps=4)
    found = list(grain.MapDataset.source(items).batch(6).to_iter_dataset())
    batches = train_batches(sources, SIZE, order, OPTIONS, num_steps=4)
    assert_equal_batches([dict(sorted(batch.items())) for batch in batches], found)
