"""Plain video transformers against transformers, block by block, and what they do beside."""

import dataclasses
import itertools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.models.multitrain import MultiTrainModel
from multitrain_jax.models.vit import ViT, ViTConfig, sine_positions
from multitrain_jax.ops.rotary import rotary_angles, rotate
from multitrain_jax.pytorch import naming, vit
from multitrain_jax.pytorch.architecture import Hints
from tests.helpers import transformers_golden
from tests.helpers.golden_models import every_block, filled, flat, random_model
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.transformers_golden import CASES, Golden

TOLERANCE = 1e-5  # of the largest entry of an array


def load(golden: Golden) -> tuple[MultiTrainModel, list[naming.Entry]]:
    """Our model with the weights of transformers', and the places of its arrays."""
    shapes = {name: array.shape for name, array in golden.weights.items()}
    found = vit.recognise(shapes, Hints(), golden.config)
    model, report = filled(found.model, golden.weights, found.entries)
    assert not report.missing
    return model, list(found.entries)


def _activations(model: MultiTrainModel, video: jax.Array) -> list[jax.Array]:
    backbone = model.backbone
    x, thw = backbone.embed_patches(video)
    seen = [backbone.add_positions(x, thw)]
    for block in every_block(backbone):
        seen.append(block(seen[-1], angles=backbone.angles(thw)))
    return seen


def compare(golden: Golden) -> None:
    """Activations of every block, output, gradients of all parameters."""
    model, entries = load(golden)
    graph, params = nnx.split(model)
    factors = jnp.asarray(golden.factors)

    @jax.jit
    def run(params, video):
        def loss(params):
            model = nnx.merge(graph, params)
            if model.heads is None:
                output = model.backbone(video).tokens
            else:
                output = model(video).logits[0]
            return (output * factors).sum(), output

        gradients, output = jax.grad(loss, has_aux=True)(params)
        return _activations(nnx.merge(graph, params), video), output, gradients

    hidden, output, gradients = jax.device_get(run(params, jnp.asarray(golden.video)))
    assert len(golden.hidden) > model.config.backbone.depth
    for i, tokens in enumerate(hidden):
        scale = np.abs(golden.hidden[i]).max()
        np.testing.assert_allclose(tokens, golden.hidden[i], atol=TOLERANCE * scale, err_msg=i)
    np.testing.assert_allclose(output, golden.output, atol=TOLERANCE * np.abs(golden.output).max())

    theirs = naming.to_torch(flat(gradients), entries)
    largest = max(np.abs(gradient).max() for gradient in golden.gradients.values())
    compared = 0
    for name, gradient in theirs.items():
        if model.heads is None and name not in golden.gradients:
            continue
        # Biases of keys change nothing: their gradients are rounding, next to the others.
        scale = max(np.abs(golden.gradients[name]).max(), 1e-3 * largest)
        np.testing.assert_allclose(
            gradient, golden.gradients[name], atol=TOLERANCE * scale, err_msg=name
        )
        compared += 1
    assert compared >= 14 * model.config.backbone.depth


@pytest.mark.parametrize('case', CASES)
def test_blocks_output_and_gradients_agree_with_transformers(case):
    compare(transformers_golden.read(case))


@pytest.mark.parametrize(
    ('case', 'changes'),
    [
        ('videomae_mean', {}),
        ('videomae_mean', dict(num_hidden_layers=5, hidden_size=48, num_attention_heads=4)),
        ('videomae_first', dict(hidden_act='gelu_new')),
        ('vivit', dict(hidden_size=36, qkv_bias=False)),
        ('vjepa2', dict(hidden_size=60, num_attention_heads=5, num_pooler_layers=1)),
    ],
)
def test_other_models_agree_with_the_installed_transformers(case, changes):
    pytest.importorskip('torch')
    pytest.importorskip('transformers')
    compare(transformers_golden.compute(*transformers_golden.build(case, seed=7, **changes)))


