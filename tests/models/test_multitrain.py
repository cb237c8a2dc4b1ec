"""Heads, projections, expander and whole-model gradients."""

import dataclasses
import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.models.heads import PADDED_LOGIT, Projections
from multitrain_jax.models.multitrain import MultiTrainConfig, MultiTrainModel, count_parameters
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.variants import mvit_b_32x3, mvit_l_40x3, mvit_s_16x4, public_form
from multitrain_jax.pytorch import naming
from tests.helpers.golden_models import (
    FORMS,
    channels_last,
    flat,
    golden,
    load,
    random_model,
    shapes_of,
)

CLASSES = (3, 5, 2)


def _config(**overrides) -> MultiTrainConfig:
    backbone = MViTConfig(
        num_frames=2, image_size=8, width=4, stage_blocks=(1,), query_strides=((1, 1, 1),)
    )
    config = MultiTrainConfig(backbone, CLASSES, head_hidden=6, expander_hidden=7)
    return dataclasses.replace(config, **overrides)


def _model(**overrides) -> MultiTrainModel:
    return random_model(lambda: MultiTrainModel(_config(**overrides), rngs=nnx.Rngs(0)))


def _video(clips: int = 4) -> jax.Array:
    return jax.random.normal(jax.random.key(5), (clips, 2, 8, 8, 3))


def test_training_outputs_agree_with_the_reference():
    truth = golden('mvit_multitrain_tiny')
    config, datasets = FORMS['mvit_multitrain_tiny']
    model = load('mvit_multitrain_tiny', config, datasets)
    outputs = jax.device_get(
        jax.jit(lambda model, video: model(video, training=True))(
            model, jnp.asarray(channels_last(truth['input']))
        )
    )
    np.testing.assert_allclose(outputs.expanded, truth['train/expander'], atol=1e-5)
    for d, classes in enumerate(config.num_classes):
        logits = outputs.logits[d]
        np.testing.assert_allclose(
            logits[:, :classes], truth[f'train/logits/{datasets[d]}'], atol=1e-5
        )
        assert np.all(logits[:, classes:] == PADDED_LOGIT)
        for j, o in enumerate(Projections.sources(3, d)):
            projected = outputs.projected[d, j]
            expected = truth[f'train/proj/{datasets[o]}_{datasets[d]}']
            np.testing.assert_allclose(projected[:, :classes], expected, atol=1e-5)
            assert np.all(projected[:, classes:] == PADDED_LOGIT)


def _reference_loss(outputs, labels, masks):
    """The reference's total loss by its formula, kept apart from our objectives."""
    batch = outputs.embedding.shape[0]
    total = 0.0
    for d, (label, mask) in enumerate(zip(labels, masks)):
        classes = label.shape[1]

        def cross_entropy(logits):
            return -(label * jax.nn.log_softmax(logits[:, :classes])).sum(-1)

        own = cross_entropy(outputs.logits[d])
        others = [cross_entropy(p) for p in outputs.projected[d]]
        total += (mask * (own + sum(others) / len(others))).sum() / batch
    z = outputs.expanded - outputs.expanded.mean(0, keepdims=True)
    covariance = z.T @ z / (batch - 1)
    std = jnp.sqrt(jnp.diag(covariance) + 1e-4)
    off = covariance - jnp.diag(jnp.diag(covariance))
    informative = 25 * jax.nn.relu(1 - std).mean() + jnp.square(off).sum() / z.shape[1]
    return total + 0.1 * informative


def test_gradients_of_the_whole_loss_agree_with_the_reference():
    truth = golden('mvit_multitrain_tiny')
    config, datasets = FORMS['mvit_multitrain_tiny']
    graph, params = nnx.split(load('mvit_multitrain_tiny', config, datasets))
    video = jnp.asarray(channels_last(truth['input']))
    labels = [jnp.asarray(truth[f'train/labels/{d}'], jnp.float32) for d in datasets]
    masks = [jnp.asarray(truth[f'train/masks/{d}'], jnp.float32) for d in datasets]

    def loss(params):
        return _reference_loss(nnx.merge(graph, params)(video, training=True), labels, masks)

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, truth['train/loss_total'], rtol=1e-6)

    ours = jax.device_get(flat(gradients))
    entries = naming.entries_of(config, 'multitrain', datasets)
    theirs = naming.to_torch(ours, entries)
    assert set(theirs) == set(truth['train/grad_names'])
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in theirs.values()))
    np.testing.assert_allclose(norm, truth['train/grad_global_norm'], rtol=1e-5)
    for i, name in enumerate(truth['train/grad_names']):
        g = theirs[name].astype(np.float64)
        # Some are 0 in theory (README, section 1); the absolute part is for those.
        np.testing.assert_allclose(
            np.linalg.norm(g), truth['train/grad_l2'][i], rtol=1e-4, atol=2e-5, err_msg=name
        )
        largest = np.abs(g).sum()
        assert abs(g.sum() - truth['train/grad_sum'][i]) < 1e-4 * largest + 1e-4, name
        np.testing.assert_allclose(
            largest, truth['train/grad_abs_sum'][i], rtol=1e-4, atol=2e-4, err_msg=name
        )
        if f'train/grad/{name}' in truth:
            full = truth[f'train/grad/{name}']
            np.testing.assert_allclose(g, full, atol=1e-4 * np.abs(full).max(), err_msg=name)
    # What is not in the state dict is padding: no gradient may reach it.
    inside = naming.from_torch(theirs, entries, {k: np.zeros_like(v) for k, v in ours.items()})
    for path, gradient in ours.items():
        np.testing.assert_array_equal(gradient, inside[0][path], err_msg=path)


