"""AdamW of the papers: warm-up and cosine, clipping, decay; moving average (EMA); fine-tuning."""

from collections.abc import Mapping
import math
from typing import Annotated, Any

from flax import traverse_util
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_pipelines.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    Range,
    settings,
)
from multitrain_jax.models.backbone import BackboneConfig
from multitrain_jax.models.parameters import partition

# Added to the norm before dividing by it, as torch.nn.utils.clip_grad_norm_ does.
_CLIP_EPSILON = 1e-6

# Last part of the name of a parameter that is 1-D in one block or head. Parameters of identical
# blocks and heads are stacked, which adds an axis, so the number of axes alone does not tell a bias
# from a kernel.
_NO_DECAY_NAMES = ('bias', 'scale')


Factor = Annotated[float, Range(gt=0, remedy='optimizer.frozen keeps parameters as they are')]


@settings
class LearningRateFactors:
    """Factors of the learning rate, by group of parameters."""

    backbone: Factor = 1.0  # of the video transformer
    heads: Factor = 1.0  # of the classification heads
    localisation_heads: Factor = 1.0  # of the heads for boxes
    projections: Factor = 1.0  # of the projections between datasets
    expander: Factor = 1.0  # of the informative loss's MLP
    objective: Factor = 1.0  # of the learned weights of datasets and informative loss


def _optimizer_rules(config: 'OptimizerConfig') -> None:
    for field in ('warmup_start_learning_rate', 'end_learning_rate'):
        if getattr(config, field) > config.peak_learning_rate:
            raise ValueError(
                f'{field}={getattr(config, field)} must not exceed '
                f'peak_learning_rate={config.peak_learning_rate}'
            )
    if config.warmup_epochs and config.warmup_steps:
        raise ValueError(
            f'warmup_epochs={config.warmup_epochs} and warmup_steps={config.warmup_steps} '
            'are both given: set one of them to 0'
        )
    if config.ema_warmup and not config.ema_decay:
        raise ValueError('ema_warmup=True has no effect with ema_decay=0')


@settings(rules=_optimizer_rules)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay."""

    peak_learning_rate: PositiveFloat = 2e-4  # after the warm-up
    warmup_start_learning_rate: NonNegativeFloat = 2e-6  # of the first step
    end_learning_rate: NonNegativeFloat = 2e-6  # after the last step
    warmup_epochs: NonNegativeFloat = 0.0  # length of the warm-up
    warmup_steps: NonNegativeInt = 0  # the same in steps, instead of warmup_epochs
    weight_decay: NonNegativeFloat = 0.05  # times the learning rate; none on biases, norms' scales
    b1: Annotated[float, Range(ge=0, lt=1)] = 0.9  # decay of the gradient's average
    b2: Annotated[float, Range(ge=0, lt=1)] = 0.999  # decay of the average of its square
    eps: PositiveFloat = 1e-8  # added to the root of that
    clip_norm: NonNegativeFloat = 1.0  # largest L2 norm of all gradients together; 0: no clipping
    # parameters that do not train, by the beginning of their name; ('backbone',): linear probe
    frozen: tuple[str, ...] = ()
    # factor of the learning rate from each block to the one before it; 1: off
    layer_decay: Annotated[float, Range(gt=0, le=1)] = 1.0
    learning_rate_factors: LearningRateFactors = LearningRateFactors()
    # of the moving average of the parameters that is evaluated and exported; 0: off
    ema_decay: Annotated[float, Range(ge=0, lt=1)] = 0.0
    ema_warmup: bool = False  # a smaller decay at first: at most n / (9 + n) in update n


@flax.struct.dataclass
class RateSchedule:
    """The learning rate of every optimizer step, counted from 0: a function of the step.

    Straight from `start` to the peak, then half a cosine to `end`, which is reached at `total` and
    kept after it. A tree of numbers: programs take them as data, not as constants.

    Attributes:
        start, peak, end: learning rates.
        warmup, total: steps of the warm-up and of the whole run.
    """

    start: jax.Array | float
    peak: jax.Array | float
    end: jax.Array | float
    warmup: jax.Array | float
    total: jax.Array | float

    def __call__(self, step: jax.Array | int | float) -> jax.Array:
        step = jnp.asarray(step, float)
        rising = self.start + (self.peak - self.start) * step / jnp.maximum(self.warmup, 1e-9)
        left = jnp.clip((self.total - step) / (self.total - self.warmup), 0.0, 1.0)
        # sin^2(x) is (1 - cos(2x)) / 2 without its cancellation near the end, where the rate is
        # smallest.
        falling = self.end + (self.peak - self.end) * jnp.square(jnp.sin(0.5 * math.pi * left))
        return jnp.where(step < self.warmup, rising, falling)


def learning_rate_schedule(
    config: OptimizerConfig, *, steps_per_epoch: float, total_steps: float
) -> RateSchedule:
    """The learning rate of a run.

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
    return RateSchedule(
        float(config.warmup_start_learning_rate),
        float(config.peak_learning_rate),
        float(config.end_learning_rate),
        float(warmup),
        float(total_steps),
    )


