"""MViTv2 for video (arXiv 2112.01526), in the form of MultiTrain and in the public one."""

import math
from typing import Annotated, ClassVar

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.settings import PositiveInt, Range, settings
from multitrain_jax.models.backbone import Backbone, Features, PositiveTriple
from multitrain_jax.models.layers import LayerNorm, run_stacked, torch_conv_init
from multitrain_jax.models.pooling_attention import BlockOptions, BlockShape, MViTBlock
from multitrain_jax.ops.attention import CUDNN_WIDTH
from multitrain_jax.ops.patch_conv import patch_conv
from multitrain_jax.ops.windows import Triple, pooled_size

_MOST_BLOCKS = 1000
Blocks = Annotated[int, Range(ge=1, remedy='every stage needs a block')]


def _mvit_rules(config: 'MViTConfig') -> None:
    if not 0 < config.depth <= _MOST_BLOCKS:
        rule = f'more than {_MOST_BLOCKS} blocks' if config.depth else 'there must be a stage'
        raise ValueError(f'stage_blocks={config.stage_blocks}: {rule}')
    if len(config.query_strides) != len(config.stage_blocks):
        raise ValueError(
            f'query_strides has {len(config.query_strides)} entries for '
            f'{len(config.stage_blocks)} stages: give one per stage'
        )
    if any(s != 1 and s % 2 for stride in config.query_strides for s in stride):
        raise ValueError(f'query_strides={config.query_strides}: each must be 1 or even')
    if any(k % 2 == 0 for k in config.patch_kernel):
        raise ValueError(f'patch_kernel={config.patch_kernel}: sizes must be odd')
    if config.width % config.heads:
        raise ValueError(f'width {config.width} is not a multiple of heads {config.heads}')
    if config.attention == 'cudnn':
        _check_cudnn(config)


def _check_cudnn(config: 'MViTConfig') -> None:
    if config.dtype != 'bfloat16':
        raise ValueError(f"attention='cudnn' needs dtype='bfloat16', not {config.dtype!r}")
    for shape in (block for stage in config.block_shapes() for block in stage):
        width = shape.head_width
        if config.relative_positions:  # each key's place is told by further numbers beside it
            width += sum(pooled_size(shape.grid, shape.kv_stride))
        if width > CUDNN_WIDTH:
            raise ValueError(
                f"attention='cudnn' takes queries up to {CUDNN_WIDTH} wide, here they are {width} "
                "(head width and relative positions): use 'xla'"
            )


@settings(rules=_mvit_rules)
class MViTConfig(BlockOptions):
    """Architecture of one MViTv2. The defaults are MultiTrain's S 16x4."""

    MEANING: ClassVar = (
        'positions',
        'class_token',
        'skip_input',
        'pool_norm_epsilon',
        'distance_rounding',
        'patch_stride',
        'query_strides',
        'kv_stride',
    )
    OPTIONAL: ClassVar = ('class_token', 'class_position')

    width: PositiveInt = 96  # of stage 1; doubles with every stage
    heads: PositiveInt = 1  # of stage 1; doubles with every stage
    stage_blocks: tuple[Blocks, ...] = (1, 2, 11, 2)  # blocks per stage
    # (t, h, w) stride of the queries of each stage's first block
    query_strides: tuple[PositiveTriple, ...] = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2))
    kv_stride: PositiveTriple = (1, 8, 8)  # of keys and values in stage 1; query strides divide it
    patch_kernel: PositiveTriple = (3, 7, 7)  # of the convolution that makes tokens; odd
    patch_stride: PositiveTriple = (2, 4, 4)  # its stride

    def build(self, rngs: nnx.Rngs) -> 'MViT':
        return MViT(self, rngs=rngs)

    @property
    def embedding_width(self) -> int:
        return self.width * 2 ** (len(self.stage_blocks) - 1)

    @property
    def depth(self) -> int:
        return sum(self.stage_blocks)

    @property
    def before_last_stage(self) -> int:
        return sum(self.stage_blocks[:-1]) or super().before_last_stage

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
        self,
        x: jax.Array,
        thw: Triple,
        drop_rates: np.ndarray,
        keys: jax.Array | None,
        blocks: slice = slice(None),
    ) -> tuple[jax.Array, Triple]:
        """Runs all blocks, or some of them.

        Args:
          x: tokens [B, S, D].
          thw: their grid.
          drop_rates: float [blocks], stochastic depth.
          keys: PRNG keys [blocks], or None: deterministic.
          blocks: which of the stage's.

        Returns:
          Tokens and grid.
        """
        start, stop, _ = blocks.indices(len(drop_rates))
        new_thw = thw

        def body(template: nnx.GraphDef, grid: Triple):
            def run(x, layer):
                nonlocal new_thw
                params, drop_rate, key = layer
                block = nnx.merge(template, params)
                x, new_thw = block(x, grid, drop_rate=drop_rate, key=key)
                return x

            return run

        if start == 0 < stop:
            template, params = nnx.split(self.first)
            run = body(template, thw)
            run = jax.checkpoint(run) if self.remat else run
            x = run(x, (params, drop_rates[0], None if keys is None else keys[0]))
        if max(start, 1) < stop:
            template, params = nnx.split(self.rest)
            part = slice(max(start, 1), stop)
            if part != slice(1, len(drop_rates)):
                params = jax.tree.map(lambda p: p[part.start - 1 : part.stop - 1], params)
            rest = None if keys is None else keys[part]
            layers = (params, jnp.asarray(drop_rates[part]), rest)
            x = run_stacked(body(template, new_thw), x, layers, recompute=self.remat)
        return x, new_thw


class MViT(Backbone):
    """The video backbone."""

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
            Stage(shapes, config, config.remat, rngs=rngs) for shapes in config.block_shapes()
        )
        self.norm = LayerNorm(config.embedding_width, fused=config.attention == 'auto')
        self.config = config

    def run(
        self,
        x: jax.Array,
        thw: Triple,
        blocks: slice = slice(None),
        *,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Triple]:
        config = self.config
        rates = np.linspace(0.0, config.stochastic_depth, config.depth, dtype=np.float32)
        keys = None
        if key is not None and config.stochastic_depth > 0:
            keys = jax.random.split(key, config.depth)
        first, last, _ = blocks.indices(config.depth)
        start = 0
        for stage, count in zip(self.stages, config.stage_blocks):
            part = slice(start, start + count)
            own = slice(max(first - start, 0), max(min(last - start, count), 0))
            if own.start < own.stop:
                x, thw = stage(x, thw, rates[part], None if keys is None else keys[part], own)
            start += count
        return x, thw

    def pool(self, x: jax.Array, thw: Triple) -> Features:
        x = self.norm(x)
        embedding = x[:, 0] if self.config.class_token else x.astype(jnp.float32).mean(1)
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
        width, separate = x.shape[-1], self.config.positions == 'separate'
        if separate:
            spatial = _resized(self.spatial_positions[...], (*thw[1:], width))
            temporal = _resized(self.temporal_positions[...], (thw[0], width))
            positions = temporal[:, None, None] + spatial[None]  # [t, h, w, D]
            x = x + positions.reshape(1, -1, width).astype(x.dtype)
        return self.with_class_token(x, position=separate) if self.config.class_token else x


def _resized(positions: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if positions.shape == shape:
        return positions
    return jax.image.resize(positions, shape, 'linear', antialias=False)
