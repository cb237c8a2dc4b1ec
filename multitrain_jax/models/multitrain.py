"""One backbone, one head per dataset, projections between datasets, expander (MultiTrain, 2022).

Datasets whose clips have boxes have a localisation head instead (co-finetuning, arXiv 2207.03807).
"""

import dataclasses
from typing import Any

from flax import nnx
import jax
import numpy as np

from data_pipelines.settings import (
    DropRate,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    settings,
)
from multitrain_jax.models.backbone import Features
from multitrain_jax.models.heads import Heads, Projections, add_projected
from multitrain_jax.models.layers import MLP
from multitrain_jax.models.localisation_head import LocalisationHead, LocalisationHeadConfig
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.vit import ViTConfig


def _model_rules(config: 'MultiTrainConfig') -> None:
    if (config.num_actions is None) != (config.localisation_head is None):
        raise ValueError('num_actions and localisation_head belong together')
    if config.localisation_head is not None:
        config.localisation_head.check_width(config.backbone.embedding_width)
    if config.add_projected and not config.projections:
        raise ValueError(
            f'add_projected={config.add_projected} needs projections=True: '
            'they are part of the prediction'
        )


@settings(rules=_model_rules)
class MultiTrainConfig:
    """The trained model."""

    backbone: MViTConfig | ViTConfig
    num_classes: tuple[PositiveInt, ...]  # of each classifying dataset, in their order; may be ()
    head_hidden: NonNegativeInt = 2048  # hidden width of each dataset's head; 0: linear
    head_dropout: DropRate = 0.5  # before a head's last layer
    logit_dropout: DropRate = 0.5  # of the logits, as in the public code of MultiTrain
    projections: bool = True  # between every ordered pair of datasets, in training
    # 0: each projection is a full matrix; R > 0: the product of two factors of rank R, which takes
    # less memory where datasets and classes are many
    projection_rank: NonNegativeInt = 0
    # factor of the projected logits that are added to each head's own, also in predictions; 0: off
    add_projected: NonNegativeFloat = 0.0
    expander: bool = True  # of the informative loss, in training
    expander_hidden: PositiveInt = 2048  # its hidden width; 4096 in the public code
    # actions of each localising dataset, in their order; None: there is none
    num_actions: tuple[PositiveInt, ...] | None = None
    localisation_head: LocalisationHeadConfig | None = None  # of each of them


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """What the model returns; all float32.

    Attributes:
      embedding: [B, D].
      logits: [N, B, C], of every classification head for every clip; `heads.PADDED_LOGIT` where
        a dataset has fewer than C classes; None where no dataset classifies.
      projected: [N, N - 1, B, C] or None: entry [d, j] holds the logits of dataset
        `Projections.sources(N, d)[j]` mapped to the classes of dataset d, padded like `logits`.
      expanded: [B, D] or None: the embedding after the expander, for the informative loss.
      projection_kernel: [N, N - 1, C, C] or None: the projections' matrices, for their L1 norm.
      actions: for every localising dataset f32[B, M, A], what its head says about every box of
          every
        clip, A that dataset's own number; None without boxes.
    """

    embedding: jax.Array
    logits: jax.Array | None
    projected: jax.Array | None = None
    expanded: jax.Array | None = None
    projection_kernel: jax.Array | None = None
    actions: tuple[jax.Array, ...] | None = None


