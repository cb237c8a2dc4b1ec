"""Many short trainings in one process: the project's step, optimizer and evaluation, no files.

`train_and_evaluate` compiles its step anew for every learning rate and every weight of a loss,
opens writers and saves. Here a program is compiled once for all trainings of the same shapes: the
learning rate of each step is computed by `learning_rate_schedule` beforehand and handed in, and so
is lambda_inf, as a learned weight (`objective.learned_informative_weights`) that is given and not
trained. `tests/test_experiments.py` and the pages' `check` compare with `train_and_evaluate` on the
same batches.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from multitrain_jax.batch import BatchSource, DatasetSpec
from multitrain_jax.config import Config, with_datasets
from multitrain_jax.evaluation import in_training, views
from multitrain_jax.evaluation.metrics import DatasetResult
from multitrain_jax.objectives.objective import ObjectiveConfig
from multitrain_jax.objectives.uncertainty import LIMIT
from multitrain_jax.optimizer import build_optimizer
from multitrain_jax.parallel.drivers import Driver, Pmap
from multitrain_jax.parallel.mesh import DATA_AXIS, data_mesh
from multitrain_jax.reporting import metrics
from multitrain_jax.train import plan_steps
from multitrain_jax.training import train_step
from multitrain_jax.training.train_step import TrainState
from multitrain_jax.weights import warm_start
from multitrain_jax.weights.projection_files import start_projections

_BASE_LAMBDA = 0.02  # the learned weight reaches from 1 / 148 of it to 148 times it
_WINDOW = 25  # updates that the last training figures are the mean of


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One finished training.

    Attributes:
        accuracy: on the validation videos, by dataset.
        training: means of the terms of the last updates.
        params: of the model, at the end.
        seconds: of this process's computing time, without compiling.
    """

    accuracy: Mapping[str, DatasetResult]
    training: Mapping[str, float]
    params: Mapping[str, Any]
    seconds: float


