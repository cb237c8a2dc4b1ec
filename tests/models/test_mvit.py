"""The backbone against the reference implementations, block by block."""

import dataclasses
import itertools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.models.multitrain import MultiTrainModel
from multitrain_jax.models.mvit import MViT, MViTConfig, Stage
from multitrain_jax.models.variants import public_form
from tests.helpers.golden_models import (
    FORMS,
    STRIDES,
    channels_last,
    every_block,
    golden,
    load,
    random_model,
)


def _activations(model: MultiTrainModel, video: jax.Array) -> dict[str, jax.Array]:
    """Everything that the golden files record, by their names."""
    backbone = model.backbone
    seen = {}
    x, thw = backbone.embed_patches(video)
    seen['eval/patch_embed'] = x
    seen['eval/tokens'] = x = backbone.add_positions(x, thw)
    for i, block in enumerate(every_block(backbone)):
        seen[f'eval/block{i}_attn'], _ = block.attention(block.norm1(x), thw)
        x, thw = block(x, thw)
        seen[f'eval/block{i}'], seen[f'eval/block{i}_thw'] = x, jnp.array(thw)
    seen['eval/norm'] = backbone.norm(x)
    return seen


@pytest.mark.parametrize('name', FORMS)
def test_every_block_agrees_with_the_reference(name):
    truth = golden(name)
    model = load(name, *FORMS[name])
    video = jnp.asarray(channels_last(truth['input']))
    seen = jax.device_get(jax.jit(_activations)(model, video))
    compared = 0
    for key, value in seen.items():
        if key in truth:
            np.testing.assert_allclose(value[: len(truth[key])], truth[key], atol=2e-5, err_msg=key)
            compared += 1
        if f'{key}_mean_std' in truth:
            moments = np.stack([value.mean((1, 2)), value.std((1, 2))], -1)
            np.testing.assert_allclose(moments, truth[f'{key}_mean_std'], atol=2e-5, err_msg=key)
    assert compared >= 2 * model.config.backbone.depth


@pytest.mark.parametrize('name', FORMS)
def test_embeddings_and_logits_agree_with_the_reference(name):
    truth = golden(name)
    config, datasets = FORMS[name]
    model = load(name, config, datasets)
    outputs = jax.jit(lambda model, video: model(video))(
        model, jnp.asarray(channels_last(truth['input']))
    )
    np.testing.assert_allclose(outputs.embedding, truth['eval/embedding'], atol=1e-5)
    for d, classes in enumerate(config.num_classes):
        suffix = f'/{datasets[d]}' if datasets else ''
        logits = outputs.logits[d, :, :classes]
        np.testing.assert_allclose(logits, truth[f'eval/logits{suffix}'], atol=1e-5)
        if f'eval/probs{suffix}' in truth:
            probabilities = np.asarray(jax.nn.softmax(outputs.logits[d]))
            np.testing.assert_allclose(
                probabilities[:, :classes], truth[f'eval/probs{suffix}'], atol=1e-5
            )
            assert np.all(probabilities[:, classes:] == 0)


def _small(**overrides) -> MViTConfig:
    config = MViTConfig(
        num_frames=4,
        image_size=16,
        width=4,
        stage_blocks=(1, 3),
        query_strides=STRIDES[:2],
        kv_stride=(1, 2, 2),
        init_std=0.3,
    )
    return dataclasses.replace(config, **overrides)


def _model(config: MViTConfig) -> MViT:
    return random_model(lambda: MViT(config, rngs=nnx.Rngs(0)))


