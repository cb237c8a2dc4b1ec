"""Co-finetuning (arXiv 2207.03807): Kinetics-400, Moments in Time, SSv2 and AVA, together.

    python run.py --config=configs/cofinetune_ava.py --workdir=runs/cofinetune_ava \\
      --config.data_root=/data --config.init_from=runs/kinetics_pretrain

Upstream datasets of clips and the downstream one of boxes train at the same time, from a Kinetics
checkpoint, instead of one after the other; MultiTrain's losses between the upstream datasets are
on. `python -m data_pipelines.convert ava` writes the records; give it a detector's boxes
(--proposals), which are what evaluation scores. For the official figure, on 60 of the 80 actions,
hand the detections that `multitrain_jax.evaluate` writes to `multitrain_jax.ava_eval`.

Hardware and hours: as configs/multitrain.py, for 20 epochs instead of 50.
Expected accuracy: not measured. The paper co-finetuned ViViT; the numbers here are those of
configs/multitrain.py, with fewer epochs, and have not been tuned.

Variants, after a colon; several with commas between them:

    ava_kinetics   AVA-Kinetics instead of AVA
    transfer       the downstream dataset alone: ordinary fine-tuning, the baseline
    vit_b          VideoMAE's B on 16 frames at stride 4, boxes on its grid of 14 x 14 tokens;
                   from imported weights (docs/checkpoints.md)
"""

import ml_collections

from multitrain_jax.config import (
    LocalisationConfig,
    apply_variants,
    config_tree,
    defaults,
    key_frame,
    strided,
    uniform,
    use_pretrained_vit,
)
from multitrain_jax.models import variants

_DOWNSTREAM = ('ava', 'ava_kinetics')


def get_config(names: str = '') -> ml_collections.ConfigDict:
    config = defaults()
    config.epochs = 20.0
    config.batch_size = 512
    config.accumulation = 'two_pass'
    # Clips of 32 frames at stride 3 of 30 frames/s: 3.2 s. Of Something-Something the whole video.
    config.datasets = dict(
        # The loss is a mean over 80 actions, most of which are absent.
        ava=key_frame('ava', loss_weight=10.0),
        kinetics400=strided('kinetics400'),
        moments_in_time=strided('moments_in_time'),
        something_v2=uniform('something_v2'),
    )
    config.schedule.update(kind='weighted', size_power=0.5)
    config.localisation = config_tree(LocalisationConfig(jitter=0.05, train_on_proposals=True))
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
    config.optimizer.warmup_epochs = 2.0
    config.evaluation.every_epochs = 5.0
    return apply_variants(config, names, VARIANTS)


def ava_kinetics(config: ml_collections.ConfigDict) -> None:
    config.datasets.ava_kinetics = config.datasets.ava
    config.datasets.ava_kinetics.path = 'ava_kinetics'
    del config.datasets.ava


def transfer(config: ml_collections.ConfigDict) -> None:
    for name in set(config.datasets) - set(_DOWNSTREAM):
        del config.datasets[name]
    config.schedule.update(kind='concatenate', size_power=1.0)
    config.objective.update(lambda_proj=0.0, lambda_inf=0.0)
    config.model.update(projections=False, expander=False)


def vit_b(config: ml_collections.ConfigDict) -> None:
    use_pretrained_vit(
        config,
        variants.vit_b(stochastic_depth=0.1, dtype='bfloat16', remat_attention=True),
    )


VARIANTS = {'ava_kinetics': ava_kinetics, 'transfer': transfer, 'vit_b': vit_b}
