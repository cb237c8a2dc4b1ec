"""The experiment: a ConfigDict, read once into these frozen dataclasses and never written again.

Each group of fields belongs to the part of the code that reads it; `configs/` comments every field.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Literal

from multitrain_jax import batch, config_reading
from multitrain_jax.augment.pipeline import AugmentConfig
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.errors import UserError
from multitrain_jax.models.localisation_head import LocalisationHeadConfig
from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.objectives.objective import ObjectiveConfig
from multitrain_jax.optimizer import OptimizerConfig
from multitrain_jax.parallel.mesh import ParallelConfig


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """One dataset: where it is, how clips are taken from its videos, what it weighs."""

    path: str  # directory with dataset.json, relative to `data_root`; 'tfds:NAME'; or 'dmvr:MODULE:FUNCTION'
    sampling: Literal[
        'strided', 'uniform', 'key_frame'
    ]  # part of the video at a fixed step, all of it, around a key frame
    stride: int  # 'strided' and 'key_frame': step between frames, counted at `target_frame_rate`
    target_frame_rate: (
        float | None
    )  # frames per second that `stride` counts in; None: stored frames
    flip: bool  # mirror half of the training clips; False where left and right matter
    loss_weight: float = 1.0  # factor of the dataset's classification and projection losses
    train_split: str = 'train'
    evaluation_split: str = 'validation'
    task: Literal['auto', 'classification'] = (
        'auto'  # 'classification': a localisation dataset's clip-level actions
    )
    batch_size: int | None = (
        None  # where a batch is of one dataset, and 'accumulated'; None: config.batch_size
    )

    def __post_init__(self):
        for field in ('stride', 'batch_size'):
            if getattr(self, field) is not None and getattr(self, field) < 1:
                raise ValueError(f'{field}={getattr(self, field)} must be at least 1')
        if self.target_frame_rate is not None and not self.target_frame_rate > 0:
            raise ValueError(
                f'target_frame_rate={self.target_frame_rate} must be positive, or None: stored frames'
            )
        if not self.loss_weight >= 0:
            raise ValueError(f'loss_weight={self.loss_weight} must not be negative')


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """How the host makes training batches."""

    short_side: tuple[
        int, int
    ]  # pixels; resized to a random short side in this range, then cropped
    repeats: int = 1  # repeated augmentation: samples of each record in its batch
    num_threads: int | None = None  # reading and decoding; None: one per core
    max_bad_records: int = 100  # damaged records to skip before the run stops
    reduced_decoding: bool = (
        False  # decode at half size where that suffices: faster, slightly other pixels
    )
    tf_data_service: str | None = (
        None  # HOST:PORT of a tf.data service that makes training batches; None: this host does
    )

    def __post_init__(self):
        if not 0 < self.short_side[0] <= self.short_side[1]:
            raise ValueError(f'short_side={self.short_side} must be (smallest, largest) in pixels')
        if self.repeats < 1:
            raise ValueError(f'repeats={self.repeats} must be at least 1')
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(
                f'num_threads={self.num_threads} must be at least 1, or None: one per core'
            )
        if self.max_bad_records < 0:
            raise ValueError(f'max_bad_records={self.max_bad_records} must not be negative')


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
            raise ValueError(
                f'batch_size={self.batch_size} and temporal_views={self.temporal_views} must be positive'
            )


@dataclasses.dataclass(frozen=True)
class LocalisationConfig:
    """Datasets whose clips have boxes with actions on their key frame."""

    max_boxes: int  # places for boxes of a clip
    jitter: float = (
        0.0  # training: each side moves by a normal deviate of so many times the box's extent
    )
    min_visible: float = (
        0.25  # training: a box of which a smaller part is left after the crop is dropped
    )
    train_on_proposals: bool = (
        False  # a detector's boxes that overlap a labelled one are further labelled ones
    )
    proposal_iou: float = 0.75  # from this overlap on
    candidates: Literal['proposals', 'ground_truth'] = (
        'proposals'  # the boxes that are scored in evaluation
    )
    min_candidate_score: float = 0.8  # of the detector
    test_short_sides: tuple[
        int, ...
    ] = ()  # pixels; each is a further view of the clip; (): evaluation.short_side
    test_flip: bool = False  # each view mirrored, too
    head: LocalisationHeadConfig = LocalisationHeadConfig()

    def __post_init__(self):
        if self.max_boxes < 1 or min(self.test_short_sides, default=1) < 1:
            raise ValueError(
                f'max_boxes={self.max_boxes} and test_short_sides={self.test_short_sides} must be positive'
            )
        if not self.jitter >= 0:
            raise ValueError(f'jitter={self.jitter} must not be negative')
        for field in ('min_visible', 'proposal_iou', 'min_candidate_score'):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f'{field}={getattr(self, field)} must be between 0 and 1')


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """How mini-batches are made of several datasets (co-finetuning, arXiv 2207.03807, section 3).

    concatenate   clips of the union, in proportion to size
    weighted      drawn with given probabilities: every clip, or the dataset of each batch
    alternating   batches of one dataset each, in turn
    uniform       batches of one dataset each, drawn with equal probabilities
    accumulated   each update has a batch of every dataset; their gradients are summed
    task_by_task  one dataset after the other: transfer learning
    """

    kind: Literal[
        'concatenate', 'weighted', 'alternating', 'uniform', 'accumulated', 'task_by_task'
    ] = 'concatenate'
    by: Literal['example', 'batch'] = 'example'  # 'weighted': what is drawn
    weights: Mapping[str, float] | None = None  # 'weighted': by name; None: size ** size_power
    size_power: float = 1.0
    order: tuple[str, ...] | None = None  # 'task_by_task': names; None: as in config.datasets

    def __post_init__(self):
        if self.kind != 'weighted' and (self.weights is not None or self.size_power != 1.0):
            raise ValueError(f'weights and size_power need kind="weighted", which is {self.kind!r}')
        if self.weights is not None and self.size_power != 1.0:
            raise ValueError(
                f'weights and size_power={self.size_power:g} are both given: leave one of them out'
            )
        if self.kind != 'task_by_task' and self.order is not None:
            raise ValueError(
                f'order={self.order} needs kind="task_by_task", which is {self.kind!r}'
            )

    @property
    def by_dataset(self) -> bool:
        """Whether every dataset has a batch size of its own."""
        return self.kind != 'concatenate' and not (self.kind == 'weighted' and self.by == 'example')


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and how many to keep."""

    every_steps: int
    keep: int  # newest ones
    keep_best: str | None = (
        None  # 'average' or a dataset: WORKDIR/best keeps the best one of the evaluations; None: off
    )

    def __post_init__(self):
        if self.every_steps < 1 or self.keep < 1:
            raise ValueError(
                f'every_steps={self.every_steps} and keep={self.keep} must be positive'
            )


