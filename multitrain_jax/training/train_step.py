"""What training changes, and the step of one replica that changes it."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from flax import nnx
import flax.struct
import jax
import jax.numpy as jnp
import optax

from multitrain_jax.augment.pipeline import augment_train
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.config import Config, with_datasets
from multitrain_jax.models.multitrain import MultiTrainModel
from multitrain_jax.objectives.objective import batch_objective
from multitrain_jax.objectives.tasks import Tasks
from multitrain_jax.objectives.uncertainty import init_log_variances
from multitrain_jax.optimizer import average
from multitrain_jax.parallel.mesh import DATA_AXIS
from multitrain_jax.training.accumulation import plain_gradients, two_pass_gradients
from multitrain_jax.training.non_finite import gradient_norms, unless_not_finite
from multitrain_jax.weights.parameters import merge, split

# The branch of the parameters that belongs to the objective and not to the model.
_OBJECTIVE = 'objective'


@flax.struct.dataclass
class TrainState:
    """All that changes during training.

    Attributes:
        step: i32[], updates done.
        params: float32 parameters, nested dicts: the model's, and `objective` where weights are learned.
        opt_state: of the optimizer, for the parameters that train.
        ema: moving average of the parameters that train; {}: off.
        key: PRNG key of the run; step keys are folded from it.
        skipped: i32[], steps passed over so far, see `non_finite`.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    key: jax.Array
    skipped: jax.Array


def init_state(
    config: Config, datasets: Sequence[DatasetSpec], tx: optax.GradientTransformation
) -> TrainState:
    """The state before the first step, a function of the config's seed."""
    params_key, run_key = jax.random.split(jax.random.key(config.seed))
    model = build_model(config, datasets, params_key)
    params = training_params(config, nnx.to_pure_dict(nnx.state(model)))
    trainable, _ = split(params, config.optimizer.frozen)
    none = jnp.zeros((), jnp.int32)
    return TrainState(
        none,
        params,
        tx.init(trainable),
        _start_of_average(params, config),
        run_key,
        skipped=jnp.zeros_like(none),
    )


def start_from(state: TrainState, config: Config, model_params: Mapping[str, Any]) -> TrainState:
    """A state before the first step, with other parameters of the model than the random ones."""
    params = {**state.params, **model_params}
    return state.replace(params=params, ema=_start_of_average(params, config))


def _start_of_average(params: Mapping[str, Any], config: Config) -> Any:
    if not config.optimizer.ema_decay:
        return {}
    # Buffers of its own: the step takes over those of the state, each only once.
    return jax.tree.map(jnp.copy, split(params, config.optimizer.frozen)[0])


def build_model(config: Config, datasets: Sequence[DatasetSpec], key: jax.Array) -> MultiTrainModel:
    """The model for the datasets' numbers of classes."""
    return MultiTrainModel(with_datasets(config, datasets), rngs=nnx.Rngs(key))


def abstract_model(config: Config, datasets: Sequence[DatasetSpec]) -> tuple[nnx.GraphDef, Any]:
    """(graph definition, the model's parameters as shapes), without computing anything."""
    model = nnx.eval_shape(functools.partial(build_model, config, datasets, jax.random.key(0)))
    graphdef, params = nnx.split(model)
    return graphdef, nnx.to_pure_dict(params)


def training_params(config: Config, model_params: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a run: the model's (or their shapes), and the learned weights of the objective."""
    learned = init_log_variances(
        len(config.datasets),
        dataset=config.objective.learned_dataset_weights,
        informative=config.objective.learned_informative_weights,
    )
    return {**model_params, **({_OBJECTIVE: learned} if learned else {})}


def inference_params(state: TrainState) -> dict[str, Any]:
    """The model's parameters to evaluate and to export: the moving average where there is one."""
    params = merge(state.params, state.ema)
    return {name: branch for name, branch in params.items() if name != _OBJECTIVE}


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """`step(state, share) -> (state, metrics)` for one replica's share of the batch, and the two parts it is made of.

    Metrics are (sum, count) pairs over the global batch: the objective's terms, norms of the gradients, `skipped_updates`.

    Attributes:
        gradients: (state, share) -> (gradients, metrics), under the axis `data`; equal on all replicas.
        update: (state, gradients, metrics) -> (state, metrics), the same on every replica.
    """

    gradients: Callable
    update: Callable

    def __call__(
        self, state: TrainState, share: Mapping[str, jax.Array]
    ) -> tuple[TrainState, dict[str, Any]]:
        return self.update(state, *self.gradients(state, share))


def make_train_step(
    config: Config,
    datasets: Sequence[DatasetSpec],
    graphdef: nnx.GraphDef,
    tx: optax.GradientTransformation,
) -> TrainStep:
    """The step of an experiment; a `Driver` runs it on all devices."""
    tasks = Tasks(config, datasets)
    pieces = config.accumulation_steps
    two_pass = config.accumulation == 'two_pass' and pieces > 1 and config.objective.lambda_inf > 0
    accumulate = two_pass_gradients if two_pass else plain_gradients

    def gradients(state, share):
        replica = jax.lax.axis_index(DATA_AXIS)
        key, size = jax.random.fold_in(state.key, state.step), share['video'].shape[0] // pieces
        # Augmentation follows from a clip's place in the global batch, however the batch is cut.
        first_slots = (replica * pieces + jnp.arange(pieces)) * size
        parts = {name: x.reshape(pieces, size, *x.shape[1:]) for name, x in share.items()}
        # Each replica's own copy, or shard_map would sum the gradients over the replicas by itself.
        varying = jax.lax.pcast(state.params, DATA_AXIS, to='varying')
        trainable, frozen = split(varying, config.optimizer.frozen)

        def clip_loss(trainable, piece):
            first_slot, part = piece
            augment_key, model_key = jax.random.split(key)
            video, targets = augment_train(
                part['video'],
                part['label'],
                tasks.head(part['dataset']),
                part['weight'],
                key=augment_key,
                first_slot=first_slot,
                config=config.augment,
                max_classes=tasks.max_classes,
                has_boxes=tasks.has_boxes(part['dataset']),
            )
            params = merge(trainable, frozen)
            learned = params.pop(_OBJECTIVE, None)
            model, clip_key = nnx.merge(graphdef, params), jax.random.fold_in(model_key, first_slot)
            outputs = model(video, part.get('boxes'), key=clip_key, training=True)
            with jax.named_scope('loss'):
                loss, terms = tasks.objective(outputs, targets, part, log_variances=learned)
            return loss, (outputs.expanded, terms)

        @jax.named_scope('loss')
        def batch_loss(trainable, expanded):
            learned = merge(trainable, frozen).get(_OBJECTIVE)
            return batch_objective(
                expanded, config.objective, log_variances=learned, axis_name=DATA_AXIS
            )

        grads, terms = accumulate(clip_loss, batch_loss, trainable, (first_slots, parts))
        return jax.lax.pmean(grads, DATA_AXIS), jax.lax.psum(terms, DATA_AXIS)

    @jax.named_scope('optimizer')
    def update(state, grads, terms):
        trainable, frozen = split(state.params, config.optimizer.frozen)
        updates, opt_state = tx.update(grads, state.opt_state, trainable)
        trainable = optax.apply_updates(trainable, updates)
        ema = average(state.ema, trainable, state.step, config.optimizer)
        new = TrainState(
            state.step + 1, merge(trainable, frozen), opt_state, ema, state.key, state.skipped
        )
        return unless_not_finite(state, new, terms | gradient_norms(grads), config.non_finite.most)

    return TrainStep(gradients, update)
