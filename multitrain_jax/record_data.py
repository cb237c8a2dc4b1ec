"""Batches from the datasets on disk: the one place where training meets `data_pipelines`."""

from collections.abc import Iterator
import contextlib
from typing import Any

from data_pipelines import clips, files, pipeline, prepare

from multitrain_jax.batch import Batch, DatasetSpec
from multitrain_jax.config import Config


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
            train, evaluation = (
                clips.Source(
                    path=clips.dataset_path(root, entry.path), name=name, split=split, sampling=entry.sampling,
                    stride=entry.stride, target_frame_rate=entry.target_frame_rate, flip=entry.flip,
                )
                for split in (entry.train_split, entry.evaluation_split)
            )  # fmt: skip
            with (
                self._open(name, train, clips.TrainingSpec(**self._clip_size(), short_side=config.input.short_side)) as own,
                self._open(name, evaluation, clips.TestSpec(**self._clip_size(), **self._views())) as tested,
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

    def _views(self) -> dict[str, Any]:
        evaluation = self._config.evaluation
        return {
            'short_side': evaluation.short_side,
            'temporal_views': evaluation.temporal_views,
            'spatial_views': evaluation.spatial_views,
        }

    @contextlib.contextmanager
    def _open(self, name: str, source: clips.Source, spec) -> Iterator[clips.ClipDataset]:
        try:
            dataset = clips.open_dataset(source, spec)
        except ValueError as error:
            raise ValueError(
                f'dataset {name} (config.datasets.{name}.path, under config.data_root): {error}'
            ) from error
        try:
            yield dataset
        finally:
            dataset.close()

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        config = self._config
        return pipeline.train_batches(
            self._train_sources,
            **self._clip_size(),
            batch_size=config.batch_size,
            short_side=config.input.short_side,
            repeats=config.input.repeats,
            seed=config.seed,
            start_step=start_step,
            num_steps=num_steps,
            host=self._host,
            num_hosts=self._num_hosts,
            num_threads=config.input.num_threads,
            max_bad_records=config.input.max_bad_records,
        )

    def evaluation_batches(self, dataset: int) -> Iterator[Batch]:
        config = self._config
        return pipeline.evaluation_batches(
            self._evaluation_sources[dataset],
            **self._clip_size(),
            **self._views(),
            batch_size=config.evaluation.batch_size,
            dataset=dataset,
            host=self._host,
            num_hosts=self._num_hosts,
            num_threads=config.input.num_threads,
            max_bad_records=config.input.max_bad_records,
        )
