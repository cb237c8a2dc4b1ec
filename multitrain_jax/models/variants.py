"""The published sizes of the backbones, and small ones."""

import dataclasses

from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.vit import ViTConfig


def mvit_s_16x4(**overrides) -> MViTConfig:
    """MultiTrain's 16x4: 16 frames of 224 px, 16 blocks, 34.4 M parameters."""
    return MViTConfig(**overrides)


def mvit_b_16x4(**overrides) -> MViTConfig:
    """The 24 blocks of B on 16 frames of 224 px."""
    return MViTConfig(**{'stage_blocks': (2, 3, 16, 3), **overrides})


def mvit_b_32x3(**overrides) -> MViTConfig:
    """MultiTrain's 32x3 (supplement, table 2): 32 frames of 224 px, 51.0 M parameters."""
    return mvit_b_16x4(**{'num_frames': 32, **overrides})


def mvit_b_32x3_312(**overrides) -> MViTConfig:
    """The same at 312 px."""
    return mvit_b_32x3(**{'image_size': 312, **overrides})


def mvit_l_40x3(**overrides) -> MViTConfig:
    """L: 40 frames of 312 px, 48 blocks, about 213 M parameters."""
    size = dict(num_frames=40, image_size=312, width=144, heads=2, stage_blocks=(2, 6, 36, 4))
    return MViTConfig(**{**size, **overrides})


def mvit_tiny(**overrides) -> MViTConfig:
    """Trains in minutes on two CPU cores: 8 frames of 64 px, coarse patches, 3 blocks.

    The initial deviation is nearer to 1 / sqrt(width), to which 0.02 is tuned for wide models.
    """
    size = dict(num_frames=8, image_size=64, width=32, stage_blocks=(1, 2), init_std=0.1)
    strides = dict(query_strides=((1, 1, 1), (1, 2, 2)), kv_stride=(1, 2, 2))
    patches = dict(patch_kernel=(3, 9, 9), patch_stride=(2, 8, 8))
    return MViTConfig(**{**size, **strides, **patches, **overrides})


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


def vit_s(**overrides) -> ViTConfig:
    """VideoMAE's S: 16 frames of 224 px in tubelets of 2 x 16 x 16, 22 M parameters."""
    return vit_b(**{'width': 384, 'heads': 6, 'mlp_width': 1536, **overrides})


def vit_b(**overrides) -> ViTConfig:
    """VideoMAE's B: 16 frames of 224 px, 86 M parameters."""
    return ViTConfig(**{'position_grid': (8, 14, 14), 'attention_bias': 'qv', **overrides})


def vit_l(**overrides) -> ViTConfig:
    """VideoMAE's L: 304 M parameters."""
    return vit_b(**{'width': 1024, 'blocks': 24, 'heads': 16, 'mlp_width': 4096, **overrides})


def vit_h(**overrides) -> ViTConfig:
    """VideoMAE's H: 632 M parameters."""
    return vit_b(**{'width': 1280, 'blocks': 32, 'heads': 16, 'mlp_width': 5120, **overrides})


def vit_g(**overrides) -> ViTConfig:
    """VideoMAE V2's g: tubelets of 2 x 14 x 14, 1,011 M parameters."""
    size = dict(width=1408, blocks=40, heads=16, mlp_width=6144)
    patches = dict(patch_stride=(2, 14, 14), position_grid=(8, 16, 16))
    return vit_b(**{**size, **patches, **overrides})


def vjepa2_l(**overrides) -> ViTConfig:
    """V-JEPA 2's L: rotary positions, made for 64 frames of 256 px; 304 M parameters."""
    clips = dict(num_frames=64, image_size=256, positions='rotary', pooling='mean')
    size = dict(width=1024, blocks=24, heads=16, mlp_width=4096)
    return ViTConfig(**{**clips, **size, **overrides})


def vjepa2_h(**overrides) -> ViTConfig:
    """V-JEPA 2's H: 632 M parameters."""
    return vjepa2_l(**{'width': 1280, 'blocks': 32, 'mlp_width': 5120, **overrides})


def vjepa2_g(**overrides) -> ViTConfig:
    """V-JEPA 2's g: 1,012 M parameters."""
    size = dict(width=1408, blocks=40, heads=22, mlp_width=6144)
    return vjepa2_l(**{**size, **overrides})


def vivit_b(**overrides) -> ViTConfig:
    """ViViT's B with spatio-temporal attention: 32 frames of 224 px, 89 M parameters."""
    form = dict(positions='learned', class_token=True, pooling='first', activation='tanh')
    return ViTConfig(**{'num_frames': 32, **form, **overrides})


def vit_tiny(**overrides) -> ViTConfig:
    """Trains in minutes on two CPU cores: 8 frames of 64 px, 4 blocks, 0.3 M parameters."""
    size = dict(width=64, blocks=4, heads=2, mlp_width=256)
    return ViTConfig(**{'num_frames': 8, 'image_size': 64, 'init_std': 0.1, **size, **overrides})
