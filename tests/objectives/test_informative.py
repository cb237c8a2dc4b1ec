import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.objectives.informative import informative_terms
from tests.objectives.multitrain_golden import load

CASES = ['base', 'low_variance', 'high_variance', 'batch_smaller_than_dim', 'other_weights']


@pytest.mark.parametrize('case', CASES)
def test_equal_to_the_reference(case):
    golden, meta = load()
    options = meta['inf_cases'][case]

    def loss(embedding):
        std, covariance = informative_terms(embedding)
        return options['std_weight'] * std + options['covar_weight'] * covariance

    with jax.enable_x64(True):
        embedding = jnp.asarray(golden[f'inf/{case}/emb'], jnp.float64)
        std, covariance = jax.jit(informative_terms)(embedding)
        value, gradient = jax.jit(jax.value_and_grad(loss))(embedding)
    np.testing.assert_allclose(std, golden[f'inf/{case}/std_term'], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(covariance, golden[f'inf/{case}/cov_term'], rtol=1e-12)
    np.testing.assert_allclose(value, golden[f'inf/{case}/loss'], rtol=1e-12)
    np.testing.assert_allclose(gradient, golden[f'inf/{case}/grad'], rtol=1e-12, atol=1e-14)
    single = jax.jit(loss)(jnp.asarray(golden[f'inf/{case}/emb']))
    np.testing.assert_allclose(single, golden[f'inf/{case}/loss'], rtol=2e-6)


def test_constant_embedding_has_a_finite_gradient():
    terms, gradient = jax.jit(jax.value_and_grad(lambda x: sum(informative_terms(x))))(
        jnp.ones((4, 3))
    )
    np.testing.assert_allclose(terms, 1 - np.sqrt(1e-4), rtol=1e-6)
    assert np.all(np.isfinite(gradient))


def test_one_clip_is_refused():
    with pytest.raises(ValueError, match='at least 2 clips'):
        informative_terms(jnp.zeros((1, 3)))
