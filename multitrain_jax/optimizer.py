"""AdamW as the papers use it: warm-up and cosine, clipping, no decay on biases and norms; options of fine-tuning."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from multitrain_jax.models.backbone import BackboneConfig
from multitrain_jax.weights.parameters import split

# Added to the norm before dividing by it, as torch.nn.utils.clip_grad_norm_ does.
_CLIP_EPSILON = 1e-6

# Last part of the name of a parameter that is 1-D in one block or head. Parameters of identical
# blocks and heads are stacked, which adds an axis, so the number of axes alone does not tell a bias
# from a kernel.
_NO_DECAY_NAMES = ('bias', 'scale')


@dataclasses.dataclass(frozen=True)
class LearningRateFactors:
    """Factors of the learning rate, by group of parameters."""

    backbone: float = 1.0
    heads: float = 1.0
    localisation_heads: float = 1.0
    projections: float = 1.0
    expander: float = 1.0
    objective: float = 1.0  # the learned weights of datasets and informative loss

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(
                    f'{field.name}={getattr(self, field.name)} must be positive; '
                    f'to keep parameters as they are: optimizer.frozen=({field.name!r},)'
                )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay. Warm-up is given in epochs or in steps."""

    peak_learning_rate: float = 2e-4
    warmup_start_learning_rate: float = 2e-6
    end_learning_rate: float = 2e-6
    warmup_epochs: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.05  # decoupled, times the learning rate; see decay_mask
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float = 1.0  # largest L2 norm of all gradients together; 0: no clipping
    frozen: tuple[
        str, ...
    ] = ()  # what does not train, see parameters.split; ('backbone',): linear probe
    layer_decay: float = 1.0  # factor of the learning rate from each block to the one before it
    learning_rate_factors: LearningRateFactors = LearningRateFactors()
    ema_decay: float = 0.0  # of the moving average that is evaluated and exported; 0: off
    ema_warmup: bool = False  # the decay of update n is at most n / (9 + n)

    def __post_init__(self):
        if not self.peak_learning_rate > 0:
            raise ValueError(f'peak_learning_rate={self.peak_learning_rate} must be positive')
        for field in (
            'warmup_start_learning_rate',
            'end_learning_rate',
            'warmup_epochs',
            'warmup_steps',
            'weight_decay',
            'clip_norm',
        ):
            if not getattr(self, field) >= 0:
                raise ValueError(f'{field}={getattr(self, field)} must not be negative')
        for field in ('warmup_start_learning_rate', 'end_learning_rate'):
            if getattr(self, field) > self.peak_learning_rate:
                raise ValueError(
                    f'{field}={getattr(self, field)} must not exceed '
                    f'peak_learning_rate={self.peak_learning_rate}'
                )
        if self.warmup_epochs and self.warmup_steps:
            raise ValueError(
                f'warmup_epochs={self.warmup_epochs} and warmup_steps={self.warmup_steps} '
                'are both given: set one of them to 0'
            )
        for field in ('b1', 'b2'):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f'{field}={getattr(self, field)} must be in [0, 1)')
        if not self.eps > 0:
            raise ValueError(f'eps={self.eps} must be positive')
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f'layer_decay={self.layer_decay} must be in (0, 1]')
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f'ema_decay={self.ema_decay} must be in [0, 1)')
        if self.ema_warmup and not self.ema_decay:
            raise ValueError('ema_warmup=True has no effect with ema_decay=0')


def learning_rate_schedule(
    config: OptimizerConfig, *, steps_per_epoch: float, total_steps: float
) -> optax.Schedule:
    """The learning rate of every optimizer step, counted from 0.

    Straight from `warmup_start_learning_rate` to the peak, then half a cosine to
    `end_learning_rate`, which is reached at `total_steps` and kept after it.

    Args:
        config: rates and warm-up.
        steps_per_epoch: optimizer steps per epoch, turns `warmup_epochs` into steps.
        total_steps: optimizer steps of the whole run.

    Raises:
        ValueError: the warm-up does not end before the run does.
    """
    warmup = config.warmup_steps or config.warmup_epochs * steps_per_epoch
    if not warmup < total_steps:
        raise ValueError(
            f'a warm-up of {warmup:g} steps does not fit into {total_steps:g} steps: '
            'lower warmup_epochs or warmup_steps, or train longer'
        )
    peak, start, end = (
        config.peak_learning_rate,
        config.warmup_start_learning_rate,
        config.end_learning_rate,
    )

    def schedule(step: jax.Array | int | float) -> jax.Array:
        step = jnp.asarray(step, float)
        rising = start + (peak - start) * step / max(warmup, 1e-9)
        left = jnp.clip((total_steps - step) / (total_steps - warmup), 0.0, 1.0)
        # sin^2(x) is (1 - cos(2x)) / 2 without its cancellation near the end, where the rate is
        # smallest.
        falling = end + (peak - end) * jnp.square(jnp.sin(0.5 * math.pi * left))
        return jnp.where(step < warmup, rising, falling)

    return schedule


