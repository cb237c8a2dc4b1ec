"""How the losses of all datasets add up to the one number that is minimised."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Annotated, Literal, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.settings import NonNegativeFloat, PositiveInt, Range, settings
from multitrain_jax.objectives.classification import (
    SOFTMAX_LOSSES,
    binary_cross_entropy,
    smooth_label,
)
from multitrain_jax.objectives.informative import informative_terms
from multitrain_jax.objectives.localisation import LocalisationObjective, localisation_objective
from multitrain_jax.objectives.projection import projection_loss, projection_size
from multitrain_jax.objectives.targets import Targets, Term
from multitrain_jax.objectives.uncertainty import LogVariances, learned_weight

SoftmaxLossName = Literal[*SOFTMAX_LOSSES]


@settings
class DatasetObjective:
    """What the objective must know of one dataset."""

    name: str  # appears in the names of the logged terms
    num_classes: PositiveInt
    weight: NonNegativeFloat = 1.0  # factor of its classification and projection losses
    multi_label: bool = False  # sigmoid instead of softmax for its own head
    factor: float = 1.0  # of all its parts, also of what keeps a learned weight from vanishing


def _objective_rules(config: 'ObjectiveConfig') -> None:
    if config.learned_informative_weights and not config.lambda_inf > 0:
        raise ValueError('learned_informative_weights=True has no effect with lambda_inf=0')


@settings(rules=_objective_rules)
class ObjectiveConfig:
    """Weights and forms of the losses (MultiTrain, NeurIPS 2022, section 3)."""

    lambda_proj: NonNegativeFloat = 1.0  # weight of the projection loss; 0 turns it off
    lambda_inf: NonNegativeFloat = 0.1  # weight of the informative loss; 0 turns it off
    std_weight: NonNegativeFloat = 25.0  # of the variance term inside the informative loss
    covariance_weight: NonNegativeFloat = 1.0  # of its covariance term
    label_smoothing: Annotated[float, Range(ge=0, lt=1)] = 0.1  # over each dataset's own classes
    classification_loss: SoftmaxLossName = 'cross_entropy'  # multi-label heads: sigmoid instead
    projection_loss: SoftmaxLossName = 'cross_entropy'  # of every dataset, multi-label ones too
    projection_l1: NonNegativeFloat = 0.0  # weight of the sum of |W| (public code: 1e-4)
    learned_dataset_weights: bool = False  # the datasets' loss_weight are where learned ones start
    learned_informative_weights: bool = False  # likewise std_weight and covariance_weight


@flax.struct.dataclass
class LossWeights:
    """The numbers that weigh the losses: programs take them as data, not as constants.

    Attributes:
        dataset: f32[N], of the datasets' losses.
        projection, informative, std, covariance, projection_l1: f32[], as in `ObjectiveConfig`.
    """

    dataset: jax.Array | np.ndarray
    projection: jax.Array | float
    informative: jax.Array | float
    std: jax.Array | float
    covariance: jax.Array | float
    projection_l1: jax.Array | float


def loss_weights(config: ObjectiveConfig, of_datasets: Sequence[float] = ()) -> LossWeights:
    """Those of a config, and of the datasets in their order."""
    return LossWeights(
        np.asarray(of_datasets, np.float32),
        config.lambda_proj,
        config.lambda_inf,
        config.std_weight,
        config.covariance_weight,
        config.projection_l1,
    )


class ModelOutputs(Protocol):
    """What the objective reads of the model's outputs.

    Attributes:
        logits: f32[N, B, C].
        projected: f32[N, N-1, B, C]; projected[d, j] comes from head (d + 1 + j) % N. None: off.
        expanded: f32[B, D]. None: off.
        projection_kernel: f32[N, N-1, C, C], the projections' matrices: [d, j] from the classes of
            dataset (d + 1 + j) % N (rows) to those of d. None: off.
        actions: of every localising dataset f32[B, M, A_d]. None: there is none.
    """

    logits: jax.Array
    projected: jax.Array | None
    expanded: jax.Array | None
    projection_kernel: jax.Array | None
    actions: Sequence[jax.Array] | None


@dataclasses.dataclass(frozen=True)
class Objective:
    """The objective of a run, over clips with labels and clips with boxes.

        L = (1 / B) sum_i w_i weight_d L_i + lambda_inf L_inf + l1 |W|

    with L_i = L_cls + lambda_proj L_proj of a clip with labels, or the loss of its boxes. `clips`
    is the part that is a mean over clips, `batch` the rest.

    Attributes:
        config: weights and forms.
        names: of all datasets; a clip's `dataset` is the place of its own.
        classifying: those with a classification head, in the order of the heads.
        localising: those with a localisation head, likewise.
    """

    config: ObjectiveConfig
    names: tuple[str, ...]
    classifying: tuple[DatasetObjective, ...]
    localising: tuple[LocalisationObjective, ...] = ()

    @property
    def max_classes(self) -> int:
        """C, what the classification heads are padded to; 1 where there is none."""
        return max((entry.num_classes for entry in self.classifying), default=1)

    @property
    def weights(self) -> LossWeights:
        """Its own. `clips` and `batch` may be given others; what 0 turns off must be 0 in both."""
        of_datasets = np.ones(len(self.names), np.float32)
        of_datasets[~self._localises] = [entry.weight for entry in self.classifying]
        of_datasets[self._localises] = [entry.weight for entry in self.localising]
        return loss_weights(self.config, of_datasets)

    @property
    def _localises(self) -> np.ndarray:
        return np.isin(np.arange(len(self.names)), [entry.number for entry in self.localising])

    def head(self, dataset: jax.Array) -> jax.Array:
        """Classification heads of the clips' datasets i32[B]; 0 for those of localising ones."""
        if not self.localising:
            return dataset
        heads = np.where(self._localises, 0, np.cumsum(~self._localises) - 1).astype(np.int32)
        return jnp.asarray(heads)[dataset]

    def has_boxes(self, dataset: jax.Array) -> jax.Array | None:
        """bool[B], clips of localising datasets; None where there is no such dataset."""
        return jnp.asarray(self._localises)[dataset] if self.localising else None

    def clips(
        self,
        outputs: ModelOutputs,
        targets: Targets,
        batch: Mapping[str, jax.Array],
        *,
        log_variances: LogVariances | None = None,
        weights: LossWeights | None = None,
    ) -> tuple[jax.Array, dict[str, Term]]:
        """The mean over clips.

        Args:
            outputs: of the model.
            targets: of classification, whose datasets are `head` numbers.
            batch: as it was read.
            log_variances: the learned weights, of all datasets.
            weights: None: its own.

        Returns:
            loss f32[], and the terms of `clip_objective` and `localisation_objective`, and for
            every dataset `share/NAME`, the part of the clips that is of it.
        """
        dataset, real = batch['dataset'], batch['weight'] > 0
        clips = jnp.sum(real, dtype=jnp.float32)
        terms = {
            f'share/{name}': Term(jnp.sum(real & (dataset == number), dtype=jnp.float32), clips)
            for number, name in enumerate(self.names)
        }
        loss, learned = jnp.zeros((), jnp.float32), (log_variances or {}).get('dataset')
        weights = weights or self.weights
        for entries, part in ((self.classifying, self._labels), (self.localising, self._boxes)):
            if entries:
                own, own_terms = part(outputs, targets, batch, learned, weights)
                loss, terms = loss + own, terms | own_terms
        return loss, terms

    def _labels(
        self, outputs, targets, batch, learned, weights
    ) -> tuple[jax.Array, dict[str, Term]]:
        own = np.flatnonzero(~self._localises)
        return clip_objective(
            outputs,
            targets,
            self.config,
            self.classifying,
            log_variances=None if learned is None else {'dataset': learned[own]},
            weights=weights.replace(dataset=weights.dataset[own]),
        )

    def _boxes(
        self, outputs, targets, batch, learned, weights
    ) -> tuple[jax.Array, dict[str, Term]]:
        own = np.flatnonzero(self._localises)
        return localisation_objective(
            outputs.actions,
            batch,
            self.localising,
            log_variances=None if learned is None else learned[own],
            weights=weights.dataset[own],
        )

    def batch(
        self,
        expanded: jax.Array | None,
        weight: jax.Array,
        *,
        log_variances: LogVariances | None = None,
        weights: LossWeights | None = None,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, dict[str, Term]]:
        """What is of the whole batch, see `batch_objective`."""
        return batch_objective(
            expanded,
            self.config,
            weight=weight,
            log_variances=log_variances,
            weights=weights,
            axis_name=axis_name,
        )