def _small(**overrides) -> ViTConfig:
    config = ViTConfig(
        num_frames=4,
        image_size=16,
        width=12,
        blocks=3,
        heads=2,
        mlp_width=24,
        patch_stride=(2, 4, 4),
        init_std=0.3,
    )
    return dataclasses.replace(config, **overrides)


FORMS = {
    'sine': dict(attention_bias='qv'),
    'learned': dict(positions='learned', class_token=True, pooling='first', activation='tanh'),
    'rotary': dict(positions='rotary', pooling='attentive', pooler_blocks=1),
}


def _model(config: ViTConfig) -> ViT:
    return random_model(lambda: ViT(config, rngs=nnx.Rngs(0)))


def _video(shape=(2, 4, 16, 16, 3), seed=0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize('field', ['remat', 'remat_attention'])
def test_rematerialisation_changes_no_gradient(field):
    def gradient(remat):
        config = _small(blocks=2, stochastic_depth=0.5, **{field: remat}, **FORMS['sine'])
        graph, params = nnx.split(_model(config))

        def loss(params):
            features = nnx.merge(graph, params)(_video(), key=jax.random.key(3))
            return jnp.square(features.embedding - 1).sum()

        return jax.jit(jax.grad(loss))(params)

    kept, recomputed = map(jax.tree.leaves, (gradient(False), gradient(True)))
    for a, b in zip(kept, recomputed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_near_float32_with_a_float32_embedding():
    run = jax.jit(lambda model: model(_video()))
    exact, rough = (
        run(_model(_small(dtype=dtype, **FORMS['rotary']))) for dtype in ('float32', 'bfloat16')
    )
    assert rough.tokens.dtype == jnp.bfloat16 and rough.embedding.dtype == jnp.float32
    difference = np.abs(rough.embedding - exact.embedding).max()
    assert 0 < difference < 0.1 * np.abs(exact.embedding).max()


@pytest.mark.parametrize('form', FORMS)
def test_other_sizes_than_the_positions_are_for(form):
    model = _model(_small(**FORMS[form]))
    features = jax.jit(lambda model, video: model(video))(model, _video((1, 7, 22, 30, 3)))
    assert features.thw == (3, 5, 7)  # remainders are cut
    assert features.grid_tokens.shape == (1, 3 * 5 * 7, 12)
    assert features.tokens.shape[1] == 3 * 5 * 7 + model.config.class_token
    assert np.all(np.isfinite(features.embedding))


def test_sine_positions_of_another_grid_lie_between_those_of_their_own():
    model = _model(_small(position_grid=(2, 4, 4)))
    x = model.add_positions(jnp.zeros((1, 2 * 4 * 8, 12)), (2, 4, 8)).reshape(2, 4, 8, 12)
    table = sine_positions(2 * 4 * 4, 12).reshape(2, 4, 4, 12)
    # Half-pixel centres: token 3 of 8 lies at 1.25 of 4.
    np.testing.assert_allclose(x[1, 2, 3], 0.75 * table[1, 2, 1] + 0.25 * table[1, 2, 2], atol=1e-6)
    np.testing.assert_allclose(x[0, 3, 0], table[0, 3, 0], atol=1e-6)  # held at the border


def test_rotary_products_depend_on_distances_where_pairs_turn_together():
    """A third of two channels has one frequency: a true rotation."""
    angles = rotary_angles((3, 4, 5), 8)
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 8)) for i in (0, 1))
    q, k = (rotate(jnp.tile(x, (1, 60, 1, 1)), angles)[0, :, 0] for x in (q, k))
    np.testing.assert_array_equal(q[:, 6], jnp.tile(q[:1, 6], 60))  # left over: does not turn
    q, k = q[:, 2:4], k[:, 2:4]
    products = (q @ k.T).reshape(3, 4, 5, 3, 4, 5)  # of the rows' pair
    np.testing.assert_allclose(products[0, 2, 1, 2, 1, 3], products[1, 3, 0, 0, 2, 0], atol=1e-5)
    assert abs(products[0, 2, 1, 0, 1, 1] - products[0, 2, 1, 0, 0, 1]) > 1e-3