def _video(shape=(2, 4, 16, 16, 3), seed=0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


ONE_STAGE = dict(stage_blocks=(3,), query_strides=((1, 2, 2),))  # small enough to compile often


@pytest.mark.parametrize(
    'field', ['remat_attention', pytest.param('remat', marks=pytest.mark.slow)]
)
def test_rematerialisation_changes_no_gradient(field):
    def gradient(remat):
        config = _small(stochastic_depth=0.5, **{field: remat}, **ONE_STAGE)
        graph, params = nnx.split(_model(config))

        def loss(params):
            features = nnx.merge(graph, params)(_video(), key=jax.random.key(3))
            return jnp.square(features.embedding - 1).sum()

        return jax.jit(jax.grad(loss))(params)

    kept, recomputed = map(jax.tree.leaves, (gradient(False), gradient(True)))
    for a, b in zip(kept, recomputed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def _attention_heavy(positions: str, remat: bool, blocks: int) -> tuple[MViTConfig, int]:
    """A model of 256 tokens, 4 wide per head,
    and the number of entries of one attention matrix of 2 clips.
    """
    config = _small(
        num_frames=8,
        image_size=32,
        width=8,
        heads=2,
        stage_blocks=(blocks,),
        query_strides=STRIDES[:1],
        kv_stride=(1, 1, 1),
        positions=positions,
        remat=remat,
    )
    return config, 2 * 2 * 256 * 256


def _embedding_of(config: MViTConfig):
    """(function of parameters and clips, shapes of both)."""
    graph, params = nnx.split(nnx.eval_shape(lambda: MViT(config, rngs=nnx.Rngs(0))))
    video = jax.ShapeDtypeStruct((2, config.num_frames, 32, 32, 3), jnp.float32)
    return lambda params, video: nnx.merge(graph, params)(video).embedding, params, video


@pytest.mark.parametrize('remat', [False, True])
def test_relative_positions_keep_no_bias_of_the_attentions_size_for_the_backward_pass(remat):
    def kept(positions):
        config, matrix = _attention_heavy(positions, remat, blocks=3)
        embed, params, video = _embedding_of(config)
        arrays = jax.tree.leaves(
            jax.eval_shape(lambda p, v: jax.vjp(embed, p, v)[1], params, video)
        )
        return sum(a.size // matrix for a in arrays if a.size >= matrix), sum(
            a.size for a in arrays
        ) / matrix

    (matrices, without), (with_positions, total) = kept('separate'), kept('relative')
    assert with_positions == matrices == (0 if remat else 3)  # one per block: the weights
    # Beside these, per block: products of queries and tables.
    assert total - without < 3 * 0.25


@pytest.mark.parametrize('positions', ['separate', 'relative'])
def test_attention_that_is_recomputed_keeps_no_attention_matrix(positions):
    config, matrix = _attention_heavy(positions, remat=False, blocks=3)
    embed, params, video = _embedding_of(dataclasses.replace(config, remat_attention=True))
    arrays = jax.tree.leaves(jax.eval_shape(lambda p, v: jax.vjp(embed, p, v)[1], params, video))
    assert max(a.size for a in arrays) < matrix


@pytest.mark.slow
def test_rematerialised_blocks_with_relative_positions_need_the_memory_of_one():
    def temporary(positions, blocks):
        config, matrix = _attention_heavy(positions, True, blocks)
        embed, params, video = _embedding_of(config)
        loss = lambda params, video: jnp.square(embed(params, video)).sum()  # noqa: E731
        compiled = jax.jit(jax.grad(loss)).lower(params, video).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * matrix)

    three, five = temporary('relative', 3), temporary('relative', 5)
    assert five - three < 0.5
    assert five - temporary('separate', 5) < 1.0


def test_bfloat16_stays_near_float32_with_a_float32_embedding():
    run = jax.jit(lambda model: model(_video()))
    exact, rough = (
        run(_model(_small(dtype=dtype, **ONE_STAGE))) for dtype in ('float32', 'bfloat16')
    )
    assert rough.tokens.dtype == jnp.bfloat16 and rough.embedding.dtype == jnp.float32
    difference = np.abs(rough.embedding - exact.embedding).max()
    assert 0 < difference < 0.1 * np.abs(exact.embedding).max()


@pytest.mark.parametrize('public', [False, True])
def test_other_sizes_than_the_positions_were_learned_for(public):
    model = _model(public_form(_small()) if public else _small())
    features = jax.jit(lambda model, video: model(video))(model, _video((1, 6, 22, 30, 3)))
    assert features.thw == (3, 3, 4)
    assert features.tokens.shape == (1, 3 * 3 * 4 + public, 8)
    assert np.all(np.isfinite(features.embedding))


def test_interpolated_positions_are_linear_in_between():
    model = _model(_small())
    ramp = jnp.arange(4.0)[None, :, None] * jnp.ones((4, 1, 4))  # grows with w
    model.spatial_positions[...] = ramp
    model.temporal_positions[...] = jnp.zeros((2, 4))
    x = model.add_positions(jnp.zeros((1, 2 * 4 * 8, 4)), (2, 4, 8)).reshape(2, 4, 8, 4)
    # Half-pixel centres: token i of 8 lies at (i + 0.5) / 2 - 0.5 of 4; held at the border.
    expected = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(x[1, 2, :, 3], expected, atol=1e-6)


def test_stochastic_depth_drops_whole_branches_of_clips_and_keeps_the_mean():
    block = list(every_block(_model(_small())))[2]  # neither widens nor pools
    x, thw = _video((1, 2 * 2 * 2, 8)), (2, 2, 2)

    @jax.jit
    def run(key):
        y, _ = block(jnp.tile(x, (256, 1, 1)), thw, drop_rate=0.5, key=key)
        both = x + 2 * block.attention(block.norm1(x), thw)[0]
        finish = lambda x: x + 2 * block.mlp(block.norm2(x))  # noqa: E731
        return y, jnp.concatenate([x, finish(x), both, finish(both)])

    y, fates = jax.device_get(run(jax.random.key(0)))  # [256, S, D], [4, S, D]
    distance = np.abs(y[:, None] - fates).max((2, 3))
    assert np.all(distance.min(1) < 1e-4)
    counts = np.bincount(distance.argmin(1), minlength=4)
    assert np.all(np.abs(counts - 64) < 32)  # four equally likely fates; 4.6 deviations


def test_without_a_key_nothing_is_random_and_with_keys_everything_follows_them():
    model = _model(_small(stochastic_depth=0.5))
    run = jax.jit(lambda key: model(_video((8, 4, 16, 16, 3)), key=key).embedding)
    a, b, c = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_stochastic_depth_grows_linearly_from_nothing(monkeypatch):
    rates, run = [], Stage.__call__

    def recorded(self, x, thw, drop_rates, keys, blocks):
        rates.extend(drop_rates)
        assert len(keys) == len(drop_rates)
        return run(self, x, thw, drop_rates, keys, blocks)

    monkeypatch.setattr(Stage, '__call__', recorded)
    model = _model(_small(stage_blocks=(2, 3), stochastic_depth=0.4))
    jax.eval_shape(lambda: model(_video(), key=jax.random.key(0)))
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3, 0.4], atol=1e-7)


