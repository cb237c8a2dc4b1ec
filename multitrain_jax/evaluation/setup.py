"""What `evaluate` tests: a model from a checkpoint, data and protocol from a config, joined by the names of classes."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from pathlib import Path
from typing import Any

from flax import nnx
import jax

from multitrain_jax.augment.normalize import Rgb
from multitrain_jax.batch import BatchSource, DatasetSpec
from multitrain_jax.checkpoints.trained_model import find_run, read_run
from multitrain_jax.config import (
    Config,
    DatasetConfig,
    EvaluationConfig,
    InputOptions,
    LocalisationConfig,
    read_config,
)
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation import views
from multitrain_jax.evaluation.box_results import BoxScores
from multitrain_jax.evaluation.box_views import score_boxes
from multitrain_jax.evaluation.metrics import Scores
from multitrain_jax.export import is_export, read_export
from multitrain_jax.models.multitrain import MultiTrainConfig, MultiTrainModel
from multitrain_jax.parallel.drivers import open_driver
from multitrain_jax.parallel.mesh import ParallelConfig, check_divides, replicate

_EXPORT_BATCH_SIZE = 16  # views, for an export without a config


@dataclasses.dataclass(frozen=True)
class _Trained:
    """A model to test, and the data and protocol that it brings along.

    Attributes:
        about: where it came from, for `metrics.json`.
        directory: of the run or export.
        model: architecture.
        params: of `model`.
        heads: name, classes and kind of each.
        mean, std: of pixels scaled to 0..1.
        data: how the heads' datasets were sampled, and, where known, their paths.
        data_root: of those paths; None: they are not known.
        evaluation: the protocol.
        input_config: how data are read.
        localisation: which boxes are tested, of heads that localise.
    """

    about: dict[str, Any]
    directory: Path
    model: MultiTrainConfig
    params: Any
    heads: tuple[DatasetSpec, ...]
    mean: Rgb
    std: Rgb
    data: Mapping[str, DatasetConfig]
    data_root: str | None
    evaluation: EvaluationConfig
    input_config: InputOptions
    localisation: LocalisationConfig | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model and its test data, ready to be run.

    Attributes:
        source: a dataset for each head.
        tested: numbers of the heads that have data.
        score: number of a head -> the scores of its data.
        about: checkpoint and protocol, for `metrics.json`.
        default_output: directory for results.
        data: where the data of each head are.
    """

    source: BatchSource
    tested: tuple[int, ...]
    score: Callable[[int], Scores | BoxScores]
    about: dict[str, Any]
    default_output: Path
    data: Mapping[str, DatasetConfig]

    def describe(self, head: int) -> dict[str, Any]:
        """Where a head's data are, for `metrics.json`."""
        entry = self.data[self.source.datasets[head].name]
        return {'path': entry.path, 'split': entry.evaluation_split}


def open_evaluation(
    checkpoint: str | os.PathLike,
    *,
    argument: str = '--checkpoint',
    step: int | None = None,
    config_values: Mapping[str, Any] | None = None,
    chosen: Sequence[str] | None = None,
    split: str | None = None,
    protocol: Mapping[str, Any] | None = None,
    candidates: str | None = None,
) -> Evaluation:
    """Reads the checkpoint and opens the data.

    Args:
        checkpoint: an export or import, a run, or a checkpoint of one.
        argument: what error messages call it.
        step: which checkpoint of a run; None: the newest.
        config_values: data and protocol; None: those that the checkpoint brings along.
        chosen: datasets, each NAME, NAME=DIR or DIR; None: all.
        split: to test on; None: each dataset's own.
        protocol: fields of the EvaluationConfig to change.
        candidates: boxes that are scored, as in the LocalisationConfig; None: what that says.

    Raises:
        ValueError: a checkpoint or data that cannot be read, or that do not fit together.
    """
    trained = _read(checkpoint, argument, step)
    if config_values is not None:
        trained = _with_config(trained, read_config(config_values), named=chosen is not None)
    try:
        evaluation = dataclasses.replace(trained.evaluation, **(protocol or {}))
    except ValueError as error:
        raise UserError(str(error)) from error
    image_size = trained.model.backbone.image_size
    if evaluation.short_side < image_size:
        raise UserError(
            f'short_side={evaluation.short_side} is below the {image_size} pixels of the model: crops would not fit'
        )
    data = _choose(trained, chosen)
    if split is not None:
        data = {
            name: dataclasses.replace(entry, evaluation_split=split) for name, entry in data.items()
        }

    localisation = trained.localisation
    if candidates is not None:
        if not any(spec.localisation for spec in trained.heads):
            raise UserError(f'--candidates={candidates}: no dataset of the checkpoint has boxes')
        localisation = dataclasses.replace(localisation, candidates=candidates)

    driver = open_driver(ParallelConfig())
    check_divides(evaluation.batch_size, driver.mesh, 'batch_size')
    from multitrain_jax import record_data  # the door to data_pipelines

    source = record_data.EvaluationData(
        trained.heads,
        record_data.evaluation_sources(data, trained.data_root or '', localisation),
        record_data.ClipSize(trained.model.backbone.num_frames, image_size),
        evaluation,
        trained.input_config,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
    )
    graphdef = nnx.graphdef(
        nnx.eval_shape(lambda: MultiTrainModel(trained.model, rngs=nnx.Rngs(0)))
    )
    eval_step = views.make_eval_step(graphdef, trained.heads, trained, driver)
    params = replicate(trained.params, driver.mesh)

    def score(head: int) -> Scores | BoxScores:
        of_kind = score_boxes if source.datasets[head].localisation else views.score_dataset
        return of_kind(eval_step, params, source, head, driver)

    about = {
        field: getattr(evaluation, field)
        for field in ('temporal_views', 'spatial_views', 'short_side')
    }
    if localisation is not None:
        fields = ('candidates', 'min_candidate_score', 'test_short_sides', 'test_flip')
        about |= {field: getattr(localisation, field) for field in fields}
    return Evaluation(
        source=source,
        tested=tuple(number for number, spec in enumerate(source.datasets) if spec.name in data),
        score=score,
        about={**trained.about, **about},
        default_output=trained.directory / 'evaluation',
        data=data,
    )


