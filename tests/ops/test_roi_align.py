"""RoIAlign against the reference operator's golden values,
and against a float64 loop over sampling points.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.ops.roi_align import roi_align
from tests.helpers.golden import reference_path

GOLDEN = [
    ('roi_align_a0', 1, 0),
    ('roi_align_a0', 0, 2),
    ('roi_align_a1', 1, 2),
    ('roi_align_a1', 0, 0),
]


def _per_image(file):
    """Features [B, H, W, C], normalised boxes [B, M, 4] (absent ones 0),
    and where each of the K boxes went.
    """
    height, width = file['features_nchw'].shape[2:]
    rows = file['boxes']
    image = rows[:, 0].astype(int)
    most = np.bincount(image).max()
    boxes, place, used = np.zeros((image.max() + 1, most, 4)), [], [0] * (image.max() + 1)
    for i, row in zip(image, rows):
        boxes[i, used[i]] = (
            row[1:] * file['spatial_scale'] / np.array([width, height, width, height])
        )
        place.append((i, used[i]))
        used[i] += 1
    return file['features_nchw'].transpose(0, 2, 3, 1), boxes, tuple(np.array(place).T)


@pytest.mark.parametrize(('name', 'aligned', 'ratio'), GOLDEN)
def test_equal_to_the_reference_operator(name, aligned, ratio):
    with np.load(reference_path(f'{name}.npz')) as file:
        features, boxes, place = _per_image(file)
        expected = file[f'out/aligned{aligned}_sr{ratio}']  # [K, C, P, P]
        run = functools.partial(
            roi_align,
            output_size=int(file['output_size']),
            sampling_ratio=ratio,
            aligned=bool(aligned),
        )
        out = jax.jit(run)(features.astype(np.float32), boxes.astype(np.float32))
        np.testing.assert_allclose(
            np.asarray(out)[place].transpose(0, 3, 1, 2), expected, atol=2e-5
        )
        if not aligned:
            return
        cotangent = np.zeros(out.shape, np.float32)
        cotangent[place] = file['grad_out'].transpose(0, 2, 3, 1)
        gradient = jax.jit(
            jax.grad(lambda f: (run(f, boxes.astype(np.float32)) * cotangent).sum())
        )(features.astype(np.float32))
        np.testing.assert_allclose(
            gradient, file[f'grad_features/aligned1_sr{ratio}'].transpose(0, 2, 3, 1), atol=1e-4
        )


def _interpolate(image, y, x):
    height, width, _ = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = y - top, x - left
    upper = (1 - x) * image[top, left] + x * image[top, right]
    return (1 - y) * upper + y * ((1 - x) * image[bottom, left] + x * image[bottom, right])


def _loop(image, box, bins, ratio):
    height, width, channels = image.shape
    x1, y1, x2, y2 = box * np.array([width, height, width, height]) - 0.5
    bin_height, bin_width = (y2 - y1) / bins, (x2 - x1) / bins
    rows, columns = (ratio or max(0, math.ceil(size)) for size in (bin_height, bin_width))
    out = np.zeros((bins, bins, channels))
    for p in range(bins):
        for q in range(bins):
            for i in range(rows):
                for j in range(columns):
                    y = y1 + bin_height * (p + (i + 0.5) / rows)
                    x = x1 + bin_width * (q + (j + 0.5) / columns)
                    out[p, q] += _interpolate(image, y, x)
    return out / max(rows * columns, 1)


@pytest.mark.parametrize('ratio', [0, 3])
def test_equal_to_a_loop_over_points(ratio):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 9, 13, 3))
    boxes = np.array(
        [
            [
                [0.11, 0.2, 0.52, 0.93],
                [-0.2, -0.31, 0.3, 0.4],
                [0.7, 0.6, 1.33, 1.21],
            ],  # inside, across borders
            [
                [0.0, 0.0, 1.0, 1.0],
                [1.2, 1.3, 1.4, 1.5],
                [0.4, 0.4, 0.4, 0.4],
            ],  # all, outside, nothing
        ]
    )
    expected = [[_loop(f, box, 3, ratio) for box in some] for f, some in zip(features, boxes)]
    out = roi_align(
        jnp.asarray(features, jnp.float32),
        jnp.asarray(boxes, jnp.float32),
        output_size=3,
        sampling_ratio=ratio,
    )
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_boxes_get_no_gradient_and_vmap_works():
    features, boxes = jnp.ones((2, 4, 4, 1)), jnp.full((2, 1, 4), 0.5)
    assert not jax.grad(lambda b: roi_align(features, b).sum())(boxes).any()
    each = jax.vmap(lambda f, b: roi_align(f[None], b[None])[0])(features, boxes)
    np.testing.assert_array_equal(each, roi_align(features, boxes))


def test_low_precision_keeps_its_type():
    out = roi_align(jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.array([[[0.1, 0.1, 0.9, 0.9]]]))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), 1.0, atol=1e-2)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match='must be'):
        roi_align(jnp.ones((2, 4, 4, 1)), jnp.ones((3, 1, 4)))
    with pytest.raises(ValueError, match='output_size'):
        roi_align(jnp.ones((1, 4, 4, 1)), jnp.ones((1, 1, 4)), output_size=0)
