"""The synthetic data of a config: made once, then reused."""

import numpy as np
import pytest

from data_pipelines.datasets import dataset_info
from data_pipelines.options import Source
from data_pipelines.storage import regions
from data_pipelines.storage.reader import RecordReader
from data_pipelines.storage.sequence_example import decode_sequence_example
from data_pipelines.synthetic import localisation, prepare
from tests.helpers.batches import evaluation_batches

SIZES = dict(train_videos=10, validation_videos=10, seed=1)


def times(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob('*') if path.is_file()}


def test_rendered_and_converted_once(tmp_path):
    made = prepare.prepare_synthetic(tmp_path, **SIZES)
    assert made == {'motions': tmp_path / 'motions', 'directions': tmp_path / 'directions'}
    for name, directory in made.items():
        info = dataset_info.load_dataset_info(directory)
        assert info.name == name and len(info.classes) == 10 and not info.multi_label
        for split in ('train', 'validation'):
            assert info.splits[split].records == 10
            assert info.splits[split].class_counts == (1,) * 10
            assert info.splits[split].failures == info.splits[split].damaged == ()
    source = Source(made['motions'], 'motions', 'validation', sampling='uniform')
    batches = evaluation_batches(source, batch_size=10, num_frames=4, crop_size=32, short_side=32)
    (batch,) = batches
    assert sorted(batch['label']) == list(range(10))
    assert np.ptp(batch['video'].astype(int), axis=1).max() > 50  # something moves

    before = times(tmp_path)
    prepare.prepare_synthetic(tmp_path, **SIZES)
    shards = {
        path: time for path, time in before.items() if '-of-' in path.name or path.suffix == '.mp4'
    }
    after = times(tmp_path)
    assert len(shards) > 40 and shards == {path: after[path] for path in shards}

    # What an interruption left out is made again, and nothing else.
    lost = sorted(tmp_path.glob('videos/motions/train/*/*.mp4'))[0]
    lost.unlink()
    prepare.prepare_synthetic(tmp_path, **SIZES)
    assert lost.exists()

    with pytest.raises(ValueError, match='seed'):
        prepare.prepare_synthetic(tmp_path, **SIZES | dict(seed=2))


def test_scenes_become_records_with_the_boxes_that_were_drawn(tmp_path):
    directory = prepare.prepare_scenes(tmp_path, train_videos=5, validation_videos=3, seed=0)
    info = dataset_info.load_dataset_info(directory)
    assert info.localisation and info.classes == tuple(localisation.ACTIONS)
    assert {split: part.records for split, part in info.splits.items()} == {
        'train': 5,
        'validation': 3,
    }
    reader = RecordReader(directory, 'train')
    names = list(localisation.ACTIONS)
    for number in range(5):
        example = decode_sequence_example(reader.read(number), 'record')
        found = regions.regions(example, len(names))
        video = localisation.Video('train', number, 0)
        drawn = video.crowd().boxes()
        # Written to three decimals; equal boxes of one shape become one row.
        np.testing.assert_allclose(found.boxes, [box.corners for box in drawn], atol=6e-4)
        assert [tuple(names[c] for c in np.flatnonzero(row)) for row in found.labels] == [
            tuple(sorted(box.actions, key=names.index)) for box in drawn
        ]
        assert found.key_frame == round(float(video.scene().frame_rate))
        assert len(found.proposals) == len(localisation.propose(video.generator(1), drawn))
