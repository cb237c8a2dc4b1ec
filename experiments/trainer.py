"""Many short trainings in one process: the project's step, optimizer and evaluation, no files.

`train_and_evaluate` compiles its step anew for every learning rate and every weight of a loss,
opens writers and saves. Here a program is compiled once for all trainings of the same shapes: the
learning rate of each step is computed by `learning_rate_schedule` beforehand and handed in, and so
is lambda_inf, as a learned weight (`objective.learned_informative_weights`) that is given and not
trained. `tests/experiments/test_trainer.py` and the pages' `check` compare with
`train_and_evaluate` on the same batches.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
from pathlib import Path
import time

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from multitrain_jax import experiment
from multitrain_jax.batch import BatchSource, DatasetSpec
from multitrain_jax.checkpoints import exports
from multitrain_jax.checkpoints.trained_model import TrainedModel, open_trained
from multitrain_jax.config import Config
from multitrain_jax.evaluation import results, views
from multitrain_jax.evaluation.metrics import DatasetResult
from multitrain_jax.objectives.uncertainty import LIMIT
from multitrain_jax.optimizer import build_optimizer, learning_rate_schedule
from multitrain_jax.parallel.drivers import Driver, Pmap
from multitrain_jax.parallel.mesh import DATA_AXIS, data_mesh
from multitrain_jax.training import step_log
from multitrain_jax.training.train_step import OBJECTIVE, TrainState, TrainStep, inference_params
from multitrain_jax.weights import warm_start

_BASE_LAMBDA = 0.02  # the learned weight reaches from 1 / 148 of it to 148 times it
_WINDOW = 25  # updates that the last training figures are the mean of


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One finished training.

    Attributes:
        accuracy: on the validation videos, by dataset.
        training: means of the terms of the last updates.
        trained: the model.
        seconds: of this process's computing time.
    """

    accuracy: Mapping[str, DatasetResult]
    training: Mapping[str, float]
    trained: TrainedModel
    seconds: float


class Trainer:
    """Trains; keeps the compiled programs."""

    def __init__(self):
        self._driver = Pmap(data_mesh())
        self._programs: dict[str, Program] = {}
        self._tests: dict[str, Callable] = {}
        self._open = functools.lru_cache(maxsize=8)(open_trained)

    def train(
        self,
        config: Config,
        source: BatchSource,
        *,
        ramp: int = 0,
        parts: tuple[float, float] = (1.0, 1.0),
        watch: Callable[[int, TrainState, Mapping[str, jax.Array], 'Program'], None] | None = None,
    ) -> Outcome:
        """Trains as `train_and_evaluate(config, ..., source=source)` would.

        Args:
            config: the experiment.
            source: of its batches.
            ramp: updates over which lambda_inf rises from 0, straight.
            parts: factors of its variance and its covariance term; at least 1 / 148 of
                `_BASE_LAMBDA` remains.
            watch: called before every update with its number, state, batch and program, and once
                after the last.
        """
        length = experiment.run_length(config, source)
        schedule = learning_rate_schedule(
            config.optimizer, total_steps=length.steps, steps_per_epoch=length.per_epoch
        )
        rates = np.asarray(schedule(np.arange(length.steps)), np.float32)
        program = self._program(config, source.datasets)
        state = self._first_state(program, config)
        started, terms, batch = time.process_time(), [], None
        for step, batch in enumerate(source.train_batches(0, length.steps)):
            if watch is not None:
                watch(step, state, batch, program)
            lam = config.objective.lambda_inf * min(1.0, (step + 1) / ramp if ramp else 1.0)
            variances = np.array([log_variance(lam * part) for part in parts], np.float32)
            state, term = program.step(state, batch, rates[step], variances)
            terms.append(term)
        if watch is not None:
            watch(length.steps, state, batch, program)
        training = step_log.merge(jax.device_get(terms[-_WINDOW:]))
        if not all(map(math.isfinite, training.values())):
            raise FloatingPointError(f'a term is not finite: {training}')
        params = jax.device_get(inference_params(state))
        info = exports.model_info(config, source.datasets)
        trained = TrainedModel('training', Path(), info, params, length.steps, config)
        accuracy = self._test(trained, source)
        return Outcome(accuracy, training, trained, time.process_time() - started)

    def _test(self, trained: TrainedModel, source: BatchSource) -> dict[str, DatasetResult]:
        """By the model without what only training needs: one program for all objectives."""
        tested, augment = trained.for_inference(), trained.config.augment
        key = repr((tested.info.model, augment, _shapes(source.datasets)))
        if key not in self._tests:
            self._tests[key] = views.make_eval_step(
                tested.graphdef, source.datasets, augment, self._driver
            )
        return results.evaluate(self._tests[key], tested.params, source, self._driver)

    def _program(self, config: Config, datasets: Sequence[DatasetSpec]) -> 'Program':
        config = _same_program(config)
        key = repr((config, _shapes(datasets)))
        if key not in self._programs:
            self._programs[key] = Program(config, datasets, self._driver)
        return self._programs[key]

    def _first_state(self, program: 'Program', config: Config) -> TrainState:
        """As `Experiment.first_state`, but nothing is compiled for this training alone."""
        wired = program.wired
        seeded = dataclasses.replace(wired.config, seed=config.seed)
        state = dataclasses.replace(wired, config=seeded).random_state()
        if config.init_from is None:
            return state
        params, _ = warm_start.fill(
            jax.device_get(state.params),
            wired.model,
            wired.datasets,
            self._open(config.init_from),
            mean=config.augment.mean,
            std=config.augment.std,
        )
        return state.replace(params=jax.tree.map(jnp.asarray, params))


