"""Batches from the datasets on disk: the one place where training meets `data_pipelines`."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
from typing import Any

import numpy as np

from data_pipelines import files, pipeline
from data_pipelines.clip import boxes
from data_pipelines.datasets import base, dataset_info, open
from data_pipelines.order import training_order
from data_pipelines.synthetic import prepare
from multitrain_jax.batch import Batch, DatasetSpec
from multitrain_jax.config import (
    Config,
    DatasetConfig,
    EvaluationConfig,
    InputOptions,
    LocalisationConfig,
    SyntheticConfig,
)
from multitrain_jax.parallel.hosts import barrier


class RecordData:
    """A `BatchSource` over the datasets that the config names, read by this host's share."""

    def __init__(self, config: Config, *, host: int = 0, num_hosts: int = 1):
        """Opens all datasets; renders and converts the synthetic ones first if the config asks for them.

        Raises:
            ValueError: a dataset is missing, or does not hold what the config expects.
        """
        self._config, self._host, self._num_hosts = config, host, num_hosts
        if config.synthetic is not None:
            # One host first: on a shared disk the others then find it done.
            if host:
                barrier('synthetic videos')
            _prepare(files.expand_home(config.data_root), config.synthetic)
            if not host:
                barrier('synthetic videos')
        self._train_sources, self._evaluation_sources, specs, sizes = [], [], [], []
        for name in config.datasets:
            with (
                open_split(config, name, training=True) as own,
                open_split(config, name, training=False) as tested,
            ):
                train, evaluation = own.source, tested.source
                if own.classes != tested.classes:
                    raise ValueError(
                        f'dataset {name}: the splits {train.split!r} and {evaluation.split!r} differ in classes'
                    )
                sizes.append(own.num_records)
                specs.append(
                    DatasetSpec(
                        name=name,
                        classes=tuple(own.classes),
                        multi_label=own.multi_label and not own.localises,
                        views=tested.views,
                        evaluation_records=tested.num_records,
                        localisation=own.localises,
                        train_counts=tuple(own.class_counts or ()),
                        action_ids=own.action_ids,
                    )
                )
            self._train_sources.append(train)
            self._evaluation_sources.append(evaluation)
        self.datasets: tuple[DatasetSpec, ...] = tuple(specs)
        self._schedule = _schedule(config)
        samples = training_order.make_order(  # Refuses now what would not fit later.
            sizes,
            self._schedule,
            batch_size=config.batch_size,
            repeats=config.input.repeats,
            num_hosts=num_hosts,
        )
        self.samples_per_epoch = samples.samples_per_epoch
        self.clips_per_step = training_order.clips_per_step(
            sizes, self._schedule, batch_size=config.batch_size
        )

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        config = self._config
        options = dict(
            **_clip_size(config),
            batch_size=config.batch_size,
            short_side=config.input.short_side,
            repeats=config.input.repeats,
            seed=config.seed,
            start_step=start_step,
            num_steps=num_steps,
            host=self._host,
            num_hosts=self._num_hosts,
            max_bad_records=config.input.max_bad_records,
            schedule=self._schedule,
        )
        if config.input.tf_data_service is not None:
            from data_pipelines import service  # It needs TensorFlow.

            return service.ServiceBatches(
                config.input.tf_data_service, self._train_sources, **options
            )
        return pipeline.train_batches(
            self._train_sources, **options, num_threads=config.input.num_threads
        )

    def evaluation_batches(self, dataset: int) -> Iterator[Batch]:
        config = self._config
        return pipeline.evaluation_batches(
            self._evaluation_sources[dataset],
            **_clip_size(config),
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
        input_config: InputOptions,
        localisation: LocalisationConfig | None = None,
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
            localisation: which boxes to test, for heads that localise.
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
        self._sources: dict[int, base.Source] = {}
        self._numbers: dict[int, np.ndarray] = {}  # class of the data -> class of the head
        specs = []
        root = files.expand_home(data_root)
        for head, spec in enumerate(heads):
            entry = data.get(spec.name)
            if entry is None:
                specs.append(dataclasses.replace(spec, evaluation_records=0))
                continue
            self._sources[head] = _source(
                root, spec.name, entry, entry.evaluation_split, localisation
            )
            with _open(
                f'dataset {spec.name}', self._sources[head], base.TestSpec(**self._reading)
            ) as tested:
                self._numbers[head] = _class_numbers(tested, spec)
                specs.append(
                    dataclasses.replace(
                        spec, views=tested.views, evaluation_records=tested.num_records
                    )
                )
        self.datasets: tuple[DatasetSpec, ...] = tuple(specs)

    def evaluation_batches(self, dataset: int) -> Iterator[Batch]:
        numbers, classes = self._numbers[dataset], len(self.datasets[dataset].classes)
        batches = pipeline.evaluation_batches(
            self._sources[dataset], **self._reading, **self._batching, dataset=dataset
        )
        with contextlib.closing(batches):
            for batch in batches:
                name = 'truth_label' if self.datasets[dataset].localisation else 'label'
                label = batch[name]
                if label.ndim == 1:
                    renumbered = numbers[label].astype(label.dtype)
                else:
                    renumbered = np.zeros((*label.shape[:-1], classes), label.dtype)
                    renumbered[..., numbers] = label
                yield {**batch, name: renumbered}


def _class_numbers(dataset: base.ClipDataset, head: DatasetSpec) -> np.ndarray:
    """i64: the head's number of every class of the data."""
    where = f'dataset {head.name} ({dataset.source.path})'
    if dataset.localises != head.localisation:
        kinds = {True: 'boxes with actions', False: 'labels of whole videos'}
        remedy = (
            '; with task="classification" its actions are such labels' if dataset.localises else ''
        )
        raise ValueError(
            f'{where}: has {kinds[dataset.localises]}, the head of that name was trained on '
            f'{kinds[head.localisation]}{remedy}'
        )
    if not dataset.localises and dataset.multi_label != head.multi_label:
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


def _source(
    root: str, name: str, entry: DatasetConfig, split: str, localisation: LocalisationConfig | None
) -> base.Source:
    return base.Source(
        path=open.dataset_path(root, entry.path),
        name=name,
        split=split,
        sampling=entry.sampling,
        stride=entry.stride,
        target_frame_rate=entry.target_frame_rate,
        flip=entry.flip,
        task=entry.task,
        boxes=_box_options(localisation),
    )


def _box_options(localisation: LocalisationConfig | None) -> boxes.BoxOptions:
    if localisation is None:
        return boxes.BoxOptions()
    fields = (field.name for field in dataclasses.fields(boxes.BoxOptions))
    return boxes.BoxOptions(**{name: getattr(localisation, name) for name in fields})


def _schedule(config: Config) -> training_order.ScheduleOptions | None:
    schedule, names = config.schedule, list(config.datasets)
    if schedule.kind == 'concatenate':
        return None
    return training_order.ScheduleOptions(
        kind=schedule.kind,
        batch_sizes=tuple(config.batch_sizes[name] for name in names),
        by=schedule.by,
        weights=None
        if schedule.weights is None
        else tuple(schedule.weights[name] for name in names),
        size_power=schedule.size_power,
        order=None
        if schedule.order is None
        else tuple(names.index(name) for name in schedule.order),
        epochs=config.epochs,
    )


def _prepare(root: str, synthetic: SyntheticConfig) -> None:
    prepare.prepare_synthetic(
        root,
        train_videos=synthetic.train_videos,
        validation_videos=synthetic.validation_videos,
        seed=synthetic.seed,
    )
    if synthetic.scene_train_videos:
        prepare.prepare_scenes(
            root,
            train_videos=synthetic.scene_train_videos,
            validation_videos=synthetic.scene_validation_videos,
            seed=synthetic.seed,
        )


def _clip_size(config: Config) -> dict[str, Any]:
    backbone = config.model.backbone
    return {
        'num_frames': backbone.num_frames,
        'crop_size': backbone.image_size,
        'reduced': config.input.reduced_decoding,
    }


@contextlib.contextmanager
def open_split(config: Config, name: str, *, training: bool) -> Iterator[base.ClipDataset]:
    """The training or the evaluation split of one dataset, as a run reads it.

    Raises:
        ValueError: it is missing, or does not hold what the config expects.
    """
    entry = config.datasets[name]
    source = _source(
        files.expand_home(config.data_root),
        name,
        entry,
        entry.train_split if training else entry.evaluation_split,
        config.localisation,
    )
    spec = (
        base.TrainingSpec(**_clip_size(config), short_side=config.input.short_side)
        if training
        else base.TestSpec(**_clip_size(config), **_views(config.evaluation))
    )
    with _open(
        f'dataset {name} (config.datasets.{name}.path, under config.data_root)', source, spec
    ) as dataset:
        yield dataset


def _views(evaluation: EvaluationConfig) -> dict[str, Any]:
    return {
        'short_side': evaluation.short_side,
        'temporal_views': evaluation.temporal_views,
        'spatial_views': evaluation.spatial_views,
    }


@contextlib.contextmanager
def _open(where: str, source: base.Source, spec) -> Iterator[base.ClipDataset]:
    try:
        dataset = open.open_dataset(source, spec)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error
    try:
        if not dataset.num_records:
            raise ValueError(
                f'{where}: {source.path} has no record in the split {source.split!r}; convert its videos again'
            )
        yield dataset
    finally:
        dataset.close()


def read_classes(directory: str) -> tuple[str, ...]:
    """Class names of a directory of records.

    Raises:
        ValueError: there are none.
    """
    return dataset_info.load_dataset_info(directory).classes
