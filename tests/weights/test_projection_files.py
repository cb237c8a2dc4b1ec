"""Projections that start from a file: every matrix in its own place, mistakes named."""

import json

import numpy as np
import pytest

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.errors import UserError
from multitrain_jax.weights.projection_files import start_projections

DATASETS = tuple(
    DatasetSpec(name, tuple(map(str, range(count))))
    for name, count in (('a', 3), ('b', 5), ('c', 2))
)
RNG = np.random.default_rng(0)
MATRICES = {
    'a->b': RNG.normal(size=(3, 5)),
    'c->a': RNG.normal(size=(2, 3)),
    'x->a': np.zeros((4, 3)),
}
START = RNG.normal(size=(3, 2, 5, 5)).astype(np.float32)


def write(path, matrices):
    if path.suffix == '.json':
        path.write_text(json.dumps({pair: matrix.tolist() for pair, matrix in matrices.items()}))
    else:
        np.savez(path, **matrices)
    return str(path)


@pytest.mark.parametrize('suffix', ['npz', 'json'])
def test_matrices_reach_their_places(tmp_path, suffix, caplog):
    path = write(tmp_path / f'start.{suffix}', MATRICES)
    caplog.set_level('INFO')
    kernel = start_projections(path, {'kernel': START}, DATASETS)['kernel']
    # Entry [d, j] reads dataset (d + 1 + j) % 3.
    np.testing.assert_allclose(kernel[1, 1, :3, :5], MATRICES['a->b'], rtol=1e-6)
    np.testing.assert_allclose(kernel[0, 1, :2, :3], MATRICES['c->a'], rtol=1e-6)
    for d, j in ((0, 0), (1, 0), (2, 0), (2, 1)):
        np.testing.assert_array_equal(kernel[d, j], START[d, j])
    assert '2 of 6 start from' in caplog.text and 'not pairs of this run: x->a' in caplog.text


def test_low_rank_projections_start_from_the_nearest_product(tmp_path):
    path = write(tmp_path / 'start.npz', MATRICES)
    params = {'left': np.ones((3, 2, 5, 2), np.float32), 'right': np.ones((3, 2, 2, 5), np.float32)}
    params = start_projections(path, params, DATASETS)
    product = params['left'][1, 1] @ params['right'][1, 1]
    assert not product[3:].any()
    u, size, v = np.linalg.svd(MATRICES['a->b'])
    np.testing.assert_allclose(product[:3], (u[:, :2] * size[:2]) @ v[:2], atol=1e-6)
    product = params['left'][0, 1] @ params['right'][0, 1]  # of rank 2 itself: exact
    np.testing.assert_allclose(product[:2, :3], MATRICES['c->a'], atol=1e-6)


@pytest.mark.parametrize(
    ('matrices', 'message'),
    [
        ({'a->b': np.zeros((5, 3))}, r'a->b has shape \[5, 3\], must be \[3, 5\]'),
        ({'a->b': np.full((3, 5), np.nan)}, 'finite'),
        ({'x->y': np.zeros((3, 5))}, r'no projection between a, b, c; it has x->y'),
    ],
)
def test_mistakes_are_named(tmp_path, matrices, message):
    with pytest.raises(UserError, match=message):
        start_projections(write(tmp_path / 'start.npz', matrices), {'kernel': START}, DATASETS)


def test_what_is_no_file_of_matrices(tmp_path):
    (tmp_path / 'pickle.npz').write_bytes(b'\x80\x04N.')
    (tmp_path / 'list.json').write_text('[1, 2]')
    (tmp_path / 'ragged.json').write_text('{"a->b": [[1], [1, 2]]}')
    for name in ('pickle.npz', 'list.json', 'ragged.json', 'absent.npz'):
        with pytest.raises(UserError, match='cannot be read'):
            start_projections(str(tmp_path / name), {'kernel': START}, DATASETS)
    with pytest.raises(UserError, match='neither a run'):
        start_projections(str(tmp_path), {'kernel': START}, DATASETS)
    np.savez(tmp_path / 'objects.npz', **{'a->b': np.array([{}], object)})  # a pickle inside
    with pytest.raises(UserError, match='cannot be read'):
        start_projections(str(tmp_path / 'objects.npz'), {'kernel': START}, DATASETS)
