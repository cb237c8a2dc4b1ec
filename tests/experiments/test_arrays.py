"""Batches of clips in memory keep the contract; labels and boxes stay with their pixels."""

import numpy as np
import pytest

from experiments.arrays import ArrayData, Clips
from multitrain_jax.batch import DatasetSpec, check_batch
from multitrain_jax.config import read_config
from tests.helpers import tiny, tiny_config

SIDE, LARGER, RECORDS = 16, 20, 6
CLASSES = {'coarse': ('warm', 'cold'), 'fine': ('red', 'orange', 'blue')}
NAMES = tuple(CLASSES)
MAPS = {'fine': {'coarse': {'red': 'warm', 'orange': 'warm'}}}


def experiment(*, flip=False, seed=0):
    values = tiny_config.get_config()
    entry = values.datasets.colours.to_dict() | {'flip': flip}
    values.datasets = {name: {**entry, 'path': name} for name in NAMES}
    values.seed = seed
    return read_config(values)


def grey(name: str, label: int) -> int:
    return 100 * NAMES.index(name) + 10 * label + 5


def clips(name: str) -> Clips:
    """Of one grey, that tells dataset and class; the left half is a little darker."""
    label = np.arange(RECORDS, dtype=np.int32) % len(CLASSES[name])
    video = np.empty((RECORDS, 4, LARGER, LARGER, 3), np.uint8)
    for row, number in enumerate(label):
        video[row] = grey(name, number)
        video[row, :, :, : LARGER // 2] -= 1
    return Clips(video, label)


def make(*, train=NAMES, tested=NAMES, label_maps=None, **changes) -> ArrayData:
    return ArrayData(
        experiment(**changes),
        [DatasetSpec(name, CLASSES[name]) for name in NAMES],
        {name: clips(name) for name in train},
        {name: clips(name) for name in tested},
        label_maps,
    )


def batches(source: ArrayData, start: int, steps: int) -> dict[str, np.ndarray]:
    found = list(source.train_batches(start, steps))
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


def shown(video: np.ndarray) -> list[tuple[str, int]]:
    """Dataset and class that the greys of clips tell."""
    by_grey = {grey(name, label): (name, label) for name in NAMES for label in range(3)}
    return [by_grey[int(clip.max())] for clip in video]


def test_batches_keep_the_contract_and_labels_are_those_of_the_pixels():
    source = make()
    first = next(source.train_batches(0, 1))
    check_batch(first, num_frames=4, image_size=SIDE, datasets=source.datasets)
    many = batches(source, 0, 6)
    told = [(NAMES[dataset], label) for dataset, label in zip(many['dataset'], many['label'])]
    assert told == shown(many['video'])
    assert len(set(told)) == 5


def test_an_epoch_has_every_record_once_and_any_step_comes_alone():
    source = make()
    assert source.samples_per_epoch == 2 * RECORDS and source.clips_per_step == 16
    many = batches(source, 0, 3)  # 48 clips, 4 epochs
    assert np.bincount(many['dataset']).tolist() == [24, 24]
    alone = next(source.train_batches(2, 1))
    for name, array in alone.items():
        np.testing.assert_array_equal(array, many[name][32:])
    assert not np.array_equal(batches(make(seed=1), 0, 3)['dataset'], many['dataset'])


@pytest.mark.parametrize('flip', [False, True])
def test_half_of_the_clips_are_mirrored_where_the_config_says_so(flip):
    video = batches(make(flip=flip), 0, 20)['video'].astype(int)
    mirrored = video[:, 0, 0, 0, 0] > video[:, 0, 0, -1, 0]
    assert 0.4 < mirrored.mean() < 0.6 if flip else not mirrored.any()


def test_with_label_maps_half_of_the_clips_are_those_of_another_dataset():
    many = batches(make(label_maps=MAPS), 0, 60)
    implied = {('fine', 0): ('coarse', 0), ('fine', 1): ('coarse', 0)}
    told = [(NAMES[dataset], label) for dataset, label in zip(many['dataset'], many['label'])]
    changed = {}
    for truth, label in zip(shown(many['video']), told):
        assert label in (truth, implied.get(truth))
        changed.setdefault(truth, []).append(label != truth)
    assert {truth for truth, which in changed.items() if any(which)} == implied.keys()
    assert all(0.4 < np.mean(changed[truth]) < 0.6 for truth in implied)


def test_a_dataset_without_training_clips_keeps_its_number():
    source = make(train=('fine',), tested=('fine',))
    assert [spec.evaluation_records for spec in source.datasets] == [0, RECORDS]
    assert source.samples_per_epoch == RECORDS
    assert set(batches(source, 0, 2)['dataset']) == {1}


def test_evaluation_shows_every_record_once_and_pads():
    source = make()
    found = list(source.evaluation_batches(1))
    assert [batch['weight'].tolist() for batch in found] == [[1.0] * 6 + [0.0] * 2]
    assert found[0]['record'].tolist() == [0, 1, 2, 3, 4, 5, -1, -1]
    assert found[0]['label'][:6].tolist() == [0, 1, 2, 0, 1, 2]
    assert found[0]['video'].shape == (8, 4, SIDE, SIDE, 3)


def with_boxes() -> ArrayData:
    """Black clips with one white box each, beside those of a classifying dataset."""
    entry = {'path': 'scenes', 'sampling': 'key_frame', 'stride': 1, 'target_frame_rate': None}
    config = tiny.config(
        datasets__scenes={**entry, 'flip': False},
        localisation={'max_boxes': 3, 'head': {'dropout': 0.0}},
    )
    rng = np.random.default_rng(0)
    video = np.zeros((RECORDS, 4, LARGER, LARGER, 3), np.uint8)
    boxes, label = np.zeros((RECORDS, 3, 4), np.float32), np.zeros((RECORDS, 3, 2), np.float32)
    mask = np.zeros((RECORDS, 3), np.float32)
    for row in range(RECORDS):
        left, top = rng.integers(1, 9, 2)
        right, bottom = left + rng.integers(6, 11), top + rng.integers(6, 11)
        video[row, :, top:bottom, left:right] = 255
        boxes[row, 0] = np.array([left, top, right, bottom]) / LARGER
        label[row, 0, row % 2] = mask[row, 0] = 1
    none = np.zeros(RECORDS, np.int32)
    specs = [
        DatasetSpec('colours', tiny.CLASSES['colours']),
        DatasetSpec('scenes', ('sit', 'stand'), localisation=True, train_counts=(3, 3)),
        DatasetSpec('shades', tiny.CLASSES['shades']),
    ]
    by_name = {spec.name: Clips(video, none) for spec in specs}
    by_name['scenes'] = Clips(video, none, boxes, label, mask)
    return ArrayData(config, specs, by_name, by_name)


def test_boxes_follow_the_crop():
    source = with_boxes()
    many = batches(source, 0, 6)
    # In tests, clips of classifying datasets have no boxes at all: they would be scored as boxes.
    tested = [next(source.evaluation_batches(number)) for number in range(3)]
    assert ['truth_box' in batch for batch in tested] == [False, True, False]
    assert ['boxes' in batch for batch in tested] == [False, True, False]
    localises = many['dataset'] == 1
    assert localises.any() and not localises.all()
    assert not many['box_mask'][~localises].any()
    for row in np.flatnonzero(localises):
        rows, columns = np.nonzero(many['video'][row, 0, :, :, 0] > 127)
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SIDE
        np.testing.assert_allclose(many['boxes'][row, 0], seen, atol=1e-6)
    check_batch(
        next(source.train_batches(0, 1)),
        num_frames=4,
        image_size=SIDE,
        datasets=source.datasets,
        max_boxes=3,
    )
