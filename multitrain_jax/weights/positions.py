"""Learned positions for another number of frames or another image size."""

import numpy as np

_ABSOLUTE = ('spatial_positions', 'temporal_positions', 'positions')  # [h, w, D], [t, D], both
# [rows, d]; of stacked blocks [blocks, rows, d]
_RELATIVE = ('relative_t', 'relative_h', 'relative_w')


def is_positions(path: str) -> bool:
    """Whether this parameter, such as 'backbone/spatial_positions', depends on the clips' size."""
    return path.rsplit('/', 1)[-1] in (*_ABSOLUTE, *_RELATIVE)


def resize_positions(path: str, positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Positions of one token grid for another one.

    Linear in between along every axis, half-pixel centres, held at the border: what PyTorch's
    `interpolate` does with `align_corners=False`, and PySlowFast with relative positions (it takes
    bicubic for spatial ones). The model itself interpolates so when it meets clips of another size,
    so that both give the same output.

    Args:
        path: of the parameter.
        positions: its array; the last axis is not resized, nor that of the stacked blocks.
        shape: wanted.

    Returns:
        Float array of that shape and of the type of `positions`.

    Raises:
        ValueError: the shapes differ in more than the grid.
    """
    fixed = {positions.ndim - 1}
    if path.rsplit('/', 1)[-1] in _RELATIVE and positions.ndim == 3:
        fixed.add(0)
    if len(shape) != positions.ndim or any(positions.shape[axis] != shape[axis] for axis in fixed):
        raise ValueError(
            f'{path}: positions {list(positions.shape)} cannot be resized to {list(shape)}'
        )
    result = positions
    for axis in set(range(positions.ndim)) - fixed:
        result = _resize_axis(result, shape[axis], axis)
    return result.astype(positions.dtype)


def _resize_axis(array: np.ndarray, size: int, axis: int) -> np.ndarray:
    old = array.shape[axis]
    if old == size:
        return array
    place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, old - 1)
    fraction = (place - low).reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    return np.take(array, low, axis) * (1 - fraction) + np.take(array, high, axis) * fraction
