"""The smallest experiment, its batches in memory and its records on disk, shared by the tests."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines.datasets import dataset_info
from multitrain_jax import config as configs
from multitrain_jax import train
from multitrain_jax.batch import Batch, DatasetSpec
from multitrain_jax.models.multitrain import MultiTrainModel, abstract_model
from tests.helpers import tiny_config, tiny_records

CONFIG_FILE = pathlib.Path(tiny_config.__file__)
CLASSES = {
    'colours': ('red', 'green', 'blue'),
    'shades': ('black', 'dark', 'grey', 'light', 'white'),
}
RECORDS = {'train': 20, 'validation': 7}  # of each dataset


@pytest.fixture(scope='module', autouse=True)
def quick_compile() -> Iterator[None]:
    """Import it into a module of tests: its programs compile in half the time."""
    before = jax.config.read('jax_disable_most_optimizations')
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', before)


def config(**changes: Any) -> configs.Config:
    """The tiny config with changes, __ for the dot: config(augment__mixup_alpha=0.0)."""
    values = tiny_config.get_config()
    for name, value in changes.items():
        *groups, field = name.split('__')
        group = values
        for part in groups:
            group = group[part]
        with group.ignore_type():
            group[field] = value
    return configs.read_config(values)


def model(config: configs.Config, datasets: Sequence[DatasetSpec], seed: int) -> MultiTrainModel:
    """The config's model with random parameters."""
    key = jax.random.key(seed)
    return MultiTrainModel(configs.with_datasets(config, datasets), rngs=nnx.Rngs(key))


def abstract(config: configs.Config, datasets: Sequence[DatasetSpec]):
    """(graph definition, parameters as shapes) of the config's model."""
    return abstract_model(configs.with_datasets(config, datasets))


class ArraySource:
    """A `BatchSource` of noise: batch number n is a function of n alone."""

    def __init__(
        self,
        config: configs.Config,
        *,
        multi_label: Mapping[str, bool] | None = None,
        evaluation_records: int = 7,
        views: int = 2,
        steps_per_epoch: int = 2,
    ):
        self._config = config
        self.datasets = tuple(
            DatasetSpec(
                name, classes, (multi_label or {}).get(name, False), views, evaluation_records
            )
            for name, classes in CLASSES.items()
        )
        self.samples_per_epoch = steps_per_epoch * config.batch_size

    def clip(self, *seed: int) -> np.ndarray:
        """u8[T, H, W, 3] of noise."""
        backbone = self._config.model.backbone
        shape = (backbone.num_frames, backbone.image_size, backbone.image_size, 3)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    def _label(self, dataset: int, number: int) -> int:
        return number % len(self.datasets[dataset].classes)

    def multi_hot(self, dataset: int, number: int, width: int) -> np.ndarray:
        """One class, and a second one for every other number."""
        row = np.zeros(width, np.float32)
        row[self._label(dataset, number)] = 1
        if self.datasets[dataset].multi_label and number % 2:
            row[self._label(dataset, number + 1)] = 1
        return row

    def batch(self, step: int) -> Batch:
        """The training batch of a step."""
        rng = np.random.default_rng([1, step])
        size = self._config.batch_size
        dataset = rng.integers(0, len(self.datasets), size, dtype=np.int32)
        numbers = rng.integers(0, 100, size)
        if any(spec.multi_label for spec in self.datasets):
            width = max(len(spec.classes) for spec in self.datasets)
            label = np.stack([self.multi_hot(d, n, width) for d, n in zip(dataset, numbers)])
        else:
            label = np.array([self._label(d, n) for d, n in zip(dataset, numbers)], np.int32)
        return {
            'video': np.stack([self.clip(2, step, row) for row in range(size)]),
            'dataset': dataset,
            'label': label,
            'weight': np.ones(size, np.float32),
        }

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[Batch]:
        for step in range(start_step, start_step + num_steps):
            yield self.batch(step)

    def evaluation_batches(self, dataset: int) -> Iterator[Batch]:
        """All views of record 0, then of record 1, ...; padding fills the last batch up."""
        spec, size = self.datasets[dataset], self._config.evaluation.batch_size
        rows = [
            (record, view)
            for record in range(spec.evaluation_records)
            for view in range(spec.views)
        ]
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            padding = size - len(part)
            video = [self.clip(3, dataset, record, view) for record, view in part]
            if spec.multi_label:
                label = [self.multi_hot(dataset, record, len(spec.classes)) for record, _ in part]
            else:
                label = [self._label(dataset, record) for record, _ in part]
            # The padding looks like record 0, so that counting it would be noticed.
            yield {
                'video': np.stack(video + video[:1] * padding),
                'dataset': np.full(size, dataset, np.int32),
                'label': np.stack(label + label[:1] * padding).astype(
                    np.float32 if spec.multi_label else np.int32
                ),
                'weight': np.array([1] * len(part) + [0] * padding, np.float32),
                'record': np.array([record for record, _ in part] + [-1] * padding, np.int32),
                'view': np.array([view for _, view in part] + [0] * padding, np.int32),
            }


def keep_gradients() -> optax.GradientTransformation:
    """Passes gradients on and keeps the last ones as its state, so that tests can compare them."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda grads, state, params=None: (grads, grads),
    )


def write_datasets(root: pathlib.Path) -> pathlib.Path:
    """The records that the tiny config names; the mean colour of a video tells its class."""
    for name, classes in CLASSES.items():
        splits = {}
        for split, count in RECORDS.items():
            labels = np.arange(count) % len(classes)
            clips = [[_frame(name, label, frame, split) for frame in range(6)] for label in labels]
            tiny_records.write_records(
                root / name, clips, labels[:, None].tolist(), num_classes=len(classes), split=split
            )
            info = dataset_info.load_dataset_info(root / name)
            splits |= info.splits
        dataset_info.save_dataset_info(
            root / name, dataclasses.replace(info, classes=classes, splits=splits)
        )
    return root


def _frame(dataset: str, label: int, frame: int, split: str) -> bytes:
    colour = np.full(3, 30 + 3 * frame + (2 if split == 'train' else 0))
    if dataset == 'colours':
        colour[label] += 150
    else:
        colour += 40 * label
    return tiny_records.jpeg(np.broadcast_to(colour.astype(np.uint8), (20, 28, 3)))


def finish_run(workdir: pathlib.Path) -> tuple[configs.Config, ArraySource]:
    """A short run on batches in memory, on one device."""
    settings = config(checkpoint__keep=3)
    source = ArraySource(settings, steps_per_epoch=2)
    train.train_and_evaluate(settings, workdir, source=source, devices=jax.devices()[:1])
    return settings, source
