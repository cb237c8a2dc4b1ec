"""Batches from options in one row: `train_batches([source], num_frames=3, crop_size=16, ...)`."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from data_pipelines import pipeline
from data_pipelines.datasets.base import TestSpec, TrainingSpec
from data_pipelines.options import ClipSize, InputOptions, OrderOptions, Source, ViewOptions
from data_pipelines.plans import TrainingPlan
from data_pipelines.service_batches import ServiceBatches


def groups(options: dict[str, Any], *kinds: type) -> list[Any]:
    """A group of each kind, of the options that are its fields and are taken out of `options`."""
    options.setdefault('max_bad_records', 0)
    found = []
    for kind in kinds:
        names = {field.name for field in dataclasses.fields(kind)}
        found.append(kind(**{name: options.pop(name) for name in names & options.keys()}))
    return found


def train_batches(sources: Sequence[Source], **options: Any) -> pipeline.TrainBatches:
    """`pipeline.train_batches` with the fields of its groups as keywords."""
    chosen = groups(options, ClipSize, OrderOptions, InputOptions)
    return pipeline.train_batches(sources, *chosen, **options)


def service_batches(address: str, sources: Sequence[Source], **options: Any) -> ServiceBatches:
    """The same of a tf.data service."""
    options |= {'tf_data_service': address}
    chosen = groups(options, ClipSize, OrderOptions, InputOptions)
    return ServiceBatches(sources, *chosen, **options)


def training_plan(sources: Sequence[Source], **options: Any) -> TrainingPlan:
    """What `train_batches` fills."""
    chosen = groups(options, ClipSize, OrderOptions, InputOptions)
    return TrainingPlan(sources, *chosen, **options)


def evaluation_batches(source: Source, **options: Any) -> pipeline.EvaluationBatches:
    """`pipeline.evaluation_batches` with the fields of its groups as keywords.

    By default one view.
    """
    options = {'temporal_views': 1, 'spatial_views': 1} | options
    chosen = groups(options, ClipSize, ViewOptions, InputOptions)
    return pipeline.evaluation_batches(source, *chosen, **options)


def training_spec(**options: Any) -> TrainingSpec:
    return TrainingSpec(*groups(options, ClipSize, InputOptions))


def view_spec(**options: Any) -> TestSpec:
    options = {'temporal_views': 1, 'spatial_views': 1} | options
    return TestSpec(*groups(options, ClipSize, ViewOptions))


def assert_equal_batches(
    batches: Iterable[Mapping[str, np.ndarray]], others: Iterable[Mapping[str, np.ndarray]]
) -> None:
    """As many, of the same arrays in the same order, equal to the bit."""
    for batch, other in zip(batches, others, strict=True):
        assert list(batch) == list(other)
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)
            assert batch[name].dtype == other[name].dtype
