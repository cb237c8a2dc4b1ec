"""Which datasets classify and which localise: from their settings to the objective of a run."""

from collections.abc import Mapping, Sequence

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.objectives.localisation import LocalisationObjective
from multitrain_jax.objectives.objective import DatasetObjective, Objective, ObjectiveConfig


def make_objective(
    config: ObjectiveConfig,
    datasets: Sequence[DatasetSpec],
    loss_weights: Mapping[str, float],
    batch_sizes: Mapping[str, int] | None = None,
) -> Objective:
    """The objective over the datasets.

    Args:
        config: weights and forms of the losses.
        datasets: in the order of their numbers in a batch.
        loss_weights: factor of each one's losses, by name.
        batch_sizes: clips of each one in a batch, by name, where the gradients of the datasets' own
            means are to be summed; None: the loss is the mean over a batch's clips.
    """
    # What makes the mean over a batch's clips the sum of the datasets' own means.
    clips = sum((batch_sizes or {}).values())
    factors = {name: clips / size for name, size in (batch_sizes or {}).items()}
    classifying, localising = [], []
    for number, spec in enumerate(datasets):
        name, classes = spec.name, len(spec.classes)
        weight, factor = loss_weights[name], factors.get(name, 1.0)
        if spec.localisation:
            localising.append(LocalisationObjective(name, number, classes, weight, factor))
        else:
            entry = DatasetObjective(name, classes, weight, spec.multi_label, factor)
            classifying.append(entry)
    names = tuple(spec.name for spec in datasets)
    return Objective(config, names, tuple(classifying), tuple(localising))
