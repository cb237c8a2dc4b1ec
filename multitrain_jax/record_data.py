"""Batches from the datasets on disk: the one place where training meets `data_pipelines`."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
from typing import Any

from data_pipelines import clips, dataset_info, files, pipeline, prepare
import numpy as np

from multitrain_jax.batch import Batch, DatasetSpec
from multitrain_jax.config import Config, DatasetConfig, EvaluationConfig, InputConfig


class RecordData:
    """A `BatchSource` over the datasets that the config names, read by this host's share."""

    def __init__(self, config: Config, *, host: int = 0, num_hosts: int = 1):
        """Opens all datasets; renders and converts the synthetic ones first if the config asks for them.

        Raises:
            ValueError: a dataset is missing, or does not hold what the config expects.
        """
        self._config, self._host, self._num_hosts = config, host, num_hosts
        root = files.expand_home(config.data_root)
        if config.synthetic is not None:
            prepare.prepare_synthetic(
                root,
                train_videos=config.synthetic.train_videos,
                validation_videos=config.synthetic.validation_videos,
                seed=config.synthetic.seed,
            )
        self._train_sources, self._evaluation_sources, specs = [], [], []
        samples = 0
        for name, entry in config.datasets.items():
            where = f'dataset {name} (config.datasets.{name}.path, under config.data_root)'
            train, evaluation = (
                _source(root, name, entry, split) for split in (entry.train_split, entry.evaluation_split)
            )
            with (
                _open(where, train, clips.TrainingSpec(**self._clip_size(), short_side=config.input.short_side)) as own,
                _open(where, evaluation, clips.TestSpec(**self._clip_size(), **_views(config.evaluation))) as tested,
            ):
                if own.classes != tested.classes:
                    raise ValueError(f'dataset {name}: the splits {train.split!r} and {evaluation.split!r} differ in classes')
                samples += own.num_records * config.input.repeats
                specs.append(
                    DatasetSpec(
                        name=name,
                        classes=tuple(own.classes),
                        multi_label=own.multi_label,
                        views=tested.views,
                        evaluation_records=tested.num_records,
                    )
                )
            self._train_sources.append(train)
            self._evaluation_sources.append(evaluation)
        self.datasets: tuple[DatasetSpec, ...] = tuple(specs)
        self.samples_per_epoch = samples

    def _clip_size(self) -> dict[str, Any]:
        backbone = self._config.model.backbone
        return {
            'num_frames': backbone.num_frames,
            'crop_size': backbone.image_size,
            'reduced': self._config.input.reduced_decoding,
        }

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        config = self._config
        options = dict(
            **self._clip_size(),
            batch_size=config.batch_size,
            short_side=config.input.short_side,
            repeats=config.input.repeats,
            seed=config.seed,
            start_step=start_step,
            num_steps=num_steps,
            host=self._host,
            num_hosts=self._num_hosts,
            max_bad_records=config.input.max_bad_records,
        )
        if config.input.tf_data_service is not None:
            from data_pipelines import service  # It needs TensorFlow.

            return service.ServiceBatches(config.input.tf_data_service, self._train_sources, **options)
        return pipeline.train_batches(self._train_sources, **options, num_threads=config.input.num_threads)

    def evaluation_batches(self, dataset: int) -> Iterator[Batch]:
        config = self._config
        return pipeline.evaluation_batches(
            self._evaluation_sources[dataset],
            **self._clip_size(),
            **_views(config.evaluation),
            batch_size=config.evaluation.batch_size,
            dataset=dataset,
            host=self._host,
            num_hosts=self._num_hosts,
            num_threads=config.input.num_threads,
            max_bad_records=config.input.max_bad_records,
        )


