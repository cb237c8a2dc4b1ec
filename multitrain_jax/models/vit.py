"""Plain video transformers: tubelets, then identical blocks of one width.

The forms of VideoMAE (arXiv 2203.12602), VideoMAE V2 (arXiv 2303.16727), V-JEPA 2 (arXiv
2506.09985) and ViViT's spatio-temporal attention (arXiv 2103.15691, model 1).
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, ClassVar, Literal

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.settings import NonNegativeInt, PositiveFloat, PositiveInt, settings
from multitrain_jax.models.backbone import Backbone, BackboneConfig, Features, PositiveTriple
from multitrain_jax.models.layers import (
    MLP,
    LayerNorm,
    linear,
    project,
    project_qkv,
    run_stacked,
    scale_branch,
    stochastic_depth,
)
from multitrain_jax.ops.attention import CUDNN_WIDTH, attention
from multitrain_jax.ops.rotary import Angles, rotary_angles, rotate
from multitrain_jax.ops.windows import Triple


def _vit_rules(config: 'ViTConfig') -> None:
    head_width = config.width // config.heads
    if config.width % config.heads:
        raise ValueError(f'width {config.width} is not a multiple of heads {config.heads}')
    if config.pooler_blocks and config.pooling != 'attentive':
        raise ValueError(
            f'pooler_blocks={config.pooler_blocks} belong to pooling="attentive", '
            f'which is {config.pooling!r}'
        )
    if config.positions == 'sine' and config.width % 2:
        raise ValueError(f'width {config.width} is odd: sine positions need sines and cosines')
    if config.positions == 'rotary' and (config.class_token or head_width < 6):
        raise ValueError(
            f'rotary positions need heads at least 6 wide, here {head_width}, and no class token'
        )
    if config.attention == 'cudnn' and config.dtype != 'bfloat16':
        raise ValueError(f"attention='cudnn' needs dtype='bfloat16', not {config.dtype!r}")
    if config.attention == 'cudnn' and head_width > CUDNN_WIDTH:
        raise ValueError(
            f"attention='cudnn' takes heads up to {CUDNN_WIDTH} wide, not {head_width}"
        )


@settings(rules=_vit_rules)
class ViTConfig(BackboneConfig):
    """Architecture of one plain video transformer. The defaults are VideoMAE's B on 16 frames."""

    MEANING: ClassVar = (
        'heads',
        'patch_stride',
        'positions',
        'class_token',
        'pooling',
        'attention_bias',
        'activation',
        'norm_epsilon',
        'position_grid',
    )
    OPTIONAL: ClassVar = ('class_token', 'class_position', 'pooler')

    width: PositiveInt = 768  # of the tokens
    blocks: PositiveInt = 12  # all alike
    heads: PositiveInt = 12  # of each attention
    mlp_width: PositiveInt = 3072  # hidden units of each MLP
    patch_stride: PositiveTriple = (2, 16, 16)  # frames, rows, columns of a tubelet; none overlap
    # 'sine': fixed, one wave for the number of each token, time slowest (VideoMAE); 'learned': a
    # vector for each token (ViViT); 'rotary': over time, height and width, in every attention
    # (V-JEPA 2)
    positions: Literal['sine', 'learned', 'rotary'] = 'sine'
    # of sine or learned positions, interpolated for others; None: that of the clip's size
    position_grid: PositiveTriple | None = None
    class_token: bool = False  # a learned token is put first
    # what the clip embedding is, 'norm_of_mean': the final norm of the tokens' mean (VideoMAE,
    # fine-tuned); 'mean': the mean of the normalised tokens; 'first': the first of them, a class
    # token where there is one (ViViT); 'attentive': a learned query's attention to them (V-JEPA 2)
    pooling: Literal['norm_of_mean', 'mean', 'first', 'attentive'] = 'norm_of_mean'
    pooler_blocks: NonNegativeInt = 0  # 'attentive': further blocks before the query's attention
    attention_bias: Literal['qkv', 'qv', 'none'] = 'qkv'  # of which linear layers; 'qv': VideoMAE
    activation: Literal['exact', 'tanh'] = 'exact'  # GELU, or its approximation (ViViT)
    norm_epsilon: PositiveFloat = 1e-6  # of all LayerNorms

    def build(self, rngs: nnx.Rngs) -> 'ViT':
        return ViT(self, rngs=rngs)

    def to_train(self, own: Mapping[str, Any]) -> 'ViTConfig':
        # Masked pre-training leaves no pooling; V-JEPA 2's encoders (rotary) are for the mean.
        if self.pooling != 'mean' or self.positions == 'rotary':
            return self
        return dataclasses.replace(self, pooling=own.get('pooling', 'norm_of_mean'))

    def with_attentive_pooling(self, blocks: int) -> 'ViTConfig':
        return dataclasses.replace(self, pooling='attentive', pooler_blocks=blocks)

    @property
    def embedding_width(self) -> int:
        return self.width

    @property
    def depth(self) -> int:
        return self.blocks

    @property
    def token_stride(self) -> Triple:
        return self.patch_stride

    def layer(self, path: tuple, shape: tuple[int, ...]) -> int | np.ndarray:
        if path[0] in ('norm', 'pooler'):
            return self.depth + 1
        if path[0] != 'blocks':
            return 0
        return 1 + np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))

    def attention_heads(self, path: tuple) -> int:
        del path
        return self.heads

    def undivided(self, devices: int) -> str:
        return 'all blocks' if self.heads % devices else ''

    def multiplications(self) -> int:
        tokens, width = math.prod(self.patch_grid), self.width

        def block(mlp_width: int) -> int:
            return tokens * width * (4 * width + 2 * tokens + 2 * mlp_width)

        total = tokens * math.prod(self.patch_stride) * 3 * width
        total += self.blocks * block(self.mlp_width)
        if self.pooling == 'attentive':
            total += self.pooler_blocks * block(4 * width) + 2 * tokens * width * (width + 1)
        return total


