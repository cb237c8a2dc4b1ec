"""The experiment: a ConfigDict, read once into these frozen dataclasses and never written again.

Each group of fields belongs to the part of the code that reads it. `defaults` makes the ConfigDict
of them; a file of `configs/` changes what differs in its experiment.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Annotated, Any, Literal

import ml_collections

from data_pipelines.options import (
    CODE_PREFIX,
    BoxOptions,
    DatasetOptions,
    InputOptions,
    OrderOptions,
    ViewOptions,
    check_crops_fit,
    check_schedule,
)
from data_pipelines.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    settings,
)
from multitrain_jax import batch, config_reading
from multitrain_jax.augment.normalize import IMAGENET_MEAN, IMAGENET_STD
from multitrain_jax.augment.pipeline import AugmentConfig
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.config_reading import config_tree
from multitrain_jax.errors import UserError
from multitrain_jax.models.backbone import BackboneConfig
from multitrain_jax.models.localisation_head import LocalisationHeadConfig
from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.objectives.objective import ObjectiveConfig
from multitrain_jax.optimizer import OptimizerConfig
from multitrain_jax.parallel import compilation_cache
from multitrain_jax.parallel.mesh import ParallelConfig


@settings
class DatasetConfig(DatasetOptions):
    """One dataset: where it is, how clips are taken from its videos, what it weighs."""

    loss_weight: NonNegativeFloat = 1.0  # factor of its classification and projection losses
    train_split: str = 'train'  # of its records
    evaluation_split: str = 'validation'  # of its records


@settings
class EvaluationConfig(ViewOptions):
    """The test protocol."""

    every_epochs: NonNegativeFloat = 0.0  # 0: only at the end


@settings
class LocalisationConfig(BoxOptions):
    """Datasets whose clips have boxes with actions on their key frame."""

    head: LocalisationHeadConfig = LocalisationHeadConfig()


@settings
class CheckpointConfig:
    """When to save, and how many to keep."""

    every_steps: PositiveInt = 1000  # updates from one checkpoint to the next
    keep: PositiveInt = 3  # newest ones
    # 'average' or a dataset: WORKDIR/best keeps the best one of the evaluations; None: off
    keep_best: str | None = None


@settings
class NonFiniteConfig:
    """What becomes of a step whose loss or gradient is not finite. It never changes the model."""

    # the run stops, or goes on with the next batch
    action: Literal['stop', 'skip'] = 'stop'
    # 'skip': in the whole run; one more, and the run stops
    max_skips: Annotated[int, Range(ge=1, remedy='to stop at once: action="stop"')] = 10

    @property
    def most(self) -> int:
        """Steps that may be passed over."""
        return self.max_skips if self.action == 'skip' else 0


def _synthetic_rules(config: 'SyntheticConfig') -> None:
    if (config.scene_train_videos > 0) != (config.scene_validation_videos > 0):
        raise ValueError(
            f'scene_train_videos={config.scene_train_videos} and scene_validation_videos='
            f'{config.scene_validation_videos}: give both, or neither'
        )


@settings(rules=_synthetic_rules)
class SyntheticConfig:
    """Synthetic videos, rendered and converted under `data_root` when they are not there yet."""

    train_videos: PositiveInt = 400  # of each classification dataset
    validation_videos: PositiveInt = 100  # of each classification dataset
    seed: NonNegativeInt = 0  # of the videos
    scene_train_videos: NonNegativeInt = 0  # of "scenes", which has boxes; 0: not made
    scene_validation_videos: NonNegativeInt = 0  # of "scenes"


@settings
class ProbeConfig:
    """Attentive probes on a frozen backbone (V-JEPA 2, arXiv 2506.09985, section 4.1)."""

    # of as many probes of each dataset, which are trained at once; the best by validation is kept
    learning_rates: tuple[PositiveFloat, ...] = (1e-4, 3e-4, 1e-3)
    blocks: NonNegativeInt = 3  # of a probe, before the query's attention
    train_views: PositiveInt = 1  # clips along each training video, of which each is an example
    cache_dir: str = '~/.cache/multitrain_jax/features'  # keeps the features between runs
    # that all features together may take there
    cache_gib: Annotated[float, Range(gt=0)] = 100.0


def _experiment_rules(config: 'Config') -> None:
    _check_objective(config)
    _check_schedule(config)
    if config.checkpoint.keep_best not in (None, 'average', *config.datasets):
        raise ValueError(
            f'checkpoint.keep_best={config.checkpoint.keep_best!r} must be None, average, or one '
            f'of the datasets {", ".join(config.datasets)}'
        )
    for size in {config.batch_size, *config.batch_sizes.values()}:
        if size % config.input.repeats:
            raise ValueError(
                f'batch_size={size} must be a multiple of input.repeats={config.input.repeats}, '
                'so that all samples of a record lie in one batch'
            )
    sides = {
        'input.short_side': config.input.short_side,
        'evaluation.short_side': config.evaluation.short_side,
    }
    if config.localisation is not None:
        config.localisation.head.check_width(config.model.backbone.embedding_width)
        sides['localisation.test_short_sides'] = config.localisation.test_short_sides
    for name, short_side in sides.items():
        check_crops_fit(
            name, short_side, 'model.backbone.image_size', config.model.backbone.image_size
        )


def _check_schedule(config: 'Config') -> None:
    schedule = config.schedule
    check_schedule(schedule, list(config.datasets))
    own = [name for name, entry in config.datasets.items() if entry.batch_size is not None]
    if own and not schedule.by_dataset:
        raise ValueError(
            f'datasets.{own[0]}.batch_size={config.batch_sizes[own[0]]} has no effect where '
            f'batches are of several datasets (schedule.kind={schedule.kind!r}, '
            f'by={schedule.by!r}); leave it None, or choose another schedule'
        )


def _check_objective(config: 'Config') -> None:
    for field, needs in (
        ('lambda_proj', 'projections'),
        ('projection_l1', 'projections'),
        ('lambda_inf', 'expander'),
    ):
        weight = getattr(config.objective, field)
        if weight > 0 and not getattr(config.model, needs):
            raise ValueError(
                f'objective.{field}={weight:g} needs model.{needs}=True; set one of them to match'
            )
    if config.projections_from is not None and not (
        config.model.projections and len(config.datasets) > 1
    ):
        raise ValueError(
            f'projections_from={config.projections_from!r} needs model.projections=True '
            'and several datasets'
        )


@settings(rules=_experiment_rules)
class Config(OrderOptions):
    """One experiment."""

    data_root: str = 'data'  # directory that holds the datasets
    # by name; the heads are in the order of the sorted names
    datasets: Mapping[str, DatasetConfig] = dataclasses.field(default_factory=dict)
    # parts that a batch is cut into, one after the other, to save memory
    accumulation_steps: PositiveInt = 1
    # 'two_pass': the informative loss sees the whole batch, for one more forward pass;
    # 'plain': each part by itself
    accumulation: Literal['plain', 'two_pass'] = 'plain'
    # export, import or workdir whose parameters the run starts from; None: random ones
    init_from: str | None = None
    # npz, json or export whose matrices the projections start from; None: random ones
    projections_from: str | None = None
    model: MultiTrainConfig = MultiTrainConfig(MViTConfig(), num_classes=(2,))
    input: InputOptions = InputOptions()
    augment: AugmentConfig = AugmentConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    non_finite: NonFiniteConfig = NonFiniteConfig()
    localisation: LocalisationConfig | None = None  # needed where a dataset has boxes
    synthetic: SyntheticConfig | None = None  # None: no data is rendered
    parallel: ParallelConfig = ParallelConfig()
    # attentive probes on the frozen backbone of `init_from` instead of training the model
    probe: ProbeConfig | None = None
    log_every_steps: PositiveInt = 20  # updates from one line of metrics to the next
    log_images: bool = True  # TensorBoard gets clips of the first step, confusions, projections
    # beside TensorBoard's: WORKDIR/metrics.csv, Weights & Biases
    writers: tuple[Literal['csv', 'wandb'], ...] = ()
    # keeps compiled programs between runs; None: off
    compilation_cache_dir: str | None = compilation_cache.DIRECTORY
    # run.py splits a CPU into so many devices; None: one; no effect on accelerators
    cpu_devices: PositiveInt | None = None
    # file of WORKDIR/non_finite: run.py takes its step again and looks at it; None: it trains
    replay: str | None = None

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Clips of each dataset in a batch of its own, by name."""
        return {name: entry.batch_size or self.batch_size for name, entry in self.datasets.items()}


