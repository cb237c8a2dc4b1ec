"""The contract of batches: what differs from it is named."""

import numpy as np
import pytest

from multitrain_jax.batch import check_batch
from multitrain_jax.errors import UserError
from tests.helpers import tiny, tiny_boxes


def check(change=None, multi_label=None, drop=()):
    source = tiny.ArraySource(tiny.config(), multi_label=multi_label)
    batch = {
        name: array
        for name, array in (source.batch(0) | (change or {})).items()
        if name not in drop
    }
    check_batch(batch, num_frames=4, image_size=16, datasets=source.datasets)


def test_good_batches():
    check()
    check(multi_label={'shades': True})


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(drop=['weight']), "'weight' is missing; it holds"),
        (
            dict(change={'video': np.zeros((16, 4, 16, 16, 3), np.float32)}),
            r"'video' is float32.*must be uint8\[16, 4, 16, 16, 3\]",
        ),
        (
            dict(change={'video': np.zeros((16, 2, 16, 16, 3), np.uint8)}),
            r"'video' is uint8\[16, 2, 16, 16, 3\]",
        ),
        (dict(change={'label': np.zeros(16, np.int64)}), "'label' is int64"),
        (
            dict(change={'label': np.zeros(16, np.int32)}, multi_label={'shades': True}),
            r'must be float32\[16, 5\]',
        ),
        (
            dict(change={'dataset': np.full(16, 2, np.int32)}),
            r'dataset numbers \[2\] where there are 2 datasets',
        ),
        (
            dict(change={'dataset': np.zeros(16, np.int32), 'label': np.full(16, 3, np.int32)}),
            'label 3 in dataset colours, which has 3 classes',
        ),
        (dict(change={'label': np.full(16, -1, np.int32)}), 'label -1 in dataset'),
    ],
)
def test_bad_batches(arguments, message):
    with pytest.raises(UserError, match=message):
        check(**arguments)


def check_boxes(**change):
    config = tiny_boxes.config()
    source = tiny_boxes.BoxSource(config)
    batch = source.batch(0)
    row = int(np.flatnonzero(batch['dataset'] == tiny_boxes.SCENES)[0])
    batch = {**batch, **{name: edit(batch[name].copy(), row) for name, edit in change.items()}}
    check_batch(
        batch,
        num_frames=4,
        image_size=16,
        datasets=source.datasets,
        max_boxes=config.localisation.max_boxes,
    )


def put(value, *place):
    def edit(array, row):
        array[row, *place] = value
        return array

    return edit


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'boxes': lambda array, row: array[:, :1]},
            r"'boxes' is float32\[16, 1, 4\], must be float32\[16, 3, 4\]",
        ),
        (
            {'boxes': put(1.5, 0, 2)},
            'of dataset scenes, has a box that is not x1, y1, x2, y2 within 0 to 1',
        ),
        ({'boxes': put(np.nan, 0, 2)}, 'of dataset scenes, has a box that is not'),
        (
            {'box_label': put(1.0, 0, 3)},
            'of dataset scenes, has an action that its dataset does not have',
        ),
        (
            {'dataset': put(0)},
            'of dataset colours, has boxes, but its dataset is not one of localisation',
        ),
        ({'label': put(1)}, 'label 1 in dataset scenes, which has boxes instead'),
    ],
)
def test_bad_boxes(change, message):
    check_boxes()
    with pytest.raises(UserError, match=message):
        check_boxes(**change)
