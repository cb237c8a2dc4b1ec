"""MultiTrain (NeurIPS 2022): one MViTv2-B 32x3 on Kinetics-400, Moments in Time, SSv2, ActivityNet.

    python run.py --config=configs/multitrain.py --workdir=runs/multitrain \\
      --config.data_root=/data --config.init_from=imports/k400

Each dataset is a directory of records under `data_root`, which `python -m data_pipelines.convert`
writes. The run starts from a Kinetics checkpoint, one of ours
(--config.init_from=runs/kinetics_pretrain, or its export) or a published one of the same
architecture, which is imported once:

    python -m multitrain_jax.import_torch --checkpoint=k400.pyth --output=imports/k400 \\
      --dataset=kinetics400 --classes=k400.txt

Hardware and hours: the paper trained 2 to 4 days on 128 V100/A100 GPUs (supplement, section 2.1).
Batch 512 is 2 clips on each of 256 chips, the fewest that can be mixed; on fewer chips,
--config.accumulation_steps=N cuts every device's share into N parts (16 on 16 chips for 2 clips at
a time). docs/pods.md: what fits where, and how to find out.
Expected accuracy: not measured here; the paper's main tables are what to compare with. From
scratch on Kinetics-400 alone, 16x4 has 78.8 % top-1 there (supplement, table 3).

Variants, after a colon; several with commas between them, --config=configs/multitrain.py:k700,312p

    k700   Kinetics-700 instead of Kinetics-400
    312p   clips of 312 x 312 pixels
    16x4   MViTv2-S on 16 frames at stride 4: half the frames, 16 blocks instead of 24

Plain transformers, from imported weights (docs/checkpoints.md), 16 frames at stride 4:

    videomae_b, videomae_l   VideoMAE's B and L
    videomae_g               VideoMAE V2's g
    vjepa2_l, vjepa2_g       V-JEPA 2's L and g, at 256 x 256 pixels
"""

from collections.abc import Callable

import ml_collections

from multitrain_jax.config import (
    apply_variants,
    config_tree,
    defaults,
    strided,
    uniform,
    use_pretrained_vit,
)
from multitrain_jax.models import variants
from multitrain_jax.models.vit import ViTConfig


def get_config(names: str = '') -> ml_collections.ConfigDict:
    config = defaults()
    config.epochs = 50.0
    config.batch_size = 512
    config.accumulation = 'two_pass'
    # Clips of 32 frames at stride 3 of 30 frames/s: 3.2 s. Of Something-Something the whole video.
    config.datasets = dict(
        activitynet=strided('activitynet'),
        kinetics400=strided('kinetics400'),
        moments_in_time=strided('moments_in_time'),
        something_v2=uniform('something_v2'),
    )
    config.model.backbone = config_tree(
        variants.mvit_b_32x3(
            stochastic_depth=0.1, dtype='bfloat16', attention='auto', remat_attention=True
        )
    )
    config.input.update(repeats=2, max_bad_records=1000)
    config.augment.update(
        rand_augment='rand-m7-n4-mstd0.5-inc1',
        color_jitter=0.4,
        erasing_probability=0.25,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
    )
    config.optimizer.warmup_epochs = 10.0
    config.evaluation.every_epochs = 5.0
    return apply_variants(config, names, VARIANTS)


def k700(config: ml_collections.ConfigDict) -> None:
    config.datasets.kinetics700 = config.datasets.kinetics400
    config.datasets.kinetics700.path = 'kinetics700'
    del config.datasets.kinetics400


def frames_16x4(config: ml_collections.ConfigDict) -> None:
    small = variants.mvit_s_16x4()
    config.model.backbone.update(num_frames=small.num_frames, stage_blocks=small.stage_blocks)
    for dataset in config.datasets.values():
        if dataset.sampling == 'strided':
            dataset.stride = 4


def pixels_312(config: ml_collections.ConfigDict) -> None:
    config.model.backbone.image_size = 312
    config.input.short_side = (356, 446)  # as 256 and 320 are to 224
    config.evaluation.short_side = 356


def plain(
    backbone: Callable[..., ViTConfig], stochastic_depth: float, **changes
) -> Callable[[ml_collections.ConfigDict], None]:
    changes |= dict(stochastic_depth=stochastic_depth, dtype='bfloat16', remat_attention=True)
    return lambda config: use_pretrained_vit(config, backbone(**changes))


VARIANTS = {
    'k700': k700,
    '312p': pixels_312,
    '16x4': frames_16x4,
    'videomae_b': plain(variants.vit_b, 0.1),
    'videomae_l': plain(variants.vit_l, 0.2),
    'videomae_g': plain(variants.vit_g, 0.3, remat=True),
    'vjepa2_l': plain(variants.vjepa2_l, 0.2, num_frames=16),
    'vjepa2_g': plain(variants.vjepa2_g, 0.3, num_frames=16, remat=True),
}