def _read(path: str | os.PathLike, argument: str, step: int | None) -> _Trained:
    if is_export(path):
        if step is not None:
            raise UserError(f'{argument}={path} is an export, which has no steps; leave --step out')
        info, _, params = read_export(path)
        size = info.model.backbone.image_size
        return _Trained(
            about={'checkpoint': str(path)},
            directory=Path(path).expanduser(),
            model=info.model,
            params=params,
            heads=tuple(
                DatasetSpec(
                    name,
                    entry.classes,
                    entry.multi_label,
                    localisation=entry.localisation,
                    train_counts=entry.train_counts,
                    action_ids=entry.action_ids,
                )
                for name, entry in info.datasets.items()
            ),
            mean=info.mean,
            std=info.std,
            data={
                name: DatasetConfig(
                    name,
                    sampling=entry.sampling,
                    stride=entry.stride,
                    target_frame_rate=entry.target_frame_rate,
                )
                for name, entry in info.datasets.items()
            },
            data_root=None,
            evaluation=EvaluationConfig(
                _EXPORT_BATCH_SIZE, info.short_side, info.temporal_views, info.spatial_views
            ),
            input_config=InputOptions((size, size)),
            localisation=info.localisation,
        )
    if find_run(path) is None:
        raise UserError(
            f'{argument}={path}: neither a run (directory "checkpoints") nor an export (file model.json)'
        )
    run = read_run(path, step, argument=argument)
    config = run.config
    return _Trained(
        {'checkpoint': str(run.workdir), 'step': run.step},
        run.workdir,
        run.model,
        run.params,
        run.datasets,
        config.augment.mean,
        config.augment.std,
        config.datasets,
        config.data_root,
        config.evaluation,
        config.input,
        config.localisation,
    )


def _with_config(trained: _Trained, config: Config, *, named: bool) -> _Trained:
    """Data and protocol of the config, the model as it is."""
    heads = [spec.name for spec in trained.heads]
    strange = [name for name in config.datasets if name not in heads]
    if strange and not named:
        raise UserError(
            f'config.datasets.{strange[0]}: the checkpoint has no such dataset, only {", ".join(heads)}; '
            'choose some of them with --datasets'
        )
    return dataclasses.replace(
        trained,
        data=config.datasets,
        data_root=config.data_root,
        evaluation=config.evaluation,
        input_config=config.input,
        localisation=config.localisation or trained.localisation,
    )


def _choose(trained: _Trained, chosen: Sequence[str] | None) -> dict[str, DatasetConfig]:
    """What to test, by name of the head."""
    heads = {spec.name: spec for spec in trained.heads}
    if chosen is None:
        if trained.data_root is None:
            raise UserError(
                f'{trained.directory}: an export does not know where data are; give --config=FILE, '
                f'or --datasets {next(iter(heads))}=DIR'
            )
        return dict(trained.data)
    found = {}
    for text in chosen:
        name, equals, directory = text.partition('=')
        if not equals and name not in trained.data:
            name, directory = _head_with_classes(text, heads), text
        if name not in heads:
            raise UserError(
                f'--datasets {text}: the checkpoint has no dataset {name!r}, only {", ".join(heads)}'
            )
        if name in found:
            raise UserError(f'--datasets {text}: {name} is named twice; test one after the other')
        if name not in trained.data:
            raise UserError(
                f'--datasets {text}: config.datasets does not tell how {name} is sampled'
            )
        if directory:
            found[name] = dataclasses.replace(trained.data[name], path=_absolute(directory))
        elif trained.data_root is None:
            raise UserError(
                f'--datasets {text}: an export does not know where data are; say {name}=DIR, or give --config'
            )
        else:
            found[name] = trained.data[name]
    return found


def _head_with_classes(directory: str, heads: Mapping[str, DatasetSpec]) -> str:
    from multitrain_jax.record_data import read_classes

    try:
        classes = read_classes(_absolute(directory))
    except ValueError as error:
        raise UserError(
            f'--datasets {directory}: neither a dataset of the checkpoint ({", ".join(heads)}) nor a dataset directory '
            f'({error})'
        ) from error
    fitting = [name for name, spec in heads.items() if set(classes) == set(spec.classes)]
    if len(fitting) != 1:
        which = f'{", ".join(fitting)} have' if fitting else 'no head has'
        raise UserError(
            f'--datasets {directory}: {which} its {len(classes)} classes; name the head: NAME={directory}'
        )
    return fitting[0]


def _absolute(path: str) -> str:
    """Independent of data_root; names of remote directories and other sources stay as they are."""
    return path if ':' in path else str(Path(path).expanduser().resolve())
