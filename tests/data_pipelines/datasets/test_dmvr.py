"""A user's DMVR factory as a source, against what DMVR itself makes of the same records."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from data_pipelines.options import Source
from data_pipelines.storage.sequence_example import RecordError
from tests.helpers.batches import evaluation_batches, train_batches
from tests.helpers.golden import shared_path
from tests.helpers.tiny_records import flat_dataset

pytest.importorskip('tensorflow')
with_dmvr = pytest.mark.skipif(
    importlib.util.find_spec('dmvr') is None,
    reason='DMVR is not installed (docs/data.md tells how)',
)
SPEC = dict(num_frames=3, crop_size=16)


def _source(function='plain', split='train'):
    return Source(f'dmvr:tests.helpers.dmvr_factories:{function}', 'theirs', split)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv('DMVR_TEST_DATA', str(tmp_path / 'd'))
    flat_dataset(tmp_path / 'd', 5, num_frames=9)


def _evaluate(source, **changes):
    return list(
        evaluation_batches(source, **{**SPEC, 'short_side': 16, 'batch_size': 4, **changes})
    )


@with_dmvr
def test_classes_cannot_be_balanced(tiny):
    source = dataclasses.replace(_source(), balance=0.5)
    with pytest.raises(ValueError, match='theirs: balance=0.5 needs the labels of all records'):
        train_batches([source], **SPEC, short_side=(16, 20), batch_size=4)


@with_dmvr
@pytest.mark.parametrize('views', [1, 3])
def test_clips_are_those_of_dmvr_itself(monkeypatch, views):
    """Pixel for pixel, on DMVR's own records; and those of the golden file."""
    from tests.helpers import dmvr_factories

    monkeypatch.setenv('DMVR_TEST_DATA', str(shared_path('dmvr')))
    spec = dict(num_frames=8, crop_size=112, short_side=128, temporal_views=views)
    batches = list(evaluation_batches(_source(split='shared'), **spec, batch_size=3))
    kept = [batch['weight'] == 1 for batch in batches]
    clips = np.concatenate([batch['video'][rows] for batch, rows in zip(batches, kept)])
    labels = np.concatenate([batch['label'][rows] for batch, rows in zip(batches, kept)])
    factory = dmvr_factories.make_factory('shared', False, 8, 112, 128, views).tune(
        cycle_length=1, block_length=100
    )
    dataset = factory.make_dataset(shuffle=False, num_epochs=1, batch_size=1)
    theirs = list(dataset.as_numpy_iterator())
    expected = np.concatenate([batch['image'] for batch in theirs])
    assert len(expected) == 10 * views
    np.testing.assert_array_equal(clips.astype(np.float32) / np.float32(255), expected)
    own = np.concatenate([batch['label'] for batch in theirs]).argmax(-1)
    np.testing.assert_array_equal(labels, own.repeat(views))
    golden = np.load(shared_path('dmvr/golden_eval.npz'))
    if views == 1:
        np.testing.assert_array_equal(clips, golden['frames_1clip_uint8'])
    else:
        rows = golden['rows_of_3clips'].tolist()
        by_record = clips.reshape(10, 3, *clips.shape[1:])
        np.testing.assert_array_equal(by_record[rows], golden['frames_3clips_uint8'])
    np.testing.assert_array_equal(labels[::views], golden['label_index'])


@with_dmvr
def test_training_sees_every_record_once_per_epoch_and_mixes_with_our_records(tiny, tmp_path):
    ours = flat_dataset(tmp_path / 'ours', 3, num_frames=9)
    options = dict(**SPEC, short_side=(16, 20), batch_size=4, seed=1, num_threads=3)
    seen = []
    for batch in train_batches([_source(), ours], **options, num_steps=4):
        assert batch['video'].dtype == np.uint8
        red = np.round((batch['video'][..., 0].mean((1, 2, 3)) - 10) / 4)
        np.testing.assert_array_equal(batch['label'], red)
        seen += zip(batch['dataset'].tolist(), batch['label'].tolist(), strict=True)
    every = [(0, r) for r in range(5)] + [(1, r) for r in range(3)]
    assert sorted(seen[:8]) == sorted(seen[8:]) == every


@with_dmvr
def test_class_numbers_and_filters(tiny):
    (first, second) = _evaluate(_source('numbers'))
    assert [*first['label'], *second['label']] == [0, 1, 2, 3, 4, 0, 0, 0]
    with evaluation_batches(
        _source('filtered'), **SPEC, short_side=16, batch_size=8, max_bad_records=1
    ) as batches:
        (batch,) = batches
    assert batch['weight'].tolist() == [1, 0, 1, 1, 1, 0, 0, 0] and batches.bad_records == 1
    with pytest.raises(RecordError, match='a filter of the factory refuses it'):
        _evaluate(_source('filtered'))


@with_dmvr
@pytest.mark.parametrize('name', ['no_frames', 'bad_data_crc'])
def test_damaged_records_cost_themselves_only(name, tmp_path, monkeypatch):
    """DMVR itself stops at them."""
    monkeypatch.setenv('DMVR_TEST_DATA', str(tmp_path))
    data = shared_path(f'dmvr/bad/{name}').read_bytes()
    (tmp_path / 'train-00000-of-00001').write_bytes(data)
    spec = dict(num_frames=4, crop_size=32, short_side=40, batch_size=3)
    with evaluation_batches(_source(), **spec, max_bad_records=1) as batches:
        (batch,) = batches
    assert batch['weight'].tolist() == [1, 0, 1] and batches.bad_records == 1
    with pytest.raises(RecordError, match='theirs: .*train-00000-of-00001: '):
        list(evaluation_batches(_source(), **spec))


@with_dmvr
@pytest.mark.parametrize(
    'function, message',
    [
        ('centred', 'pixels from .* wanted are 0 to 1: no zero_centering_image'),
        ('wrong_size', r'gives clips \[1, 4, 16, 16, 3\], wanted are \[1, 3, 16, 16, 3\]'),
        ('no_clips', 'must return a DmvrClips, not Factory'),
        ('other_arguments', 'must take the keywords split, training, num_frames'),
        ('with_boxes', 'has boxes, which are only read from directories of records'),
        ('nothing', "has no attribute 'nothing'; is its folder on PYTHONPATH"),
    ],
)
def test_mistakes(tiny, function, message):
    with pytest.raises(ValueError, match=message):
        _evaluate(_source(function))


@pytest.mark.skipif(importlib.util.find_spec('dmvr') is not None, reason='DMVR is installed')
def test_without_dmvr():
    with pytest.raises(
        ValueError, match=r'pip install --no-deps git\+https://github.com/google-deepmind/dmvr@'
    ):
        _evaluate(_source())
