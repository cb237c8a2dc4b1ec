"""MViTv2 for video (arXiv 2112.01526), in the form of MultiTrain and in the public one."""

from collections.abc import Iterator
import dataclasses
import math
from typing import ClassVar

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.models.backbone import BackboneConfig, Features
from multitrain_jax.models.layers import LayerNorm, torch_conv_init
from multitrain_jax.models.pooling_attention import BlockOptions, BlockShape, MViTBlock
from multitrain_jax.ops.attention import CUDNN_WIDTH
from multitrain_jax.ops.patch_conv import patch_conv
from multitrain_jax.ops.windows import Triple, pooled_size

POSITIONS = ('separate', 'relative')
SKIP_INPUTS = ('raw', 'normalised')
_MOST_BLOCKS = 1000


@dataclasses.dataclass(frozen=True)
class MViTConfig(BackboneConfig):
    """Architecture of one MViTv2. The defaults are MultiTrain's S 16x4.

    Attributes:
      width: of stage 1; doubles with every stage.
      heads: of stage 1; doubles with every stage.
      stage_blocks: blocks per stage.
      query_strides: (t, h, w) stride of the first block's queries, per stage.
      kv_stride: stride of keys and values in stage 1; every query stride divides it.
      patch_kernel: (t, h, w) of the convolution that makes tokens; odd, padded by half.
      patch_stride: its stride.
      mlp_ratio: hidden width of the MLPs over their width.
      positions: 'separate', learned spatial and temporal vectors added to the patch tokens; or
        'relative', decomposed relative positions in every attention.
      class_token: whether a learned token is put first and gives the clip embedding; without
        one, the embedding is the mean over tokens.
      skip_input: what the linear layer on a widening skip path reads: the block's 'raw' input
        (MultiTrain) or the 'normalised' one (PySlowFast, torchvision).
      pool_norm_epsilon: of the LayerNorms after the poolings: 1e-5 in MultiTrain, 1e-6 elsewhere.
    """

    MEANING: ClassVar = (
        'positions',
        'class_token',
        'skip_input',
        'pool_norm_epsilon',
        'patch_stride',
        'query_strides',
        'kv_stride',
    )
    OPTIONAL: ClassVar = ('class_token', 'class_position')

    width: int = 96
    heads: int = 1
    stage_blocks: tuple[int, ...] = (1, 2, 11, 2)
    query_strides: tuple[Triple, ...] = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2))
    kv_stride: Triple = (1, 8, 8)
    patch_kernel: Triple = (3, 7, 7)
    patch_stride: Triple = (2, 4, 4)
    mlp_ratio: float = 4.0
    positions: str = 'separate'
    class_token: bool = False
    skip_input: str = 'raw'
    pool_norm_epsilon: float = 1e-5

    def __post_init__(self):
        self._check_choices(positions=POSITIONS, skip_input=SKIP_INPUTS)
        if not self.stage_blocks or min(self.stage_blocks) < 1:
            raise ValueError(f'stage_blocks = {self.stage_blocks}: every stage needs a block')
        if self.depth > _MOST_BLOCKS:
            raise ValueError(f'stage_blocks = {self.stage_blocks}: more than {_MOST_BLOCKS} blocks')
        if len(self.query_strides) != len(self.stage_blocks):
            raise ValueError(
                f'query_strides has {len(self.query_strides)} entries for '
                f'{len(self.stage_blocks)} stages: give one per stage'
            )
        if any(s < 1 or (s != 1 and s % 2) for stride in self.query_strides for s in stride):
            raise ValueError(f'query_strides = {self.query_strides}: each must be 1 or even')
        if any(k < 1 or k % 2 == 0 for k in self.patch_kernel):
            raise ValueError(f'patch_kernel = {self.patch_kernel}: sizes must be odd')
        for name in ('kv_stride', 'patch_stride'):
            if min(getattr(self, name)) < 1:
                raise ValueError(f'{name} = {getattr(self, name)}: each must be at least 1')
        self._check_positive('width', 'heads', 'mlp_ratio', 'pool_norm_epsilon')
        if self.width % self.heads:
            raise ValueError(f'width {self.width} is not a multiple of heads {self.heads}')
        super().__post_init__()
        if self.attention == 'cudnn':
            self._check_cudnn()

    def _check_cudnn(self) -> None:
        if self.dtype != 'bfloat16':
            raise ValueError(f"attention = 'cudnn' needs dtype = 'bfloat16', not {self.dtype!r}")
        for shape in (block for stage in self.block_shapes() for block in stage):
            width = shape.width // shape.heads
            if (
                self.positions == 'relative'
            ):  # each key's place is told by further numbers beside it
                width += sum(pooled_size(shape.grid, shape.kv_stride))
            if width > CUDNN_WIDTH:
                raise ValueError(
                    f"attention = 'cudnn' takes queries up to {CUDNN_WIDTH} wide, here they are {width} (head width "
                    "and relative positions): use 'xla'"
                )

    def build(self, rngs: nnx.Rngs) -> 'MViT':
        return MViT(self, rngs=rngs)

    @property
    def embedding_width(self) -> int:
        return self.width * 2 ** (len(self.stage_blocks) - 1)

    @property
    def depth(self) -> int:
        return sum(self.stage_blocks)

    @property
    def token_stride(self) -> Triple:
        return tuple(math.prod(strides) for strides in zip(self.patch_stride, *self.query_strides))

    def layer(self, path: tuple, shape: tuple[int, ...]) -> int | np.ndarray:
        if path[0] != 'stages':
            return self.depth + 1 if path[0] == 'norm' else 0
        first = 1 + sum(self.stage_blocks[: path[1]])
        if path[2] == 'first':
            return first
        return (first + 1 + np.arange(shape[0])).reshape(-1, *[1] * (len(shape) - 1))

    def attention_heads(self, path: tuple) -> int:
        return self.heads * 2 ** int(path[1])

    def undivided(self, devices: int) -> str:
        stages = [
            str(stage + 1)
            for stage in range(len(self.stage_blocks))
            if self.heads * 2**stage % devices
        ]
        return f'stage {", ".join(stages)}' if stages else ''

    def multiplications(self) -> int:
        t, h, w = self.patch_grid
        total = t * h * w * math.prod(self.patch_kernel) * 3 * self.width
        for stage in self.block_shapes():
            for block in stage:
                tokens, inner = t * h * w, block.width
                # Poolings round up.
                t, h, w = (math.ceil(n / s) for n, s in zip((t, h, w), block.query_stride))
                keys = [
                    math.ceil(n * q / kv)
                    for n, q, kv in zip((t, h, w), block.query_stride, block.kv_stride)
                ]
                queries, all_keys = t * h * w, math.prod(keys)
                total += tokens * block.width_in * 3 * inner + queries * inner * inner
                total += 27 * inner * (queries + 2 * all_keys)
                total += 2 * queries * all_keys * inner
                if self.positions == 'relative':
                    total += queries * sum(keys) * inner
                if block.width_in != inner:
                    total += tokens * block.width_in * inner
                total += 2 * queries * inner * int(self.mlp_ratio * inner)
        return total

    def block_options(self) -> BlockOptions:
        """What all blocks share."""
        return BlockOptions(
            mlp_ratio=self.mlp_ratio,
            relative_positions=self.positions == 'relative',
            class_token=self.class_token,
            skip_input=self.skip_input,
            pool_norm_epsilon=self.pool_norm_epsilon,
            init_std=self.init_std,
            dtype=self.dtype,
            attention=self.attention,
            remat_attention=self.remat_attention,
        )

    def block_shapes(self) -> list[list[BlockShape]]:
        """The shape of every block, by stage. All but a stage's first are alike."""
        width, heads, grid, kv_stride = self.width, self.heads, self.patch_grid, self.kv_stride
        stages, width_in = [], width
        for stage, (blocks, stride) in enumerate(zip(self.stage_blocks, self.query_strides)):
            if stage:
                width, heads = 2 * width, 2 * heads
            kv_stride = tuple(max(k // q, 1) for k, q in zip(kv_stride, stride))
            first = BlockShape(width_in, width, heads, tuple(stride), kv_stride, grid)
            # The reference rounds grids down here, though its poolings round up (312 px: 19, 20).
            grid = tuple(n // s for n, s in zip(grid, stride))
            rest = BlockShape(width, width, heads, (1, 1, 1), kv_stride, grid)
            stages.append([first] + [rest] * (blocks - 1))
            width_in = width
        return stages


class Stage(nnx.Module):
    """The blocks of one resolution: a first one that may widen and pool, and its stacked followers.

    The followers' parameters have a leading axis and run under a scan, so that the size of the
    program does not grow with the depth.
    """

    def __init__(
        self, shapes: list[BlockShape], options: BlockOptions, remat: bool, *, rngs: nnx.Rngs
    ):
        self.first = MViTBlock(shapes[0], options, rngs=rngs)

        @nnx.split_rngs(splits=len(shapes) - 1)
        @nnx.vmap
        def stacked(rngs):
            return MViTBlock(shapes[-1], options, rngs=rngs)

        self.rest = stacked(rngs) if len(shapes) > 1 else None
        self.remat = remat

    @jax.named_scope('stage')
    def __call__(
        self, x: jax.Array, thw: Triple, drop_rates: np.ndarray, keys: jax.Array | None
    ) -> tuple[jax.Array, Triple]:
        """Runs all blocks.

        Args:
          x: tokens [B, S, D].
          thw: their grid.
          drop_rates: float [blocks], stochastic depth.
          keys: PRNG keys [blocks], or None: deterministic.

        Returns:
          Tokens and grid.
        """
        first, rest = None, None
        if keys is not None:
            first, rest = keys[0], keys[1:]
        new_thw = thw

        def run(template: nnx.GraphDef, grid: Triple):
            def body(x, layer):
                nonlocal new_thw
                params, drop_rate, key = layer
                block = nnx.merge(template, params)
                x, new_thw = block(x, grid, drop_rate=drop_rate, key=key)
                return x, None

            return jax.checkpoint(body) if self.remat else body

        template, params = nnx.split(self.first)
        x, _ = run(template, thw)(x, (params, drop_rates[0], first))
        if self.rest is not None:
            template, params = nnx.split(self.rest)
            body = run(template, new_thw)
            x, _ = lax.scan(body, x, (params, jnp.asarray(drop_rates[1:]), rest))
        return x, new_thw

    def blocks(self) -> Iterator[MViTBlock]:
        """The blocks one by one, the followers with their own slice of the stacked parameters."""
        yield self.first
        if self.rest is not None:
            template, params = nnx.split(self.rest)
            for i in range(jax.tree.leaves(params)[0].shape[0]):
                yield nnx.merge(template, jax.tree.map(lambda p: p[i], params))


class MViT(nnx.Module):
    """The video backbone. Holds nothing but `nnx.Param`; randomness comes in as keys."""

    def __init__(self, config: MViTConfig, *, rngs: nnx.Rngs):
        width = config.width
        patch = (*config.patch_kernel, 3, width)
        draw = torch_conv_init(fan_in=math.prod(patch[:-1]))
        normal = nnx.initializers.normal(config.init_std)
        self.patch_kernel = nnx.Param(draw(rngs.params(), patch))
        self.patch_bias = nnx.Param(draw(rngs.params(), (width,)))
        t, h, w = config.patch_grid
        if config.class_token:
            self.class_token = nnx.Param(normal(rngs.params(), (width,)))
        if config.positions == 'separate':
            self.spatial_positions = nnx.Param(normal(rngs.params(), (h, w, width)))
            self.temporal_positions = nnx.Param(normal(rngs.params(), (t, width)))
            if config.class_token:
                self.class_position = nnx.Param(normal(rngs.params(), (width,)))
        self.stages = nnx.List(
            Stage(shapes, config.block_options(), config.remat, rngs=rngs)
            for shapes in config.block_shapes()
        )
        self.norm = LayerNorm(config.embedding_width)
        self.config = config

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
          ValueError: if `video` is not [B, T, H, W, 3].
        """
        config = self.config
        x, thw = self.embed_patches(video)
        x = self.add_positions(x, thw)
        rates = np.linspace(0.0, config.stochastic_depth, config.depth, dtype=np.float32)
        keys = None
        if key is not None and config.stochastic_depth > 0:
            keys = jax.random.split(key, config.depth)
        start = 0
        for stage, blocks in zip(self.stages, config.stage_blocks):
            part = slice(start, start + blocks)
            x, thw = stage(x, thw, rates[part], None if keys is None else keys[part])
            start += blocks
        x = self.norm(x)
        embedding = x[:, 0] if config.class_token else x.astype(jnp.float32).mean(1)
        return Features(x, embedding.astype(jnp.float32), thw)

    @jax.named_scope('patch_embedding')
    def embed_patches(self, video: jax.Array) -> tuple[jax.Array, Triple]:
        """The patch convolution: tokens [B, t*h*w, width] and their grid."""
        if video.ndim != 5 or video.shape[-1] != 3:
            raise ValueError(f'MViT needs a video [B, T, H, W, 3], got {video.shape}')
        dtype = jnp.dtype(self.config.dtype)
        x = patch_conv(video.astype(dtype), self.patch_kernel[...], self.config.patch_stride)
        batch, *thw, width = x.shape
        x = x.reshape(batch, -1, width)
        return x + self.patch_bias[...].astype(dtype)[None, None], tuple(thw)

    @jax.named_scope('patch_embedding')
    def add_positions(self, x: jax.Array, thw: Triple) -> jax.Array:
        """Adds learned positions and puts the class token first, as configured."""
        config, width = self.config, x.shape[-1]
        if config.positions == 'separate':
            spatial = _resized(self.spatial_positions[...], (*thw[1:], width))
            temporal = _resized(self.temporal_positions[...], (thw[0], width))
            positions = temporal[:, None, None] + spatial[None]  # [t, h, w, D]
            x = x + positions.reshape(1, -1, width).astype(x.dtype)
        if config.class_token:
            token = self.class_token[...]
            if config.positions == 'separate':
                token = token + self.class_position[...]
            token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, width))
            x = jnp.concatenate([token, x], 1)
        return x

    def blocks(self) -> Iterator[MViTBlock]:
        """All blocks in order, each with its own parameters: to look inside the scan."""
        for stage in self.stages:
            yield from stage.blocks()


def _resized(positions: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if positions.shape == shape:
        return positions
    return jax.image.resize(positions, shape, 'linear', antialias=False)
