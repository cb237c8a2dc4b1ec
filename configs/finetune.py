"""Fine-tuning of a plain video transformer after masked or predictive pre-training, on one or more
datasets.

    python -m multitrain_jax.import_torch --checkpoint=videomae-base --output=imports/videomae_b
    python run.py --config=configs/finetune.py --workdir=runs/finetune --config.data_root=/data \\
      --config.init_from=imports/videomae_b

The recipe is that of VideoMAE for ViT-B on Kinetics-400 (arXiv 2203.12602, appendix; their
scripts): AdamW with a learning rate of 1e-3 per 256 clips, layer-wise decay 0.75, stochastic depth,
RandAugment, mixup and CutMix, two samples of each video in a batch, no clipping; tested on 5 x 3
views. Any imported weights: named by `from=`, the import gives architecture, pixels and size of
clips:

    python run.py --config=configs/finetune.py:from=imports/vjepa2_l --workdir=runs/vjepa2 ...

Hardware and hours: 75 epochs of Kinetics-400 took the authors 64 V100. docs/pods.md: what fits
where. Expected accuracy: not measured here; the authors report 81.5 % top-1 for B (table 7).

Variants, after a colon; several with commas between them:

    ssv2               Something-Something V2: frames of the whole video, half the learning rate
    videomae_l         L instead of B
    vjepa2_l           V-JEPA 2's L on 16 frames of 256 pixels
    from=MODEL         an import, export or run to start from
"""

from collections.abc import Callable

import ml_collections

from multitrain_jax.checkpoints.start_from import start_from
from multitrain_jax.config import apply_variants, defaults, strided, uniform, use_pretrained_vit
from multitrain_jax.models import variants
from multitrain_jax.models.vit import ViTConfig


def get_config(names: str = '') -> ml_collections.ConfigDict:
    config = defaults()
    config.epochs = 75.0
    config.batch_size = 512
    # Clips of 16 frames at stride 4 of 30 frames/s: 2.1 s.
    config.datasets = dict(kinetics400=strided('kinetics400', stride=4))
    use_pretrained_vit(
        config, variants.vit_b(stochastic_depth=0.1, dtype='bfloat16', remat_attention=True)
    )
    # A linear head, and nothing between datasets.
    config.model.update(head_hidden=0, head_dropout=0.0, logit_dropout=0.0)
    config.model.update(projections=False, expander=False)
    config.objective.update(lambda_proj=0.0, lambda_inf=0.0)
    config.input.update(repeats=2, max_bad_records=1000)
    config.augment.update(
        rand_augment='rand-m7-n4-mstd0.5-inc1',
        erasing_probability=0.25,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
    )
    config.optimizer.update(
        peak_learning_rate=2e-3,
        warmup_start_learning_rate=2e-6,
        end_learning_rate=2e-6,
        warmup_epochs=5.0,
        clip_norm=0.0,
    )
    config.evaluation.update(every_epochs=5.0, temporal_views=5, spatial_views=3)
    for name in filter(None, names.split(',')):
        if name.startswith('from='):
            start_from(config, name.removeprefix('from='))
        else:
            apply_variants(config, name, VARIANTS)
    return config


def ssv2(config: ml_collections.ConfigDict) -> None:
    config.datasets = dict(something_v2=uniform('something_v2'))
    config.epochs = 50.0
    config.optimizer.update(peak_learning_rate=1e-3)
    config.evaluation.temporal_views = 2


def larger(backbone: Callable[..., ViTConfig], **changes) -> Callable:
    changes |= dict(stochastic_depth=0.2, dtype='bfloat16', remat_attention=True)
    return lambda config: use_pretrained_vit(config, backbone(**changes))


VARIANTS = {
    'ssv2': ssv2,
    'videomae_l': larger(variants.vit_l),
    'vjepa2_l': larger(variants.vjepa2_l, num_frames=16),
}
