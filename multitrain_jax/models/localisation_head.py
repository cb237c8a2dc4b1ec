"""The head that says what is done in each box of a clip's key frame (localisation, as on AVA)."""

from flax import nnx
import jax
import jax.numpy as jnp

from data_pipelines.settings import DropRate, NonNegativeInt, PositiveInt, settings
from multitrain_jax.models.backbone import Features
from multitrain_jax.models.layers import LayerNorm, dropout, linear
from multitrain_jax.ops.roi_align import roi_align


@settings
class LocalisationHeadConfig:
    """The head of every localising dataset."""

    dropout: DropRate = 0.5  # before the last layer
    context: bool = False  # boxes attend to the whole clip
    context_heads: PositiveInt = 8  # heads of that attention; divides the backbone's width
    output_size: PositiveInt = 7  # bins of RoIAlign along each side of a box
    sampling_ratio: NonNegativeInt = 0  # samples along each side of a bin; 0: adaptive

    def check_width(self, width: int) -> None:
        """Raises ValueError where the heads of the attention do not divide the backbone's width."""
        if self.context and width % self.context_heads:
            raise ValueError(
                f'context_heads={self.context_heads} does not divide the width {width}'
            )


class LocalisationHead(nnx.Module):
    """Mean over time, RoIAlign, maximum over the box, dropout, linear: one logit per action.

    That is the head of SlowFast (arXiv 1812.03982, section 4.1) and PySlowFast's `ResNetRoIHead`,
    but for its sigmoid, which belongs to the loss and to the scores. With `context`, each box's
    features first attend to the whole clip's tokens, so that what a person does may be read off
    what is elsewhere and at other times.
    """

    def __init__(
        self,
        width: int,
        num_actions: int,
        config: LocalisationHeadConfig,
        *,
        init_std: float = 0.01,
        rngs: nnx.Rngs,
    ):
        """Makes the head.

        Args:
          width: D of the backbone's tokens.
          num_actions: A.
          config: what it is made of.
          init_std: of the kernels.

        Raises:
          ValueError: `context_heads` does not divide `width`.
        """
        config.check_width(width)
        drawn, heads = dict(init_std=init_std, rngs=rngs), config.context_heads
        self.output = linear(width, num_actions, **drawn)
        self.context = BoxContext(width, heads, **drawn) if config.context else None
        self.config = config

    @jax.named_scope('heads')
    def __call__(
        self, features: Features, boxes: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Logits of the actions of every box.

        Args:
          features: of the backbone; any token grid. A class token is left out.
          boxes: f32[B, M, 4], x1, y1, x2, y2, 0..1 of the clip as the model sees it. Padding gives
            logits too, which no loss may read.
          key: PRNG key of the dropout; None: none.

        Returns:
          f32[B, M, A].
        """
        t, h, w = features.thw
        tokens = features.grid_tokens.astype(jnp.float32)
        grid = tokens.reshape(tokens.shape[0], t, h, w, -1).mean(1)  # [B, h, w, D]
        regions = roi_align(
            grid,
            boxes,
            output_size=self.config.output_size,
            sampling_ratio=self.config.sampling_ratio,
        )
        embedding = regions.max((2, 3))  # [B, M, D]
        if self.context is not None:
            embedding = self.context(embedding, tokens)
        return self.output(dropout(embedding, self.config.dropout, key))


class BoxContext(nnx.Module):
    """Attention from the boxes to all tokens of the clip, added to the boxes' own features."""

    def __init__(self, width: int, heads: int, *, init_std: float, rngs: nnx.Rngs):
        self.norm = LayerNorm(width)
        self.query = linear(width, width, init_std=init_std, rngs=rngs)
        self.key_value = linear(width, 2 * width, init_std=init_std, rngs=rngs)
        self.output = linear(width, width, init_std=init_std, rngs=rngs)
        self.heads = heads

    def __call__(self, boxes: jax.Array, tokens: jax.Array) -> jax.Array:
        """[B, M, D] and [B, L, D] -> [B, M, D]."""

        def by_head(x):
            return x.reshape(*x.shape[:2], self.heads, -1)

        key, value = jnp.split(self.key_value(tokens), 2, axis=-1)
        query = self.query(self.norm(boxes))
        attended = jax.nn.dot_product_attention(by_head(query), by_head(key), by_head(value))
        return boxes + self.output(attended.reshape(boxes.shape))
