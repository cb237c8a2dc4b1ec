import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from multitrain_jax.augment.erasing import Box
from multitrain_jax.augment.mixing import (
    Mix,
    cutmix_box,
    draw_mix,
    lambda_of_box,
    mix_group,
    symmetric_beta,
)
from multitrain_jax.objectives.targets import Targets, make_targets
from tests.helpers.golden import reference_path

GOLDEN = 'mixup_targets.npz'
NAMES = ('kinetics', 'mit', 'ssv2')


def test_boxes_and_corrected_lambdas_equal_to_the_reference():
    golden = np.load(reference_path(GOLDEN))
    rows = golden['cutmix/H_W_cy_cx_yl_yh_xl_xh']
    lam, corrected = golden['cutmix/lam_in_lam_corrected'].T

    def both(lam, row):
        box = cutmix_box(lam, (row[2], row[3]), row[0], row[1])
        return box, lambda_of_box(box, row[0], row[1])

    # float64, because some of the stored lambdas are those at which a side is just a whole number.
    with jax.enable_x64(True):
        box, ours = jax.jit(jax.vmap(both))(lam, rows)
    np.testing.assert_array_equal(np.stack(box, axis=1), rows[:, 4:])
    np.testing.assert_allclose(ours, corrected, atol=1e-7)


CALLS = [
    'mixup_nc700',
    'cutmix_nc700',
    'mixup_nc7',
    'cutmix_corner_nc700',
    'mixup_multilabel_nc292',
]


@pytest.mark.parametrize('name', CALLS)
def test_mixed_batches_equal_to_the_reference(name):
    golden = np.load(reference_path(GOLDEN))
    case = {key.removeprefix(f'call/{name}/'): golden[key] for key in golden if f'/{name}/' in key}
    video = np.moveaxis(case['x'], 1, -1)  # [B, T, H, W, 3]
    batch, _, height, width, _ = video.shape
    number_of = [case[f'target/{d}'].shape[1] for d in NAMES]
    label = np.zeros((batch, 1, max(number_of)), np.float32)
    for clip, d in enumerate(case['own_dataset']):
        label[clip, 0, : number_of[d]] = case[f'target/{NAMES[d]}'][clip]
    targets = Targets(
        label=label,
        dataset=case['own_dataset'][:, None].astype(np.int32),
        lam=np.ones((batch, 1), np.float32),
        weight=np.ones(batch, np.float32),
    )
    lam, cut = np.float32(case['lam_drawn']), bool(case['use_cutmix'])
    box = Box(*(jnp.zeros((), jnp.int32),) * 4)
    if cut:
        box = cutmix_box(lam, tuple(case['cy_cx']), height, width)
        lam = lambda_of_box(box, height, width)
    np.testing.assert_allclose(lam, case['lam_used'], atol=1e-7)
    mixed, targets = jax.jit(mix_group)(
        video, targets, Mix(jnp.asarray(lam), jnp.asarray(cut), box)
    )
    np.testing.assert_allclose(np.moveaxis(mixed, -1, 1), case['x_out'], atol=1e-6)

    # The reference smooths all heads' labels of all clips alike: undone, what is left is each
    # head's share of each clip, which our slots hold.
    smoothing = float(golden['smoothing'])
    off = smoothing / int(case['num_classes_cfg'])
    for d, classes in enumerate(number_of):
        expected = (case[f'target_out/{NAMES[d]}'] - off) / (1 - smoothing)
        share = np.where(targets.dataset == d, targets.lam, 0.0)  # [B, 2]
        ours = np.einsum('bs,bsc->bc', share, targets.label)[:, :classes]
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_single_head_equal_to_the_reference():
    golden = np.load(reference_path(GOLDEN))
    expected = golden['call_single/target_out']
    batch, classes = expected.shape
    targets = make_targets(
        golden['call_single/target'], np.zeros(batch, np.int32), np.ones(batch, np.float32), classes
    )
    mix = Mix(jnp.float32(golden['call_single/lam']), jnp.asarray(False), Box(*(jnp.int32(0),) * 4))
    video, targets = jax.jit(mix_group)(np.moveaxis(golden['call_single/x'], 1, -1), targets, mix)
    np.testing.assert_allclose(np.moveaxis(video, -1, 1), golden['call_single/x_out'], atol=1e-6)
    ours = 0.9 * np.einsum('bs,bsc->bc', targets.lam, targets.label) + 0.1 / classes
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_padding_is_not_mixed():
    video = jnp.arange(4.0).reshape(4, 1, 1, 1, 1) * jnp.ones((1, 1, 2, 2, 3))
    targets = make_targets(
        jnp.arange(4), jnp.zeros(4, jnp.int32), jnp.asarray([1.0, 1.0, 1.0, 0.0]), 4
    )
    mix = Mix(jnp.float32(0.25), jnp.asarray(False), Box(*(jnp.int32(0),) * 4))
    mixed, targets = jax.jit(mix_group)(video, targets, mix)
    np.testing.assert_allclose(mixed[:, 0, 0, 0, 0], [0, 0.25 + 1.5, 0.5 + 0.75, 3])
    np.testing.assert_allclose(targets.lam, [[1, 0], [0.25, 0.75], [0.25, 0.75], [1, 0]])


def _draw(count=4000, **changes):
    arguments = {
        'mixup_alpha': 0.8,
        'cutmix_alpha': 1.0,
        'probability': 1.0,
        'switch_probability': 0.5,
        **changes,
    }
    draw = functools.partial(draw_mix, height=32, width=32, **arguments)
    return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), count))


def test_draws_follow_their_distributions():
    mix = _draw()
    cut = np.asarray(mix.cut)
    assert abs(cut.mean() - 0.5) < 0.03
    mixup = np.asarray(mix.lam)[~cut]
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)).
    np.testing.assert_allclose(mixup.mean(), 0.5, atol=0.02)
    np.testing.assert_allclose(mixup.var(), 1 / (4 * 2.6), atol=0.01)
    area = (mix.box.bottom - mix.box.top) * (mix.box.right - mix.box.left)
    np.testing.assert_allclose(mix.lam[cut], 1 - area[cut] / 32**2, atol=1e-6)


@pytest.mark.parametrize('alpha', [0.1, 0.2, 0.5, 0.8, 1.0, 4.0])
def test_lambda_is_of_the_beta_distribution(alpha):
    keys = jax.random.split(jax.random.key(1), 40_000)
    lam = np.asarray(jax.jit(jax.vmap(lambda key: symmetric_beta(key, alpha)))(keys), np.float64)
    assert np.all((0 <= lam) & (lam <= 1))
    small = lam[lam < 0.5]  # near 1 there are few float32 numbers: many draws are 1
    assert abs(len(small) / len(lam) - 0.5) < 0.01

    def pvalue(alpha):
        return scipy.stats.kstest(small, lambda x: 2 * scipy.stats.beta.cdf(x, alpha, alpha)).pvalue

    assert pvalue(alpha) > 0.01 and pvalue(1.15 * alpha) < 0.01


def test_each_form_alone_and_not_at_all():
    assert not np.any(_draw(100, cutmix_alpha=0.0).cut)
    assert np.all(_draw(100, mixup_alpha=0.0).cut)
    np.testing.assert_array_equal(_draw(100, probability=0.0).lam, 1.0)