def _shapes(datasets: Sequence[DatasetSpec]) -> list[tuple[str, int, bool]]:
    return [(spec.name, len(spec.classes), spec.localisation) for spec in datasets]


def log_variance(lambda_inf: float) -> float:
    """The parameter that makes the informative loss weigh `lambda_inf`, not `_BASE_LAMBDA`."""
    v = -math.log(max(lambda_inf, 1e-12) / _BASE_LAMBDA)
    return LIMIT * math.atanh(min(max(v / LIMIT, -0.999), 0.999))


def _same_program(config: Config) -> Config:
    """The config without what may differ between trainings by one program."""
    objective, frozen = config.objective, config.optimizer.frozen
    if objective.lambda_inf > 0:
        objective = dataclasses.replace(
            objective, lambda_inf=_BASE_LAMBDA, learned_informative_weights=True
        )
        frozen = (*frozen, OBJECTIVE)
    rates = dict(
        peak_learning_rate=1.0,
        warmup_start_learning_rate=0.0,
        end_learning_rate=0.0,
        warmup_epochs=0.0,
        warmup_steps=0,
    )
    # Of a schedule, the step knows only whether gradients of datasets are summed.
    schedule = config.schedule
    if schedule.kind != 'accumulated':
        schedule = type(schedule)()
    return dataclasses.replace(
        config,
        seed=0,
        epochs=1.0,
        data_root='',
        init_from=None,
        projections_from=None,
        synthetic=None,
        schedule=schedule,
        objective=objective,
        optimizer=dataclasses.replace(config.optimizer, frozen=frozen, **rates),
    )


class Program:
    """The step of trainings of the same shapes.

    Attributes:
        wired: what they share, see `_same_program`.
        step: (state, batch, learning rate, `log_variance` of both terms) -> (state, terms).
    """

    def __init__(self, config: Config, datasets: Sequence[DatasetSpec], driver: Driver):
        self.wired = experiment.prepare(config, datasets, driver, experiment.Length(2, 1.0))
        self.step = jax.jit(self.mapped(self._step), donate_argnums=0)

    def mapped(self, function: Callable) -> Callable:
        """function(state, shard, *others) under the axis that the step's collectives name."""

        def on_device(state, shard, *others):
            return jax.shard_map(
                function,
                mesh=self.wired.driver.mesh,
                in_specs=(
                    PartitionSpec(),
                    PartitionSpec(DATA_AXIS),
                    *[PartitionSpec()] * len(others),
                ),
                out_specs=PartitionSpec(),
                axis_names={DATA_AXIS},
                check_vma=False,
            )(state, shard, *others)

        return on_device

    def replica_step(self, rate: jax.Array | float = 0.0, **objective) -> TrainStep:
        """The step at this learning rate, with these fields of the objective changed."""
        config = self.wired.config
        tx = build_optimizer(
            config.optimizer, lambda _: rate, self.wired.shapes.params, config.model.backbone
        )
        changed = dataclasses.replace(config.objective, **objective)
        config = dataclasses.replace(config, objective=changed)
        return dataclasses.replace(self.wired, config=config, tx=tx).replica_step

    def _step(self, state, shard, rate, variances):
        params = state.params
        if OBJECTIVE in params:
            params = {**params, OBJECTIVE: {'informative': variances}}
        return self.replica_step(rate)(state.replace(params=params), shard)
