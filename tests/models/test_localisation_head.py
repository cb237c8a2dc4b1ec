"""The localisation head against PySlowFast's, and its parts against plain formulas."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.models.backbone import Features
from multitrain_jax.models.localisation_head import LocalisationHead, LocalisationHeadConfig
from tests.helpers.golden import reference_path


def _features(grid, class_token=False):
    """Features of a map f[B, t, h, w, D]."""
    tokens = jnp.asarray(grid, jnp.float32).reshape(grid.shape[0], -1, grid.shape[-1])
    if class_token:
        tokens = jnp.concatenate([jnp.full_like(tokens[:, :1], 1e3), tokens], 1)
    return Features(tokens, tokens.mean(1), grid.shape[1:4])


@pytest.mark.parametrize('class_token', [False, True])
def test_equal_to_pyslowfast(class_token):
    with np.load(reference_path('roi_head_a0.npz')) as file:
        grid = file['features_ncthw'].transpose(0, 2, 3, 4, 1)
        height, width = grid.shape[2:4]
        rows, image = file['boxes'], file['boxes'][:, 0].astype(int)
        scale = file['spatial_scale'] / np.array([width, height, width, height])
        # Every clip gets all boxes; those of the other clips are not looked at.
        boxes = np.broadcast_to(rows[:, 1:] * scale, (grid.shape[0], len(rows), 4))
        head = LocalisationHead(
            grid.shape[-1], file['weight'].shape[0], LocalisationHeadConfig(), rngs=nnx.Rngs(0)
        )
        head.output.kernel[...] = jnp.asarray(file['weight'].T, jnp.float32)
        head.output.bias[...] = jnp.asarray(file['bias'], jnp.float32)
        logits = head(_features(grid, class_token), jnp.asarray(boxes, jnp.float32))
        np.testing.assert_allclose(
            np.asarray(logits)[image, np.arange(len(rows))], file['logits'], atol=3e-5
        )


def test_context_reads_the_whole_clip_and_its_order_of_tokens_does_not_matter():
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(1, 2, 4, 4, 8)).astype(np.float32)
    boxes = jnp.asarray([[[0.0, 0.0, 0.25, 0.25]]], jnp.float32)
    with_context = LocalisationHeadConfig(output_size=2, context=True, context_heads=2)
    head = LocalisationHead(8, 3, with_context, init_std=0.5, rngs=nnx.Rngs(0))
    without = LocalisationHeadConfig(output_size=2)
    plain = LocalisationHead(8, 3, without, init_std=0.5, rngs=nnx.Rngs(0))
    far = grid.copy()
    far[:, :, 3, 3] += 1.0  # beyond the box
    assert not np.allclose(head(_features(grid), boxes), head(_features(far), boxes))
    np.testing.assert_array_equal(plain(_features(grid), boxes), plain(_features(far), boxes))

    # Attention in float64.
    def dense(layer, x):
        return x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...])

    tokens, box = grid.reshape(-1, 8).astype(np.float64), rng.normal(size=8)
    query = dense(head.context.query, (box - box.mean()) / np.sqrt(box.var() + 1e-6))
    key, value = np.split(dense(head.context.key_value, tokens), 2, axis=1)
    attended = []
    for part in (slice(0, 4), slice(4, 8)):
        weight = np.exp(key[:, part] @ query[part] / 2)  # sqrt of the head width 4
        attended.append(weight @ value[:, part] / weight.sum())
    expected = box + dense(head.context.output, np.concatenate(attended))
    found = head.context(
        jnp.asarray(box, jnp.float32)[None, None], jnp.asarray(tokens, jnp.float32)[None]
    )
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-4)


def test_dropout_needs_a_key_and_keeps_the_mean():
    config = LocalisationHeadConfig(dropout=0.5)
    head = LocalisationHead(16, 2, config, init_std=0.3, rngs=nnx.Rngs(0))
    features = _features(np.ones((1, 1, 4, 4, 16)))
    boxes = jnp.asarray([[[0.1, 0.1, 0.9, 0.9]]], jnp.float32)
    certain = head(features, boxes)
    np.testing.assert_array_equal(certain, head(features, boxes))
    many = jax.vmap(lambda key: head(features, boxes, key=key))(
        jax.random.split(jax.random.key(0), 4000)
    )
    np.testing.assert_allclose(many.mean(0), certain, atol=0.1)
    assert many.std(0).min() > 0.1


def test_heads_of_the_context_must_divide_the_width():
    with pytest.raises(ValueError, match='context_heads'):
        config = LocalisationHeadConfig(context=True, context_heads=4)
        LocalisationHead(10, 2, config, rngs=nnx.Rngs(0))
