"""Datasets prepared by TFDS itself, from a builder of our own."""

import dataclasses
import shutil

import numpy as np
import pytest

from data_pipelines.options import Source
from data_pipelines.storage.sequence_example import RecordError
from data_pipelines.storage.tfrecord import scan_records
from tests.helpers.batches import evaluation_batches, train_batches

pytest.importorskip('tensorflow_datasets')

from tests.helpers.tiny_tfds import (  # noqa: E402
    TinyBoxes,
    TinyMany,
    TinyUnlabelled,
    TinyVideos,
)

SPEC = dict(num_frames=3, crop_size=16)


@pytest.fixture(scope='module')
def prepare(tmp_path_factory):
    root = tmp_path_factory.mktemp('tfds')

    def prepare(kind=TinyVideos, file_format='tfrecord'):
        builder = kind(data_dir=root / file_format, file_format=file_format)
        builder.download_and_prepare()
        return f'tfds:{builder.data_dir}'

    return prepare


def _numbers(batch):
    """What video each clip shows, and which of its frames."""
    mean = batch['video'].mean((2, 3))  # [B, T, 3]
    return np.round((mean[:, 0, 0] - 10) / 4).astype(int), np.round((mean[..., 1] - 10) / 12)


@pytest.mark.parametrize('file_format', ['tfrecord', 'array_record'])
def test_training_sees_every_video_once_per_epoch(prepare, file_format):
    if file_format == 'array_record':
        pytest.importorskip('array_record')
    source = Source(prepare(file_format=file_format), 'tiny', 'train')
    options = dict(**SPEC, short_side=(16, 20), batch_size=4, seed=3)
    batches = list(train_batches([source], **options, num_steps=11, num_threads=3))
    order = []  # TFDS writes in an order of its own.
    for batch in batches:
        video, frames = _numbers(batch)
        np.testing.assert_array_equal(batch['label'], video % 3)
        assert (np.diff(frames) == 1).all()
        order += video.tolist()
    for epoch in range(4):
        assert sorted(order[epoch * 11 : (epoch + 1) * 11]) == list(range(11))
    assert order[:11] != order[11:22]
    resumed = list(train_batches([source], **options, start_step=7, num_steps=4))
    for batch, other in zip(resumed, batches[7:], strict=True):
        np.testing.assert_array_equal(batch['video'], other['video'])


def test_evaluation_counts_every_video_once(prepare):
    source = Source(prepare(), 'tiny', 'test', stride=2)
    seen = []
    for host in range(2):
        options = dict(short_side=16, batch_size=4, temporal_views=2, host=host, num_hosts=2)
        with evaluation_batches(source, **SPEC, **options) as batches:
            assert (batches.views, batches.num_records) == (2, 5)
            for batch in batches:
                real = batch['weight'] == 1
                video, _ = _numbers(batch)
                np.testing.assert_array_equal(batch['label'][real], video[real] % 3)
                rows = zip(video[real], batch['view'][real], batch['record'][real], strict=True)
                seen += rows
    assert sorted(row[:2] for row in seen) == [(v, view) for v in range(5) for view in range(2)]
    assert {row[2] for row in seen} == set(range(5))


def test_parts_of_a_split(prepare):
    whole, shown = prepare(), []
    for split in ('train[:4]', 'train[4:]'):
        source = Source(whole, 'tiny', split)
        for batch in evaluation_batches(source, **SPEC, short_side=16, batch_size=4):
            shown += _numbers(batch)[0][batch['weight'] == 1].tolist()
    assert sorted(shown) == list(range(11))


def test_several_labels(prepare):
    source = Source(prepare(TinyMany), 'many', 'test')
    for batch in evaluation_batches(source, **SPEC, short_side=16, batch_size=5):
        video, _ = _numbers(batch)
        expected = np.zeros((5, 3))
        expected[np.arange(5), video % 3] = expected[np.arange(5), (video + 1) % 3] = 1
        np.testing.assert_array_equal(batch['label'], expected)


def test_damage_is_named(prepare, tmp_path):
    builder = TinyVideos(data_dir=tmp_path)
    builder.download_and_prepare()
    (path,) = tmp_path.glob('**/*test.tfrecord*')
    offset = list(scan_records(path))[2][0]
    data = bytearray(path.read_bytes())
    data[offset + 40] ^= 1
    path.write_bytes(data)
    source = Source(f'tfds:{builder.data_dir}', 'tiny', 'test')
    options = dict(**SPEC, short_side=16, batch_size=5)
    with evaluation_batches(source, **options, max_bad_records=1) as batches:
        (batch,) = batches
        assert batches.bad_records == 1 and batch['weight'].tolist() == [1, 1, 0, 1, 1]
    with pytest.raises(RecordError, match=f'test.tfrecord.*at byte {offset}'):
        list(evaluation_batches(source, **options))


def test_mistakes(prepare, tmp_path):
    path = prepare()

    def opened(**changes):
        source = dataclasses.replace(Source(path, 'tiny', 'test'), **changes)
        return list(evaluation_batches(source, **SPEC, short_side=16, batch_size=5))

    with pytest.raises(ValueError, match="no split 'validation', only test, train"):
        opened(split='validation')
    with pytest.raises(ValueError, match='tfds:no_such_videos: Dataset no_such_videos not found'):
        opened(path='tfds:no_such_videos')
    with pytest.raises(ValueError, match='exactly one class label among its features, has none'):
        opened(path=prepare(TinyUnlabelled))
    with pytest.raises(ValueError, match='target_frame_rate=25.* needs it'):
        opened(target_frame_rate=25.0)


def test_boxes_are_not_overlooked(prepare):
    source = Source(prepare(TinyBoxes), 'boxes', 'train')
    with pytest.raises(
        ValueError, match='has boxes, which are only read from directories of records'
    ):
        list(train_batches([source], **SPEC, short_side=(16, 20), batch_size=4, num_steps=1))
    whole = dataclasses.replace(source, task='classification')
    (batch,) = train_batches([whole], **SPEC, short_side=(16, 20), batch_size=4, num_steps=1)
    np.testing.assert_array_equal(batch['label'], _numbers(batch)[0] % 3)


def test_nothing_that_a_prepared_dataset_names_is_imported(prepare, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'payload.py').write_text('raise SystemExit("it ran")')
    evil = tmp_path / '1.0.0'
    shutil.copytree(prepare().removeprefix('tfds:'), evil)
    features = evil / 'features.json'
    named = 'tensorflow_datasets.core.features.class_label_feature.ClassLabel'
    assert named in (text := features.read_text())
    for stored in (text.replace(named, 'payload.Label'), '{"type": "payload.Label", "content": 0}'):
        features.write_text(stored)
        with pytest.raises(ValueError, match="'payload.Label', which is none of TFDS"):
            list(evaluation_batches(Source(f'tfds:{evil}', 'x', 'test'), **SPEC, short_side=16))
    with pytest.raises(ValueError, match='of a namespace, whose code'):
        list(evaluation_batches(Source('tfds:them:tiny', 'x', 'test'), **SPEC, short_side=16))
