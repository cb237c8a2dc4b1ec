"""RoIAlign (arXiv 1703.06870) as two small matrix products per box.

Its settings are in `models/localisation_head.py`.

Bilinear interpolation, the test of whether a sampling point is on the map, and the mean over a
bin's points each factor into a part along the rows and a part along the columns. So a box is one
matrix [P, H] and one [P, W], and its features are rows @ map @ columns^T: nothing is gathered, and
the backward pass scatters nothing.
"""

import math

import jax
import jax.numpy as jnp

# With adaptive sampling, boxes up to so many times the map's side are sampled as densely as asked
# for.
_LARGEST_SIDE = 2

# A bin of exactly n places, computed from a normalised box, may come out a little larger: it still
# gets n points.
_ROUNDING = 1e-5


def roi_align(
    features: jax.Array,
    boxes: jax.Array,
    *,
    output_size: int = 7,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> jax.Array:
    """Features of boxes, sampled bilinearly on a fixed grid of bins.

    Equal to `torchvision.ops.roi_align` and detectron2's `ROIAlign`, for which a normalised box
    times the side of the map is the box in pixels times `spatial_scale`. Points more than one place
    outside the map count as 0. Differentiable in `features`; no gradient reaches `boxes`.

    Args:
        features: [B, H, W, C].
        boxes: [B, M, 4], x1, y1, x2, y2, 0..1 over the map; may reach beyond it.
        output_size: bins along each side, P.
        sampling_ratio: points of a bin along each side; 0: one per place of the map that the bin
            spans, rounded up. A box without extent then has no points, and features 0.
        aligned: whether the centre of the map's first place has the coordinate 0.5 (else 0, and
            boxes are at least one place large: the original, misaligned form).

    Returns:
        [B, M, P, P, C], of the type of `features`.

    Raises:
        ValueError: shapes or numbers that do not fit.
    """
    if (
        features.ndim != 4
        or boxes.ndim != 3
        or boxes.shape[0] != features.shape[0]
        or boxes.shape[2] != 4
    ):
        raise ValueError(
            f'features {features.shape} and boxes {boxes.shape}: must be [B, H, W, C] and [B, M, '
            '4] of equal B'
        )
    if output_size < 1 or sampling_ratio < 0:
        raise ValueError(
            f'need output_size >= 1 and sampling_ratio >= 0, got {output_size} and {sampling_ratio}'
        )
    boxes = jax.lax.stop_gradient(boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32)))
    height, width = features.shape[1:3]
    rows = _axis_weights(
        boxes[..., 1], boxes[..., 3], height, output_size, sampling_ratio, aligned
    )  # [B, M, P, H]
    columns = _axis_weights(
        boxes[..., 0], boxes[..., 2], width, output_size, sampling_ratio, aligned
    )  # [B, M, P, W]
    exact = dict(
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(features.dtype, jnp.float32),
    )
    half = jnp.einsum('bmph,bhwc->bmpwc', rows.astype(features.dtype), features, **exact)
    out = jnp.einsum('bmqw,bmpwc->bmpqc', columns.astype(half.dtype), half, **exact)
    return out.astype(features.dtype)


def _axis_weights(
    low: jax.Array, high: jax.Array, side: int, bins: int, sampling_ratio: int, aligned: bool
) -> jax.Array:
    """What each place of the map contributes to each bin, along one axis.

    Args:
        low, high: f[B, M], the box's ends, 0..1.
        side: places of the map.

    Returns:
        f[B, M, bins, side].
    """
    offset = 0.5 if aligned else 0.0
    start = low * side - offset
    length = high * side - offset - start
    if not aligned:
        length = jnp.maximum(length, 1.0)
    bin_size = length / bins  # [B, M]
    if sampling_ratio:
        most = sampling_ratio
        count = jnp.full_like(bin_size, sampling_ratio)
    else:
        most = math.ceil(_LARGEST_SIDE * side / bins)
        count = jnp.clip(jnp.ceil(bin_size - _ROUNDING), 0, most)
    start, bin_size, count = (x[..., None, None] for x in (start, bin_size, count))  # [B, M, 1, 1]
    point = jnp.arange(most, dtype=start.dtype)[None, None, None]  # [1, 1, 1, S]
    number = jnp.arange(bins, dtype=start.dtype)[None, None, :, None]  # [1, 1, P, 1]
    # In places of the map: [B, M, P, S].
    where = start + bin_size * (number + (point + 0.5) / jnp.maximum(count, 1.0))
    counts = (where >= -1.0) & (where <= side) & (point < count)
    where = jnp.clip(where, 0.0, side - 1.0)
    place = jnp.arange(side, dtype=where.dtype)[None, None, None, None]
    hat = jax.nn.relu(1.0 - jnp.abs(where[..., None] - place))  # [B, M, P, S, side]
    return jnp.where(counts[..., None], hat, 0.0).sum(-2) / jnp.maximum(count, 1.0)
