"""Batches from the records that a config names."""

import dataclasses
import importlib.util
import json
import shutil

import jax
import numpy as np
import pytest

from data_pipelines.datasets import dataset_info
from data_pipelines.options import ClipSize
from multitrain_jax import train
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.evaluation import metrics, views
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import data_mesh, replicate
from multitrain_jax.record_data import EvaluationData, RecordData, evaluation_sources
from tests.helpers import tiny, tiny_records
from tests.helpers.tiny import quick_compile  # noqa: F401 (a fixture)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tiny.write_datasets(tmp_path_factory.mktemp('data'))


def test_what_training_knows_of_the_datasets(root):
    data = RecordData(tiny.config(data_root=str(root)))
    assert [spec.name for spec in data.datasets] == ['colours', 'shades']
    assert [spec.classes for spec in data.datasets] == list(tiny.CLASSES.values())
    assert [spec.views for spec in data.datasets] == [6, 3]  # 'uniform' has one temporal view
    assert [spec.evaluation_records for spec in data.datasets] == [7, 7]
    assert data.samples_per_epoch == 40
    assert RecordData(tiny.config(data_root=str(root), input__repeats=2)).samples_per_epoch == 80


def test_classes_are_balanced_where_the_config_says_so(tmp_path):
    """`shades` has 16 records of one class and one each of four others;
    `colours` stays as it is.
    """
    root = tiny.write_datasets(tmp_path)
    labels = [[0]] * 16 + [[1], [2], [3], [4]]
    clips = [[tiny_records.flat_frame(n, f) for f in range(6)] for n in range(20)]
    validation = dataset_info.load_dataset_info(root / 'shades').splits['validation']
    tiny_records.write_records(root / 'shades', clips, labels, num_classes=5)
    info = dataset_info.load_dataset_info(root / 'shades')
    splits = {**info.splits, 'validation': validation}
    info = dataclasses.replace(info, classes=tiny.CLASSES['shades'], splits=splits)
    dataset_info.save_dataset_info(root / 'shades', info)

    def counts(**changes):
        config = tiny.config(data_root=str(root), batch_size=8, **changes)
        batches = list(RecordData(config).train_batches(0, 5))  # an epoch: 40 clips
        of_shades = np.concatenate([b['label'][b['dataset'] == 1] for b in batches])
        of_colours = np.concatenate([b['label'][b['dataset'] == 0] for b in batches])
        return np.bincount(of_shades, minlength=5).tolist(), np.bincount(of_colours).tolist()

    plain = counts()
    assert plain == ([16, 1, 1, 1, 1], plain[1])
    assert counts(datasets__shades__balance=0.0) == ([4] * 5, plain[1])
    half = counts(datasets__shades__balance=0.5)[0]  # in proportion to 4, 1, 1, 1, 1
    assert half[0] == 10 and sorted(half[1:]) == [2, 2, 3, 3]


def test_training_batches_of_two_hosts_are_those_of_one(root):
    config = tiny.config(data_root=str(root))
    whole = list(RecordData(config).train_batches(3, 2))
    halves = [
        list(RecordData(config, host=host, num_hosts=2).train_batches(3, 2)) for host in (0, 1)
    ]
    assert len(whole) == 2
    for step in range(2):
        for name, array in whole[step].items():
            np.testing.assert_array_equal(
                array, np.concatenate([half[step][name] for half in halves])
            )


def test_labels_belong_to_the_pixels(root):
    """Red, green or blue is brightest where the label says so; shades grow brighter by label."""
    config = tiny.config(data_root=str(root))
    for batch in RecordData(config).train_batches(0, 3):
        means = batch['video'].mean(axis=(1, 2, 3))  # [B, 3]
        colours = batch['dataset'] == 0
        np.testing.assert_array_equal(means[colours].argmax(axis=1), batch['label'][colours])
        shade = np.round((means[~colours].mean(axis=1) - 38) / 40)
        np.testing.assert_array_equal(shade, batch['label'][~colours])


@pytest.mark.parametrize('devices', [1, 8])
def test_every_video_once_on_any_number_of_devices(root, devices):
    """7 videos of 6 and of 3 views, in batches of 8; the score of a clip is its mean colour."""
    config = tiny.config(data_root=str(root))
    data = RecordData(config)
    driver = Pmap(data_mesh(jax.devices()[:devices]))

    def mean_colour(params, share):
        colour = share['video'].astype('float32').mean(axis=(1, 2, 3))  # [B, 3]
        return jax.numpy.pad(colour, ((0, 0), (0, 2)))

    step = driver.eval_step(mean_colour)
    for number in (0, 1):
        scores = views.score_dataset(
            step, replicate(np.float32(0), driver.mesh), data, number, driver
        )
        np.testing.assert_array_equal(scores.record, np.arange(7))
        np.testing.assert_array_equal(
            scores.label, np.arange(7) % len(data.datasets[number].classes)
        )
    assert metrics.summarise(scores, data.datasets[1]).videos == 7