def clip_objective(
    outputs: ModelOutputs,
    targets: Targets,
    config: ObjectiveConfig,
    datasets: Sequence[DatasetObjective],
    *,
    log_variances: LogVariances | None = None,
    weights: LossWeights | None = None,
) -> tuple[jax.Array, dict[str, Term]]:
    """The part of the objective that is a mean over clips.

    A slot that holds a part of its clip enters the sum with that part, judged by its own
    dataset's head. B is the number of clips given (all replicas have equally many): averaging the
    losses and gradients of replicas, or of parts of a batch, gives those of the whole. A dataset
    without a clip in the batch contributes 0.

    Args:
        outputs: `logits`, `projected` and `projection_kernel` as in `ModelOutputs`.
        targets: clean labels; smoothing is applied here.
        config: weights and forms.
        datasets: the N datasets, in the order of the heads.
        log_variances: the learned weights, where the config turns them on; see `uncertainty`.
        weights: of these datasets; None: those of `config` and `datasets`.

    Returns:
        loss: f32[].
        terms: by name, to be averaged over replicas and logged as sum / count: for every dataset
            `classification/NAME`, `projection/NAME` (neither has the dataset's weight in it)
            and `top1/NAME` (against the clean label of the slot with the largest part);
            `weight/NAME` where weights are learned; `projection_l1`, the mean of the
            absolute values, where it is penalised.

    Raises:
        ValueError: an output that a positive weight needs is missing, or shapes do not fit
            the datasets.
    """
    _check(outputs, targets, config, datasets)
    weights = weights or loss_weights(config, [entry.weight for entry in datasets])
    clips = jnp.arange(targets.dataset.shape[0])[:, None]  # [B, 1]
    mask = class_mask(datasets)[targets.dataset]  # [B, S, C]
    label = smooth_label(targets.label, mask, config.label_smoothing)
    logits = outputs.logits[targets.dataset, clips]  # [B, S, C], each slot's own head

    per_slot = SOFTMAX_LOSSES[config.classification_loss](logits, label, mask)  # [B, S]
    if any(entry.multi_label for entry in datasets):
        multi_label = jnp.asarray([entry.multi_label for entry in datasets])[targets.dataset]
        per_slot = jnp.where(multi_label, binary_cross_entropy(logits, label, mask), per_slot)

    slot_weight = targets.lam * targets.weight[:, None]  # [B, S]
    terms = _per_dataset('classification', per_slot, slot_weight, targets.dataset, datasets)

    if config.lambda_proj > 0 and len(datasets) > 1:
        projected = jnp.moveaxis(outputs.projected, 2, 1)  # [N, B, N-1, C]
        projected = projected[targets.dataset, clips]  # [B, S, N-1, C]
        proj = projection_loss(projected, label, mask, SOFTMAX_LOSSES[config.projection_loss])
        terms |= _per_dataset('projection', proj, slot_weight, targets.dataset, datasets)
        per_slot = per_slot + weights.projection * proj

    dataset_weight = jnp.asarray(weights.dataset, per_slot.dtype)  # [N]
    penalty = jnp.zeros_like(dataset_weight)
    if config.learned_dataset_weights:
        dataset_weight, penalty = learned_weight(dataset_weight, log_variances['dataset'])
        for entry, weight in zip(datasets, dataset_weight):
            terms[f'weight/{entry.name}'] = Term(weight, jnp.ones_like(weight))
    per_slot = dataset_weight[targets.dataset] * per_slot + penalty[targets.dataset]
    if any(entry.factor != 1 for entry in datasets):
        per_slot = jnp.asarray([entry.factor for entry in datasets])[targets.dataset] * per_slot
    loss = jnp.sum(slot_weight * per_slot) / clips.shape[0]

    if config.projection_l1 > 0 and len(datasets) > 1:
        size, number = projection_size(outputs.projection_kernel, class_mask(datasets))
        loss = loss + weights.projection_l1 * size
        terms['projection_l1'] = Term(size / number, jnp.ones_like(size))

    terms |= _top1(logits, mask, targets, datasets)
    return loss, jax.lax.stop_gradient(terms)


