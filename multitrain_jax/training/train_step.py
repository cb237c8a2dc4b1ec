"""What training changes, and the step of one replica that changes it.

The step knows no model and no config: a graph definition, an objective, an optimizer and what to do
with the batch come as arguments, see `experiment`.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import nnx
import flax.struct
import jax
import jax.numpy as jnp
import optax

from multitrain_jax.augment.pipeline import AugmentConfig, augment_train
from multitrain_jax.models.parameters import merge, partition
from multitrain_jax.objectives.objective import LossWeights, Objective
from multitrain_jax.optimizer import OptimizerConfig, RateSchedule, average
from multitrain_jax.parallel.mesh import DATA_AXIS
from multitrain_jax.training.accumulation import plain_gradients

# The branch of the parameters that belongs to the objective and not to the model.
OBJECTIVE = 'objective'


@flax.struct.dataclass
class TrainState:
    """All that changes during training.

    Attributes:
        step: i32[], updates done.
        params: float32 parameters, nested dicts: the model's, and `objective` where weights are
            learned.
        opt_state: of the optimizer, for the parameters that train.
        ema: moving average of the parameters that train; {}: off.
        key: PRNG key of the run; step keys are folded from it.
        skipped: i32[], steps passed over so far, see `keep_if_finite`.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    key: jax.Array
    skipped: jax.Array


@flax.struct.dataclass
class Hyperparameters:
    """Numbers that the step takes as data: with others of them the same program runs, nothing is
    compiled anew.

    Attributes:
        schedule: of the learning rate.
        weights: of the losses.
    """

    schedule: RateSchedule
    weights: LossWeights


def inference_params(state: TrainState) -> dict[str, Any]:
    """The model's parameters to evaluate and to export: the moving average where there is one."""
    params = merge(state.params, state.ema)
    return {name: branch for name, branch in params.items() if name != OBJECTIVE}


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """`step(state, shard[, hyperparameters]) -> (state, metrics)` of one replica, and its two
    parts.

    A shard is the replica's part of the batch. Without hyperparameters those are constants with
    which the objective and the optimizer were made.

    Metrics are (sum, count) pairs over the global batch: the objective's terms, norms of the
    gradients, `skipped_updates`.

    Attributes:
        gradients: (state, shard[, hyperparameters]) -> (gradients, metrics), under the axis `data`;
            equal on all replicas.
        update: (state, gradients, metrics[, hyperparameters]) -> (state, metrics), the same on
            every replica.
    """

    gradients: Callable
    update: Callable

    def __call__(
        self,
        state: TrainState,
        shard: Mapping[str, jax.Array],
        hyperparameters: Hyperparameters | None = None,
    ) -> tuple[TrainState, dict[str, Any]]:
        gradients, terms = self.gradients(state, shard, hyperparameters)
        return self.update(state, gradients, terms, hyperparameters)


