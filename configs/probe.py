"""Attentive probes on a frozen, imported backbone: all datasets and learning rates in one pass.

    python -m multitrain_jax.import_torch --checkpoint=vjepa2-vitl-fpc64-256 \\
        --output=imports/vjepa2_l
    python run.py --config=configs/probe.py --workdir=runs/probe --config.data_root=/data \\
      --config.init_from=imports/vjepa2_l

V-JEPA 2's protocol (arXiv 2506.09985, section 4.1), which trains one dataset at a time: a learned
query attends to the tokens after three further blocks, then a linear layer. Clips are not
augmented, so that the features are computed once; they are kept under `probe.cache_dir` and used
again by every run with the same weights, data and preprocessing. Of each dataset the learning rate
that is best on the evaluation split is told and exported, WORKDIR/export/DATASET.

Hardware and hours: the features of a clip are one forward pass; of 16 frames of 256 pixels they
take 4 MiB on disk (L), so that 240,000 clips of Kinetics take 960 GiB: raise `probe.cache_gib`.
Expected accuracy: not measured here.

Variants, after a colon; several with commas between them:

    videomae_b     VideoMAE's B on 16 frames of 224 pixels, instead of V-JEPA 2's L
    from=MODEL     an import, export or run: its backbone, pixels and size of clips
    quickstart     the two synthetic datasets of configs/quickstart.py, rendered where they are
                   missing
"""

import ml_collections

from multitrain_jax.checkpoints.start_from import start_from
from multitrain_jax.config import (
    ProbeConfig,
    SyntheticConfig,
    apply_variants,
    config_tree,
    defaults,
    strided,
    uniform,
    use_pretrained_vit,
)
from multitrain_jax.models import variants


def get_config(names: str = '') -> ml_collections.ConfigDict:
    config = defaults()
    config.probe = config_tree(ProbeConfig())
    config.epochs = 20.0
    config.batch_size = 64  # of each dataset
    config.datasets = dict(
        kinetics400=strided('kinetics400', stride=4),
        something_v2=uniform('something_v2'),
    )
    use_pretrained_vit(config, variants.vjepa2_l(num_frames=16, dtype='bfloat16'))
    config.model.update(projections=False, expander=False)
    config.objective.update(lambda_proj=0.0, lambda_inf=0.0, label_smoothing=0.0)
    config.optimizer.update(weight_decay=0.01, warmup_epochs=1.0)
    config.evaluation.update(temporal_views=2, spatial_views=3, batch_size=64)
    for name in filter(None, names.split(',')):
        if name.startswith('from='):
            start_from(config, name.removeprefix('from='))
        else:
            apply_variants(config, name, VARIANTS)
    return config


def videomae_b(config: ml_collections.ConfigDict) -> None:
    use_pretrained_vit(config, variants.vit_b(dtype='bfloat16'))


def quickstart(config: ml_collections.ConfigDict) -> None:
    config.data_root = 'data/quickstart'
    config.synthetic = config_tree(SyntheticConfig())
    config.datasets = dict(
        motions=strided('motions', stride=2, target_frame_rate=15.0),
        directions=uniform('directions'),
    )
    config.model.backbone = config_tree(variants.vit_tiny())
    config.input.short_side = (64, 76)
    config.evaluation.update(short_side=64, temporal_views=3, spatial_views=1)
    config.batch_size = 16
    config.probe.update(blocks=0)


VARIANTS = {'videomae_b': videomae_b, 'quickstart': quickstart}