@dataclasses.dataclass(frozen=True)
class NonFiniteConfig:
    """What becomes of a step whose loss or gradient is not finite. It never changes the model."""

    action: Literal['stop', 'skip'] = (
        'stop'  # the run stops; 'skip': it goes on with the next batch
    )
    max_skips: int = 10  # 'skip': in the whole run; one more, and the run stops

    def __post_init__(self):
        if self.max_skips < 1:
            raise ValueError(
                f'max_skips={self.max_skips} must be at least 1; to stop at once: action="stop"'
            )

    @property
    def most(self) -> int:
        """Steps that may be passed over."""
        return self.max_skips if self.action == 'skip' else 0


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """Synthetic videos to be rendered and converted under `data_root` when they are not there yet."""

    train_videos: int  # of each classification dataset
    validation_videos: int
    seed: int
    scene_train_videos: int = 0  # of "scenes", which has boxes; 0: not made
    scene_validation_videos: int = 0

    def __post_init__(self):
        if self.train_videos < 1 or self.validation_videos < 1:
            raise ValueError(
                f'train_videos={self.train_videos} and validation_videos={self.validation_videos} must be positive'
            )
        if self.seed < 0:
            raise ValueError(f'seed={self.seed} must not be negative')
        if (self.scene_train_videos > 0) != (self.scene_validation_videos > 0):
            raise ValueError(
                f'scene_train_videos={self.scene_train_videos} and scene_validation_videos={self.scene_validation_videos}: '
                'give both, or neither'
            )


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
    init_from: str | None = (
        None  # export, import or workdir whose parameters the run starts from; None: random ones
    )
    accumulation: Literal['plain', 'two_pass'] = (
        'plain'  # two_pass: the informative loss sees the whole batch
    )
    cpu_devices: int | None = (
        None  # run.py splits a CPU into so many devices; None: one. No effect on accelerators
    )
    projections_from: str | None = (
        None  # file whose matrices the projections start from, see projection_files
    )
    compilation_cache_dir: str | None = None  # keeps compiled programs between runs; None: off
    synthetic: SyntheticConfig | None = None
    localisation: LocalisationConfig | None = None  # needed where a dataset has boxes
    schedule: ScheduleConfig = ScheduleConfig()
    non_finite: NonFiniteConfig = NonFiniteConfig()
    replay: str | None = (
        None  # file of WORKDIR/non_finite: run.py takes its step again, see `replay`; None: it trains
    )
    parallel: ParallelConfig = ParallelConfig()

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Clips of each dataset in a batch of its own, by name."""
        return {name: entry.batch_size or self.batch_size for name, entry in self.datasets.items()}

    def __post_init__(self):
        if not self.epochs > 0:
            raise ValueError(f'epochs={self.epochs} must be positive')
        if not 0 <= self.seed < 2**32:
            raise ValueError(f'seed={self.seed} must be from 0 to 2**32 - 1')
        for field in ('batch_size', 'accumulation_steps', 'log_every_steps', 'cpu_devices'):
            if getattr(self, field) is not None and getattr(self, field) < 1:
                raise ValueError(f'{field}={getattr(self, field)} must be at least 1')
        self._check_objective()
        self._check_schedule()
        if self.checkpoint.keep_best not in (None, 'average', *self.datasets):
            raise ValueError(
                f'checkpoint.keep_best={self.checkpoint.keep_best!r} must be None, average, or one of the datasets '
                f'{", ".join(self.datasets)}'
            )
        for size in {self.batch_size, *self.batch_sizes.values()}:
            if size % self.input.repeats:
                raise ValueError(
                    f'batch_size={size} must be a multiple of input.repeats={self.input.repeats}, '
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
        if self.localisation is not None:
            self.localisation.head.check_width(self.model.backbone.embedding_width)
            smallest = min(self.localisation.test_short_sides, default=self.evaluation.short_side)
            if smallest < self.model.backbone.image_size:
                raise ValueError(
                    f'localisation.test_short_sides={self.localisation.test_short_sides} must not be below '
                    f'model.backbone.image_size={self.model.backbone.image_size}: crops would not fit'
                )

    def _check_schedule(self) -> None:
        schedule = self.schedule
        for field in ('weights', 'order'):
            names = getattr(schedule, field)
            if names is not None and sorted(names) != sorted(self.datasets):
                raise ValueError(
                    f'schedule.{field} names {", ".join(names)}: must name each of the datasets {", ".join(self.datasets)} once'
                )
        own = [name for name, entry in self.datasets.items() if entry.batch_size is not None]
        if own and not schedule.by_dataset:
            raise ValueError(
                f'datasets.{own[0]}.batch_size={self.batch_sizes[own[0]]} has no effect where batches are of several datasets '
                f'(schedule.kind={schedule.kind!r}, by={schedule.by!r}); leave it None, or choose another schedule'
            )

    def _check_objective(self) -> None:
        for field, needs in (
            ('lambda_proj', 'projections'),
            ('projection_l1', 'projections'),
            ('lambda_inf', 'expander'),
        ):
            weight = getattr(self.objective, field)
            if weight > 0 and not getattr(self.model, needs):
                raise ValueError(
                    f'objective.{field}={weight:g} needs model.{needs}=True; set one of them to match'
                )
        if self.projections_from is not None and not (
            self.model.projections and len(self.datasets) > 1
        ):
            raise ValueError(
                f'projections_from={self.projections_from!r} needs model.projections=True and several datasets'
            )


_MODEL_FIELDS_FROM_ELSEWHERE = {
    'num_classes': 'the numbers of classes come from dataset.json',
    'num_actions': 'the numbers of actions come from dataset.json',
    'localisation_head': 'it is config.localisation.head',
}


def read_stored_config(values: Mapping[str, Any]) -> Config:
    """Reads what `dataclass_config.to_dict` made of a Config."""
    model = {
        name: value
        for name, value in values['model'].items()
        if name not in _MODEL_FIELDS_FROM_ELSEWHERE
    }
    return read_config({**values, 'model': model})


def read_config(values: Mapping[str, Any]) -> Config:
    """Reads a ConfigDict (or nested dict).

    The numbers of classes are not part of it: they come from the data, see `with_datasets`.

    Raises:
        UserError: an unknown or missing field, or a value that does not fit.
    """
    values = values.to_dict() if hasattr(values, 'to_dict') else dict(values)
    for group in ('datasets', 'model'):
        if not isinstance(values.get(group) or {}, Mapping):
            raise UserError(f'config.{group}={values[group]!r}: must be a group of fields')
    names = sorted(values.get('datasets') or {})
    if not names:
        raise UserError('config.datasets is empty; name at least one')
    model = dict(values.get('model') or {})
    for field, origin in _MODEL_FIELDS_FROM_ELSEWHERE.items():
        if field in model:
            raise UserError(f'config.model.{field}: unknown field; {origin}')
    values['model'] = {**model, 'num_classes': (2,) * len(names)}
    values['datasets'] = {name: values['datasets'][name] for name in names}
    return config_reading.build(Config, values)


def with_datasets(config: Config, datasets: Sequence[DatasetSpec]) -> MultiTrainConfig:
    """The model's architecture for the datasets' numbers of classes and actions.

    Raises:
        UserError: a dataset has boxes, and the config does not say how they are used.
    """
    localising = batch.localising(datasets)
    if localising and config.localisation is None:
        raise UserError(
            f'dataset {localising[0].name} has boxes with actions: config.localisation must say how they are used; '
            f'or set config.datasets.{localising[0].name}.task="classification"'
        )
    return dataclasses.replace(
        config.model,
        num_classes=tuple(len(spec.classes) for spec in batch.classifying(datasets)),
        num_actions=tuple(len(spec.classes) for spec in localising) or None,
        localisation_head=config.localisation.head if localising else None,
    )
