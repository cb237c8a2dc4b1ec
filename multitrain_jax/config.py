"""The experiment: a ConfigDict, read once into these frozen dataclasses and never written again.

Each group of fields belongs to the part of the code that reads it; `configs/` comments every field.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from multitrain_jax import dataclass_config
from multitrain_jax.augment.pipeline import AugmentConfig
from multitrain_jax.errors import UserError
from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.objectives.total import ObjectiveConfig
from multitrain_jax.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """One dataset: where it is, how clips are taken from its videos, what it weighs."""

    path: str  # directory with dataset.json, relative to `data_root`; 'tfds:NAME'; or 'dmvr:MODULE:FUNCTION'
    sampling: Literal['strided', 'uniform', 'key_frame']  # part of the video at a fixed step, all of it, around a key frame
    stride: int  # 'strided' and 'key_frame': step between frames, counted at `target_frame_rate`
    target_frame_rate: float | None  # frames per second that `stride` counts in; None: stored frames
    flip: bool  # mirror half of the training clips; False where left and right matter
    loss_weight: float = 1.0  # factor of the dataset's classification and projection losses
    train_split: str = 'train'
    evaluation_split: str = 'validation'


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """How the host makes training batches."""

    short_side: tuple[int, int]  # pixels; resized to a random short side in this range, then cropped
    repeats: int = 1  # repeated augmentation: samples of each record in its batch
    num_threads: int | None = None  # reading and decoding; None: one per core
    max_bad_records: int = 100  # damaged records to skip before the run stops
    reduced_decoding: bool = False  # decode at half size where that suffices: faster, slightly other pixels
    tf_data_service: str | None = None  # HOST:PORT of a tf.data service that makes training batches; None: this host does

    def __post_init__(self):
        if not 0 < self.short_side[0] <= self.short_side[1]:
            raise ValueError(f'short_side={self.short_side} must be (smallest, largest) in pixels')
        if self.repeats < 1:
            raise ValueError(f'repeats={self.repeats} must be at least 1')


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The test protocol."""

    every_epochs: float  # 0: only at the end
    batch_size: int  # views per batch, over all devices of all hosts
    short_side: int  # pixels; resized to it, then cropped
    temporal_views: int  # clips evenly spaced over the video ('uniform' datasets have one)
    spatial_views: Literal[1, 3]  # centre, or left/centre/right (top/centre/bottom)

    def __post_init__(self):
        if self.every_epochs < 0:
            raise ValueError(f'every_epochs={self.every_epochs} must not be negative')
        if self.batch_size < 1 or self.temporal_views < 1:
            raise ValueError(f'batch_size={self.batch_size} and temporal_views={self.temporal_views} must be positive')


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and how many to keep."""

    every_steps: int
    keep: int

    def __post_init__(self):
        if self.every_steps < 1 or self.keep < 1:
            raise ValueError(f'every_steps={self.every_steps} and keep={self.keep} must be positive')


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """Synthetic videos to be rendered and converted under `data_root` when they are not there yet."""

    train_videos: int  # of each dataset
    validation_videos: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    seed: int
    data_root: str
    datasets: Mapping[str, DatasetConfig]  # the heads are in the order of the sorted names
    epochs: float  # passes over the union of the training splits
    batch_size: int  # clips per update, over all devices of all hosts
    accumulation_steps: int  # parts that a batch is cut into, one after the other
    model: MultiTrainConfig
    input: InputConfig
    augment: AugmentConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    log_every_steps: int
    # Fields that came later have a default, so that checkpoints of earlier configs can be read.
    init_from: str | None = None  # export, import or workdir whose parameters the run starts from; None: random ones
    accumulation: Literal['plain', 'two_pass'] = 'plain'  # two_pass: the informative loss sees the whole batch
    cpu_devices: int | None = None  # run.py splits a CPU into so many devices; None: one. No effect on accelerators
    projections_from: str | None = None  # file whose matrices the projections start from, see projection_files
    compilation_cache_dir: str | None = None  # keeps compiled programs between runs; None: off
    synthetic: SyntheticConfig | None = None

    def __post_init__(self):
        if not self.epochs > 0:
            raise ValueError(f'epochs={self.epochs} must be positive')
        for field in ('batch_size', 'accumulation_steps', 'log_every_steps', 'cpu_devices'):
            if getattr(self, field) is not None and getattr(self, field) < 1:
                raise ValueError(f'{field}={getattr(self, field)} must be at least 1')
        self._check_objective()
        if self.batch_size % self.input.repeats:
            raise ValueError(
                f'batch_size={self.batch_size} must be a multiple of input.repeats={self.input.repeats}, '
                'so that all samples of a record lie in one batch'
            )
        if self.input.short_side[0] < self.model.backbone.image_size:
            raise ValueError(
                f'input.short_side={self.input.short_side} must not be below model.backbone.image_size='
                f'{self.model.backbone.image_size}: crops would not fit'
            )
        if self.evaluation.short_side < self.model.backbone.image_size:
            raise ValueError(
                f'evaluation.short_side={self.evaluation.short_side} must not be below '
                f'model.backbone.image_size={self.model.backbone.image_size}: crops would not fit'
            )

    def _check_objective(self) -> None:
        for field, needs in (
            ('lambda_proj', 'projections'), ('projection_l1', 'projections'), ('lambda_inf', 'expander'),
        ):  # fmt: skip
            weight = getattr(self.objective, field)
            if weight > 0 and not getattr(self.model, needs):
                raise ValueError(f'objective.{field}={weight:g} needs model.{needs}=True; set one of them to match')
        if self.projections_from is not None and not (self.model.projections and len(self.datasets) > 1):
            raise ValueError(
                f'projections_from={self.projections_from!r} needs model.projections=True and several datasets'
            )


def read_config(values: Mapping[str, Any]) -> Config:
    """Reads a ConfigDict (or nested dict).

    The numbers of classes are not part of it: they come from the data, see `with_classes`.

    Raises:
        UserError: an unknown or missing field, or a value that does not fit.
    """
    values = values.to_dict() if hasattr(values, 'to_dict') else dict(values)
    names = sorted(values.get('datasets') or {})
    if not names:
        raise UserError('config.datasets is empty; name at least one')
    model = dict(values.get('model') or {})
    if 'num_classes' in model:
        raise UserError('config.model.num_classes: unknown field; the numbers of classes come from dataset.json')
    values['model'] = {**model, 'num_classes': (2,) * len(names)}
    values['datasets'] = {name: values['datasets'][name] for name in names}
    return dataclass_config.build(Config, values)


def with_classes(model: MultiTrainConfig, num_classes: tuple[int, ...]) -> MultiTrainConfig:
    """The model for datasets of these numbers of classes."""
    return dataclasses.replace(model, num_classes=num_classes)
