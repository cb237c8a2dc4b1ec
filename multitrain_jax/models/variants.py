"""The published sizes of MViTv2, and a small one."""

import dataclasses

from multitrain_jax.models.mvit import MViTConfig


def mvit_s_16x4(**overrides) -> MViTConfig:
    """MultiTrain's 16x4: 16 frames of 224 px, 16 blocks, 34.4 M parameters."""
    return dataclasses.replace(MViTConfig(), **overrides)


def mvit_b_16x4(**overrides) -> MViTConfig:
    """The 24 blocks of B on 16 frames of 224 px."""
    return dataclasses.replace(MViTConfig(stage_blocks=(2, 3, 16, 3)), **overrides)


def mvit_b_32x3(**overrides) -> MViTConfig:
    """MultiTrain's 32x3 (supplement, table 2): 32 frames of 224 px, 51.0 M parameters."""
    return mvit_b_16x4(**{'num_frames': 32, **overrides})


def mvit_b_32x3_312(**overrides) -> MViTConfig:
    """The same at 312 px."""
    return mvit_b_32x3(**{'image_size': 312, **overrides})


def mvit_l_40x3(**overrides) -> MViTConfig:
    """L: 40 frames of 312 px, 48 blocks, about 213 M parameters."""
    config = MViTConfig(
        num_frames=40, image_size=312, width=144, heads=2, stage_blocks=(2, 6, 36, 4)
    )
    return dataclasses.replace(config, **overrides)


def mvit_tiny(**overrides) -> MViTConfig:
    """Trains in minutes on two CPU cores: 8 frames of 64 px, coarse patches, 3 blocks.

    The initial deviation is nearer to 1 / sqrt(width), to which 0.02 is tuned for wide models.
    """
    config = MViTConfig(
        num_frames=8,
        image_size=64,
        width=32,
        stage_blocks=(1, 2),
        query_strides=((1, 1, 1), (1, 2, 2)),
        kv_stride=(1, 2, 2),
        patch_kernel=(3, 9, 9),
        patch_stride=(2, 8, 8),
        init_std=0.1,
    )
    return dataclasses.replace(config, **overrides)


def public_form(config: MViTConfig) -> MViTConfig:
    """The same size as PySlowFast and torchvision publish it.

    Class token, decomposed relative positions, normalised skip input, one epsilon everywhere.
    """
    return dataclasses.replace(
        config,
        positions='relative',
        class_token=True,
        skip_input='normalised',
        pool_norm_epsilon=1e-6,
    )
