"""Sizes of the published models: parameters and multiplications."""

import pytest

from multitrain_jax.models.backbone import BackboneConfig
from multitrain_jax.models.multitrain import MultiTrainConfig, count_parameters
from multitrain_jax.models.variants import (
    mvit_b_16x4,
    mvit_b_32x3,
    mvit_b_32x3_312,
    mvit_l_40x3,
    mvit_s_16x4,
    public_form,
    vit_b,
    vit_g,
    vit_h,
    vit_l,
    vit_s,
    vivit_b,
    vjepa2_g,
    vjepa2_h,
    vjepa2_l,
)
from tests.helpers.golden_models import shapes_of


def backbone_parameters(config: BackboneConfig) -> int:
    return count_parameters(shapes_of(MultiTrainConfig(config, (2,), expander=False)))['backbone']


@pytest.mark.parametrize(
    ('config', 'parameters'),
    [  # the published totals without their classifier of 400 classes
        (public_form(mvit_s_16x4()), 34_537_744 - 400 * 769),
        (public_form(mvit_b_32x3()), 51_230_128 - 400 * 769),
        (public_form(mvit_l_40x3()), 213_390_112 - 400 * 1153),
        (mvit_s_16x4(), 34_709_296 - 400 * 769),
        (mvit_b_32x3(), 50_986_176),
        # Of these no listing is published: B 32x3 with 8 temporal positions less, or 78^2 spatial
        # ones for 56^2.
        (mvit_b_16x4(), 50_986_176 - 8 * 96),
        (mvit_b_32x3_312(), 50_986_176 + (78**2 - 56**2) * 96),
        # Relative positions in space, two tables in each block: stages 1 to 4 of 2, 3, 16, 3
        # blocks, 96 wide per head. Their sides are 56, 28, 14, 7, and before the pooling of the
        # last stage, where keys are finer, 14; in time they are the same. At 312 pixels: 78, 39,
        # 19, 9 and 19.
        (
            public_form(mvit_b_32x3_312()),
            51_230_128
            - 400 * 769
            + 2
            * 2
            * 96
            * (2 * (78 - 56) + 3 * (39 - 28) + 16 * (19 - 14) + (19 - 14) + 2 * (9 - 7)),
        ),
    ],
)
def test_parameters(config, parameters):
    assert backbone_parameters(config) == parameters


@pytest.mark.parametrize(
    ('config', 'published'),
    [(mvit_s_16x4(), 64.5e9), (mvit_b_32x3(), 225e9), (mvit_l_40x3(), 2828e9)],
)
def test_multiplications(config, published):
    """MViTv2, table 6 (arXiv 2112.01526); class token and classifier are not counted here."""
    assert abs(public_form(config).multiplications() / published - 1) < 0.01


@pytest.mark.parametrize(
    ('config', 'parameters'),
    [  # of transformers' models, without the classifier of 400 (g: 710) classes
        (vit_s(), 22_033_936 - 400 * 385),
        (vit_b(), 86_534_800 - 400 * 769),
        (vit_l(), 304_270_736 - 400 * 1025),
        (vit_h(), 632_119_440 - 400 * 1281),
        (vit_g(), 1_012_611_142 - 710 * 1409),
        (vivit_b(), 88_954_000 - 400 * 769),
        (vjepa2_l(), 303_885_312),
        (vjepa2_h(), 631_648_000),
        (vjepa2_g(), 1_012_173_952),
        # With the classifiers' attentive pooler of four blocks.
        (vjepa2_l(pooling='attentive', pooler_blocks=3), 353_399_982 - 174 * 1025),
        (vjepa2_g(pooling='attentive', pooler_blocks=3), 1_105_668_142 - 174 * 1409),
    ],
)
def test_parameters_of_plain_transformers(config, parameters):
    assert backbone_parameters(config) == parameters


@pytest.mark.parametrize(
    ('config', 'published'),
    [  # VideoMAE, tables 7 and 8 (arXiv 2203.12602)
        (vit_s(), 57e9),
        (vit_b(), 180e9),
        (vit_l(), 597e9),
        (vit_h(), 1192e9),
        (vit_g(), 38.16e12 / 15),  # VideoMAE V2, table 6 (arXiv 2303.16727): 5 x 3 views
    ],
)
def test_multiplications_of_plain_transformers(config, published):
    assert abs(config.multiplications() / published - 1) < 0.005