def test_colours_are_told_by_their_mean(root):
    data = RecordData(tiny.config(data_root=str(root)))
    driver = Pmap(data_mesh(jax.devices()[:1]))
    step = driver.eval_step(
        lambda params, share: share['video'].astype('float32').mean(axis=(1, 2, 3))
    )
    result = metrics.summarise(
        views.score_dataset(step, np.float32(0), data, 0, driver), data.datasets[0]
    )
    assert (result.videos, result.top1) == (7, 1.0)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            dict(datasets__shades__path='nowhere'),
            r'dataset shades .*config.datasets.shades.path.*nowhere: no dataset.json',
        ),
        (
            dict(datasets__shades__train_split='holdout'),
            "no split 'holdout', only train, validation",
        ),
    ],
)
def test_mistakes(root, change, message):
    with pytest.raises(ValueError, match=message):
        RecordData(tiny.config(data_root=str(root), **change))


def evaluation_data(root, heads, **changes):
    config = tiny.config(data_root=str(root))
    sources = evaluation_sources(config.datasets, config.data_root, config.localisation)
    return EvaluationData(
        heads, sources, ClipSize(4, 16), config.evaluation, config.input, **changes
    )


@pytest.mark.parametrize('multi_label', [False, True])
def test_evaluation_data_number_classes_as_the_heads_do(root, tmp_path, multi_label):
    """A head has the classes in another order, and one more; the other head has no data."""
    shutil.copytree(root / 'colours', tmp_path / 'colours')
    description = tmp_path / 'colours' / 'dataset.json'
    description.write_text(
        json.dumps(json.loads(description.read_text()) | {'multi_label': multi_label})
    )
    heads = [
        DatasetSpec('letters', ('x', 'y')),
        DatasetSpec('colours', ('blue', 'white', 'red', 'green'), multi_label),
    ]
    data = evaluation_data(tmp_path, heads)
    assert [(spec.name, spec.evaluation_records) for spec in data.datasets] == [
        ('letters', 0),
        ('colours', 7),
    ]
    assert data.datasets[1].classes == heads[1].classes and data.datasets[1].views == 6
    known = RecordData(tiny.config(data_root=str(root)))
    for batch, plain in zip(data.evaluation_batches(1), known.evaluation_batches(0), strict=True):
        np.testing.assert_array_equal(batch['video'], plain['video'])
        np.testing.assert_array_equal(batch['name'], plain['name'])
        assert (batch['dataset'] == 1).all()
        real = batch['weight'] > 0
        expected = np.array([2, 3, 0])[plain['label'][real]]  # red, green, blue
        if multi_label:
            expected = np.eye(4)[expected]
        np.testing.assert_array_equal(batch['label'][real], expected)


@pytest.mark.parametrize(
    ('head', 'message'),
    [
        (
            DatasetSpec('colours', ('red', 'green')),
            r"class 'blue' is not one of the 2 classes .* \(1 of 3 are not\)",
        ),
        (
            DatasetSpec('colours', tiny.CLASSES['colours'], True),
            'has one label per video, the head .* several labels',
        ),
    ],
)
def test_evaluation_data_of_other_classes_are_refused(root, head, message):
    with pytest.raises(ValueError, match=message):
        evaluation_data(root, [head])


def _train_briefly(config, workdir):
    """The outcome of a run of a few steps on one device."""
    return train.train_and_evaluate(config, workdir, devices=jax.devices()[:1])


def test_training_on_a_tfds_dataset_beside_records(root, tmp_path):
    pytest.importorskip('tensorflow_datasets')
    from tests.helpers.tiny_tfds import TinyVideos

    builder = TinyVideos(data_dir=tmp_path / 'tfds')
    builder.download_and_prepare()
    config = tiny.config(
        data_root=str(root),
        datasets__colours__path=f'tfds:{builder.data_dir}',
        datasets__colours__evaluation_split='test',
        epochs=2.0,
    )
    data = RecordData(config)
    assert data.datasets[0].classes == ('walk', 'run', 'jump')
    assert (data.datasets[0].evaluation_records, data.samples_per_epoch) == (5, 11 + 20)
    outcome = _train_briefly(config, tmp_path / 'run')
    assert outcome.steps == 4 and outcome.accuracy['colours'].videos == 5


@pytest.mark.skipif(importlib.util.find_spec('dmvr') is None, reason='DMVR is not installed')
def test_training_on_a_dmvr_dataset_beside_records(root, tmp_path, monkeypatch):
    monkeypatch.setenv('DMVR_TEST_DATA', str(tmp_path / 'd'))
    for split in ('train', 'validation'):
        clips = [[tiny_records.flat_frame(r, f) for f in range(9)] for r in range(5)]
        tiny_records.write_records(
            tmp_path / 'd', clips, [[r] for r in range(5)], num_classes=5, split=split
        )
    path = 'dmvr:tests.helpers.dmvr_factories:plain'
    config = tiny.config(
        data_root=str(root),
        datasets__shades__path=path,
        epochs=2.0,
        evaluation__spatial_views=1,
    )
    outcome = _train_briefly(config, tmp_path / 'run')
    assert outcome.accuracy['shades'].videos == 5 and outcome.accuracy['colours'].videos == 7
