"""What everything else needs to know of a video backbone.

A backbone is a module `video, key -> Features` whose architecture is a `BackboneConfig`: MViTv2
(`mvit.py`) or a plain video transformer (`vit.py`). Another is another file here, and a member of
`MultiTrainConfig.backbone`.
"""

import abc
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, ClassVar, Literal, Self

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.settings import DropRate, PositiveFloat, PositiveInt, settings
from multitrain_jax.ops.attention import IMPLEMENTATIONS
from multitrain_jax.ops.windows import Triple

PositiveTriple = tuple[PositiveInt, PositiveInt, PositiveInt]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Features:
    """What a backbone returns.

    Attributes:
      tokens: [B, L, D] after the final norm, time slowest; a class token, if any, comes first.
      embedding: float32 [B, D].
      thw: the token grid, L = t * h * w.
    """

    tokens: jax.Array
    embedding: jax.Array
    thw: Triple = dataclasses.field(metadata=dict(static=True))

    @property
    def grid_tokens(self) -> jax.Array:
        """[B, t * h * w, D]: without a class token."""
        t, h, w = self.thw
        return self.tokens[:, self.tokens.shape[1] - t * h * w :]


class Backbone(nnx.Module):
    """Holds nothing but `nnx.Param`, in the attributes that `BackboneConfig` tells of.

    Randomness comes in as keys.
    """

    @jax.named_scope('backbone')
    def __call__(self, video: jax.Array, *, key: jax.Array | None = None) -> Features:
        """Tokens and embedding of normalised clips.

        Args:
          video: [B, T, H, W, 3], float, normalised. Its size may differ from the config's: learned
            positions are interpolated.
          key: PRNG key of the stochastic depth; None: deterministic.

        Returns:
          Features.

        Raises:
          ValueError: if `video` is not [B, T, H, W, 3], or too small for a token.
        """
        return self.pool(*self.run(*self.begin(video), key=key))

    def begin(self, video: jax.Array) -> tuple[jax.Array, Triple]:
        """The first tokens [B, L, D], a class token in front, and their grid (t, h, w)."""
        x, thw = self.embed_patches(video)
        return self.add_positions(x, thw), thw

    @abc.abstractmethod
    def embed_patches(self, video: jax.Array) -> tuple[jax.Array, Triple]:
        """Tokens [B, t*h*w, D] of pixels, and their grid."""

    @abc.abstractmethod
    def add_positions(self, x: jax.Array, thw: Triple) -> jax.Array:
        """Adds learned or fixed positions and puts the class token first, as configured."""

    def with_class_token(self, x: jax.Array, *, position: bool) -> jax.Array:
        """The class token before tokens [B, L, D]; `position`: its own learned one is added."""
        token = self.class_token[...]
        if position:
            token = token + self.class_position[...]
        token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        return jnp.concatenate([token, x], 1)

    @abc.abstractmethod
    def run(
        self,
        x: jax.Array,
        thw: Triple,
        blocks: slice = slice(None),
        *,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Triple]:
        """All blocks, or some of them that follow each other; `key`: of the stochastic depth."""

    @abc.abstractmethod
    def pool(self, x: jax.Array, thw: Triple) -> Features:
        """What comes after the last block."""


def _backbone_rules(config: 'BackboneConfig') -> None:
    if min(config.patch_grid) < 1:
        raise ValueError(
            f'{config.num_frames} frames of {config.image_size} px are smaller than '
            f'patch_stride={config.patch_stride}'
        )


