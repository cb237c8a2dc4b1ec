import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.objectives.informative import informative_terms
from multitrain_jax.objectives.objective import ObjectiveConfig, batch_objective
from tests.helpers.golden_losses import load, parameter_of, variance_by_parameter

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


def test_learned_weights_equal_to_the_reference():
    golden, _ = load()
    # A learned weight is 1 / (2 s) there: ours starts from the fixed one, which is then 1/2.
    config = ObjectiveConfig(
        lambda_inf=1.0, std_weight=0.5, covariance_weight=0.5, learned_informative_weights=True
    )
    variances = golden['inf/learned/sigma_sqs']

    def loss(embedding, parameter):
        return batch_objective(embedding, config, log_variances={'informative': parameter})[0]

    with jax.enable_x64(True):
        embedding = jnp.asarray(golden['inf/learned/emb'], jnp.float64)
        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(
            embedding, parameter_of(variances)
        )
    np.testing.assert_allclose(value, golden['inf/learned/loss'], rtol=1e-12)
    np.testing.assert_allclose(gradients[0], golden['inf/learned/grad'], rtol=1e-12, atol=1e-14)
    expected = golden['inf/learned/grad_sigma_sqs'] * variance_by_parameter(variances)
    np.testing.assert_allclose(gradients[1], expected, rtol=1e-12)


def test_constant_embedding_has_a_finite_gradient():
    terms, gradient = jax.jit(jax.value_and_grad(lambda x: sum(informative_terms(x))))(
        jnp.ones((4, 3))
    )
    np.testing.assert_allclose(terms, 1 - np.sqrt(1e-4), rtol=1e-6)
    assert np.all(np.isfinite(gradient))


def test_one_clip_is_refused():
    with pytest.raises(ValueError, match='at least 2 clips'):
        informative_terms(jnp.zeros((1, 3)))
