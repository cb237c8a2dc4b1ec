"""Batches from the records on disk: the one place where training meets `data_pipelines`."""

from collections.abc import Iterator
from pathlib import Path

from data_pipelines import clips, dataset_info, pipeline, prepare

from multitrain_jax.batch import Batch, DatasetSpec
from multitrain_jax.config import Config


class RecordData:
    """A `BatchSource` over the shards that the config names, read by this host's share."""

    def __init__(self, config: Config, *, host: int = 0, num_hosts: int = 1):
        """Opens all datasets; renders and converts the synthetic ones first if the config asks for them.

        Raises:
            ValueError: a dataset is missing, or does not hold what the config expects.
        """
        self._config, self._host, self._num_hosts = config, host, num_hosts
        root = Path(config.data_root).expanduser()
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
            directory = root / entry.path
            try:
                info = dataset_info.load_dataset_info(directory)
            except ValueError as error:
                raise ValueError(
                    f'dataset {name} (config.datasets.{name}.path, under config.data_root): {error}'
                ) from error
            for split in (entry.train_split, entry.evaluation_split):
                if split not in info.splits:
                    raise ValueError(
                        f'dataset {name}: {directory} has no split {split!r}, only {", ".join(sorted(info.splits))}'
                    )

            def source(split: str) -> clips.Source:
                return clips.Source(
                    directory=str(directory), name=name, split=split, sampling=entry.sampling,
                    stride=entry.stride, target_frame_rate=entry.target_frame_rate, flip=entry.flip,
                )  # fmt: skip

            self._train_sources.append(source(entry.train_split))
            self._evaluation_sources.append(source(entry.evaluation_split))
            samples += info.splits[entry.train_split].records * config.input.repeats
            specs.append(
                DatasetSpec(
                    name=name,
                    classes=info.classes,
                    multi_label=info.multi_label,
                    views=pipeline.views_per_record(
                        self._evaluation_sources[-1], config.evaluation.temporal_views, config.evaluation.spatial_views
                    ),
                    evaluation_records=info.splits[entry.evaluation_split].records,
                )
            )
        self.datasets: tuple[DatasetSpec, ...] = tuple(specs)
        self.samples_per_epoch = samples

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        config = self._config
        return pipeline.train_batches(
            self._train_sources,
            batch_size=config.batch_size,
            num_frames=config.model.backbone.num_frames,
            crop_size=config.model.backbone.image_size,
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
            batch_size=config.evaluation.batch_size,
            num_frames=config.model.backbone.num_frames,
            crop_size=config.model.backbone.image_size,
            short_side=config.evaluation.short_side,
            temporal_views=config.evaluation.temporal_views,
            spatial_views=config.evaluation.spatial_views,
            dataset=dataset,
            host=self._host,
            num_hosts=self._num_hosts,
            num_threads=config.input.num_threads,
            max_bad_records=config.input.max_bad_records,
        )