def batch_objective(
    expanded: jax.Array | None,
    config: ObjectiveConfig,
    *,
    weight: jax.Array | None = None,
    log_variances: LogVariances | None = None,
    weights: LossWeights | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, Term]]:
    """The part of the objective that is of the whole batch: lambda_inf L_inf.

    Args:
        expanded: f32[B, D], this replica's embeddings after the expander; None: without one.
        config: weights.
        weight: f32[B], 0 for padding, which does not enter; None: there is none.
        log_variances: the learned weights, where the config turns them on; see `uncertainty`.
        weights: None: those of `config`.
        axis_name: the named axis over replicas, or None for a single one.

    Returns:
        loss: f32[], the same on every replica; 0 where lambda_inf is.
        terms: `informative/std` and `informative/covariance`, unweighted;
            `informative/std_weight` and `informative/covariance_weight` where they are learned.

    Raises:
        ValueError: lambda_inf > 0 without an expander.
    """
    if not config.lambda_inf > 0:
        return jnp.zeros((), jnp.float32), {}
    if expanded is None:
        raise ValueError(
            'lambda_inf > 0 needs the expanded embedding: build the model with an expander'
        )
    std, covariance = informative_terms(expanded, weight, axis_name=axis_name)
    values, weights = jnp.stack([std, covariance]), weights or loss_weights(config)
    factors = jnp.asarray([weights.std, weights.covariance], values.dtype)
    terms = {'informative/std': std, 'informative/covariance': covariance}
    penalty = jnp.zeros_like(factors)
    if config.learned_informative_weights:
        factors, penalty = learned_weight(factors, log_variances['informative'])
        terms |= {'informative/std_weight': factors[0], 'informative/covariance_weight': factors[1]}
    loss = weights.informative * jnp.sum(factors * values + penalty)
    return loss, jax.lax.stop_gradient(
        {name: Term(value, jnp.ones_like(value)) for name, value in terms.items()}
    )


