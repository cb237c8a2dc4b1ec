"""The experiments whose steps are measured:
a published size on one dataset, and the shipped configs.
"""

import jax

from benchmarks import synthetic_step
from multitrain_jax.config import Config, read_config
from multitrain_jax.models import variants
from multitrain_jax.models.backbone import BackboneConfig
from multitrain_jax.models.mvit import MViTConfig

MODELS = {
    'S16x4': variants.mvit_s_16x4,
    'B32x3': variants.mvit_b_32x3,
    'tiny': variants.mvit_tiny,
    'ViT-S': variants.vit_s,
    'ViT-B': variants.vit_b,
    'ViT-L': variants.vit_l,
    'ViT-g': variants.vit_g,
}


def public_form(backbone: BackboneConfig) -> BackboneConfig:
    """As others publish it; of plain transformers there is one form."""
    return variants.public_form(backbone) if isinstance(backbone, MViTConfig) else backbone


FORMS = {'public': public_form, 'multitrain': lambda backbone: backbone}


def dtype() -> str:
    """Of the activations: what suits the default device."""
    return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


def backbone(model: str, remat: bool = False, attention: str = 'auto') -> BackboneConfig:
    """That of one of `MODELS`, as it is trained on the default device."""
    return MODELS[model](dtype=dtype(), remat=remat, attention=attention, stochastic_depth=0.1)


def plain(backbone: BackboneConfig, batch: int) -> Config:
    """configs/multitrain.py with this backbone on one dataset,
    without augmentation and MultiTrain's two losses.
    """
    values = synthetic_step.shipped_config('multitrain').to_dict()
    values['datasets'] = {'kinetics400': values['datasets']['kinetics400']}
    values['model'] |= dict(
        backbone=vars(backbone), head_hidden=0, logit_dropout=0.0, expander=False, projections=False
    )
    values['objective'] |= dict(lambda_proj=0.0, lambda_inf=0.0)
    values['augment'] |= dict(
        rand_augment='',
        color_jitter=0.0,
        erasing_probability=0.0,
        mixup_alpha=0.0,
        cutmix_alpha=0.0,
    )
    values['input'] |= dict(repeats=1)
    values |= dict(batch_size=batch, accumulation='plain')
    return read_config(values)


def shipped(model: str, batch: int, remat: bool = False) -> Config:
    """configs/quickstart.py, or configs/multitrain.py (four datasets,
    all losses, RandAugment) with that model.
    """
    if model == 'quickstart':
        values = synthetic_step.shipped_config('quickstart').to_dict()
        values['model']['backbone'] |= dict(remat=remat)
    else:
        values = synthetic_step.shipped_config('multitrain').to_dict()
        values['model']['backbone'] = vars(backbone(model, remat))
    return read_config(values | dict(batch_size=batch))
