"""Decomposed relative positions (MViTv2, arXiv 2112.01526, section 4.1, equations 3 and 4)."""

import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.ops.windows import Triple


def distance_index(queries: int, keys: int, rounding: str = 'float64') -> np.ndarray:
    """int32 [queries, keys]: the row of a table of 2 * max(queries, keys) - 1 distances.

    Of two grids over the same extent the coarser one counts in steps of the finer one. Distances
    are computed in the type `rounding` and cut to whole numbers: where steps are no whole numbers,
    float32 (PySlowFast) and float64 (torchvision) differ in some rows.
    """
    real = np.dtype(rounding).type
    query_step, key_step = max(keys / queries, 1.0), max(queries / keys, 1.0)
    of_queries = np.arange(queries, dtype=real) * real(query_step)
    of_keys = np.arange(keys, dtype=real) * real(key_step)
    distance = of_queries[:, None] - of_keys[None, :] + real((keys - 1) * key_step)
    return distance.astype(np.int32)


def resize_table(table: jax.Array, queries: int, keys: int) -> jax.Array:
    """Linear interpolation of a distance table [rows, d] to the rows that two grids need."""
    rows = 2 * max(queries, keys) - 1
    if rows == table.shape[0]:
        return table
    return jax.image.resize(table, (rows, table.shape[1]), 'linear', antialias=False)


def position_terms(
    q: jax.Array,
    tables: tuple[jax.Array, jax.Array, jax.Array],
    q_thw: Triple,
    k_thw: Triple,
    rounding: str = 'float64',
) -> jax.Array:
    """Products of the queries with the relative position vectors, per axis.

    Args:
      q: [B, t*h*w, heads, d] of the query grid, not scaled.
      tables: distance tables [rows, d] of t, h and w; interpolated where the grids need other rows.
      q_thw: query grid.
      k_thw: key grid.
      rounding: see `distance_index`.

    Returns:
      [B, t*h*w, heads, t' + h' + w'] for a key grid of t', h', w'. Its product with
      `key_selector(k_thw)` is the bias of every pair, which is never stored.
    """
    batch, _, heads, width = q.shape
    grid = q.reshape(batch, *q_thw, heads, width)
    terms = []
    for axis, table, queries, keys in zip('thw', tables, q_thw, k_thw):
        vectors = resize_table(table, queries, keys)[distance_index(queries, keys, rounding)]
        vectors = vectors.astype(q.dtype)  # [queries, keys, d]
        terms.append(jnp.einsum(f'bthwnd,{axis}kd->bthwnk', grid, vectors))
    return jnp.concatenate(terms, -1).reshape(batch, -1, heads, sum(k_thw))


def key_selector(k_thw: Triple) -> np.ndarray:
    """float32 [t'*h'*w', t' + h' + w']: one-hot codes of every key's position along t, h and w."""
    positions = np.indices(k_thw).reshape(3, -1)  # [3, t'*h'*w']
    codes = [np.eye(n, dtype=np.float32)[p] for n, p in zip(k_thw, positions)]
    return np.concatenate(codes, -1)