class Trainer:
    """Trains; keeps the compiled programs."""

    def __init__(self):
        self._programs: dict[str, Program] = {}
        self._tests: dict[str, Callable] = {}
        self._weights: dict[str, warm_start.Weights] = {}
        self._driver = Pmap(data_mesh())

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

        Args: config: the experiment. source: of its batches. ramp: updates over which lambda_inf
            rises from 0, straight. parts: factors of its variance and its covariance term; at least
            1 / 148 of `_BASE_LAMBDA` remains. watch: called before every update with its number,
            state, batch and program, and once after the last.
        """
        total, schedule = plan_steps(config, source)
        rates = np.asarray(schedule(np.arange(total)), np.float32)
        program = self._program(config, source.datasets)
        state = self._first_state(config, program.config, source.datasets)
        started, terms, batch = time.process_time(), [], None
        for step, batch in enumerate(source.train_batches(0, total)):
            if watch is not None:
                watch(step, state, batch, program)
            lam = config.objective.lambda_inf * min(1.0, (step + 1) / ramp if ramp else 1.0)
            variances = np.array([log_variance(lam * part) for part in parts], np.float32)
            state, term = program.step(state, batch, rates[step], variances)
            terms.append(term)
        if watch is not None:
            watch(total, state, batch, program)
        training = metrics.merge(jax.device_get(terms[-_WINDOW:]))
        if not all(map(math.isfinite, training.values())):
            raise FloatingPointError(f'a term is not finite: {training}')
        params = train_step.inference_params(state)
        accuracy = self._test(config, params, source)
        return Outcome(accuracy, training, jax.device_get(params), time.process_time() - started)

    def _test(
        self, config: Config, params: Mapping[str, Any], source: BatchSource
    ) -> dict[str, DatasetResult]:
        """By the model without what only training needs: one program for all objectives."""
        config = _same_program(config)
        if not config.model.add_projected:
            model = dataclasses.replace(config.model, projections=False, expander=False)
            losses = dataclasses.replace(ObjectiveConfig(), lambda_proj=0.0, lambda_inf=0.0)
            config = dataclasses.replace(config, model=model, objective=losses)
            params = {
                name: part
                for name, part in params.items()
                if name not in ('projections', 'expander')
            }
        key = repr((config.model, config.augment, _shapes(source.datasets)))
        if key not in self._tests:
            graphdef, _ = train_step.abstract_model(config, source.datasets)
            self._tests[key] = views.make_eval_step(
                graphdef, source.datasets, config.augment, self._driver
            )
        return in_training.evaluate(self._tests[key], params, source, self._driver)

    def _program(self, config: Config, datasets: Sequence[DatasetSpec]) -> 'Program':
        config = _same_program(config)
        key = repr((config, _shapes(datasets)))
        if key not in self._programs:
            self._programs[key] = Program(config, datasets, self._driver)
        return self._programs[key]

    def _first_state(
        self, config: Config, program: Config, datasets: Sequence[DatasetSpec]
    ) -> TrainState:
        """As `run_start.first_state`, but nothing is compiled for this training alone."""
        program = dataclasses.replace(program, seed=config.seed)
        tx = optimizer(program, datasets, 0.0)
        state = train_step.init_state(program, datasets, tx)
        if config.init_from is not None:
            if config.init_from not in self._weights:
                self._weights[config.init_from] = warm_start.read_weights(config.init_from)
            params, _ = warm_start.initialise(
                {
                    name: part
                    for name, part in jax.device_get(state.params).items()
                    if name != 'objective'
                },
                with_datasets(config, datasets),
                datasets,
                self._weights[config.init_from],
                mean=config.augment.mean,
                std=config.augment.std,
            )
            state = train_step.start_from(state, program, jax.tree.map(jnp.asarray, params))
        if config.projections_from is not None:
            start = start_projections(
                config.projections_from, state.params['projections'], datasets
            )
            state = train_step.start_from(
                state, program, {'projections': jax.tree.map(jnp.asarray, start)}
            )
        return state


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
        frozen = (*frozen, 'objective')
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


def optimizer(config: Config, datasets: Sequence[DatasetSpec], rate: jax.Array | float):
    """The config's optimizer at this learning rate."""
    _, shapes = train_step.abstract_model(config, datasets)
    params = train_step.training_params(config, shapes)
    return build_optimizer(config.optimizer, lambda _: rate, params, config.model.backbone)


class Program:
    """The step of trainings of the same shapes.

    Attributes:
        config: of all of them, see `_same_program`.
        step: (state, batch, learning rate, `log_variance` of both terms) -> (state, terms).
    """

    def __init__(self, config: Config, datasets: Sequence[DatasetSpec], driver: Driver):
        self.config, self.datasets, self._mesh = config, datasets, driver.mesh
        self.graphdef, _ = train_step.abstract_model(config, datasets)
        self.step = jax.jit(self.mapped(self._step), donate_argnums=0)

    def mapped(self, function: Callable) -> Callable:
        """function(state, share, *others) under the axis that the step's collectives name."""

        def on_device(state, share, *others):
            return jax.shard_map(
                function,
                mesh=self._mesh,
                in_specs=(
                    PartitionSpec(),
                    PartitionSpec(DATA_AXIS),
                    *[PartitionSpec()] * len(others),
                ),
                out_specs=PartitionSpec(),
                axis_names={DATA_AXIS},
                check_vma=False,
            )(state, share, *others)

        return on_device

    def train_step(self, rate: jax.Array | float = 0.0, **objective) -> train_step.TrainStep:
        """The step at this learning rate, with these fields of the objective changed."""
        config = dataclasses.replace(
            self.config, objective=dataclasses.replace(self.config.objective, **objective)
        )
        tx = optimizer(self.config, self.datasets, rate)
        return train_step.make_train_step(config, self.datasets, self.graphdef, tx)

    def _step(self, state, share, rate, variances):
        params = state.params
        if 'objective' in params:
            params = {**params, 'objective': {'informative': variances}}
        return self.train_step(rate)(state.replace(params=params), share)