class MultiTrainModel(nnx.Module):
    """Backbone, heads and the parts that only training uses."""

    def __init__(self, config: MultiTrainConfig, *, rngs: nnx.Rngs):
        width, init_std = config.backbone.embedding_width, config.backbone.init_std
        self.backbone = config.backbone.build(rngs)
        drawn, classes = dict(init_std=init_std, rngs=rngs), config.num_classes
        heads = projections = expander = localisation_heads = None
        if classes:
            dropout = dict(head_dropout=config.head_dropout, logit_dropout=config.logit_dropout)
            heads = Heads(width, classes, hidden=config.head_hidden, **dropout, **drawn)
        if config.projections and len(classes) > 1:
            projections = Projections(classes, rank=config.projection_rank, **drawn)
        if config.expander:
            expander = MLP(width, config.expander_hidden, **drawn)
        # Last, so that the other parameters are initialised as without them.
        if (head := config.localisation_head) is not None:
            own = (
                LocalisationHead(width, actions, head, **drawn) for actions in config.num_actions
            )
            localisation_heads = nnx.List(own)
        self.heads, self.projections, self.expander = heads, projections, expander
        self.localisation_heads = localisation_heads
        self.config = config

    def __call__(
        self,
        video: jax.Array,
        boxes: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
        training: bool = False,
    ) -> Outputs:
        """Runs every head on every clip.

        Args:
          video: [B, T, H, W, 3], float, normalised.
          boxes: f32[B, M, 4], x1, y1, x2, y2 as shares of the clip's width and height; None: the
            localisation heads do not run.
          key: PRNG key of stochastic depth and dropout; None: deterministic.
          training: also compute what only the losses need: projections and expander.

        Returns:
          Outputs.
        """
        backbone_key = None if key is None else jax.random.split(key)[0]
        features = self.backbone(video, key=backbone_key)
        return self.of_features(features, boxes, key=key, training=training)

    def of_features(
        self,
        features: Features,
        boxes: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
        training: bool = False,
    ) -> Outputs:
        """What the heads make of the backbone's features; arguments as those of a call."""
        head_key = None if key is None else jax.random.split(key)[1]
        embedding = features.embedding
        logits = projected = expanded = kernel = actions = None
        if self.heads is not None:
            logits = self.heads(embedding, key=head_key)
        if self.projections is not None and (training or self.config.add_projected):
            projected, kernel = self.projections(logits), self.projections.matrices()
            if self.config.add_projected:
                logits = add_projected(logits, projected, self.config.add_projected)
            projected = self.heads.mask_padding(projected)
        if logits is not None:
            logits = self.heads.mask_padding(logits)
        if training and self.expander is not None:
            with jax.named_scope('heads'):
                expanded = self.expander(embedding)
        if self.localisation_heads is not None and boxes is not None:
            count = len(self.localisation_heads)
            # Not of head_key: the heads split that one.
            keys = [None] * count
            if key is not None:
                keys = jax.random.split(jax.random.fold_in(key, 2), count)
            actions = tuple(
                head(features, boxes, key=head_key)
                for head, head_key in zip(self.localisation_heads, keys)
            )
        return Outputs(embedding, logits, projected, expanded, kernel, actions)


def abstract_model(config: MultiTrainConfig) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """(graph definition, parameters as shapes), without computing anything."""
    model = nnx.eval_shape(lambda: MultiTrainModel(config, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model)
    return graphdef, nnx.to_pure_dict(params)


def count_parameters(model: MultiTrainModel) -> dict[str, int]:
    """Numbers of parameters by group and in total, without the padding of heads and projections.

    Also takes a model of shapes: `nnx.eval_shape(lambda: MultiTrainModel(config, rngs=...))`.
    """

    def size(module) -> int:
        leaves = jax.tree.leaves(nnx.state(module)) if module is not None else []
        return sum(int(np.prod(leaf.shape)) for leaf in leaves)

    classes = model.config.num_classes
    groups = {
        'backbone': size(model.backbone),
        'heads': size(model.heads),
        'projections': 0,
        'expander': size(model.expander),
    }
    if classes:
        rows, spare = model.heads.kernel.shape[1], max(classes) * len(classes) - sum(classes)
        groups['heads'] -= spare * (rows + 1)
    if model.localisation_heads is not None:
        groups['localisation_heads'] = size(model.localisation_heads)
    if model.projections is not None:
        rank = model.config.projection_rank
        full = sum(classes) ** 2 - sum(c * c for c in classes)
        # Each factor's side of C numbers is met once by every other dataset.
        groups['projections'] = 2 * rank * (len(classes) - 1) * sum(classes) if rank else full
    return {**groups, 'total': sum(groups.values())}
