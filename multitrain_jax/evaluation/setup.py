"""What `evaluate` tests: a model, on a config's data, by its protocol, joined by class names."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

import jax

from multitrain_jax.batch import BatchSource, DatasetSpec, sampling_of
from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.config import (
    Config,
    DatasetConfig,
    EvaluationConfig,
    InputOptions,
    LocalisationConfig,
    read_config,
    runs_code,
)
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation import files, views
from multitrain_jax.evaluation.box_metrics import BoxScores
from multitrain_jax.evaluation.metrics import Scores
from multitrain_jax.parallel.drivers import open_driver
from multitrain_jax.parallel.mesh import ParallelConfig, check_divides, replicate

_EXPORT_BATCH_SIZE = 16  # views, for an export without a config
_PROTOCOL = ('temporal_views', 'spatial_views', 'short_side')
_BOX_PROTOCOL = ('candidates', 'min_candidate_score', 'test_short_sides', 'test_flip')


@dataclasses.dataclass(frozen=True)
class _Test:
    """The data and the protocol of a test."""

    # how the heads' datasets are sampled, and, where known, their paths
    data: Mapping[str, DatasetConfig]
    data_root: str | None  # of those paths; None: they are not known
    evaluation: EvaluationConfig  # the protocol
    input: InputOptions  # how data are read
    localisation: LocalisationConfig | None  # which boxes are tested, of heads that localise
    stored: bool  # whether all this came with the model, from whoever made it


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model and its test data, ready to be run.

    Attributes:
        source: a dataset for each head.
        tested: numbers of the heads that have data.
        score: number of a head -> the scores of its data.
        about: checkpoint and protocol, for `metrics.json`.
        output: directory for the files, named after the protocol.
        data: where the data of each head are.
    """

    source: BatchSource
    tested: tuple[int, ...]
    score: Callable[[int], Scores | BoxScores]
    about: dict[str, Any]
    output: Path
    data: Mapping[str, DatasetConfig]

    def describe(self, head: int) -> dict[str, Any]:
        """Where a head's data are, for `metrics.json`."""
        entry = self.data[self.source.datasets[head].name]
        return {
            'views': self.source.datasets[head].views,
            'path': entry.path,
            'split': entry.evaluation_split,
        }


def open_evaluation(
    trained: TrainedModel,
    *,
    config_values: Mapping[str, Any] | None = None,
    chosen: Sequence[str] | None = None,
    split: str | None = None,
    video_root: str | None = None,
    protocol: Mapping[str, Any] | None = None,
    candidates: str | None = None,
) -> Evaluation:
    """Opens the data that a model is tested on.

    Args:
        trained: the model.
        config_values: data and protocol; None: those that the model brings along.
        chosen: datasets, each NAME, NAME=DIR or DIR; None: all.
        split: to test on; None: each dataset's own.
        video_root: of the videos that records link to; None: each dataset's own.
        protocol: fields of the EvaluationConfig to change.
        candidates: boxes that are scored, as in the LocalisationConfig; None: what that says.

    Raises:
        ValueError: data that cannot be read, or that do not fit the model.
    """
    heads, model = trained.datasets, trained.info.model
    test = _own_test(trained)
    if config_values is not None:
        test = _test_of(read_config(config_values), trained, named=chosen is not None)
    try:
        evaluation = dataclasses.replace(test.evaluation, **(protocol or {}))
    except ValueError as error:
        raise UserError(str(error)) from error
    image_size = model.backbone.image_size
    if evaluation.short_side < image_size:
        raise UserError(
            f'short_side={evaluation.short_side} is below the {image_size} pixels of the model: '
            'crops would not fit'
        )
    data = _choose(trained, test, chosen)
    changes = {} if split is None else {'evaluation_split': split}
    if video_root is not None:
        changes['video_root'] = _absolute(video_root)
    data = {name: dataclasses.replace(entry, **changes) for name, entry in data.items()}

    localisation = test.localisation
    if candidates is not None:
        if not any(spec.localisation for spec in heads):
            raise UserError(f'--candidates={candidates}: no dataset of the checkpoint has boxes')
        localisation = dataclasses.replace(localisation, candidates=candidates)

    driver = open_driver(ParallelConfig())
    check_divides(evaluation.batch_size, driver.mesh, 'batch_size')
    from multitrain_jax import record_data  # the door to data_pipelines

    source = record_data.EvaluationData(
        heads,
        record_data.evaluation_sources(data, test.data_root or '', localisation),
        record_data.ClipSize(model.backbone.num_frames, image_size),
        evaluation,
        test.input,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
    )
    eval_step = views.make_eval_step(trained.graphdef, heads, trained.info, driver)
    params = replicate(trained.params, driver.mesh)

    def score(head: int) -> Scores | BoxScores:
        return views.score(eval_step, params, source, head, driver)

    about = {'checkpoint': trained.name}
    if trained.step is not None:
        about = {'checkpoint': str(trained.directory), 'step': trained.step}
    for group, fields in ((evaluation, _PROTOCOL), (localisation, _BOX_PROTOCOL)):
        about |= {field: getattr(group, field) for field in fields if group is not None}
    if test.data_root is not None:
        about['data_root'] = test.data_root
    tested = tuple(number for number, spec in enumerate(source.datasets) if spec.name in data)
    found = Evaluation(source, tested, score, about, trained.directory, data)
    described = {source.datasets[head].name: found.describe(head) for head in tested}
    name = _protocol_name(trained, evaluation, localisation, split)
    tests = trained.directory / 'evaluation'
    output = files.place_for(tests, name, {**about, 'datasets': described})
    return dataclasses.replace(found, output=output)