def decay_mask(params: Any) -> Any:
    """Which parameters weight decay applies to: a tree like `params` with a bool for every leaf.

    Biases, the scales of norms and 1-D parameters do not decay; kernels, pooling kernels, position
    embeddings and the projections between datasets do. A parameter is known by the last part of its
    path, `bias` or `scale` (or a name ending in `_bias` or `_scale`), however many axes it
    has.
    """
    return jax.tree_util.tree_map_with_path(_decays, params)


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

    def clipped(updates, params):
        del params
        factor = jnp.minimum(1.0, max_norm / (optax.global_norm(updates) + _CLIP_EPSILON))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(clipped)


def learning_rate_factors(
    config: OptimizerConfig, params: Mapping[str, Any], backbone: BackboneConfig
) -> dict[str, Any]:
    """The factor of every parameter's learning rate: f32[] or f32[blocks, 1, ...].

    The factor of the parameter's group, times layer_decay^(L + 1 - l) in the backbone: with L
    blocks, l is 0 for patch convolution, positions and class token, 1 to L for the blocks and L + 1
    for all that comes after them (layer-wise decay as for BEiT, arXiv 2106.08254, appendix H).
    Blocks of a stage that are stacked have their own factors along the leading axis.

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


def _scale_by_rate(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Minus the learning rate times every update; another schedule may be given at the update."""

    def update(updates, state, params=None, *, schedule=schedule, **others):
        del params, others
        rate = schedule(state.count)
        updates = jax.tree.map(lambda u: -jnp.asarray(rate, u.dtype) * u, updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update
    )


def build_optimizer(
    config: OptimizerConfig,
    schedule: optax.Schedule,
    params: Any,
    backbone: BackboneConfig | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clipping, then AdamW (arXiv 1711.05101) with decay where `decay_mask` says so.

    It is for the parameters that train: the first result of `parameters.partition(params, frozen)`.
    Factors of the learning rate act on the whole update, weight decay included.

    Args:
        config: constants.
        schedule: learning rate by step, from `learning_rate_schedule`; `update(..., schedule=...)`
            takes another instead, so that its numbers can be arguments of a program.
        params: all parameters of the run (or their shapes); only names and shapes are read.
        backbone: of the model; needed where parameters have factors of the learning rate.

    Raises:
        UserError: `frozen` does not fit the parameters.
    """
    trainable, _ = partition(params, config.frozen)
    adamw = optax.chain(
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, decay_mask(trainable)),
        _scale_by_rate(schedule),
    )
    steps = [clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    steps.append(adamw)
    if config.layer_decay != 1.0 or config.learning_rate_factors != LearningRateFactors():
        factors, _ = partition(learning_rate_factors(config, params, backbone), config.frozen)
        steps.append(optax.stateless(lambda own, _: jax.tree.map(jnp.multiply, own, factors)))
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