MODEL_FIELDS_FROM_ELSEWHERE = {
    'num_classes': 'the numbers of classes come from dataset.json',
    'num_actions': 'the numbers of actions come from dataset.json',
    'localisation_head': 'it is config.localisation.head',
}


def defaults() -> ml_collections.ConfigDict:
    """The whole tree, for a config file to change and to add its datasets to."""
    values = config_reading.config_tree(Config())
    for field in MODEL_FIELDS_FROM_ELSEWHERE:
        del values.model[field]
    return values


def strided(path: str, **fields: Any) -> ml_collections.ConfigDict:
    """A dataset whose clips are parts of its videos; `fields` are those of `DatasetConfig`."""
    rule = {'sampling': 'strided', 'stride': 3, 'target_frame_rate': 30.0}
    return config_tree(DatasetConfig(path, **rule | fields))


def uniform(path: str, **fields: Any) -> ml_collections.ConfigDict:
    """A dataset with directions (Something-Something): frames of the whole video, unmirrored."""
    return config_tree(DatasetConfig(path, **{'sampling': 'uniform', 'flip': False} | fields))


def key_frame(path: str, **fields: Any) -> ml_collections.ConfigDict:
    """A dataset with boxes on key frames (AVA), around which its clips lie."""
    return strided(path, **{'sampling': 'key_frame'} | fields)