def decay_mask(params: Any) -> Any:
    """Which parameters weight decay applies to: a tree like `params` with a bool for every leaf.

    Biases, the scales of norms and 1-D parameters do not decay; kernels, pooling kernels, position
    embeddings and the projections between datasets do. A parameter is known by the last part of its
    path, `bias` or `scale` (or a name ending in `_bias` or `_scale`), however many axes it
    has.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _decays(path, leaf), params)


def _decays(path: tuple, leaf: Any) -> bool:
    name = _parameter_name(path)
    if name in _NO_DECAY_NAMES or name.endswith(tuple(f'_{part}' for part in _NO_DECAY_NAMES)):
        return False
    return len(leaf.shape) > 1


def _parameter_name(path: tuple) -> str:
    """The last name in a path that is not the slot of an nnx.Variable and not a list index."""
    for key in reversed(path):
        name = getattr(key, 'key', getattr(key, 'name', None))
        if isinstance(name, str) and name not in ('value', 'raw_value'):
            return name
    return ''


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales all gradients by min(1, max_norm / (norm + 1e-6)), norm the L2 norm of all together.

    optax's own divides by the plain norm; this is the form that the published models were trained
    with.
    """

    def update(updates, state, params=None):
        del params
        factor = jnp.minimum(1.0, max_norm / (optax.global_norm(updates) + _CLIP_EPSILON))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def learning_rate_factors(
    config: OptimizerConfig, params: Mapping[str, Any], backbone: BackboneConfig
) -> dict[str, Any]:
    """The factor of every parameter's learning rate, to be multiplied with it: f32[] or f32[blocks, 1, ...].

    The factor of the parameter's group, times layer_decay^(L + 1 - l) in the backbone: with L blocks, l is
    0 for patch convolution, positions and class token, 1 to L for the blocks and L + 1 for all that comes
    after them (layer-wise decay as for BEiT, arXiv 2106.08254, appendix H). Blocks of a stage that are
    stacked have their own factors along the leading axis.

    Args:
        config: factors.
        params: all parameters of the run, or their shapes.
        backbone: says how deep its parameters lie.
    """

    def layer(path: tuple, shape: tuple[int, ...]) -> int | np.ndarray:
        return backbone.layer(path[1:], shape) if path[0] == 'backbone' else backbone.depth + 1

    def factor(path: tuple, shape: tuple[int, ...]) -> np.ndarray:
        group = getattr(config.learning_rate_factors, path[0])
        return np.asarray(
            group * config.layer_decay ** (backbone.depth + 1.0 - layer(path, shape)), np.float32
        )

    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {path: factor(path, leaf.shape) for path, leaf in flat.items()}
    )


def _scale_by(factors: Any) -> optax.GradientTransformation:
    """Multiplies every update by its own factor."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda u, factor: u * factor, updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def build_optimizer(
    config: OptimizerConfig,
    schedule: optax.Schedule,
    params: Any,
    backbone: BackboneConfig | None = None,
) -> optax.GradientTransformation:
    """Clipping, then AdamW (arXiv 1711.05101) with decay where `decay_mask` says so.

    It is for the parameters that train: the first result of `parameters.split(params, frozen)`. Factors
    of the learning rate act on the whole update, weight decay included.

    Args:
        config: constants.
        schedule: learning rate by step, from `learning_rate_schedule`.
        params: all parameters of the run (or their shapes); only names and shapes are read.
        backbone: of the model; needed where parameters have factors of the learning rate.

    Raises:
        UserError: `frozen` does not fit the parameters.
    """
    trainable, _ = split(params, config.frozen)
    adamw = optax.adamw(
        schedule,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask(trainable),
    )
    steps = [clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    steps.append(adamw)
    if config.layer_decay != 1.0 or config.learning_rate_factors != LearningRateFactors():
        factors = learning_rate_factors(config, params, backbone)
        steps.append(_scale_by(split(factors, config.frozen)[0]))
    return optax.chain(*steps)


def average(ema: Any, params: Any, step: jax.Array, config: OptimizerConfig) -> Any:
    """The moving average after an update: decay * ema + (1 - decay) * params.

    Args:
        ema: before the update; {} stays {}.
        params: after the update.
        step: i32[], updates done before this one.
        config: `ema_decay` and `ema_warmup`.
    """
    if not config.ema_decay:
        return ema
    decay = config.ema_decay
    if config.ema_warmup:
        decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), ema, params)