def _protocol_name(
    trained: TrainedModel,
    evaluation: EvaluationConfig,
    localisation: LocalisationConfig | None,
    split: str | None,
) -> str:
    """`step_300_5x1_256px`: checkpoint, temporal and spatial views, short side, what is special."""
    words = [] if trained.step is None else [f'step_{trained.step}']
    words.append(f'{evaluation.temporal_views}x{evaluation.spatial_views}')
    sides = (localisation and localisation.test_short_sides) or (evaluation.short_side,)
    words.append('-'.join(map(str, sides)) + 'px')
    if localisation is not None:
        words += ['flip'] * localisation.test_flip
        words += ['ground_truth'] * (localisation.candidates == 'ground_truth')
    return '_'.join([*words, *([split] if split else [])])


def _own_test(trained: TrainedModel) -> _Test:
    """Data and protocol that a model brings along."""
    if trained.config is not None:
        return _as_test(trained.config, trained.config.localisation, stored=True)
    info = trained.info
    data = {
        name: DatasetConfig(name, flip=False, **sampling_of(spec))
        for name, spec in info.datasets.items()
    }
    protocol = {field: getattr(info, field) for field in _PROTOCOL}
    evaluation = EvaluationConfig(batch_size=_EXPORT_BATCH_SIZE, **protocol)
    size = info.model.backbone.image_size
    return _Test(data, None, evaluation, InputOptions((size, size)), info.localisation, stored=True)


def _test_of(config: Config, trained: TrainedModel, *, named: bool) -> _Test:
    """Data and protocol of a config."""
    heads = list(trained.info.datasets)
    strange = [name for name in config.datasets if name not in heads]
    if strange and not named:
        raise UserError(
            f'config.datasets.{strange[0]}: the checkpoint has no such dataset, only '
            f'{", ".join(heads)}; choose some of them with --datasets'
        )
    localisation = config.localisation or _own_test(trained).localisation
    return _as_test(config, localisation, stored=False)


def _as_test(config: Config, localisation: LocalisationConfig | None, *, stored: bool) -> _Test:
    data = config.datasets, config.data_root
    return _Test(*data, config.evaluation, config.input, localisation, stored)


def _choose(
    trained: TrainedModel, test: _Test, chosen: Sequence[str] | None
) -> dict[str, DatasetConfig]:
    """What to test, by name of the head."""
    heads = trained.info.datasets
    if chosen is None:
        if test.data_root is None:
            raise UserError(
                f'{trained.directory}: an export does not know where data are; give --config=FILE, '
                f'or --datasets {next(iter(heads))}=DIR'
            )
        return {name: _without_code(trained, test, name) for name in test.data}
    found = {}
    for text in chosen:
        name, equals, directory = text.partition('=')
        if not equals and name not in test.data:
            name, directory = _head_with_classes(text, heads), text
        if name not in heads:
            raise UserError(
                f'--datasets {text}: the checkpoint has no dataset {name!r}, only '
                f'{", ".join(heads)}'
            )
        if name in found:
            raise UserError(f'--datasets {text}: {name} is named twice; test one after the other')
        if name not in test.data:
            raise UserError(
                f'--datasets {text}: config.datasets does not tell how {name} is sampled'
            )
        if directory:
            found[name] = dataclasses.replace(test.data[name], path=_absolute(directory))
        elif test.data_root is None:
            raise UserError(
                f'--datasets {text}: an export does not know where data are; say {name}=DIR, '
                'or give --config'
            )
        else:
            found[name] = _without_code(trained, test, name)
    return found


def _without_code(trained: TrainedModel, test: _Test, name: str) -> DatasetConfig:
    """A dataset as the test has it.

    Raises:
        UserError: it names code to run, and came with the model.
    """
    entry = test.data[name]
    if test.stored and runs_code(entry.path):
        raise UserError(
            f'{trained.name}: config.datasets.{name}.path={entry.path!r} came with the model and '
            'names code to run, '
            f'which only you may; if you trust it, say so: --datasets {name}={entry.path}'
        )
    return entry


def _head_with_classes(directory: str, heads: Mapping[str, DatasetSpec]) -> str:
    from multitrain_jax.record_data import read_classes

    try:
        classes = read_classes(_absolute(directory))
    except ValueError as error:
        raise UserError(
            f'--datasets {directory}: neither a dataset of the checkpoint ({", ".join(heads)}) nor '
            f'a dataset directory ({error})'
        ) from error
    fitting = [name for name, spec in heads.items() if set(classes) == set(spec.classes)]
    if len(fitting) != 1:
        which = f'{", ".join(fitting)} have' if fitting else 'no head has'
        raise UserError(
            f'--datasets {directory}: {which} its {len(classes)} classes; name the head: '
            f'NAME={directory}'
        )
    return fitting[0]


def _absolute(path: str) -> str:
    """Independent of data_root; names of remote directories and other sources stay as they are."""
    return path if ':' in path else str(Path(path).expanduser().resolve())
