import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.augment.erasing import Box, inside, random_box, random_erasing

HEIGHT, WIDTH = 40, 60
erase = jax.jit(random_erasing, static_argnums=2)


def test_boxes_have_the_published_areas_and_shapes_and_fit():
    keys = jax.random.split(jax.random.key(0), 2000)
    boxes = jax.jit(jax.vmap(lambda key: random_box(key, HEIGHT, WIDTH)))(keys)
    top, bottom, left, right = map(np.asarray, boxes)
    rows, columns = bottom - top, right - left
    assert top.min() == 0 and left.min() == 0
    assert bottom.max() == HEIGHT and right.max() == WIDTH
    assert rows.min() > 0 and columns.min() > 0 and rows.max() < HEIGHT and columns.max() < WIDTH
    area = rows * columns / (HEIGHT * WIDTH)
    assert 0.01 < area.min() < 0.03 and 0.31 < area.max() < 0.35
    np.testing.assert_allclose(area.mean(), (0.02 + 1 / 3) / 2, atol=0.02)
    large = area > 0.1  # where rounding to whole pixels changes little
    aspect = (rows / columns)[large]
    assert 0.28 < aspect.min() < 0.4 and aspect.max() < 3.6


def test_inside_counts_the_pixels_of_the_box():
    mask = np.asarray(inside(Box(*map(jnp.asarray, (2, 5, 1, 7))), 6, 8))
    expected = np.zeros((6, 8), bool)
    expected[2:5, 1:7] = True
    np.testing.assert_array_equal(mask, expected)


def test_one_box_of_fresh_noise_through_all_frames_of_the_chosen_clips():
    video = jnp.full((200, 3, HEIGHT, WIDTH, 3), 7.0)
    result = np.asarray(erase(video, jax.random.split(jax.random.key(1), 200), 0.25))
    changed = np.any(result != 7.0, axis=-1)  # [B, T, H, W]
    chosen = changed.any(axis=(1, 2, 3))
    assert 30 < chosen.sum() < 70
    np.testing.assert_array_equal(changed, np.broadcast_to(changed[:, :1], changed.shape))
    noise = result[changed]
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.02)
    assert np.all(np.isfinite(noise))
    np.testing.assert_allclose(np.mean(noise**4), 3, atol=0.1)  # a normal distribution's tails
    clip = result[np.argmax(chosen)][:, changed[np.argmax(chosen), 0]]  # [T, pixels, 3]
    assert np.abs(np.corrcoef(clip.reshape(3, -1)) - np.eye(3)).max() < 0.3  # new in every frame
    rectangle = changed[np.argmax(chosen), 0]
    assert rectangle.sum() == rectangle.any(0).sum() * rectangle.any(1).sum()


def test_probabilities_zero_and_one():
    video = jnp.zeros((4, 2, HEIGHT, WIDTH, 3))
    keys = jax.random.split(jax.random.key(2), 4)
    np.testing.assert_array_equal(erase(video, keys, 0.0), video)
    assert np.all(np.any(np.asarray(erase(video, keys, 1.0)) != 0, axis=(1, 2, 3, 4)))


def test_a_clip_does_not_depend_on_its_neighbours():
    video = jax.random.normal(jax.random.key(3), (6, 2, HEIGHT, WIDTH, 3))
    keys = jax.random.split(jax.random.key(4), 6)
    together = erase(video, keys, 0.5)
    for start in (0, 3):
        alone = erase(video[start : start + 3], keys[start : start + 3], 0.5)
        np.testing.assert_array_equal(alone, together[start : start + 3])
