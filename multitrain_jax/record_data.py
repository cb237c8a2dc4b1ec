"""Batches from the datasets on disk: the one place where training meets `data_pipelines`."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses

import numpy as np

from data_pipelines import files, pipeline
from data_pipelines.datasets import base, dataset_info, open
from data_pipelines.options import (
    BoxOptions,
    ClipSize,
    DatasetOptions,
    InputOptions,
    OrderOptions,
    Source,
    ViewOptions,
)
from data_pipelines.order import schedules
from data_pipelines.settings import narrowed
from data_pipelines.synthetic import prepare
from multitrain_jax.batch import Batch, DatasetSpec
from multitrain_jax.config import Config, DatasetConfig, LocalisationConfig, SyntheticConfig
from multitrain_jax.parallel.hosts import barrier


class RecordData:
    """A `BatchSource` over the datasets that the config names, read by this host's share."""

    def __init__(self, config: Config, *, host: int = 0, num_hosts: int = 1):
        """Opens all datasets; makes the synthetic ones first if the config asks for them.

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
                        f'dataset {name}: the splits {train.split!r} and {evaluation.split!r} '
                        'differ in classes'
                    )
                if train.balance is not None:
                    own.labels()  # Refuses now what does not tell them.
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
        self._order = narrowed(config, OrderOptions)
        samples = schedules.make_order(  # Refuses now what would not fit later.
            self._train_sources,
            sizes,
            self._order,
            repeats=config.input.repeats,
            num_hosts=num_hosts,
        )
        self.samples_per_epoch = samples.samples_per_epoch
        self.clips_per_step = schedules.clips_per_step(self._train_sources, sizes, self._order)

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        options = self._config.input
        if options.tf_data_service is None:
            make = pipeline.train_batches
        else:
            from data_pipelines.service_batches import (
                ServiceBatches as make,  # It needs TensorFlow.
            )
        return make(
            self._train_sources,
            clip_size(self._config),
            self._order,
            options,
            start_step=start_step,
            num_steps=num_steps,
            host=self._host,
            num_hosts=self._num_hosts,
        )

    def evaluation_batches(self, dataset: int) -> Iterator[Batch]:
        return pipeline.evaluation_batches(
            self._evaluation_sources[dataset],
            clip_size(self._config),
            self._config.evaluation,
            self._config.input,
            dataset=dataset,
            host=self._host,
            num_hosts=self._num_hosts,
        )


class EvaluationData:
    """The evaluation splits of datasets for a trained model, read by this host's share.

    Attributes:
        datasets: one for each head of the model, with the head's classes, which labels are numbered
            by; without evaluation records where no data was given.
    """

    def __init__(
        self,
        heads: Sequence[DatasetSpec],
        sources: Mapping[str, Source],
        size: ClipSize,
        evaluation: ViewOptions,
        input_options: InputOptions,
        *,
        host: int = 0,
        num_hosts: int = 1,
    ):
        """Opens the datasets.

        Args:
            heads: name and classes of each head.
            sources: the data by name of the head, from `evaluation_sources`; their classes must be
                among the head's, in whatever order.
            size: of a clip.
            evaluation: views and batches.
            input_options: how to read.
            host, num_hosts: whose share.

        Raises:
            ValueError: a dataset is missing, or has a class that its head does not have.
        """
        self._reading = size, evaluation, input_options
        self._hosts = {'host': host, 'num_hosts': num_hosts}
        self._sources: dict[int, Source] = {}
        self._numbers: dict[int, np.ndarray] = {}  # class of the data -> class of the head
        specs = []
        test_spec = base.TestSpec(size, evaluation, input_options.reduced_decoding)
        for head, spec in enumerate(heads):
            if spec.name not in sources:
                specs.append(dataclasses.replace(spec, evaluation_records=0))
                continue
            self._sources[head] = sources[spec.name]
            with _open(f'dataset {spec.name}', self._sources[head], test_spec) as tested:
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
            self._sources[dataset], *self._reading, dataset=dataset, **self._hosts
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
            f'{where}: has {kinds[dataset.multi_label]}, the head of that name was trained on '
            f'{kinds[head.multi_label]}'
        )
    strange = [name for name in dataset.classes if name not in head.classes]
    if strange:
        raise ValueError(
            f'{where}: class {strange[0]!r} is not one of the {len(head.classes)} classes of the '
            f'checkpoint ({len(strange)} of {len(dataset.classes)} are not); '
            'classes are matched by name'
        )
    return np.array([head.classes.index(name) for name in dataset.classes], np.int64)


def evaluation_sources(
    data: Mapping[str, DatasetConfig], data_root: str, localisation: LocalisationConfig | None
) -> dict[str, Source]:
    """The evaluation splits of these datasets, whose relative paths are under `data_root`."""
    root = files.expand_home(data_root)
    return {
        name: _source(root, name, entry, entry.evaluation_split, localisation)
        for name, entry in data.items()
    }


def _source(
    root: str, name: str, entry: DatasetConfig, split: str, localisation: LocalisationConfig | None
) -> Source:
    options, video_root = vars(narrowed(entry, DatasetOptions)), entry.video_root
    return Source(
        **{
            **options,
            'path': open.dataset_path(root, entry.path),
            'video_root': video_root and files.join(root, files.expand_home(video_root)),
        },
        name=name,
        split=split,
        boxes=narrowed(localisation, BoxOptions) if localisation else BoxOptions(),
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


def clip_size(config: Config) -> ClipSize:
    """Of the clips that the backbone takes."""
    return ClipSize(config.model.backbone.num_frames, config.model.backbone.image_size)


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
    size = clip_size(config)
    spec = base.TestSpec(size, config.evaluation, config.input.reduced_decoding)
    if training:
        spec = base.TrainingSpec(size, config.input)
    where = f'dataset {name} (config.datasets.{name}.path, under config.data_root)'
    with _open(where, source, spec) as dataset:
        yield dataset


@contextlib.contextmanager
def _open(where: str, source: Source, spec) -> Iterator[base.ClipDataset]:
    try:
        dataset = open.open_dataset(source, spec)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error
    try:
        if not dataset.num_records:
            raise ValueError(
                f'{where}: {source.path} has no record in the split {source.split!r}; '
                'convert its videos again'
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
