"""A config that starts from a trained model: it takes architecture, pixels and size of clips."""

import dataclasses
import os

import ml_collections

from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.config import use_backbone

# Of a backbone, what belongs to the training rather than to the weights.
_OF_TRAINING = ('stochastic_depth', 'dtype', 'attention', 'remat', 'remat_attention')


def start_from(config: ml_collections.ConfigDict, path: str | os.PathLike) -> None:
    """Lets a config start from an export, an import or a run.

    Its architecture, pixels and size of clips become the config's; of the backbone what belongs to
    the training (`dtype`, `remat`, stochastic depth, ...) stays as it is, and so do the datasets,
    and, where masked pre-training left none, the pooling (by default VideoMAE's, 'norm_of_mean').

    Raises:
        UserError: there is no such model.
    """
    info = open_trained(path, argument='from').info
    own = config.model.backbone
    backbone = info.model.backbone if info.datasets else info.model.backbone.to_train(own)
    kept = {field: own[field] for field in _OF_TRAINING}
    use_backbone(config, dataclasses.replace(backbone, **kept))
    config.augment.update(mean=info.mean, std=info.std)
    config.init_from = os.fspath(path)
