"""Batches of clips that lie in memory, in the order of training from records."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses

import numpy as np

from data_pipelines.options import DatasetOptions, OrderOptions, Source
from data_pipelines.order import schedules
from data_pipelines.order.epochs import evaluation_share, record_generator
from data_pipelines.settings import narrowed
from multitrain_jax.batch import Batch, DatasetSpec
from multitrain_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips of one split of one dataset, a few pixels larger than what the model sees.

    Attributes:
        video: u8[n, T, S, S, 3].
        label: i32[n], zeros where clips have boxes.
        boxes: f32[n, M, 4], x1, y1, x2, y2, 0..1 of the clip; None: the dataset classifies.
        box_label: f32[n, M, A], multi-hot.
        box_mask: f32[n, M], 1 for a box that exists.
    """

    video: np.ndarray
    label: np.ndarray
    boxes: np.ndarray | None = None
    box_label: np.ndarray | None = None
    box_mask: np.ndarray | None = None


class ArrayData:
    """A `BatchSource`: random crops, mirrored where the config's dataset flips; centres in tests.

    Attributes:
        datasets: see `BatchSource`.
    """

    def __init__(
        self,
        config: Config,
        datasets: Sequence[DatasetSpec],
        train: Mapping[str, Clips],
        validation: Mapping[str, Clips],
        label_maps: Mapping[str, Mapping[str, Mapping[str, str]]] | None = None,
    ):
        """Keeps the arrays.

        Args:
            config: batch size, schedule, seed, image size, flips.
            datasets: sorted by name.
            train, validation: by name. A dataset that is not in `train` has a head of which nothing
                is learned, one that is not in `validation` is not tested.
            label_maps: `[dataset][other][class] -> class of other`, where the relations of the
                classes are known: half of the times that a clip is drawn it is one of those instead
                of one of its own dataset.
        """
        self._config, self._train, self._validation = config, train, validation
        self.datasets = tuple(
            dataclasses.replace(
                spec,
                evaluation_records=len(validation[spec.name].label)
                if spec.name in validation
                else 0,
            )
            for spec in datasets
        )
        # The order counts the datasets that have clips.
        self._numbers = [number for number, spec in enumerate(self.datasets) if spec.name in train]
        self._roles = _roles(self.datasets, label_maps or {})
        sizes = [len(train[self.datasets[number].name].label) for number in self._numbers]
        sources = [_source(config, self.datasets[number].name) for number in self._numbers]
        options = narrowed(config, OrderOptions)
        self._order = schedules.make_order(sources, sizes, options)
        self.samples_per_epoch = self._order.samples_per_epoch
        self.clips_per_step = schedules.clips_per_step(sources, sizes, options)

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        for step in range(start_step, start_step + num_steps):
            yield self._stack([self._training_clip(one) for one in self._order.batch(step)])

    def evaluation_batches(self, dataset: int) -> Iterator[Batch]:
        size, clips = (
            self._config.evaluation.batch_size,
            self._validation[self.datasets[dataset].name],
        )
        margin = (clips.video.shape[2] - self._side) // 2
        records = evaluation_share(len(clips.label), 0, 1)
        for first in range(0, len(records), size):
            rows = records[first : first + size]
            batch = stacked(
                [self._clip(clips, row, dataset, (margin, margin), False) for row in rows]
            )
            batch['record'] = np.array(rows, np.int32)
            batch['view'] = np.zeros(len(rows), np.int32)
            if clips.boxes is not None:
                batch |= {
                    'candidate': batch['boxes'],
                    'candidate_score': batch['box_mask'],
                    'candidate_mask': batch['box_mask'],
                    'truth_box': batch['boxes'],
                    'truth_label': batch['box_label'],
                    'truth_mask': batch['box_mask'],
                }
            yield _padded(batch, size)

    @property
    def _side(self) -> int:
        return self._config.model.backbone.image_size

    def _training_clip(self, sample) -> dict[str, np.ndarray]:
        number = self._numbers[sample.dataset]
        spec = self.datasets[number]
        clips = self._train[spec.name]
        rng = record_generator(self._config.seed, sample)
        corner = rng.integers(clips.video.shape[2] - self._side + 1, size=2)
        flip = self._config.datasets[spec.name].flip and bool(rng.integers(2))
        clip = self._clip(clips, sample.record, number, corner, flip)
        if not spec.localisation:
            roles = self._roles[number][int(clip['label'])]
            if len(roles) > 1 and rng.integers(2):
                clip['dataset'], clip['label'] = roles[1 + rng.integers(len(roles) - 1)]
        return clip

    def _clip(
        self, clips: Clips, row: int, dataset: int, corner: Sequence[int], flip: bool
    ) -> dict[str, np.ndarray]:
        (top, left), side = corner, self._side
        video = clips.video[row, :, top : top + side, left : left + side]
        clip = {
            'video': video[:, :, ::-1] if flip else video,
            'dataset': np.int32(dataset),
            'label': np.int32(clips.label[row]),
            'weight': np.float32(1),
        }
        if clips.boxes is not None:
            assert not flip
            whole = np.float32(clips.video.shape[2])
            shift = np.array([left, top, left, top], np.float32)
            clip['boxes'] = np.clip((clips.boxes[row] * whole - shift) / side, 0, 1)
            clip['boxes'] *= clips.box_mask[row, :, None]
            clip['box_label'], clip['box_mask'] = clips.box_label[row], clips.box_mask[row]
        return clip

    def _stack(self, clips: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Clips of classifying datasets have no box beside those of others."""
        with_boxes = next((one for one in self._train.values() if one.boxes is not None), None)
        if with_boxes is not None and any(spec.localisation for spec in self.datasets):
            none = {
                name: np.zeros(getattr(with_boxes, name).shape[1:], np.float32)
                for name in ('boxes', 'box_label', 'box_mask')
            }
            clips = [none | clip for clip in clips]
        return stacked(clips)


def stacked(clips: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Clips of one kind as arrays [B, ...]."""
    return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}


def _source(config: Config, name: str) -> Source:
    options = vars(narrowed(config.datasets[name], DatasetOptions))
    return Source(**options, name=name, split='train')


def _roles(
    datasets: Sequence[DatasetSpec], maps: Mapping[str, Mapping[str, Mapping[str, str]]]
) -> list[list[list[tuple[np.int32, np.int32]]]]:
    """For every dataset and class: (dataset, class) numbers that a clip of it may be judged by."""
    numbers = {spec.name: number for number, spec in enumerate(datasets)}
    return [
        [
            [(np.int32(number), np.int32(label))]
            + [
                (
                    np.int32(numbers[other]),
                    np.int32(datasets[numbers[other]].classes.index(of[name])),
                )
                for other, of in maps.get(spec.name, {}).items()
                if other in numbers and name in of
            ]
            for label, name in enumerate(spec.classes)
        ]
        for number, spec in enumerate(datasets)
    ]


def _padded(batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    missing = size - len(batch['weight'])
    if not missing:
        return batch
    padded = {
        name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        for name, array in batch.items()
    }
    padded['record'][size - missing :] = -1
    return padded
