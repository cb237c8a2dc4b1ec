"""The contract between data and training: what a batch holds, and what training asks of a source of
batches.

A batch is a flat dict of arrays, the host's share of the global batch:

    video    u8[B, T, H, W, 3]  RGB
    dataset  i32[B]             number of the clip's dataset
    label    i32[B]             class number, or f32[B, C] multi-hot when some dataset is
             multi-label
    weight   f32[B]             0 for padding
    record   i32[B]             evaluation only: record number within the dataset, -1 for padding
    view     i32[B]             evaluation only: number of the test view
    name     object[B]          evaluation only, optional: str, what the dataset calls the record's
             video

B clips, T frames, H W pixels, C classes of the classifying dataset that has most. Where a dataset
localises actions, its clips have boxes (on the clip's key frame) instead of a label, which is 0.
Training batches then hold for all clips

    boxes      f32[B, M, 4]     x1, y1, x2, y2 as shares of the clip's width and height, after all
               cropping; 0 for padding
    box_label  f32[B, M, A]     multi-hot
    box_mask   f32[B, M]        1 for a box that exists, always 0 for a classifying dataset's clips

M is the config's `localisation.max_boxes`, A the most actions of any localising dataset. The
evaluation batches of a localising dataset have no label, but the candidates that are to be scored,
in any number M of places for the batch,

    boxes            f32[B, M, 4]  candidates as shares of the view
    box_mask         f32[B, M]     1 where the view shows enough of the candidate to score it
    candidate        f32[B, M, 4]  as shares of the whole frame
    candidate_score  f32[B, M]     of the detector; 1 for ground truth
    candidate_mask   f32[B, M]     1 for a candidate that exists

and all ground truth of the key frame (in the name of the record: `video,timestamp`), G places,

    truth_box f32[B, G, 4], truth_label f32[B, G, A], truth_mask f32[B, G]

of which only `boxes` goes to the devices. Places and order of candidates and truth are the same in
all views of a record.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from data_pipelines.settings import PositiveFloat, PositiveInt, check_name, settings
from multitrain_jax import config_reading
from multitrain_jax.errors import UserError

Batch = Mapping[str, np.ndarray]


_OF_A_RUN = ('name', 'views', 'evaluation_records')  # that no file of a model says of a dataset


def _dataset_rules(spec: 'DatasetSpec') -> None:
    # Files are called after it, also where it comes out of an export or a file of predictions.
    if not spec.name or spec.name[0] == '.' or set(spec.name) & set('/\\\0'):
        raise UserError(
            f'dataset {spec.name!r}: a name must not be empty, begin with a dot or hold a slash'
        )
    check_name('dataset', spec.name)
    for name in spec.classes:
        check_name('class', name)


@settings(rules=_dataset_rules)
class DatasetSpec:
    """What training, and a trained model, know of one dataset.

    Attributes:
        name: as in the config; the heads are in the order of the datasets.
        classes: class names; a class's number is its place.
        multi_label: whether a clip may carry several classes (sigmoid scores, binary
            cross-entropy).
        views: test views of each record.
        evaluation_records: records of the evaluation split, on all hosts.
        localisation: whether clips have boxes, and the classes are the actions of these.
        train_counts: boxes with each action in the training split, where they are known.
        action_ids: numbers of the actions in files of the official format; (): 1, 2, ...
        sampling, stride, target_frame_rate: how clips are taken from its videos, as in
            `data_pipelines.options.DatasetOptions`.
    """

    name: str
    classes: tuple[str, ...]
    multi_label: bool = False
    views: int = 1
    evaluation_records: int = 0
    localisation: bool = False
    train_counts: tuple[int, ...] = ()
    action_ids: tuple[int, ...] = ()
    sampling: Literal['strided', 'uniform', 'key_frame'] = 'strided'
    stride: PositiveInt = 1
    target_frame_rate: PositiveFloat | None = None

    def to_dict(self) -> dict[str, Any]:
        """As descriptions of models and checkpoints have it, by name: fit for JSON."""
        content = config_reading.to_dict(self)
        return {field: value for field, value in content.items() if field not in _OF_A_RUN}

    @classmethod
    def from_dict(cls, name: str, content: Any, where: str) -> 'DatasetSpec':
        """The opposite of `to_dict`; fields that came later may be missing.

        Args:
            name: of the dataset.
            content: what was stored.
            where: in messages.

        Raises:
            UserError: it is no such thing.
        """
        if not isinstance(content, Mapping):
            raise UserError(f'{where}: must be a group of fields')
        for field in _OF_A_RUN:
            if field in content:
                raise UserError(f'{where}.{field}: unknown field')
        spec = config_reading.build(cls, {**content, 'name': name}, where)
        if not spec.classes or len(set(spec.classes)) < len(spec.classes):
            raise UserError(f'{where}: classes: must be names, each once')
        return spec


def sampling_of(entry: Any) -> dict[str, Any]:
    """The fields of a `DatasetSpec`, or of a `DatasetConfig`, that say how clips are taken."""
    fields = ('sampling', 'stride', 'target_frame_rate')
    return {field: getattr(entry, field) for field in fields}


def classifying(datasets: Sequence[DatasetSpec]) -> tuple[DatasetSpec, ...]:
    """The datasets with a classification head, in the order of these."""
    return tuple(spec for spec in datasets if not spec.localisation)


def localising(datasets: Sequence[DatasetSpec]) -> tuple[DatasetSpec, ...]:
    """The datasets with a localisation head, in the order of these."""
    return tuple(spec for spec in datasets if spec.localisation)


class BatchSource(Protocol):
    """Where batches come from. `RecordData` reads shards; tests and benchmarks bring arrays of
    their own.

    Attributes:
        datasets: what the batches are of.
        samples_per_epoch: samples of all datasets together.
        clips_per_step: clips of a training batch, over all hosts, in the mean of the run; may be
            left out where every batch has `config.batch_size`.
    """

    datasets: Sequence[DatasetSpec]
    samples_per_epoch: int
    clips_per_step: float

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        """This host's share of the batches of steps start_step to start_step + num_steps - 1."""

    def evaluation_batches(self, dataset: int) -> Iterator[Batch]:
        """This host's share of a dataset's test views; all hosts yield equally many batches."""