def test_without_a_key_nothing_is_random_and_with_keys_everything_follows_them():
    model = _model(_small(stochastic_depth=0.5))
    run = jax.jit(lambda key: model(_video((8, 4, 16, 16, 3)), key=key).embedding)
    a, b, c = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_the_first_block_is_never_left_out_and_the_last_at_the_full_rate():
    model = _model(_small(blocks=2, stochastic_depth=0.5, pooling='mean'))
    first, last = every_block(model)
    video = jnp.tile(_video((1, 4, 16, 16, 3)), (64, 1, 1, 1, 1))
    tokens = jax.jit(lambda key: model(video, key=key).tokens)(jax.random.key(0))
    x, thw = model.embed_patches(video[:1])
    x = first(model.add_positions(x, thw))
    whole = x + 2 * last.attention(last.norm1(x), None)
    finish = lambda x: x + 2 * last.mlp(last.norm2(x))  # noqa: E731
    fates = model.norm(jnp.concatenate([x, finish(x), whole, finish(whole)]))[None]
    distance = np.abs(tokens[:, None] - fates).max((2, 3))
    assert np.all(distance.min(1) < 1e-3)
    assert len(set(distance.argmin(1).tolist())) == 4


@pytest.mark.parametrize('form', FORMS)
def test_holds_only_parameters(form):
    state = nnx.state(nnx.eval_shape(lambda: ViT(_small(**FORMS[form]), rngs=nnx.Rngs(0))))
    assert all(type(leaf) is nnx.Param for _, leaf in nnx.to_flat_state(state))


def test_depths_of_parameters():
    config = _small(**FORMS['rotary'])
    assert config.layer(('patch_kernel',), (2, 4, 4, 3, 12)) == 0
    np.testing.assert_array_equal(
        config.layer(('blocks', 'mlp', 'fc1', 'bias'), (3, 24)), [[1], [2], [3]]
    )
    assert config.layer(('norm', 'scale'), (12,)) == 4
    assert config.layer(('pooler', 'blocks', 'norm1', 'scale'), (1, 12)) == 4


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(positions='absolute'), 'positions'),
        (dict(pooling='max'), 'pooling'),
        (dict(attention_bias='k'), 'attention_bias'),
        (dict(activation='relu'), 'activation'),
        (dict(heads=5), 'multiple of heads'),
        (dict(blocks=0), 'blocks'),
        (dict(num_frames=1), 'smaller than'),
        (dict(pooler_blocks=1), 'belong to pooling'),
        (dict(positions='rotary', class_token=True), 'no class token'),
        (dict(positions='rotary', heads=3), 'at least 6 wide'),
        (dict(stochastic_depth=1.0), 'stochastic_depth'),
        (dict(attention='cudnn'), 'bfloat16'),
    ],
)
def test_a_bad_field_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        _small(**changes)


def test_a_video_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r'\[B, T, H, W, 3\]'):
        _model(_small())(jnp.zeros((4, 16, 16, 3)))
    with pytest.raises(ValueError, match='smaller than a tubelet'):
        _model(_small())(jnp.zeros((1, 4, 3, 16, 3)))


@pytest.mark.parametrize('form', FORMS)
def test_blocks_run_one_by_one_or_in_parts(form):
    model = _model(_small(stochastic_depth=0.5, **FORMS[form]))
    video, key, depth = _video(), jax.random.key(3), model.config.depth
    whole, (x, thw) = model(video, key=key), model.begin(video)
    for start, stop in itertools.pairwise([0, 0, 1, depth, depth]):
        x, thw = model.run(x, thw, slice(start, stop), key=key)
    parts = model.pool(x, thw)
    assert parts.thw == whole.thw
    np.testing.assert_allclose(parts.tokens, whole.tokens, atol=1e-5)
    np.testing.assert_allclose(parts.embedding, whole.embedding, atol=1e-5)