def class_mask(datasets: Sequence[DatasetObjective]) -> jax.Array:
    """bool[N, C]: which classes every dataset has, C = the largest number of classes."""
    num_classes = np.asarray([entry.num_classes for entry in datasets])
    return jnp.asarray(np.arange(num_classes.max())[None] < num_classes[:, None])


def _per_dataset(
    name: str,
    value: jax.Array,  # [B, S]
    weight: jax.Array,  # [B, S]
    dataset: jax.Array,  # [B, S]
    datasets: Sequence[DatasetObjective],
) -> dict[str, Term]:
    """Sums of `value` by dataset."""
    number = jnp.arange(len(datasets))[:, None, None]
    own = jnp.where(dataset[None] == number, weight[None], 0.0)  # [N, B, S]
    sums, counts = jnp.sum(own * value[None], (1, 2)), jnp.sum(own, (1, 2))
    return {f'{name}/{entry.name}': Term(sums[n], counts[n]) for n, entry in enumerate(datasets)}


def _top1(
    logits: jax.Array,  # [B, S, C]
    mask: jax.Array,  # [B, S, C]
    targets: Targets,
    datasets: Sequence[DatasetObjective],
) -> dict[str, Term]:
    """Whether the best class of the slot with the largest part is (one of) its own."""
    main = jnp.argmax(targets.lam, axis=1, keepdims=True)  # [B, 1]

    def of_main(x: jax.Array) -> jax.Array:
        index = main.reshape(main.shape + (1,) * (x.ndim - 2))
        return jnp.take_along_axis(x, index, axis=1)

    predicted = jnp.argmax(of_main(jnp.where(mask, logits, -jnp.inf)), axis=-1, keepdims=True)
    label = of_main(targets.label)  # [B, 1, C]
    at_predicted = jnp.take_along_axis(label, predicted, axis=-1)[..., 0]  # [B, 1]
    hit = (at_predicted > 0) & (at_predicted >= jnp.max(label, axis=-1))
    return _per_dataset(
        'top1',
        hit.astype(targets.weight.dtype),
        targets.weight[:, None],
        of_main(targets.dataset),
        datasets,
    )


def _check(
    outputs: ModelOutputs,
    targets: Targets,
    config: ObjectiveConfig,
    datasets: Sequence[DatasetObjective],
) -> None:
    names = [entry.name for entry in datasets]
    if len(set(names)) != len(names):
        raise ValueError(f'datasets must have different names, got {", ".join(names)}')
    most = max(entry.num_classes for entry in datasets)
    batch = targets.dataset.shape[0]
    if outputs.logits.shape != (len(datasets), batch, most):
        raise ValueError(
            f'logits have shape {outputs.logits.shape}: {len(datasets)} datasets of at most {most} '
            f'classes and {batch} clips need {(len(datasets), batch, most)}'
        )
    if targets.label.shape[-1] != most:
        raise ValueError(f'labels have {targets.label.shape[-1]} classes, the heads {most}')
    if config.lambda_proj > 0 and len(datasets) > 1 and outputs.projected is None:
        raise ValueError(
            'lambda_proj > 0 needs the projected logits: build the model with projections'
        )
    if config.projection_l1 > 0 and len(datasets) > 1 and outputs.projection_kernel is None:
        raise ValueError('projection_l1 > 0 needs projections: build the model with them')
