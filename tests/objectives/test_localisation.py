import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.objectives.localisation import localisation_loss


def test_mean_over_boxes_that_exist_and_actions_that_the_dataset_has():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(3, 4, 5)), (rng.random((3, 4, 5)) < 0.3).astype(float)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], float)
    actions = np.arange(5) < np.array([5, 3, 5])[:, None]  # [B, A]
    expected = []
    for b in range(3):
        losses = []
        for m in range(4):
            p = 1 / (1 + np.exp(-logits[b, m]))
            each = -(label[b, m] * np.log(p) + (1 - label[b, m]) * np.log(1 - p))
            if mask[b, m]:
                losses.append(each[actions[b]].mean())
        expected.append(np.mean(losses) if losses else 0.0)
    loss = localisation_loss(
        *(jnp.asarray(x, jnp.float32) for x in (logits, label, mask)), jnp.asarray(actions)[:, None]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_padding_cannot_spoil_anything():
    label, mask = jnp.zeros((1, 2, 3)), jnp.asarray([[1.0, 0.0]])
    logits = jnp.asarray([[[0.5, -1.0, 2.0], [3e38, -3e38, 1e30]]])
    loss = jax.value_and_grad(
        lambda x: localisation_loss(x, label, mask, jnp.ones((1, 1, 3), bool)).sum()
    )
    value, gradient = loss(logits)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert not gradient[0, 1].any()
