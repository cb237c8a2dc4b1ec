"""Kinetics-400 from scratch: MViTv2-B 32x3, to be used by itself or trained on.

    python run.py --config=configs/kinetics_pretrain.py --workdir=runs/kinetics_pretrain \\
      --config.data_root=/data

`DATA_ROOT/kinetics400` is a directory of records, written by `python -m data_pipelines.convert
kinetics`. The protocol of MViTv2 as MultiTrain follows it (supplement, section 2.1): 200 epochs at
batch 512. Then:

    python run.py --config=configs/multitrain.py --workdir=runs/multitrain \\
      --config.data_root=/data --config.init_from=runs/kinetics_pretrain

Hardware and hours: an epoch took the authors 3200 s on 8 V100 (section 2.3), 200 epochs 178 hours.
Expected accuracy: not measured here. The authors report 78.8 % top-1 and 93.5 % top-5 for 16x4, and
80.6 and 94.7 % from an image model (table 3).

The variant `:imagenet` starts from an image model, whose kernels are inflated in time (section
2.3), and trains for 75 epochs. Import it first; the architecture is then the public one, with
relative positions:

    python -m multitrain_jax.import_torch --checkpoint=MViTv2_B_in1k.pyth \\
      --output=imports/mvit_v2_b_imagenet
    python run.py --config=configs/kinetics_pretrain.py:imagenet --workdir=runs/kinetics_imagenet \\
      --config.data_root=/data

The variant `:k710` trains on Kinetics-710 (`python -m data_pipelines.convert kinetics710`), tested
on the validation split of Kinetics-400. `:k710_to_400`, `:k710_to_600` and `:k710_to_700` go on
from it for 5 epochs on one of the three. Their dataset keeps the name kinetics710, so that each
class starts from the row of the head that has its name, as the label map of the conversion says:

    python run.py --config=configs/kinetics_pretrain.py:k710 --workdir=runs/kinetics710 \\
      --config.data_root=/data
    python run.py --config=configs/kinetics_pretrain.py:k710_to_400 --workdir=runs/k710_to_400 \\
      --config.data_root=/data --config.init_from=runs/kinetics710
"""

import functools

import ml_collections

from multitrain_jax.config import apply_variants, config_tree, defaults, strided
from multitrain_jax.models import variants


def get_config(names: str = '') -> ml_collections.ConfigDict:
    config = defaults()
    config.epochs = 200.0
    config.batch_size = 512
    config.accumulation = 'two_pass'
    # Clips of 32 frames at stride 3 of 30 frames/s: 3.2 s.
    config.datasets = dict(kinetics400=strided('kinetics400'))
    config.model.backbone = config_tree(
        variants.mvit_b_32x3(
            stochastic_depth=0.3, dtype='bfloat16', attention='auto', remat_attention=True
        )
    )
    # There is one dataset: a linear head, and nothing between datasets.
    config.model.update(head_hidden=0, logit_dropout=0.0, projections=False, expander=False)
    config.objective.update(lambda_proj=0.0, lambda_inf=0.0)
    config.input.update(repeats=2, max_bad_records=1000)
    config.augment.update(
        rand_augment='rand-m7-n4-mstd0.5-inc1',
        color_jitter=0.4,
        erasing_probability=0.25,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
    )
    config.optimizer.update(
        peak_learning_rate=1.6e-3,
        warmup_start_learning_rate=1.6e-5,
        end_learning_rate=1.6e-5,
        warmup_epochs=30.0,
    )
    config.evaluation.every_epochs = 10.0
    return apply_variants(config, names, VARIANTS)


def imagenet(config: ml_collections.ConfigDict) -> None:
    config.init_from = 'imports/mvit_v2_b_imagenet'
    config.epochs = 75.0
    config.optimizer.warmup_epochs = 10.0  # not in the supplement; a trained model needs fewer
    config.model.backbone.update(
        positions='relative', skip_input='normalised', pool_norm_epsilon=1e-6
    )


def k710(config: ml_collections.ConfigDict) -> None:
    config.datasets = dict(
        kinetics710=strided('kinetics710', evaluation_split='validation_kinetics400')
    )
    config.epochs = 100.0  # of 2.7 times the videos


def fine_tuned(config: ml_collections.ConfigDict, path: str) -> None:
    config.datasets = dict(kinetics710=strided(path))
    config.init_from = 'runs/kinetics710'
    config.epochs = 5.0
    config.optimizer.update(
        peak_learning_rate=1e-4,
        warmup_start_learning_rate=1e-6,
        end_learning_rate=1e-6,
        warmup_epochs=1.0,
    )
    config.evaluation.every_epochs = 1.0


VARIANTS = {
    'imagenet': imagenet,
    'k710': k710,
    **{
        f'k710_to_{number}': functools.partial(fine_tuned, path=f'kinetics{number}')
        for number in (400, 600, 700)
    },
}
