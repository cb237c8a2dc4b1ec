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


@pytest.mark.parametrize('axis_name', [None, 'data'])
def test_padding_does_not_enter(axis_name):
    """As if it were not there, in value and gradient,
    whatever stands in its rows; also over replicas.
    """
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(12, 5)).astype(np.float32)
    weight = np.array([1, 1, 0, 1, 0.5, 1, 0, 0, 1, 1, 0, 1], np.float32)
    embedding[weight == 0] = 1e3

    def loss(embedding, weight):
        return jnp.sum(jnp.stack(informative_terms(embedding, weight, axis_name=axis_name)))

    evaluate = jax.value_and_grad(loss)
    if axis_name is None:
        value, gradient = jax.jit(evaluate)(embedding, weight)
    else:  # the mean over the replicas is the gradient, see `informative_terms`
        split = (embedding.reshape(4, 3, 5), weight.reshape(4, 3))
        value, gradient = jax.pmap(evaluate, axis_name=axis_name)(*split)
        value, gradient = value[0], gradient.reshape(12, 5) / 4
    real = weight > 0
    expected, expected_gradient = jax.jit(jax.value_and_grad(lambda x: sum(informative_terms(x))))(
        embedding[real]
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[real], expected_gradient, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(gradient[~real], 0)


@pytest.mark.parametrize('clips', [0, 1])
def test_fewer_than_two_clips_have_no_variance(clips):
    weight = jnp.arange(4) < clips
    embedding = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda x: sum(informative_terms(x, weight.astype(jnp.float32))))
    )(embedding)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_one_clip_is_refused():
    with pytest.raises(ValueError, match='at least 2 clips'):
        informative_terms(jnp.zeros((1, 3)))