def test_holds_only_parameters():
    state = nnx.state(nnx.eval_shape(lambda: MViT(_small(), rngs=nnx.Rngs(0))))
    assert all(type(leaf) is nnx.Param for _, leaf in nnx.to_flat_state(state))


@pytest.mark.parametrize(
    'field, value, message',
    [
        ('positions', 'absolute', 'positions'),
        ('skip_input', 'pooled', 'skip_input'),
        ('dtype', 'float16', 'dtype'),
        ('stage_blocks', (1, 0), 'needs a block'),
        ('stage_blocks', (1, 1, 1), 'one per stage'),
        ('query_strides', ((1, 1, 1), (1, 3, 3)), '1 or even'),
        ('patch_kernel', (2, 7, 7), 'odd'),
        ('heads', 3, 'multiple of heads'),
        ('stochastic_depth', 1.0, 'stochastic_depth'),
        ('num_frames', 1, 'smaller than'),
    ],
)
def test_a_bad_field_is_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        _small(**{field: value})


def test_a_video_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r'\[B, T, H, W, 3\]'):
        _model(_small())(jnp.zeros((4, 16, 16, 3)))


def test_initial_parameters():
    model = jax.jit(lambda: MViT(public_form(_small(width=32, init_std=0.1)), rngs=nnx.Rngs(1)))()
    first = model.stages[0].first
    assert abs(np.std(first.mlp.fc1.kernel[...]) - 0.1) < 0.01
    assert abs(np.std(model.stages[1].rest.attention.qkv.kernel[...]) - 0.1) < 0.01
    rest = model.stages[1].rest.attention.qkv.kernel[...]
    assert np.abs(rest[0] - rest[1]).max() > 0.1  # stacked blocks are drawn independently
    bound = 27**-0.5  # PyTorch's default for the depthwise convolution
    assert 0.9 * bound < np.abs(first.attention.pool_kernel[...]).max() < bound
    bound = (3 * 7 * 7 * 3) ** -0.5
    assert 0.9 * bound < np.abs(model.patch_kernel[...]).max() < bound
    assert not first.mlp.fc1.bias[...].any() and np.all(first.norm1.scale[...] == 1)


@pytest.mark.parametrize('training', [False, True])
def test_blocks_run_one_by_one_or_in_parts(training):
    model = _model(_small(stochastic_depth=0.5))
    key = jax.random.key(3) if training else None
    whole, (x, thw) = model(_video(), key=key), model.begin(_video())
    depth = model.config.depth
    for start, stop in itertools.pairwise([0, 0, 2, depth, depth]):
        x, thw = model.run(x, thw, slice(start, stop), key=key)
    parts = model.pool(x, thw)
    assert parts.thw == whole.thw
    np.testing.assert_allclose(parts.tokens, whole.tokens, atol=1e-5)
    np.testing.assert_allclose(parts.embedding, whole.embedding, atol=1e-5)
