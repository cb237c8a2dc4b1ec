"""Decomposed relative positions (MViTv2, arXiv 2112.01526, section 4.1, equations 3 and 4)."""

import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.ops.windows import Triple


def distance_index(queries: int, keys: int) -> np.ndarray:
    """int32 [queries, keys]: the row of a table of 2 * max(queries, keys) - 1 distances.

    Of two grids over the same extent the coarser one counts in steps of the finer one.
    """
    query_step = max(keys / queries, 1.0)
    key_step = max(queries / keys, 1.0)
    distance = np.arange(queries)[:, None] * query_step - np.arange(keys)[None, :] * key_step
    return (distance + (keys - 1) * key_step).astype(np.int32)


def resize_table(table: jax.Array, queries: int, keys: int) -> jax.Array:
    """Linear interpolation of a distance table [rows, d] to the rows that two grids need."""
    rows = 2 * max(queries, keys) - 1
    if rows == table.shape[0]:
        return table
    return jax.image.resize(table, (rows, table.shape[1]), 'linear', antialias=False)


def position_terms(
    q: jax.Array, tables: tuple[jax.Array, jax.Array, jax.Array], q_thw: Triple, k_thw: Triple
) -> jax.Array:
    """Products of the queries with the relative position vectors, per axis.

    Args:
      q: [B, t*h*w, heads, d] of the query grid, not scaled.
      tables: distance tables [rows, d] of t, h and w; interpolated where the grids need other rows.
      q_thw: query grid.
      k_thw: key grid.

    Returns:
      [B, t*h*w, heads, t' + h' + w'] for a key grid of t', h', w'. Its product with
      `key_selector(k_thw)` is the bias of every pair, which is never stored.
    """
    batch, _, heads, width = q.shape
    grid = q.reshape(batch, *q_thw, heads, width)
    terms = []
    for axis, table, queries, keys in zip('thw', tables, q_thw, k_thw):
        vectors = resize_table(table, queries, keys)[distance_index(queries, keys)]
        vectors = vectors.astype(q.dtype)  # [queries, keys, d]
        terms.append(jnp.einsum(f'bthwnd,{axis}kd->bthwnk', grid, vectors))
    return jnp.concatenate(terms, -1).reshape(batch, -1, heads, sum(k_thw))


def key_selector(k_thw: Triple) -> np.ndarray:
    """float32 [t'*h'*w', t' + h' + w']: one-hot codes of every key's position along t, h and w."""
    positions = np.indices(k_thw).reshape(3, -1)  # [3, t'*h'*w']
    codes = [np.eye(n, dtype=np.float32)[p] for n, p in zip(k_thw, positions)]
    return np.concatenate(codes, -1)
