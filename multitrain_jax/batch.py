"""The contract between data and training: what a batch holds, and what training asks of a source of batches.

A batch is a flat dict of arrays, the host's share of the global batch:

    video    u8[B, T, H, W, 3]  RGB
    dataset  i32[B]             number of the clip's dataset
    label    i32[B]             class number, or f32[B, C] multi-hot when some dataset is multi-label
    weight   f32[B]             0 for padding
    record   i32[B]             evaluation only: record number within the dataset, -1 for padding
    view     i32[B]             evaluation only: number of the test view
    name     object[B]          evaluation only, optional: str, what the dataset calls the record's video

B clips, T frames, H W pixels, C classes of the dataset that has most.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Protocol

import numpy as np

from multitrain_jax.errors import UserError

Batch = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What training knows of one dataset.

    Attributes:
        name: as in the config; the heads are in the order of these.
        classes: class names; a class's number is its place.
        multi_label: whether a clip may carry several classes (sigmoid scores, binary cross-entropy).
        views: test views of each record.
        evaluation_records: records of the evaluation split, on all hosts.
    """

    name: str
    classes: tuple[str, ...]
    multi_label: bool = False
    views: int = 1
    evaluation_records: int = 0


class BatchSource(Protocol):
    """Where batches come from. `RecordData` reads shards; tests and benchmarks bring arrays of their own."""

    datasets: Sequence[DatasetSpec]
    samples_per_epoch: int

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        """This host's share of the batches of the steps start_step, ..., start_step + num_steps - 1."""

    def evaluation_batches(self, dataset: int) -> Iterator[Batch]:
        """This host's share of all test views of a dataset; every host yields equally many batches."""


def check_batch(batch: Batch, *, num_frames: int, image_size: int, datasets: Sequence[DatasetSpec]) -> None:
    """Checks the first batch of a run against the contract.

    Raises:
        UserError: what differs, and from what.
    """
    clips = batch['video'].shape[0] if 'video' in batch else 0
    most_classes = max(len(dataset.classes) for dataset in datasets)
    shapes = {'video': (clips, num_frames, image_size, image_size, 3), 'dataset': (clips,), 'weight': (clips,)}
    types = {'video': np.uint8, 'dataset': np.int32, 'weight': np.float32}
    if any(dataset.multi_label for dataset in datasets):
        shapes['label'], types['label'] = (clips, most_classes), np.float32
    else:
        shapes['label'], types['label'] = (clips,), np.int32
    for name, shape in shapes.items():
        if name not in batch:
            raise UserError(f'batch: {name!r} is missing; it holds {sorted(batch)}')
        array = batch[name]
        if array.shape != shape or array.dtype != types[name]:
            raise UserError(
                f'batch: {name!r} is {array.dtype}{list(array.shape)}, must be {np.dtype(types[name])}{list(shape)}'
            )
    if clips and not 0 <= batch['dataset'].min() <= batch['dataset'].max() < len(datasets):
        raise UserError(f'batch: dataset numbers {np.unique(batch["dataset"])} where there are {len(datasets)} datasets')
    if batch['label'].ndim == 1:
        classes = np.array([len(dataset.classes) for dataset in datasets])[batch['dataset']]
        wrong = np.flatnonzero((batch['label'] < 0) | (batch['label'] >= classes))
        if wrong.size:
            row = wrong[0]
            dataset = datasets[batch['dataset'][row]]
            raise UserError(
                f'batch: label {batch["label"][row]} in dataset {dataset.name}, which has {len(dataset.classes)} classes'
            )
