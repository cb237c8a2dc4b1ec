"""Positions for other sizes: linear in between,
as the reference interpolates and as the model itself does.
"""

import numpy as np
import pytest

from multitrain_jax.weights.positions import is_positions, resize_positions


def linear(row: np.ndarray, size: int) -> np.ndarray:
    """[n, D] at `size` places with half-pixel centres, in float64, element by element."""
    old = len(row)
    result = []
    for i in range(size):
        place = min(max((i + 0.5) * old / size - 0.5, 0.0), old - 1.0)
        low = int(place)
        high = min(low + 1, old - 1)
        result.append(row[low] * (1 - (place - low)) + row[high] * (place - low))
    return np.array(result)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize('size', [1, 4, 7, 8, 13, 14, 20])
def test_along_time(size):
    table = draw(7, 3)
    for path in ('backbone/temporal_positions', 'backbone/stages/0/first/attention/relative_h'):
        resized = resize_positions(path, table, (size, 3))
        assert resized.dtype == np.float32
        np.testing.assert_allclose(resized, linear(table.astype(np.float64), size), atol=1e-6)


def test_along_both_axes_of_the_image():
    table = draw(4, 5, 3)
    rows = np.stack([linear(table[:, x].astype(np.float64), 6) for x in range(5)], 1)
    expected = np.stack([linear(rows[y], 9) for y in range(6)])
    np.testing.assert_allclose(
        resize_positions('backbone/spatial_positions', table, (6, 9, 3)), expected, atol=1e-6
    )


def test_stacked_blocks_keep_their_own_tables():
    tables = draw(5, 7, 3)
    resized = resize_positions('backbone/stages/1/rest/attention/relative_t', tables, (5, 13, 3))
    for table, own in zip(tables, resized, strict=True):
        np.testing.assert_allclose(own, linear(table.astype(np.float64), 13), atol=1e-6)


@pytest.mark.parametrize('size', [(9, 6), (3, 11), (4, 5)])
def test_equals_pytorch(size):
    torch = pytest.importorskip('torch')
    table = draw(4, 5, 3)
    expected = torch.nn.functional.interpolate(
        torch.tensor(table.transpose(2, 0, 1)[None]), size=size, mode='bilinear'
    )
    resized = resize_positions('backbone/spatial_positions', table, (*size, 3))
    np.testing.assert_allclose(resized, expected[0].numpy().transpose(1, 2, 0), atol=1e-6)


def test_only_the_grid_may_differ():
    with pytest.raises(ValueError, match=r'\[4, 3\] cannot be resized to \[4, 5\]'):
        resize_positions('backbone/temporal_positions', draw(4, 3), (4, 5))
    with pytest.raises(ValueError, match=r'relative_t: .* cannot be resized'):
        resize_positions('stages/0/rest/attention/relative_t', draw(2, 7, 3), (3, 7, 3))


def test_what_positions_are():
    assert is_positions('backbone/spatial_positions')
    assert is_positions('backbone/stages/0/rest/attention/relative_w')
    assert not is_positions('backbone/class_token') and not is_positions('backbone/norm/bias')