def make_train_step(
    graphdef: nnx.GraphDef,
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    *,
    augment: AugmentConfig = AugmentConfig(),
    optimizer: OptimizerConfig = OptimizerConfig(),
    accumulate: Callable = plain_gradients,
    micro_batches: int = 1,
    max_skips: int = 0,
) -> TrainStep:
    """The step of one replica; a `Driver` runs it on all devices.

    Args:
        graphdef: of the model.
        objective: to be minimised.
        tx: the optimizer, of the parameters that train.
        augment: what becomes of the clips.
        optimizer: which parameters are frozen, and what is averaged.
        accumulate: a form of gradient accumulation, see `accumulation`.
        micro_batches: that a replica's shard is cut into.
        max_skips: steps to pass over, see `keep_if_finite`.
    """

    def gradients(state, shard, hyperparameters=None):
        weights = hyperparameters and hyperparameters.weights
        replica = jax.lax.axis_index(DATA_AXIS)
        key, size = (
            jax.random.fold_in(state.key, state.step),
            shard['video'].shape[0] // micro_batches,
        )
        # Augmentation follows from a clip's place in the global batch, however the batch is cut.
        first_rows = (replica * micro_batches + jnp.arange(micro_batches)) * size
        parts = {name: x.reshape(micro_batches, size, *x.shape[1:]) for name, x in shard.items()}
        # Each replica's own copy, or shard_map would sum the gradients over the replicas by itself.
        varying = jax.lax.pcast(state.params, DATA_AXIS, to='varying')
        trainable, frozen = partition(varying, optimizer.frozen)

        def clip_loss(trainable, micro_batch):
            first_row, clips = micro_batch
            augment_key, model_key = jax.random.split(key)
            video, targets = augment_train(
                clips['video'],
                clips['label'],
                objective.head(clips['dataset']),
                clips['weight'],
                key=augment_key,
                first_row=first_row,
                config=augment,
                max_classes=objective.max_classes,
                has_boxes=objective.has_boxes(clips['dataset']),
            )
            params = merge(trainable, frozen)
            learned = params.pop(OBJECTIVE, None)
            model, clip_key = nnx.merge(graphdef, params), jax.random.fold_in(model_key, first_row)
            outputs = model(video, clips.get('boxes'), key=clip_key, training=True)
            with jax.named_scope('loss'):
                loss, terms = objective.clips(
                    outputs, targets, clips, log_variances=learned, weights=weights
                )
            return loss, ((outputs.expanded, clips['weight']), terms)

        @jax.named_scope('loss')
        def batch_loss(trainable, expanded):
            learned = merge(trainable, frozen).get(OBJECTIVE)
            return objective.batch(
                *expanded, log_variances=learned, weights=weights, axis_name=DATA_AXIS
            )

        grads, terms = accumulate(clip_loss, batch_loss, trainable, (first_rows, parts))
        return jax.lax.pmean(grads, DATA_AXIS), jax.lax.psum(terms, DATA_AXIS)

    @jax.named_scope('optimizer')
    def update(state, grads, terms, hyperparameters=None):
        trainable, frozen = partition(state.params, optimizer.frozen)
        given = {'schedule': hyperparameters.schedule} if hyperparameters else {}
        updates, opt_state = tx.update(grads, state.opt_state, trainable, **given)
        trainable = optax.apply_updates(trainable, updates)
        ema = average(state.ema, trainable, state.step, optimizer)
        new = state.replace(
            step=state.step + 1, params=merge(trainable, frozen), opt_state=opt_state, ema=ema
        )
        return keep_if_finite(state, new, terms | _gradient_norms(grads), max_skips)

    return TrainStep(gradients, update)


def _gradient_norms(grads: Mapping[str, Any]) -> dict[str, tuple[jax.Array, float]]:
    """Terms `gradient_norm`, of all gradients, and `gradient_norm/PART` of backbone, heads, ..."""
    parts = {
        f'gradient_norm/{name}': (optax.global_norm(part), 1.0) for name, part in grads.items()
    }
    return {'gradient_norm': (optax.global_norm(grads), 1.0), **parts}


def keep_if_finite(
    old: TrainState, new: TrainState, terms: Mapping[str, Any], max_skips: int
) -> tuple[TrainState, dict[str, Any]]:
    """The state after a step: `new`, but unchanged by an update that is not finite.

    Such a step is counted and passed over: the optimizer does not count it, so that the learning
    rate of the next one is the one that this step would have had. After more than `max_skips` of
    them nothing changes any more, not even the number of steps: when the host hears of it, some
    steps later, it still has the state in which it happened.

    Args:
        old, new: before and after.
        terms: of the step; equal on all replicas.
        max_skips: steps to pass over in the whole run.

    Returns:
        state; the terms with `skipped_updates`, the number of steps passed over so far.
    """
    finite = jnp.isfinite(terms['loss'][0]) & jnp.isfinite(terms['gradient_norm'][0])
    skipped = old.skipped + ~finite
    stopped = skipped > max_skips
    kept = {
        name: jax.tree.map(
            lambda o, n: jnp.where(finite & ~stopped, n, o), getattr(old, name), getattr(new, name)
        )
        for name in ('params', 'opt_state', 'ema')
    }
    state = new.replace(step=jnp.where(stopped, old.step, new.step), skipped=skipped, **kept)
    return state, {**terms, 'skipped_updates': (skipped.astype(jnp.float32), 1.0)}
