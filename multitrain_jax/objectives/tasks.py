"""Which datasets classify and which localise, and the objective of a batch that holds clips of both."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.batch import DatasetSpec, classifying, localising
from multitrain_jax.config import Config
from multitrain_jax.models.multitrain import Outputs
from multitrain_jax.objectives.localisation import LocalisationObjective, localisation_objective
from multitrain_jax.objectives.objective import DatasetObjective, clip_objective
from multitrain_jax.objectives.targets import Targets
from multitrain_jax.objectives.terms import Term
from multitrain_jax.objectives.uncertainty import LogVariances


class Tasks:
    """The datasets' parts of the objective.

    Attributes:
        max_classes: C, what the classification heads are padded to; 1 where there is none.
    """

    def __init__(self, config: Config, datasets: Sequence[DatasetSpec]):
        self._names = [spec.name for spec in datasets]
        self._localises = np.array([spec.localisation for spec in datasets])
        self._config = config.objective
        numbers = {spec.name: number for number, spec in enumerate(datasets)}
        factors = _factors(config)
        weights = {spec.name: config.datasets[spec.name].loss_weight for spec in datasets}
        self._classify = [
            DatasetObjective(
                spec.name,
                len(spec.classes),
                weights[spec.name],
                spec.multi_label,
                factors[spec.name],
            )
            for spec in classifying(datasets)
        ]
        self._localise = [
            LocalisationObjective(
                spec.name,
                numbers[spec.name],
                len(spec.classes),
                weights[spec.name],
                factors[spec.name],
            )
            for spec in localising(datasets)
        ]
        self.max_classes = max((entry.num_classes for entry in self._classify), default=1)

    def head(self, dataset: jax.Array) -> jax.Array:
        """Numbers of the classification heads of the clips' datasets i32[B]; 0 for clips of localising datasets."""
        if not self._localise:
            return dataset
        heads = np.where(self._localises, 0, np.cumsum(~self._localises) - 1).astype(np.int32)
        return jnp.asarray(heads)[dataset]

    def has_boxes(self, dataset: jax.Array) -> jax.Array | None:
        """bool[B], clips of localising datasets; None where there is no such dataset."""
        return jnp.asarray(self._localises)[dataset] if self._localise else None

    def objective(
        self,
        outputs: Outputs,
        targets: Targets,
        share: Mapping[str, jax.Array],
        *,
        log_variances: LogVariances | None = None,
    ) -> tuple[jax.Array, dict[str, Term]]:
        """The part of the objective that is a mean over clips.

        Args:
            outputs: of the model.
            targets: of classification, whose datasets are `head` numbers.
            share: the batch as it was read.
            log_variances: the learned weights, of all datasets.

        Returns:
            loss f32[], and the terms of `clip_objective` and `localisation_objective`, and for every dataset
            `share/NAME`, the part of the clips that is of it.
        """
        dataset, real = share['dataset'], share['weight'] > 0
        terms = {
            f'share/{name}': Term(
                *(jnp.sum(which, dtype=jnp.float32) for which in (real & (dataset == number), real))
            )
            for number, name in enumerate(self._names)
        }
        learned = (log_variances or {}).get('dataset')
        loss = jnp.zeros((), jnp.float32)
        if self._classify:
            if learned is not None:
                log_variances = {**log_variances, 'dataset': learned[~self._localises]}
            loss, own = clip_objective(
                outputs, targets, self._config, self._classify, log_variances=log_variances
            )
            terms |= own
        if self._localise:
            of_boxes, own = localisation_objective(
                outputs.actions,
                share,
                self._localise,
                log_variances=None if learned is None else learned[self._localises],
            )
            loss += of_boxes
            terms |= own
        return loss, terms


def _factors(config: Config) -> dict[str, float]:
    """Where gradients are to be summed: what makes the mean over a batch's clips the sum of the datasets' own means."""
    sizes = config.batch_sizes
    if config.schedule.kind != 'accumulated':
        return dict.fromkeys(sizes, 1.0)
    return {name: sum(sizes.values()) / size for name, size in sizes.items()}