def check_batch(
    batch: Batch,
    *,
    num_frames: int,
    image_size: int,
    datasets: Sequence[DatasetSpec],
    max_boxes: int | None = None,
) -> None:
    """Checks the first training batch of a run against the contract.

    Raises:
        UserError: what differs, and from what.
    """
    clips = batch['video'].shape[0] if 'video' in batch else 0
    shapes = {
        'video': (clips, num_frames, image_size, image_size, 3),
        'dataset': (clips,),
        'weight': (clips,),
    }
    types = {'video': np.uint8, 'dataset': np.int32, 'weight': np.float32}
    with_labels, with_boxes = classifying(datasets), localising(datasets)
    shapes['label'], types['label'] = (clips,), np.int32
    if any(dataset.multi_label for dataset in with_labels):
        most = max(len(dataset.classes) for dataset in with_labels)
        shapes['label'], types['label'] = (clips, most), np.float32
    if with_boxes:
        shapes |= {
            'boxes': (clips, max_boxes, 4),
            'box_label': (clips, max_boxes, max(len(dataset.classes) for dataset in with_boxes)),
            'box_mask': (clips, max_boxes),
        }
        types |= dict.fromkeys(('boxes', 'box_label', 'box_mask'), np.float32)
    for name, shape in shapes.items():
        if name not in batch:
            raise UserError(f'batch: {name!r} is missing; it holds {sorted(batch)}')
        array = batch[name]
        if array.shape != shape or array.dtype != types[name]:
            raise UserError(
                f'batch: {name!r} is {array.dtype}{list(array.shape)}, must be '
                f'{np.dtype(types[name])}{list(shape)}'
            )
    if clips and not 0 <= batch['dataset'].min() <= batch['dataset'].max() < len(datasets):
        raise UserError(
            f'batch: dataset numbers {np.unique(batch["dataset"])} where there are '
            f'{len(datasets)} datasets'
        )
    if batch['label'].ndim == 1:
        counts = [1 if dataset.localisation else len(dataset.classes) for dataset in datasets]
        classes = np.array(counts)[batch['dataset']]
        wrong = np.flatnonzero((batch['label'] < 0) | (batch['label'] >= classes))
        if wrong.size:
            row = wrong[0]
            dataset = datasets[batch['dataset'][row]]
            raise UserError(
                f'batch: label {batch["label"][row]} in dataset {dataset.name}, which has '
                + ('boxes instead' if dataset.localisation else f'{len(dataset.classes)} classes')
            )
    if with_boxes:
        _check_boxes(batch, datasets)


def _check_boxes(batch: Batch, datasets: Sequence[DatasetSpec]) -> None:
    boxes, real = batch['boxes'], batch['box_mask'] > 0
    ordered = (boxes[..., :2] <= boxes[..., 2:]).all(-1)  # False for NaN
    inside = ((boxes >= 0) & (boxes <= 1)).all(-1) & ordered
    counts = [len(dataset.classes) if dataset.localisation else 0 for dataset in datasets]
    actions = np.array(counts)[batch['dataset']]
    others = np.arange(batch['box_label'].shape[2]) >= actions[:, None]  # [B, A]
    strange = batch['box_label'].any(1) & others
    for wrong, what in (
        ((real & ~inside).any(1), 'has a box that is not x1, y1, x2, y2 within 0 to 1'),
        (real.any(1) & (actions == 0), 'has boxes, but its dataset is not one of localisation'),
        (strange.any(1), 'has an action that its dataset does not have'),
    ):
        if wrong.any():
            row = np.flatnonzero(wrong)[0]
            raise UserError(
                f'batch: clip {row}, of dataset {datasets[batch["dataset"][row]].name}, {what}'
            )
