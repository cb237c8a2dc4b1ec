"""The wiring of an experiment: from its config and datasets to model, optimizer, shapes, shardings
and steps.

Training, replay, the doctor, tests and benchmarks all use this one. Nothing is computed or compiled
before it is asked for, so that an experiment can also be prepared for devices that are only
described.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from multitrain_jax.batch import BatchSource, DatasetSpec, classifying
from multitrain_jax.checkpoints.runs import RunCheckpoints
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.config import Config, with_datasets
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation import views
from multitrain_jax.models.multitrain import MultiTrainConfig, MultiTrainModel, abstract_model
from multitrain_jax.models.parameters import partition
from multitrain_jax.objectives.objective import Objective
from multitrain_jax.objectives.tasks import make_objective
from multitrain_jax.objectives.uncertainty import init_log_variances
from multitrain_jax.ops.attention import has_cudnn_attention
from multitrain_jax.ops.platforms import tpu_core_memory
from multitrain_jax.optimizer import RateSchedule, build_optimizer, learning_rate_schedule
from multitrain_jax.parallel import layout
from multitrain_jax.parallel.drivers import Driver, open_driver
from multitrain_jax.parallel.mesh import check_divides
from multitrain_jax.training.accumulation import plain_gradients, two_pass_gradients
from multitrain_jax.training.train_step import (
    OBJECTIVE,
    Hyperparameters,
    TrainState,
    TrainStep,
    make_train_step,
)
from multitrain_jax.weights import warm_start
from multitrain_jax.weights.projection_files import start_projections

_log = logging.getLogger('multitrain_jax')


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        steps: updates of the whole run.
        per_epoch: updates of an epoch, not always a whole number.
    """

    steps: int
    per_epoch: float


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment that is ready to run.

    Attributes:
        config: its settings.
        datasets: in the order of their numbers.
        driver: runs the steps on the devices.
        length: of the run.
        model: the architecture, with the datasets' numbers of classes.
        graphdef: of the model.
        abstract_params: the model's parameters as shapes.
        schedule: learning rate by update.
        tx: the optimizer.
    """

    config: Config
    datasets: tuple[DatasetSpec, ...]
    driver: Driver
    length: Length
    model: MultiTrainConfig
    graphdef: nnx.GraphDef
    abstract_params: Mapping[str, Any]
    schedule: RateSchedule
    tx: optax.GradientTransformationExtraArgs

    @functools.cached_property
    def objective(self) -> Objective:
        """What is minimised."""
        config = self.config
        return make_objective(
            config.objective,
            self.datasets,
            {name: entry.loss_weight for name, entry in config.datasets.items()},
            config.batch_sizes if config.schedule.kind == 'accumulated' else None,
        )

    @functools.cached_property
    def shapes(self) -> TrainState:
        """Of the training state."""
        return jax.eval_shape(self.random_state)

    @functools.cached_property
    def shardings(self) -> TrainState:
        """Of the training state, on the devices."""
        return layout.state_shardings(
            self.shapes,
            self.driver.mesh,
            self.model,
            shard_optimizer=self.config.parallel.shard_optimizer,
        )

    @functools.cached_property
    def replica_step(self) -> TrainStep:
        """The training step of one replica."""
        config = self.config
        two_pass = config.accumulation == 'two_pass' and config.objective.lambda_inf > 0
        two_pass &= config.accumulation_steps > 1
        return make_train_step(
            self.graphdef,
            self.objective,
            self.tx,
            augment=config.augment,
            optimizer=config.optimizer,
            accumulate=two_pass_gradients if two_pass else plain_gradients,
            micro_batches=config.accumulation_steps,
            max_skips=config.non_finite.most,
        )

    @functools.cached_property
    def hyperparameters(self) -> Hyperparameters:
        """What of the config the training step takes as data, float32."""
        given = Hyperparameters(self.schedule, self.objective.weights)
        return jax.tree.map(lambda x: np.asarray(x, np.float32), given)

    @functools.cached_property
    def train_step(self) -> Callable:
        """(state, global batch) -> (state, metrics), see `Driver.train_step`."""
        return self.driver.train_step(self.replica_step, self.shardings, self.hyperparameters)

    @functools.cached_property
    def eval_step(self) -> Callable:
        """(params, global batch) -> scores, see `views.make_eval_step`."""
        return views.make_eval_step(self.graphdef, self.datasets, self.config.augment, self.driver)

    def random_state(self, key: jax.Array | None = None) -> TrainState:
        """The state before the first step, with random parameters; key None: the config's seed."""
        key = jax.random.key(self.config.seed) if key is None else key
        params_key, run_key = jax.random.split(key)
        model = nnx.to_pure_dict(nnx.state(MultiTrainModel(self.model, rngs=nnx.Rngs(params_key))))
        params = {**model, **_learned_weights(self.config)}
        none, trainable = jnp.zeros((), jnp.int32), self._trainable(params)
        opt_state, ema = self.tx.init(trainable), self._start_of_average(params)
        return TrainState(none, params, opt_state, ema, run_key, skipped=jnp.zeros_like(none))

    def first_state(self, workdir: Path) -> TrainState:
        """The state of a new run: random parameters, over them those of `init_from` and
        `projections_from`.

        Args:
            workdir: gets the table of what came from where.

        Raises:
            UserError: what it starts from cannot be read, or is of another architecture.
        """
        config = self.config
        source = config.init_from and open_trained(config.init_from, argument='config.init_from')
        # It runs once, so it is compiled for a short compile time: 4 s instead of 11 for a small
        # model.
        options = {'xla_backend_optimization_level': 0}
        init = jax.jit(self.random_state, compiler_options=options)
        state = jax.block_until_ready(init(jax.random.key(config.seed)))
        if source is not None:
            params, report = warm_start.fill(
                jax.device_get(state.params),
                self.model,
                self.datasets,
                source,
                mean=config.augment.mean,
                std=config.augment.std,
            )
            table = workdir / warm_start.TABLE_FILE
            if jax.process_index() == 0:
                table.write_text(f'{report}\n', encoding='utf-8')
            _log.info('%s', report.brief(str(table)))
            state = self._starting_from(state, params)
        if config.projections_from is not None:
            start = start_projections(
                config.projections_from, state.params['projections'], classifying(self.datasets)
            )
            state = self._starting_from(state, {'projections': start})
        return state

    def restore(self, saved: RunCheckpoints, step: int, stored: Config) -> TrainState:
        """The state of a checkpoint.

        Args:
            saved: has it.
            step: of it.
            stored: the experiment that wrote it. Its optimizer may clip, or scale rates, where this
                one does not: both have the same arrays.

        Raises:
            DamagedCheckpoint: it cannot be read.
        """
        optimizer = dataclasses.replace(stored.optimizer, frozen=self.config.optimizer.frozen)
        there = dataclasses.replace(self.config, optimizer=optimizer)
        tx = _optimizer(there, self.schedule, self.abstract_params)
        state = saved.restore(step, dataclasses.replace(self, config=there, tx=tx).shapes)
        ours = jax.tree.structure(self.shapes.opt_state)
        return state.replace(opt_state=jax.tree.unflatten(ours, jax.tree.leaves(state.opt_state)))

    def _starting_from(self, state: TrainState, model_params: Mapping[str, Any]) -> TrainState:
        params = {**state.params, **jax.tree.map(jnp.asarray, model_params)}
        return state.replace(params=params, ema=self._start_of_average(params))

    def _start_of_average(self, params: Mapping[str, Any]) -> Any:
        if not self.config.optimizer.ema_decay:
            return {}
        # Buffers of its own: the step takes over those of the state, each only once.
        return jax.tree.map(jnp.copy, self._trainable(params))

    def _trainable(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return partition(params, self.config.optimizer.frozen)[0]


def prepare(
    config: Config, datasets: Sequence[DatasetSpec], driver: Driver, length: Length
) -> Experiment:
    """Wires an experiment.

    Args:
        config: its settings.
        datasets: what it trains on.
        driver: of its devices, see `open_devices`.
        length: of the run, see `run_length`.

    Raises:
        UserError: the config does not fit the datasets, or `frozen` the parameters.
        ValueError: the warm-up does not end before the run does.
    """
    model = with_datasets(config, datasets)
    graphdef, params = abstract_model(model)
    schedule = learning_rate_schedule(
        config.optimizer, total_steps=length.steps, steps_per_epoch=length.per_epoch
    )
    tx = _optimizer(config, schedule, params)
    return Experiment(
        config, tuple(datasets), driver, length, model, graphdef, params, schedule, tx
    )


def _optimizer(
    config: Config, schedule: optax.Schedule, model_params: Mapping[str, Any]
) -> optax.GradientTransformationExtraArgs:
    params = {**model_params, **_learned_weights(config)}
    return build_optimizer(config.optimizer, schedule, params, config.model.backbone)


def _learned_weights(config: Config) -> dict[str, Any]:
    """The parameters that belong to the objective, at their start."""
    learned = init_log_variances(
        len(config.datasets),
        dataset=config.objective.learned_dataset_weights,
        informative=config.objective.learned_informative_weights,
    )
    return {OBJECTIVE: learned} if learned else {}


def run_length(config: Config, source: BatchSource) -> Length:
    """How long a run on these batches is."""
    per_epoch = source.samples_per_epoch / clips_per_step(config, source)
    return Length(max(1, round(config.epochs * per_epoch)), per_epoch)


def clips_per_step(config: Config, source: BatchSource) -> float:
    """Clips of an update, in the mean of the run."""
    return getattr(source, 'clips_per_step', config.batch_size)


def open_devices(config: Config, devices: Sequence[jax.Device] | None = None) -> Driver:
    """What runs the steps of an experiment on its devices; None: all of them.

    Raises:
        UserError: they do not suit `config.parallel` or the attention asked for, or the batches do
            not divide over them.
    """
    driver = open_driver(config.parallel, devices)
    mesh = driver.mesh
    _check_attention(config, mesh.devices.flat[0])
    for size in _step_sizes(config):
        config.augment.check_batch(
            check_divides(size, mesh, 'batch_size', config.accumulation_steps)
        )
    check_divides(config.evaluation.batch_size, mesh, 'evaluation.batch_size')
    return driver


def _check_attention(config: Config, device: jax.Device) -> None:
    chosen = config.model.backbone.attention
    where = f'config.model.backbone.attention={chosen!r}'
    if chosen == 'cudnn' and not has_cudnn_attention(device):
        raise UserError(
            f'{where} needs NVIDIA GPUs of the Ampere generation or newer, here is: '
            f"{device.device_kind}; use 'xla'"
        )
    if chosen == 'cudnn' and config.parallel.model > 1:
        raise UserError(
            f"{where} does not divide the heads over devices: use config.parallel.model=1, or 'xla'"
        )
    if chosen == 'pallas' and not tpu_core_memory(device):
        raise UserError(
            f"{where} needs TPUs of version 5 or newer, here is: {device.device_kind}; use 'auto'"
        )


def _step_sizes(config: Config) -> set[int]:
    """Numbers of clips that the batches of a run have."""
    if not config.schedule.by_dataset:
        return {config.batch_size}
    sizes = config.batch_sizes.values()
    return {sum(sizes)} if config.schedule.kind == 'accumulated' else set(sizes)
