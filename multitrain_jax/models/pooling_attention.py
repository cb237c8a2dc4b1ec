"""Multi-head pooling attention, with its pooling kernels, and the block around it.

MViTv2, arXiv 2112.01526.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Literal

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from data_pipelines.settings import PositiveFloat, settings
from multitrain_jax.models.backbone import BackboneConfig
from multitrain_jax.models.layers import (
    MLP,
    LayerNorm,
    layer_norm,
    linear,
    project_groups,
    scale_branch,
    stochastic_depth,
    torch_conv_init,
)
from multitrain_jax.ops import pooling_tpu
from multitrain_jax.ops.attention import attention
from multitrain_jax.ops.depthwise_pool import KERNEL, depthwise_pool
from multitrain_jax.ops.max_pool import skip_max_pool
from multitrain_jax.ops.platforms import has_kernels, target_device, tpu_core_memory
from multitrain_jax.ops.relative_position import key_selector, position_terms
from multitrain_jax.ops.tensor_parallel import MODEL_AXIS, on_each_device, split
from multitrain_jax.ops.windows import Triple, pad, pooled_size


@dataclasses.dataclass(frozen=True)
class BlockShape:
    """What distinguishes one block from another.

    Attributes:
      width_in: width of the tokens that enter.
      width: width inside the attention and of the tokens that leave.
      heads: attention heads; each is width / heads wide.
      query_stride: stride of the query pooling along t, h, w.
      kv_stride: stride of the key and value pooling.
      grid: the (t, h, w) for which relative position tables are made.
    """

    width_in: int
    width: int
    heads: int
    query_stride: Triple
    kv_stride: Triple
    grid: Triple

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def relative_rows(self) -> Triple:
        """Rows of the relative position tables: one for each distance on the finer pooled grid."""
        return tuple(
            2 * max(n // q, n // kv) - 1
            for n, q, kv in zip(self.grid, self.query_stride, self.kv_stride)
        )


@settings
class BlockOptions(BackboneConfig):
    """What all blocks of an MViT share."""

    mlp_ratio: PositiveFloat = 4.0  # hidden width of the MLPs over their width
    # 'separate': learned spatial and temporal vectors, added to the patch tokens;
    # 'relative': decomposed relative positions in every attention
    positions: Literal['separate', 'relative'] = 'separate'
    # a learned token comes first and gives the clip embedding; without: the mean over tokens
    class_token: bool = False
    # what the linear layer on a widening skip path reads: the block's input, 'raw' (MultiTrain) or
    # 'normalised' (PySlowFast, torchvision)
    skip_input: Literal['raw', 'normalised'] = 'raw'
    pool_norm_epsilon: PositiveFloat = 1e-5  # of the norms after poolings; 1e-6 but in MultiTrain
    # 'relative': the type in which distances between grids are computed, 'float32' in PySlowFast
    distance_rounding: Literal['float64', 'float32'] = 'float64'

    @property
    def relative_positions(self) -> bool:
        return self.positions == 'relative'


class PoolingAttention(nnx.Module):
    """Attention whose queries, keys and values are pooled by depthwise convolutions.

    The pooling kernels are shared by the heads. Parameters of the three poolings are stacked in the
    order q, k, v, so that poolings of the same stride are one operation.

    The devices along the mesh axis `model` share the heads, see `layers.project_groups`.
    """

    def __init__(self, shape: BlockShape, options: BlockOptions, *, rngs: nnx.Rngs):
        head_width = shape.head_width
        dense = dict(init_std=options.init_std, dtype=options.dtype, rngs=rngs)
        self.qkv = linear(shape.width_in, 3 * shape.width, **dense)
        self.output = linear(shape.width, shape.width, **dense)
        # PyTorch's default for the convolutions: the reference leaves them at it.
        draw = torch_conv_init(fan_in=27)
        self.pool_kernel = nnx.Param(draw(rngs.params(), (3, *KERNEL, head_width)))
        self.pool_scale = nnx.Param(jnp.ones((3, head_width), jnp.float32))
        self.pool_bias = nnx.Param(jnp.zeros((3, head_width), jnp.float32))
        if options.relative_positions:
            rows = shape.relative_rows
            normal = nnx.initializers.normal(options.init_std)
            self.relative_t = nnx.Param(normal(rngs.params(), (rows[0], head_width)))
            self.relative_h = nnx.Param(normal(rngs.params(), (rows[1], head_width)))
            self.relative_w = nnx.Param(normal(rngs.params(), (rows[2], head_width)))
        self.shape = shape
        self.options = options

    @jax.named_scope('attention')
    def __call__(self, x: jax.Array, thw: Triple) -> tuple[jax.Array, Triple]:
        """Attends within each clip.

        Args:
          x: normalised tokens [B, S, width_in]; S is t*h*w, plus one with a class token (first).
          thw: the token grid.

        Returns:
          Tokens [B, S', width] and their grid.
        """
        shape = self.shape
        batch, width = x.shape[0], shape.width
        kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]
        qkv = project_groups(x, kernel, bias, heads=shape.heads, dtype=self.options.dtype)
        q, k, v, *again = self._pool(qkv, thw)  # each [B, S', heads, d]
        q_thw = pooled_size(thw, shape.query_stride)

        # The pooled queries are added, save that of the class token (section 3.1, equation 5).
        scale, add_all = shape.head_width**-0.5, not self.options.class_token
        attend = functools.partial(
            attention,
            implementation=self.options.attention,
            recompute=self.options.remat_attention,
        )
        if self.options.relative_positions:
            k_thw = pooled_size(thw, shape.kv_stride)
            wide_q, k = self._append_positions(q, q * scale, k, q_thw, k_thw)
            y = attend(wide_q, k, v)
            y = y + (again[0] if again else q) if add_all else y
        elif again:
            y = attend(q, k, v, scale=scale) + again[0]
        else:
            y = attend(q, k, v, scale=scale, add_queries=add_all)
        if not add_all:
            y = y + q.at[:, :1].set(0)
        with jax.named_scope('attention_linear'):
            return self.output(y.reshape(batch, -1, width)), q_thw

    @jax.named_scope('pooling')
    def _pool(self, qkv: jax.Array, thw: Triple) -> list[jax.Array]:
        """Pooled, normalised q, k, v [B, S', heads, d] of [B, S, groups, 3, width / groups].

        A kernel may give the queries twice, see `ops.pooling_gpu`.
        """
        shape, options = self.shape, self.options
        kernel = None if options.class_token else self._pooling_kernel(qkv, thw)
        if kernel is not None:
            return self._pool_by_kernel(kernel, qkv, thw)
        if shape.query_stride == shape.kv_stride:
            return self._pool_by_convolution(qkv, slice(0, 3), thw, shape.query_stride)
        return [
            *self._pool_by_convolution(qkv, slice(0, 1), thw, shape.query_stride),
            *self._pool_by_convolution(qkv, slice(1, 3), thw, shape.kv_stride),
        ]

    def _pooling_kernel(self, qkv: jax.Array, thw: Triple) -> Callable | None:
        """`pool` of `ops.pooling_tpu` or `ops.pooling_gpu`, whichever the device can run."""
        device, shape, chosen = target_device(), self.shape, self.options.attention
        heads, memory = shape.heads // qkv.shape[2], tpu_core_memory(device)
        sizes = (thw, shape.query_stride, shape.kv_stride, heads, shape.head_width)
        if (
            chosen in ('auto', 'pallas')
            and qkv.dtype == jnp.bfloat16
            and pooling_tpu.fits(*sizes, memory)
        ):
            return functools.partial(pooling_tpu.pool, memory=memory)
        if chosen == 'auto' and has_kernels(device):
            from multitrain_jax.ops import pooling_gpu  # loads what others need not

            if pooling_gpu.fits(qkv.shape[0], shape.head_width, qkv.dtype):
                return pooling_gpu.pool
        return None

    def _pool_by_kernel(self, kernel: Callable, qkv: jax.Array, thw: Triple) -> list[jax.Array]:
        groups = qkv.shape[2]

        def pool(qkv, *parameters):
            return kernel(
                qkv.reshape(*qkv.shape[:2], -1),
                *parameters,
                grid=thw,
                q_stride=self.shape.query_stride,
                kv_stride=self.shape.kv_stride,
                heads=self.shape.heads // groups,
                epsilon=self.options.pool_norm_epsilon,
            )

        axis = MODEL_AXIS if groups > 1 else None
        parameters = [p[...] for p in (self.pool_kernel, self.pool_scale, self.pool_bias)]
        pooled = on_each_device(
            pool,
            (PartitionSpec(None, None, axis), *[PartitionSpec()] * 3),
            PartitionSpec(None, None, axis),
        )(qkv, *parameters)
        return [x.reshape(*x.shape[:2], self.shape.heads, -1) for x in pooled]

    def _pool_by_convolution(
        self, qkv: jax.Array, which: slice, thw: Triple, stride: Triple
    ) -> list[jax.Array]:
        """Pools and normalises some of q, k, v.

        Args:
          qkv: [B, S, groups, 3, width / groups].
          which: of q, k, v.
          thw: token grid.
          stride: of the pooling.

        Returns:
          Each of them, [B, S', heads, head width].
        """
        kernel, scale, bias = (
            p[...][which] for p in (self.pool_kernel, self.pool_scale, self.pool_bias)
        )
        x = qkv[..., which, :]  # [B, S, groups, P, width / groups]
        groups, (count, head_width) = x.shape[2], scale.shape
        heads = self.shape.heads // groups
        kernel = jnp.moveaxis(kernel, 0, -2)[..., None, :, None, :]  # [3, 3, 3, 1, P, 1, d]
        kernel = jnp.broadcast_to(kernel, (*KERNEL, groups, count, heads, head_width))
        x = x.reshape(*x.shape[:2], -1)
        first, grid = split_class_token(x, self.options.class_token)
        grid = grid.reshape(x.shape[0], *thw, -1)  # [B, t, h, w, P * width], in the order of x
        grid = depthwise_pool(grid, kernel.reshape(*KERNEL, -1), stride)
        pooled = grid.reshape(x.shape[0], -1, x.shape[-1])
        if first is not None:
            pooled = jnp.concatenate([first, pooled], 1)
        pooled = pooled.reshape(*pooled.shape[:2], groups, count, heads, head_width)
        with jax.named_scope('layer_norm'):
            pooled = layer_norm(
                split(pooled, axis=2), scale[:, None], bias[:, None], self.options.pool_norm_epsilon
            )
        shape = (*pooled.shape[:2], groups * heads, head_width)
        return [pooled[:, :, :, i].reshape(shape) for i in range(count)]

    @jax.named_scope('relative_positions')
    def _append_positions(
        self, q: jax.Array, scaled: jax.Array, k: jax.Array, q_thw: Triple, k_thw: Triple
    ) -> tuple[jax.Array, jax.Array]:
        """Widens queries and keys so that their product contains the relative position bias.

        A query carries its products with the position vectors, a key the one-hot code of its place:
        no bias of the size of the attention matrix is ever stored. The class token has no position.
        """
        first = int(self.options.class_token)
        tables = (self.relative_t[...], self.relative_h[...], self.relative_w[...])
        rounding = self.options.distance_rounding
        terms = position_terms(q[:, first:], tables, q_thw, k_thw, rounding)
        codes = jnp.asarray(key_selector(k_thw), k.dtype)[None, :, None]  # [1, S', 1, codes]
        codes = jnp.broadcast_to(codes, (*k[:, first:].shape[:3], codes.shape[-1]))
        margin = ((0, 0), (first, 0), (0, 0), (0, 0))
        return (
            jnp.concatenate([scaled, pad(terms, margin)], -1),
            jnp.concatenate([k, pad(codes, margin)], -1),
        )


def split_class_token(x: jax.Array, class_token: bool) -> tuple[jax.Array | None, jax.Array]:
    """The class token [B, 1, D] (None where there is none) and the grid's tokens [B, L, D]."""
    return (x[:, :1], x[:, 1:]) if class_token else (None, x)


class MViTBlock(nnx.Module):
    """Pre-norm pooling attention and MLP, each added to a skip path.

    Where the block widens, the skip path is a linear layer, of the block's raw input in MultiTrain
    and of its normalised input in PySlowFast and torchvision; where it pools the queries, the skip
    path is max-pooled.
    """

    def __init__(self, shape: BlockShape, options: BlockOptions, *, rngs: nnx.Rngs):
        dense = dict(init_std=options.init_std, dtype=options.dtype, rngs=rngs)
        fused = options.attention == 'auto'
        self.norm1 = LayerNorm(shape.width_in, fused=fused)
        self.attention = PoolingAttention(shape, options, rngs=rngs)
        self.norm2 = LayerNorm(shape.width, fused=fused)
        self.mlp = MLP(shape.width, int(shape.width * options.mlp_ratio), **dense)
        widens = shape.width_in != shape.width
        self.skip = linear(shape.width_in, shape.width, **dense) if widens else None
        self.shape = shape
        self.options = options

    @jax.named_scope('block')
    def __call__(
        self,
        x: jax.Array,
        thw: Triple,
        *,
        drop_rate: jax.Array | float = 0.0,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Triple]:
        """One block.

        Args:
          x: tokens [B, S, width_in].
          thw: their grid.
          drop_rate: probability of leaving out a branch for a clip (stochastic depth).
          key: PRNG key of the stochastic depth; None: deterministic.

        Returns:
          Tokens [B, S', width] and their grid.
        """
        attention_scale, mlp_scale = stochastic_depth(x, drop_rate, key)
        x, normalised = self.norm1.beside(x)
        y, new_thw = self.attention(normalised, thw)
        skip = x
        if self.skip is not None:
            with jax.named_scope('skip_linear'):
                skip = self.skip(x if self.options.skip_input == 'raw' else normalised)
        x = self._pool_skip(skip, thw) + scale_branch(y, attention_scale)
        with jax.named_scope('mlp'):
            x, normalised = self.norm2.beside(x)
            y = self.mlp(normalised)
        return x + scale_branch(y, mlp_scale), new_thw

    @jax.named_scope('max_pool')
    def _pool_skip(self, x: jax.Array, thw: Triple) -> jax.Array:
        if max(self.shape.query_stride) == 1:
            return x
        first, grid = split_class_token(x, self.options.class_token)
        grid = skip_max_pool(grid.reshape(x.shape[0], *thw, -1), self.shape.query_stride)
        pooled = grid.reshape(x.shape[0], -1, x.shape[-1])
        return pooled if first is None else jnp.concatenate([first, pooled], 1)
