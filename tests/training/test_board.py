"""What a run shows beside its scalars."""

import json

import jax
import numpy as np
import pytest

from multitrain_jax import train
from multitrain_jax.augment.pipeline import AugmentConfig
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.evaluation import predictions
from multitrain_jax.training import preview
from multitrain_jax.training.board import EVALUATION, changed_settings
from tests.helpers import tiny
from tests.helpers.event_files import scalars, shown
from tests.helpers.tiny import quick_compile  # noqa: F401


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('shown')
    config = tiny.config(log_images=True, epochs=1.0)
    outcome = train.train_and_evaluate(
        config, workdir, source=tiny.ArraySource(config), devices=jax.devices()[:1]
    )
    return config, workdir, outcome


def test_tensorboard_shows_settings_clips_confusions_and_projections(run):
    config, workdir, _ = run
    found = shown(workdir)
    pictures = {tag for tag, plugin in found if plugin == 'images'}
    assert pictures == {
        'train/clips',
        'evaluation/colours/confusion',
        'evaluation/shades/confusion',
        'projections/colours_to_shades',
        'projections/shades_to_colours',
    }
    width, height, _ = found['train/clips', 'images']
    assert (int(width), int(height)) == (4 * 16, 8 * 16)
    (config_text,) = found['config', 'text']
    assert json.loads(config_text)['epochs'] == 1.0
    assert found['command', 'text'][0]
    assert len(found['train/labels', 'text'][0].splitlines()) == 8


def test_the_validation_loss_is_the_cross_entropy_of_the_kept_scores(run):
    _, workdir, outcome = run
    curves, losses = scalars(workdir), []
    for name in tiny.CLASSES:
        kept = predictions.load(workdir / EVALUATION / f'{name}_predictions.npz').scores
        own = kept.score[np.arange(len(kept.label)), kept.label].astype(np.float64)
        losses.append(-np.log(own).mean())
        assert outcome.accuracy[name].loss == pytest.approx(losses[-1], rel=1e-6)
        assert curves[f'evaluation/{name}/loss'][2] == [pytest.approx(losses[-1], rel=1e-6)]
    assert curves['evaluation/loss'][2] == [pytest.approx(np.mean(losses), rel=1e-6)]
    metrics = json.loads((workdir / EVALUATION / 'metrics.json').read_text())
    assert metrics['step'] == 2 and set(metrics['datasets']) == set(tiny.CLASSES)


def test_settings_that_differ():
    config = tiny.config()
    found = changed_settings(config)
    assert found['batch_size'] == 16 and found['augment.mixup_alpha'] == 0.8
    assert 'augment.mix_group' not in found  # the default
    assert found['datasets.shades.sampling'] == 'uniform' and found['datasets.colours.path']
    assert 'datasets.colours.loss_weight' not in found and 'model.num_classes' not in found
    assert all(isinstance(value, (bool, int, float, str)) for value in found.values())


def test_a_clip_with_boxes_is_not_mixed_and_keeps_them():
    specs = DatasetSpec('a', ('x', 'y')), DatasetSpec('s', ('sit', 'go'), localisation=True)
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[1, 0] = 0.25, 0.5, 0.75, 1
    box_label = np.zeros((2, 3, 2), np.float32)
    box_label[1, 0] = 1
    batch = {
        'video': np.full((2, 2, 8, 8, 3), 99, np.uint8),
        'label': np.zeros(2, np.int32),
        'dataset': np.arange(2, dtype=np.int32),
        'weight': np.ones(2, np.float32),
        'boxes': boxes,
        'box_label': box_label,
        'box_mask': box_label[..., 0],
    }
    plain, located = preview.samples(
        batch, specs, AugmentConfig(mixup_alpha=1.0), jax.random.key(0), 0, most=8
    )
    assert [preview.caption(sample) for sample in (plain, located)] == ['a: x', 's: sit, go']
    ((box, names),) = located.boxes
    assert box.tolist() == [0.25, 0.5, 0.75, 1] and names == ('sit', 'go') and not plain.boxes
    alone = {name: array[1:] for name, array in batch.items()} | {'dataset': np.zeros(1, np.int32)}
    (located,) = preview.samples(
        alone, specs[1:], AugmentConfig(color_jitter=0.1), jax.random.key(0), 0, most=8
    )
    assert preview.caption(located) == 's: sit, go'


def test_a_sample_is_the_clip_itself_where_nothing_changes_it():
    specs = DatasetSpec('a', ('x', 'y')), DatasetSpec('b', ('u', 'v', 'w'))
    video = np.random.default_rng(0).integers(0, 256, (4, 2, 8, 8, 3), np.uint8)
    batch = {
        'video': video,
        'label': np.array([1, 2, 0, 0], np.int32),
        'dataset': np.array([0, 1, 1, 0], np.int32),
        'weight': np.ones(4, np.float32),
    }
    plain = preview.samples(batch, specs, AugmentConfig(), jax.random.key(0), 0, most=3)
    assert [preview.caption(sample) for sample in plain] == ['a: y', 'b: w', 'b: u']
    for sample, clip in zip(plain, video):
        np.testing.assert_array_equal(sample.video, clip)
    mixed = preview.samples(
        batch, specs, AugmentConfig(mixup_alpha=1.0), jax.random.key(0), 0, most=4
    )
    for sample, clip, partner in zip(mixed, (0, 1, 2, 3), (1, 0, 3, 2), strict=True):
        (_, _, lam), (_, _, rest) = sample.labels
        assert lam + rest == pytest.approx(1)
        blend = lam * video[clip] + rest * video[partner]
        np.testing.assert_allclose(sample.video, blend, atol=1)