@settings(rules=_backbone_rules)
class BackboneConfig(abc.ABC):
    """Architecture of a backbone: the fields that all have, and what the rest of the code asks it.

    The path of a parameter is a tuple and begins below `backbone`: ('blocks', 'norm1', 'scale').
    Identical blocks are stacked along a leading axis. In a block, `attention` holds the linear
    layers `qkv` and `output`, and `mlp` is a `layers.MLP`. Learned positions are known by their
    names, see `weights.positions`; those of a class token are `class_token` and `class_position`.
    """

    # Fields that change what the parameters mean, though not their shapes.
    MEANING: ClassVar[Sequence[str]]
    # First names of parameters that one model may have and another of its kind lack.
    OPTIONAL: ClassVar[Sequence[str]]

    num_frames: PositiveInt = 16  # of a clip; learned positions are for so many
    image_size: PositiveInt = 224  # pixels along a side; likewise
    stochastic_depth: DropRate = 0.0  # of a branch of the last block; linear from 0 in the first
    # deviation of the initial linear kernels, positions and class token; narrow models train faster
    # from about 1 / sqrt(width)
    init_std: PositiveFloat = 0.02
    # of activations; parameters, softmax, norms' statistics and the embedding are float32
    dtype: Literal['float32', 'bfloat16'] = 'float32'
    # 'auto': fused where the device has such a kernel, else 'xla', and so are poolings and norms;
    # 'cudnn': fused, for bfloat16 on NVIDIA GPUs (Ampere or newer); 'pallas': fused, for TPUs (v5
    # or newer)
    attention: Literal[*IMPLEMENTATIONS] = 'xla'
    # recompute blocks in the backward pass: a third more time, half of the memory
    remat: bool = False
    # recompute only the attention matrices, most of what is kept, in the backward pass: no more
    # time, two thirds of the memory; beside remat: for the least memory; no effect where attention
    # is fused, which keeps none
    remat_attention: bool = False

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs) -> 'Backbone':
        """The module."""

    @property
    @abc.abstractmethod
    def embedding_width(self) -> int:
        """Width of the last tokens and of the clip embedding."""

    @property
    @abc.abstractmethod
    def depth(self) -> int:
        """Number of blocks."""

    @property
    def before_last_stage(self) -> int:
        """How many blocks come before the last stage; of a single stage, before the last block."""
        return self.depth - 1

    @property
    def patch_grid(self) -> Triple:
        """Grid (t, h, w) of the first tokens, for which positions are learned."""
        size = (self.num_frames, self.image_size, self.image_size)
        return tuple(n // s for n, s in zip(size, self.patch_stride))

    @property
    @abc.abstractmethod
    def token_stride(self) -> Triple:
        """Frames, rows and columns of pixels from one of the last tokens to the next."""

    @abc.abstractmethod
    def layer(self, path: tuple, shape: tuple[int, ...]) -> int | np.ndarray:
        """How deep a parameter lies, for layer-wise learning-rate decay.

        Returns:
          0 for what makes tokens, 1 to `depth` in the blocks, `depth` + 1 after them; of stacked
          blocks an array that broadcasts against the parameter.
        """

    @abc.abstractmethod
    def attention_heads(self, path: tuple) -> int:
        """Attention heads of the block that a parameter is of."""

    @abc.abstractmethod
    def undivided(self, devices: int) -> str:
        """Which blocks have attention heads that `devices` devices cannot share; '': none."""

    @abc.abstractmethod
    def multiplications(self) -> int:
        """Of matrix products and convolutions for one clip, forward, as the papers count them.

        Class token and heads are left out; a training step without recomputation takes three times
        as many.
        """

    def with_attentive_pooling(self, blocks: int) -> Self:
        """The same backbone whose embedding is a learned query's attention to its tokens.

        Args:
          blocks: further blocks before that attention.

        Raises:
          ValueError: it cannot have it.
        """
        raise ValueError(
            f'{type(self).__name__}: has no attentive pooling; probe a plain transformer '
            '(VideoMAE, V-JEPA 2, ViViT), or leave config.probe out and train linear probes: '
            "config.optimizer.frozen=('backbone',) with config.model.head_hidden=0"
        )

    def to_train(self, own: Mapping[str, Any]) -> Self:
        """What is trained on from this backbone, to which its pre-training gave no heads.

        Args:
          own: the fields that the config would have without it.
        """
        del own
        return self

    def for_inference(self) -> Self:
        """The same function without what only training, or only some device, has a use for."""
        return dataclasses.replace(self, attention='xla', remat=False, remat_attention=False)