def use_backbone(
    config: ml_collections.ConfigDict, backbone: BackboneConfig, *, stride: int | None = None
) -> None:
    """Gives a config another backbone, and clips of the size and step that it is made for.

    Args:
        config: is changed; resizing is to image sizes as 256 to 320 pixels are to crops of 224.
        backbone: its architecture.
        stride: step between the frames of clips that are parts of videos; None: as it is.
    """
    config.model.backbone = config_tree(backbone)
    short_side = [backbone.image_size * side // 224 for side in (256, 320)]
    config.input.short_side = tuple(short_side)
    config.evaluation.short_side = short_side[0]
    for dataset in config.datasets.values():
        if stride is not None and dataset.sampling != 'uniform':
            dataset.stride = stride


def use_pretrained_vit(config: ml_collections.ConfigDict, backbone: BackboneConfig) -> None:
    """Gives a config a plain transformer after masked or predictive pre-training, and its recipe.

    Pixels are those of ImageNet, the step between frames is 4, and learning rates fall from block
    to block towards the input (VideoMAE, arXiv 2203.12602, appendix; V-JEPA 2 likewise). Attention
    is fused where the devices have such a kernel.
    """
    use_backbone(config, dataclasses.replace(backbone, attention='auto'), stride=4)
    config.augment.update(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    config.optimizer.layer_decay = 0.75


def apply_variants(
    config: ml_collections.ConfigDict,
    names: str,
    variants: Mapping[str, Callable[[ml_collections.ConfigDict], None]],
) -> ml_collections.ConfigDict:
    """The config, changed by the variants of these names, which commas separate.

    Raises:
        UserError: there is no such variant.
    """
    for name in filter(None, names.split(',')):
        if name not in variants:
            raise UserError(f'no variant {name!r}, only {", ".join(variants)}')
        variants[name](config)
    return config


def describe(config: Config) -> str:
    """All fields of an experiment with their comments; what differs from the defaults is marked."""
    hidden = [f'config.model.{field}' for field in MODEL_FIELDS_FROM_ELSEWHERE]
    lines = config_reading.describe(config, Config(), hidden=hidden)
    marks = '* differs from the default, which stands in brackets', '- of a group that is None'
    return '\n'.join((*marks, *lines))


def load_config(arguments: Sequence[str]) -> Config | None:
    """The experiment that a command line names, as `config_reading.split_arguments` gives it.

    Raises:
        UserError: as `read_config`.
    """
    values = load_values(arguments)
    return None if values is None else read_config(values)


def load_values(arguments: Sequence[str]) -> ml_collections.ConfigDict | None:
    """What a command line says about the experiment, not yet read; None: nothing.

    A file of JSON may come from somebody else (`WORKDIR/config.json` does). What names code to run
    is taken from files of Python and from the command line only.

    Raises:
        UserError: as `config_reading.load_config_file`; or code that the JSON alone names.
    """
    values = config_reading.load_config_file(arguments, Config)
    if values is not None and config_reading.names_json(arguments):
        for field, value in _code_in(values.to_dict()).items():
            if not config_reading.states(arguments, field):
                raise UserError(
                    f'config.{field}={value!r} names code to run, which a file of JSON may not; if '
                    f'you trust it, say so yourself: --config.{field}={value}'
                )
    return values


def _code_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """{field: value} of what names modules to import, or compiled programs to run."""
    datasets = values.get('datasets')
    paths = {
        f'datasets.{name}.path': entry.get('path')
        for name, entry in (datasets if isinstance(datasets, Mapping) else {}).items()
        if isinstance(entry, Mapping)
    }
    found = {field: path for field, path in paths.items() if runs_code(path)}
    cache = values.get('compilation_cache_dir')
    if cache not in (None, Config.compilation_cache_dir):
        found['compilation_cache_dir'] = cache
    return found


def runs_code(path: Any) -> bool:
    """Whether a dataset's path names a module that reading the dataset would import."""
    return isinstance(path, str) and path.startswith(CODE_PREFIX)


def stored_tree(config: Config) -> dict[str, Any]:
    """What `read_stored_config` and `--config=FILE.json` read: fit for JSON."""
    tree = config_reading.to_dict(config)
    return {**tree, 'model': _own_fields(tree['model'])}


def read_stored_config(values: Mapping[str, Any]) -> Config:
    """Reads what `config_reading.to_dict` made of a Config."""
    return read_config({**values, 'model': _own_fields(values['model'])})


def _own_fields(model: Mapping[str, Any]) -> dict[str, Any]:
    """The model's fields that a config says."""
    return {name: model[name] for name in model if name not in MODEL_FIELDS_FROM_ELSEWHERE}


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
    for field, origin in MODEL_FIELDS_FROM_ELSEWHERE.items():
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
            f'dataset {localising[0].name} has boxes with actions: config.localisation must say '
            f'how they are used; or set config.datasets.{localising[0].name}.task="classification"'
        )
    return dataclasses.replace(
        config.model,
        num_classes=tuple(len(spec.classes) for spec in batch.classifying(datasets)),
        num_actions=tuple(len(spec.classes) for spec in localising) or None,
        localisation_head=config.localisation.head if localising else None,
    )
