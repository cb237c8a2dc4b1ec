import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.augment.normalize import normalize
from multitrain_jax.augment.pipeline import AugmentConfig, augment_train, prepare_eval

EVERYTHING = AugmentConfig(
    rand_augment='rand-m7-n2-mstd0.5-inc1',
    color_jitter=0.4,
    erasing_probability=0.5,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
)


def _batch(size=16):
    rng = np.random.default_rng(0)
    return {
        'video': rng.integers(0, 256, (size, 2, 16, 16, 3)).astype(np.uint8),
        'label': rng.integers(0, 4, size).astype(np.int32),
        'dataset': rng.integers(0, 3, size).astype(np.int32),
        'weight': np.ones(size, np.float32),
    }


def _augment(batch, key, first_row, config):
    return augment_train(**batch, key=key, first_row=first_row, config=config, max_classes=5)


@functools.partial(jax.jit, static_argnums=3)
def augment(batch, key, first_row, config):
    return _augment(batch, key, first_row, config)


def test_eight_devices_give_what_one_gives():
    batch, key = _batch(), jax.random.key(3)
    one = augment(batch, key, 0, EVERYTHING)
    shared = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)

    def step(key, batch):
        return _augment(batch, key, 2 * jax.lax.axis_index('data'), EVERYTHING)

    many = jax.pmap(step, axis_name='data', in_axes=(None, 0))(key, shared)
    many = jax.tree.map(lambda x: x.reshape(16, *x.shape[2:]), many)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, many)


def test_everything_changes_every_clip_and_depends_on_the_key():
    batch = _batch()
    video, targets = augment(batch, jax.random.key(0), 0, EVERYTHING)
    other, _ = augment(batch, jax.random.key(1), 0, EVERYTHING)
    assert video.dtype == jnp.float32 and video.shape == batch['video'].shape
    assert np.all(np.isfinite(video))
    plain = prepare_eval(batch['video'])
    for changed in (np.asarray(video) != plain, np.asarray(video) != other):
        assert np.all(np.any(changed, axis=(1, 2, 3, 4)))
    assert targets.label.shape == (16, 2, 5) and targets.dataset.shape == (16, 2)
    np.testing.assert_allclose(np.sum(targets.lam, axis=1), 1.0, rtol=1e-6)
    # The second slot is the partner's label: the neighbour, in groups of two.
    partner = np.arange(16) ^ 1
    np.testing.assert_array_equal(targets.label[:, 1], np.asarray(targets.label)[partner, 0])
    np.testing.assert_array_equal(targets.dataset[:, 1], batch['dataset'][partner])


def test_mixing_groups_share_one_draw():
    config = AugmentConfig(mixup_alpha=0.8, mix_group=4)
    batch = _batch()
    video, targets = augment(batch, jax.random.key(0), 0, config)
    lam = np.asarray(targets.lam)[:, 0].reshape(4, 4)
    np.testing.assert_array_equal(lam, np.broadcast_to(lam[:, :1], lam.shape))
    assert len(np.unique(lam)) == 4
    plain = np.asarray(prepare_eval(batch['video'])).reshape(4, 4, *video.shape[1:])
    share = lam.reshape(4, 4, 1, 1, 1, 1)
    expected = share * plain + (1 - share) * plain[:, ::-1]
    np.testing.assert_allclose(video, expected.reshape(video.shape), atol=1e-5)


def test_nothing_on_is_normalisation_alone():
    batch = _batch()
    video, targets = augment(batch, jax.random.key(0), 0, AugmentConfig())
    np.testing.assert_allclose(video, prepare_eval(batch['video']), atol=1e-6)
    assert targets.label.shape == (16, 1, 5)
    np.testing.assert_array_equal(np.argmax(targets.label[:, 0], axis=-1), batch['label'])
    off = jax.jit(functools.partial(_augment, config=AugmentConfig())).lower(
        batch, jax.random.key(0), 0
    )
    assert 'threefry' not in off.compile().as_text() and 'while' not in off.compile().as_text()


def test_evaluation_normalises_bytes_only():
    clips = _batch(2)['video']
    np.testing.assert_allclose(prepare_eval(clips), (clips / 255 - 0.45) / 0.225, atol=1e-5)
    ready = np.ones((1, 2, 4, 4, 3), np.float32)
    np.testing.assert_array_equal(prepare_eval(ready), ready)


def test_mistakes_are_named():
    with pytest.raises(
        ValueError, match='15 clips per device do not divide into groups of mix_group=2'
    ):
        _augment(_batch(15), jax.random.key(0), 0, EVERYTHING)
    with pytest.raises(ValueError, match='color_jitter=1.5'):
        AugmentConfig(color_jitter=1.5)
    with pytest.raises(ValueError, match='must look like'):
        AugmentConfig(rand_augment='rand')
    with pytest.raises(ValueError, match='mix_group=1'):
        AugmentConfig(mix_group=1)
    AugmentConfig().check_batch(15)  # nothing is mixed, nothing to divide


def test_clips_with_boxes_only_change_their_colours():
    """Neither mixed, nor mixed into others, nor moved, nor erased: boxes still fit."""
    config = AugmentConfig(
        rand_augment='rand-m7-n4-mstd0.5-inc1',
        erasing_probability=1.0,
        mixup_alpha=1.0,
        mix_group=4,
    )
    video = np.random.default_rng(0).integers(0, 256, (8, 2, 8, 8, 3), np.uint8)
    has_boxes = np.array(
        [1, 0, 0, 0, 1, 1, 1, 1], bool
    )  # clip 0 would be mixed with 3, 1 with 2, ...
    labels = (jnp.zeros(8, jnp.int32), jnp.zeros(8, jnp.int32), jnp.ones(8))
    options = {'key': jax.random.key(0), 'first_row': 0, 'config': config, 'max_classes': 3}
    found, targets = augment_train(
        jnp.asarray(video), *labels, has_boxes=jnp.asarray(has_boxes), **options
    )
    plain, plain_targets = augment_train(jnp.asarray(video), *labels, **options)
    np.testing.assert_allclose(
        found[has_boxes], normalize(jnp.asarray(video[has_boxes])), atol=1e-6
    )
    np.testing.assert_array_equal(targets.weight, ~has_boxes)
    np.testing.assert_array_equal(targets.lam[3], [1, 0])  # its partner has boxes
    np.testing.assert_array_equal(targets.lam[1:3], plain_targets.lam[1:3])
    np.testing.assert_array_equal(found[1:3], plain[1:3])
    assert targets.lam[1, 1] > 0 and not np.allclose(found[3], plain[3])