@pytest.mark.parametrize(
    'config, groups',
    [
        (
            MultiTrainConfig(mvit_b_32x3(), (400, 305, 174), expander_hidden=4096),
            (50_986_176, 6_525_807, 489_340, 6_296_320),
        ),
        (MultiTrainConfig(mvit_b_32x3(), (400,), 0, expander=False), (50_986_176, 307_600, 0, 0)),
        (MultiTrainConfig(mvit_s_16x4(), (400,), 0, expander=False), (34_401_696, 307_600, 0, 0)),
        (
            MultiTrainConfig(public_form(mvit_s_16x4()), (400,), 0, expander=False),
            (34_537_744 - 307_600, 307_600, 0, 0),
        ),
        (
            MultiTrainConfig(public_form(mvit_b_32x3()), (400,), 0, expander=False),
            (51_230_128 - 307_600, 307_600, 0, 0),
        ),
        (
            MultiTrainConfig(public_form(mvit_l_40x3()), (400,), 0, expander=False),
            (213_390_112 - 461_200, 461_200, 0, 0),
        ),
    ],
)
def test_published_numbers_of_parameters(config, groups):
    counted = count_parameters(shapes_of(config))
    assert tuple(counted.values()) == (*groups, sum(groups))


def test_heads_are_dataset_by_dataset_multilayer_perceptrons():
    model = _model()
    outputs = jax.device_get(jax.jit(lambda m, v: m(v, training=True))(model, _video()))
    heads = jax.device_get(flat(nnx.state(model.heads)))
    erf = np.vectorize(math.erf)
    for d, classes in enumerate(CLASSES):
        x = outputs.embedding.astype(np.float64) @ heads['hidden_kernel'][d]
        x = x + heads['hidden_bias'][d]
        x = 0.5 * x * (1 + erf(x / np.sqrt(2)))
        logits = x @ heads['kernel'][d] + heads['bias'][d]
        np.testing.assert_allclose(outputs.logits[d, :, :classes], logits[:, :classes], rtol=1e-4)


def test_padding_starts_at_zero_and_gets_no_gradient():
    model = jax.jit(lambda: MultiTrainModel(_config(), rngs=nnx.Rngs(0)))()
    graph, params = nnx.split(model)

    def loss(params):
        outputs = nnx.merge(graph, params)(_video(), key=jax.random.key(0), training=True)
        return jnp.tanh(outputs.logits).sum() + jnp.sin(outputs.projected).sum()

    gradients = jax.jit(jax.grad(loss))(params)
    for arrays in (flat(params), flat(gradients)):
        kernel, projection = arrays['heads/kernel'], arrays['projections/kernel']
        for d, classes in enumerate(CLASSES):
            assert kernel[d, :, :classes].any()
            assert not kernel[d, :, classes:].any() and not arrays['heads/bias'][d, classes:].any()
            for j, o in enumerate(Projections.sources(3, d)):
                inner = projection[d, j, : CLASSES[o], :classes]
                assert np.count_nonzero(inner) > 0
                assert np.count_nonzero(projection[d, j]) == np.count_nonzero(inner)


def test_dropout_needs_a_key_and_also_hits_the_logits():
    model = _model(logit_dropout=0.5, head_dropout=0.0)
    run = jax.jit(lambda key: model(_video(64), key=key, training=True))
    still = jax.jit(lambda: model(_video(64), training=True))()
    noisy = run(jax.random.key(0))
    for d, classes in enumerate(CLASSES):
        a = np.asarray(still.logits[d, :, :classes])
        b = np.asarray(noisy.logits[d, :, :classes])
        assert np.all(np.isclose(b, 0) | np.isclose(b, 2 * a, rtol=1e-4))
        assert 0.3 < np.mean(b == 0) < 0.7
    # The projections read the dropped logits.
    kernel = np.asarray(model.projections.kernel[...])
    source = Projections.sources(3, 0)[0]
    expected = np.asarray(noisy.logits[source])[:, : CLASSES[source]]
    expected = expected @ kernel[0, 0, : CLASSES[source], : CLASSES[0]]
    np.testing.assert_allclose(noisy.projected[0, 0, :, : CLASSES[0]], expected, atol=1e-4)


def test_hidden_dropout_changes_training_only():
    model = _model(logit_dropout=0.0, head_dropout=0.5)
    run = jax.jit(lambda key: model(_video(), key=key).logits)
    a, b = run(jax.random.key(0)), run(jax.random.key(1))
    assert np.abs(a - b)[0, :, : CLASSES[0]].max() > 1e-3


def test_training_parts_can_be_left_out():
    model = _model(projections=False, expander=False)
    outputs = jax.jit(lambda m, v: m(v, training=True))(model, _video())
    assert outputs.projected is None and outputs.expanded is None
    single = shapes_of(_config(num_classes=(4,)))
    assert single.projections is None and single.expander is not None
    assert jax.eval_shape(lambda: _model()(_video())).projected is None


@pytest.mark.parametrize(
    'field, value',
    [
        ('num_classes', (3, 0)),
        ('head_dropout', 1.0),
        ('logit_dropout', -0.1),
        ('projection_rank', -1),
    ],
)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        _config(**{field: value})
