"""The backbone against the reference implementations, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.variants import public_form
from tests.models.golden_models import channels_last, golden, load

TINY = MViTConfig(num_frames=8, image_size=64, width=12, stage_blocks=(1, 2, 2, 1))
K400 = MViTConfig(
    num_frames=8, image_size=64, width=16, stage_blocks=(1, 2, 1), query_strides=((1, 1, 1), (1, 2, 2), (1, 2, 2))
)
DATASETS = ('kinetics', 'mit', 'ssv2')
FORMS = {
    'mvit_multitrain_tiny': (
        MultiTrainConfig(TINY, (7, 5, 9), expander_hidden=4096),
        DATASETS,
    ),
    'mvit_multitrain_k400head': (
        MultiTrainConfig(K400, (11,), head_hidden=0, projections=False, expander=False),
        (),
    ),
    'mvit_v2_pyslowfast_tiny': (
        MultiTrainConfig(public_form(TINY), (10,), head_hidden=0, expander=False),
        (),
    ),
    'mvit_v2_torchvision_tiny': (
        MultiTrainConfig(public_form(TINY), (10,), head_hidden=0, expander=False),
        (),
    ),
}


@pytest.mark.parametrize('name', FORMS)
def test_every_block_agrees_with_the_reference(name):
    truth = golden(name)
    backbone = load(name, *FORMS[name]).backbone
    x, thw = backbone.embed_patches(jnp.asarray(channels_last(truth['input'])))
    if 'eval/patch_embed' in truth:
        np.testing.assert_allclose(x[:1], truth['eval/patch_embed'], atol=2e-5)
    x = backbone.add_positions(x, thw)
    if 'eval/tokens' in truth:
        np.testing.assert_allclose(x[:1], truth['eval/tokens'], atol=2e-5)
    for i, block in enumerate(backbone.blocks()):
        if f'eval/block{i}_attn' in truth:
            attended, _ = block.attention(block.norm1(x), thw)
            np.testing.assert_allclose(attended[:1], truth[f'eval/block{i}_attn'], atol=2e-5)
        x, thw = block(x, thw)
        assert thw == tuple(truth[f'eval/block{i}_thw'])
        np.testing.assert_allclose(x[:1], truth[f'eval/block{i}'], atol=2e-5)
        moments = np.stack([np.mean(x, (1, 2)), np.std(x, (1, 2))], -1)
        np.testing.assert_allclose(moments, truth[f'eval/block{i}_mean_std'], atol=2e-5)
    assert i + 1 == backbone.config.depth
    if 'eval/norm' in truth:
        np.testing.assert_allclose(backbone.norm(x)[:1], truth['eval/norm'], atol=2e-5)


@pytest.mark.parametrize('name', FORMS)
@pytest.mark.parametrize('remat', [False, True])
def test_embeddings_and_logits_agree_with_the_reference(name, remat):
    if remat and name != 'mvit_multitrain_tiny':
        pytest.skip('once is enough')
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
            probabilities = jax.nn.softmax(outputs.logits[d])
            np.testing.assert_allclose(
                probabilities[:, :classes], truth[f'eval/probs{suffix}'], atol=1e-5
            )
            assert np.all(np.asarray(probabilities)[:, classes:] == 0)