class EvaluationData:
    """The evaluation splits of datasets for a trained model, read by this host's share.

    Attributes:
        datasets: one for each head of the model, with the head's classes, which labels are numbered by; without
            evaluation records where no data was given.
    """

    def __init__(
        self,
        heads: Sequence[DatasetSpec],
        data: Mapping[str, DatasetConfig],
        *,
        data_root: str,
        num_frames: int,
        image_size: int,
        evaluation: EvaluationConfig,
        input_config: InputConfig,
        host: int = 0,
        num_hosts: int = 1,
    ):
        """Opens the datasets.

        Args:
            heads: name and classes of each head.
            data: by name of the head; their classes must be among the head's, in whatever order.
            data_root: directory of relative paths in `data`.
            num_frames: of a clip.
            image_size: of a clip, pixels.
            evaluation: views and batches.
            input_config: how to read.
            host, num_hosts: whose share.

        Raises:
            ValueError: a dataset is missing, or has a class that its head does not have.
        """
        self._reading = {
            'num_frames': num_frames,
            'crop_size': image_size,
            'reduced': input_config.reduced_decoding,
            **_views(evaluation),
        }
        self._batching = {
            'batch_size': evaluation.batch_size,
            'host': host,
            'num_hosts': num_hosts,
            'num_threads': input_config.num_threads,
            'max_bad_records': input_config.max_bad_records,
        }
        self._sources: dict[int, clips.Source] = {}
        self._numbers: dict[int, np.ndarray] = {}  # class of the data -> class of the head
        specs = []
        root = files.expand_home(data_root)
        for head, spec in enumerate(heads):
            entry = data.get(spec.name)
            if entry is None:
                specs.append(dataclasses.replace(spec, evaluation_records=0))
                continue
            self._sources[head] = _source(root, spec.name, entry, entry.evaluation_split)
            with _open(f'dataset {spec.name}', self._sources[head], clips.TestSpec(**self._reading)) as tested:
                self._numbers[head] = _class_numbers(tested, spec)
                specs.append(dataclasses.replace(spec, views=tested.views, evaluation_records=tested.num_records))
        self.datasets: tuple[DatasetSpec, ...] = tuple(specs)

    def evaluation_batches(self, dataset: int) -> Iterator[Batch]:
        numbers, classes = self._numbers[dataset], len(self.datasets[dataset].classes)
        batches = pipeline.evaluation_batches(
            self._sources[dataset], **self._reading, **self._batching, dataset=dataset
        )
        with contextlib.closing(batches):
            for batch in batches:
                label = batch['label']
                if label.ndim == 1:
                    renumbered = numbers[label].astype(label.dtype)
                else:
                    renumbered = np.zeros((len(label), classes), label.dtype)
                    renumbered[:, numbers] = label
                yield {**batch, 'label': renumbered}


def _class_numbers(dataset: clips.ClipDataset, head: DatasetSpec) -> np.ndarray:
    """i64: the head's number of every class of the data."""
    where = f'dataset {head.name} ({dataset.source.path})'
    if dataset.multi_label != head.multi_label:
        kinds = {True: 'several labels per video', False: 'one label per video'}
        raise ValueError(
            f'{where}: has {kinds[dataset.multi_label]}, the head of that name was trained on {kinds[head.multi_label]}'
        )
    strange = [name for name in dataset.classes if name not in head.classes]
    if strange:
        raise ValueError(
            f'{where}: class {strange[0]!r} is not one of the {len(head.classes)} classes of the checkpoint '
            f'({len(strange)} of {len(dataset.classes)} are not); classes are matched by name'
        )
    return np.array([head.classes.index(name) for name in dataset.classes], np.int64)


def _source(root: str, name: str, entry: DatasetConfig, split: str) -> clips.Source:
    return clips.Source(
        path=clips.dataset_path(root, entry.path), name=name, split=split, sampling=entry.sampling,
        stride=entry.stride, target_frame_rate=entry.target_frame_rate, flip=entry.flip,
    )  # fmt: skip


def _views(evaluation: EvaluationConfig) -> dict[str, Any]:
    return {
        'short_side': evaluation.short_side,
        'temporal_views': evaluation.temporal_views,
        'spatial_views': evaluation.spatial_views,
    }


@contextlib.contextmanager
def _open(where: str, source: clips.Source, spec) -> Iterator[clips.ClipDataset]:
    try:
        dataset = clips.open_dataset(source, spec)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error
    try:
        yield dataset
    finally:
        dataset.close()


def read_classes(directory: str) -> tuple[str, ...]:
    """Class names of a directory of records.

    Raises:
        ValueError: there are none.
    """
    return dataset_info.load_dataset_info(directory).classes