class Attention(nnx.Module):
    """Multi-head self-attention; the devices along the mesh axis `model` share the heads."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        width, biases = config.width, config.attention_bias
        dense = dict(init_std=config.init_std, dtype=config.dtype, rngs=rngs)
        self.qkv = linear(width, 3 * width, bias=biases == 'qkv', **dense)
        self.qv_bias = nnx.Param(jnp.zeros((2 * width,), jnp.float32)) if biases == 'qv' else None
        self.output = linear(width, width, **dense)
        self.config = config

    @jax.named_scope('attention')
    def __call__(self, x: jax.Array, angles: Angles | None) -> jax.Array:
        """Attends within each clip: [B, S, D] -> [B, S, D]; `angles` turn queries and keys."""
        config = self.config
        q, k, v = project_qkv(
            x, self.qkv.kernel[...], self._bias(), heads=config.heads, dtype=config.dtype
        )
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        y = attention(
            q,
            k,
            v,
            scale=(config.width // config.heads) ** -0.5,
            implementation=config.attention,
            recompute=config.remat_attention,
        )
        with jax.named_scope('attention_linear'):
            return self.output(y.reshape(x.shape))

    def _bias(self) -> jax.Array | None:
        if self.qv_bias is None:
            return None if self.qkv.bias is None else self.qkv.bias[...]
        of_q, of_v = jnp.split(self.qv_bias[...], 2)
        return jnp.concatenate([of_q, jnp.zeros_like(of_q), of_v])


class Block(nnx.Module):
    """Pre-norm attention and MLP, each added to a skip path."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        norm = dict(epsilon=config.norm_epsilon, fused=config.attention == 'auto')
        self.norm1 = LayerNorm(config.width, **norm)
        self.attention = Attention(config, rngs=rngs)
        self.norm2 = LayerNorm(config.width, **norm)
        self.mlp = _mlp(config, rngs)

    @jax.named_scope('block')
    def __call__(
        self,
        x: jax.Array,
        *,
        angles: Angles | None = None,
        drop_rate: jax.Array | float = 0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """[B, S, D] -> [B, S, D]; with a key, a branch of a clip is left out at `drop_rate`."""
        scales = stochastic_depth(x, drop_rate, key)
        x, normalised = self.norm1.beside(x)
        x = x + scale_branch(self.attention(normalised, angles), scales[0])
        with jax.named_scope('mlp'):
            x, normalised = self.norm2.beside(x)
            return x + scale_branch(self.mlp(normalised), scales[1])


class AttentivePooler(nnx.Module):
    """A learned query attends to the tokens, after further blocks if any (V-JEPA 2, section 4.1).

    As there, its MLPs are four times as wide as the tokens, the query is not normalised, and its
    attention has no output projection.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        config = dataclasses.replace(config, mlp_width=4 * config.width, attention_bias='qkv')
        width, dense = config.width, dict(init_std=config.init_std, dtype=config.dtype, rngs=rngs)
        normal = nnx.initializers.normal(config.init_std)
        self.blocks = _stacked(config, config.pooler_blocks, rngs)
        self.query = nnx.Param(normal(rngs.params(), (width,)))
        self.norm1 = LayerNorm(width, epsilon=config.norm_epsilon)
        self.of_query = linear(width, width, **dense)
        self.of_tokens = linear(width, 2 * width, **dense)  # keys, values
        self.norm2 = LayerNorm(width, epsilon=config.norm_epsilon)
        self.mlp = _mlp(config, rngs)
        self.config = config

    @jax.named_scope('pooler')
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, S, D] -> [B, D]."""
        config = self.config

        def by_head(y):
            return y.reshape(*y.shape[:2], config.heads, -1)

        if self.blocks is not None:
            x = _run_stacked(self.blocks, x, config)
        query = jnp.broadcast_to(self.query[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        key, value = jnp.split(self.of_tokens(self.norm1(x)), 2, -1)
        scaled = self.of_query(query) * (config.width // config.heads) ** -0.5
        y = query + attention(*map(by_head, (scaled, key, value))).reshape(query.shape)
        return (y + self.mlp(self.norm2(y)))[:, 0]


class ViT(Backbone):
    """The video backbone. With pooling 'norm_of_mean' the norm is applied to the tokens, too."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        width, normal = config.width, nnx.initializers.normal(config.init_std)
        self.patch_kernel = nnx.Param(normal(rngs.params(), (*config.patch_stride, 3, width)))
        self.patch_bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        if config.class_token:
            self.class_token = nnx.Param(normal(rngs.params(), (width,)))
        if config.positions == 'learned':
            grid = config.position_grid or config.patch_grid
            self.positions = nnx.Param(normal(rngs.params(), (*grid, width)))
            if config.class_token:
                self.class_position = nnx.Param(normal(rngs.params(), (width,)))
        self.blocks = _stacked(config, config.blocks, rngs)
        self.norm = LayerNorm(width, epsilon=config.norm_epsilon)
        self.pooler = AttentivePooler(config, rngs=rngs) if config.pooling == 'attentive' else None
        self.config = config

    def run(
        self,
        x: jax.Array,
        thw: Triple,
        blocks: slice = slice(None),
        *,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Triple]:
        return _run_stacked(self.blocks, x, self.config, self.angles(thw), key, blocks), thw

    def pool(self, x: jax.Array, thw: Triple) -> Features:
        config = self.config
        tokens = self.norm(x)
        if config.pooling == 'norm_of_mean':
            embedding = self.norm(x.astype(jnp.float32).mean(1))
        elif config.pooling == 'mean':
            embedding = tokens.astype(jnp.float32).mean(1)
        else:
            embedding = tokens[:, 0] if self.pooler is None else self.pooler(tokens)
        return Features(tokens, embedding.astype(jnp.float32), thw)

    @jax.named_scope('patch_embedding')
    def embed_patches(self, video: jax.Array) -> tuple[jax.Array, Triple]:
        """The tubelets' linear layer: tokens [B, t*h*w, D] and their grid. Remainders are cut."""
        if video.ndim != 5 or video.shape[-1] != 3:
            raise ValueError(f'a backbone needs a video [B, T, H, W, 3], got {video.shape}')
        dtype, stride = jnp.dtype(self.config.dtype), self.config.patch_stride
        t, h, w = (n // s for n, s in zip(video.shape[1:4], stride))
        if min(t, h, w) < 1:
            raise ValueError(f'a video {video.shape} is smaller than a tubelet, {stride}')
        x = video[:, : t * stride[0], : h * stride[1], : w * stride[2]].astype(dtype)
        x = x.reshape(-1, t, stride[0], h, stride[1], w, stride[2], 3)
        x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(video.shape[0], t * h * w, -1)
        kernel = self.patch_kernel[...].astype(dtype)
        x = project(x, kernel.reshape(-1, kernel.shape[-1]))
        return x + self.patch_bias[...].astype(dtype)[None, None], (t, h, w)

    @jax.named_scope('patch_embedding')
    def add_positions(self, x: jax.Array, thw: Triple) -> jax.Array:
        config, width = self.config, x.shape[-1]
        grid = config.position_grid or config.patch_grid
        if config.positions != 'rotary':
            if config.positions == 'learned':
                table = self.positions[...]
            else:
                table = jnp.asarray(sine_positions(math.prod(grid), width), jnp.float32)
            table = table.reshape(*grid, width)
            if grid != thw:
                table = jax.image.resize(table, (*thw, width), 'linear', antialias=False)
            x = x + table.reshape(1, -1, width).astype(x.dtype)
        if config.class_token:
            x = self.with_class_token(x, position=config.positions == 'learned')
        return x

    def angles(self, thw: Triple) -> Angles | None:
        """By which queries and keys are turned; None without rotary positions."""
        if self.config.positions != 'rotary':
            return None
        return rotary_angles(thw, self.config.width // self.config.heads)


def sine_positions(count: int, width: int) -> np.ndarray:
    """float64 [count, width]: sines (even), cosines (odd) of token numbers (arXiv 1706.03762)."""
    waves = 10000.0 ** (-2 * (np.arange(width) // 2) / width)
    angles = np.arange(count)[:, None] * waves
    return np.where(np.arange(width) % 2, np.cos(angles), np.sin(angles))


def _mlp(config: ViTConfig, rngs: nnx.Rngs) -> MLP:
    return MLP(
        config.width,
        config.mlp_width,
        init_std=config.init_std,
        dtype=config.dtype,
        activation=config.activation,
        rngs=rngs,
    )


def _stacked(config: ViTConfig, count: int, rngs: nnx.Rngs) -> Block | None:
    """`count` blocks in one, whose parameters have a leading axis; None for none."""
    if not count:
        return None

    @nnx.split_rngs(splits=count)
    @nnx.vmap
    def make(rngs):
        return Block(config, rngs=rngs)

    return make(rngs)


def _run_stacked(
    blocks: Block,
    x: jax.Array,
    config: ViTConfig,
    angles: Angles | None = None,
    key: jax.Array | None = None,
    part: slice = slice(None),
) -> jax.Array:
    """Runs stacked blocks."""
    template, params = nnx.split(blocks)
    count = jax.tree.leaves(params)[0].shape[0]
    rates, keys = jnp.linspace(0.0, config.stochastic_depth, count, dtype=jnp.float32), None
    if key is not None and config.stochastic_depth > 0:
        keys = jax.random.split(key, count)

    def body(x, layer):
        params, drop_rate, key = layer
        block = nnx.merge(template, params)
        return block(x, angles=angles, drop_rate=drop_rate, key=key)

    layers = (params, rates, keys)
    if part != slice(None):
        layers = jax.tree.map(lambda leaf: leaf[part], layers)
    return run_stacked(body, x, layers, recompute=config.remat)
