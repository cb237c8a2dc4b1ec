import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.objectives import classification
from tests.helpers.golden import reference_path
from tests.helpers.golden_losses import OUR_NAMES, PADDING, load


def _padded(array, value):
    return jnp.asarray(np.pad(array, ((0, 0), (0, 3)), constant_values=value))


@pytest.mark.parametrize('target', ['hard', 'soft', 'multilabel'])
@pytest.mark.parametrize('name', [*OUR_NAMES, 'bce_logit'])
def test_equal_to_the_reference_in_value_and_gradient(name, target):
    golden, _ = load()
    if name == 'bce_logit':
        loss = classification.binary_cross_entropy
        expected = golden[f'plain/{name}/{target}/none'].mean(axis=-1)
    else:
        loss = classification.SOFTMAX_LOSSES[OUR_NAMES[name]]
        expected = golden[f'plain/{name}/{target}/none']
    with jax.enable_x64(True):
        raw = np.asarray(golden['plain/logits'], np.float64)
        logits = _padded(raw, PADDING)
        label = _padded(np.asarray(golden[f'plain/targets/{target}'], np.float64), 0.0)
        mask = jnp.broadcast_to(jnp.arange(logits.shape[1])[None] < raw.shape[1], logits.shape)
        value = jax.jit(loss)(logits, label, mask)
        gradient = jax.jit(jax.grad(lambda x: jnp.mean(loss(x, label, mask))))(logits)
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)
    width = raw.shape[1]
    expected = golden[f'plain/{name}/{target}/grad_mean']
    np.testing.assert_allclose(gradient[:, :width], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(gradient[:, width:], 0.0)


def test_float32_agrees_with_float64():
    golden, _ = load()
    logits = jnp.asarray(golden['plain/logits'])
    label = jnp.asarray(golden['plain/targets/soft'])
    value = classification.cross_entropy(logits, label, jnp.ones(logits.shape, bool))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, golden['plain/soft_cross_entropy/soft/none'], rtol=1e-6)


def test_smoothing_uses_the_number_of_classes_of_the_dataset():
    golden = np.load(reference_path('mixup_targets.npz'))
    classes, smoothing = int(golden['target/num_classes']), float(golden['target/smoothing'])
    index = golden['target/index']
    lam = golden['target/lams']
    (whole,) = np.nonzero(lam == 1.0)  # a lambda of 1 leaves only the smoothing
    mask = jnp.broadcast_to(jnp.arange(classes + 4)[None] < classes, (len(index), classes + 4))
    one_hot = jax.nn.one_hot(jnp.asarray(index), classes + 4)
    smoothed = classification.smooth_label(one_hot, mask, smoothing)
    np.testing.assert_allclose(
        smoothed[:, :classes], golden[f'target/out_index/{whole[0]}'], atol=1e-7
    )
    np.testing.assert_array_equal(smoothed[:, classes:], 0.0)
    multi_hot = jnp.pad(jnp.asarray(golden['target/multilabel']), ((0, 0), (0, 4)))
    smoothed = classification.smooth_label(multi_hot, mask, smoothing)
    np.testing.assert_allclose(
        smoothed[:, :classes], golden[f'target/out_multilabel/{whole[0]}'], atol=1e-7
    )
