import dataclasses
import functools

import numpy as np
import pytest

from data_pipelines.options import ScheduleOptions
from data_pipelines.tf_dataset import as_tf_dataset
from tests.helpers.batches import evaluation_batches, train_batches
from tests.helpers.box_records import box_dataset
from tests.helpers.tiny_records import flat_dataset

pytest.importorskip('tensorflow')


def test_elements_are_the_batches(tmp_path):
    source = flat_dataset(tmp_path / 'd', 7, num_frames=9)
    spec = dict(num_frames=3, crop_size=16, batch_size=4, num_threads=2)
    boxes = box_dataset(tmp_path / 'boxes', [[(20, 20, 70, 90)] * n for n in (1, 0, 2, 1)])
    fewer = dataclasses.replace(boxes, batch_size=2)
    changing = dict(short_side=(16, 20), num_steps=3, schedule=ScheduleOptions('alternating'))
    for make, rows in (
        (functools.partial(train_batches, [source], **spec, short_side=(16, 20), num_steps=3), 4),
        (functools.partial(evaluation_batches, source, **spec, short_side=16), 4),
        (functools.partial(train_batches, [source, fewer], **spec, **changing), None),
        (functools.partial(evaluation_batches, boxes, **spec, short_side=16), 4),
    ):
        dataset = as_tf_dataset(make)
        expected = list(make())
        assert tuple(dataset.element_spec['video'].shape) == (rows, 3, 16, 16, 3)
        for _ in range(2):  # Every iteration starts anew.
            for batch, other in zip(dataset.as_numpy_iterator(), expected, strict=True):
                assert batch.keys() == other.keys()
                if 'name' in batch:
                    names = [name.decode() for name in batch.pop('name')]
                    assert names == other['name'].tolist()
                for name in batch:
                    np.testing.assert_array_equal(batch[name], other[name])
                    assert batch[name].dtype == other[name].dtype
