"""The first parameters of a run from another model: `config.init_from`.

The source is an export, an imported PyTorch checkpoint, or a run; its datasets, numbers of classes,
frames and image size may be others. The backbone must be of the same architecture; learned
positions are interpolated. A head is kept where both models have a dataset of that name, class by
class after the classes' *names*; likewise the projections between two such datasets. Everything
else starts anew. A table says what became of every parameter.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import shlex
from typing import Any

from flax import traverse_util
import numpy as np

from multitrain_jax.augment.normalize import Rgb
from multitrain_jax.batch import DatasetSpec, classifying, localising
from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.errors import UserError
from multitrain_jax.models.backbone import BackboneConfig
from multitrain_jax.models.heads import Projections
from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.weights.positions import is_positions, resize_positions
from multitrain_jax.weights.weight_report import Row, shape_text, summary, table

TABLE_FILE = 'init_from.txt'
_MOST_TOLD = 12  # rows of the table that the log has

# That may be taken over.
_PARTS = ('backbone', 'heads', 'localisation_heads', 'projections', 'expander')


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every parameter, and in what the models differ beside their shapes.

    Attributes:
        where: the source.
        rows: outcomes are 'used', 'resized', 'fresh' (not in the source) and 'ignored' (only in the
            source).
        differences: one line each.
    """

    where: str
    rows: Sequence[Row]
    differences: Sequence[str]

    def brief(self, table_file: str) -> str:
        """What a reader must not miss: how much was taken over, what was not, what differs."""
        told = [row for row in self.rows if row.outcome != 'used' or row.name.startswith('heads/')]
        lines = [f'{self._summary} ({table_file} lists them all)']
        lines += [f'  {row.name}: {row.outcome}, {row.note}' for row in told[:_MOST_TOLD]]
        if len(told) > _MOST_TOLD:
            lines.append(f'  ... and {len(told) - _MOST_TOLD} more')
        return '\n'.join([*lines, *self.differences])

    def __str__(self) -> str:
        # What a reader must not miss comes last, where the terminal stops.
        return '\n'.join([table(self.rows), *self.differences, self._summary])

    @property
    def _summary(self) -> str:
        return f'initialised from {self.where}: {summary(self.rows)}'


@dataclasses.dataclass(frozen=True)
class _Source:
    """The trained model to start from."""

    name: str  # what the user called it
    model: MultiTrainConfig  # its architecture
    params: Mapping[str, np.ndarray]  # by path
    # class names of its classifying datasets, in the order of the heads
    classes: Mapping[str, tuple[str, ...]]
    actions: Mapping[str, tuple[str, ...]]  # likewise of its localising datasets


def fill(
    fresh: Mapping[str, Any],
    model: MultiTrainConfig,
    datasets: Sequence[DatasetSpec],
    trained: TrainedModel,
    *,
    mean: Rgb,
    std: Rgb,
) -> tuple[dict[str, Any], Report]:
    """Parameters of a new model, filled with what the source has for it.

    Args:
        fresh: the new model's own initial parameters, a tree of arrays; they are not written to.
        model: its architecture.
        datasets: in the order of its heads.
        trained: the source.
        mean: of the pixels that the new model sees.
        std: likewise.

    Returns:
        The parameters, and what became of each.

    Raises:
        UserError: the backbones are of different architectures.
    """
    source = _Source(
        trained.name,
        trained.info.model,
        flatten(trained.params),
        _classes(classifying(trained.datasets)),
        _classes(localising(trained.datasets)),
    )
    params = {path: np.array(array) for path, array in flatten(fresh).items()}
    rows = _fill_backbone(params, model.backbone, source)
    ours = _classes(classifying(datasets))
    rows += _fill_heads(params, model, ours, source)
    rows += _fill_localisation_heads(params, model, _classes(localising(datasets)), source)
    rows += _fill_projections(params, model, ours, source)
    rows += _fill_expander(params, source)
    rows += [
        Row(path, 'fresh', 'always starts anew')
        for path in params
        if path.split('/')[0] not in _PARTS
    ]
    parts = {path.split('/')[0] for path in params}
    gone = dict.fromkeys(path.split('/')[0] for path in source.params)
    rows += [Row(part, 'ignored', 'not in this model') for part in gone if part not in parts]
    changed = {
        field: (old, new)
        for field in model.backbone.MEANING
        for old, new in [(getattr(source.model.backbone, field), getattr(model.backbone, field))]
        if old != new
    }
    differences = [
        f'note: model.backbone.{field} is {new!r} here and was {old!r} there: the same arrays, '
        'another function'
        for field, (old, new) in changed.items()
    ]
    if changed:
        flags = (
            f'--config.model.backbone.{field}={shlex.quote(str(old))}'
            for field, (old, _) in changed.items()
        )
        differences.append(f'      to compute what the source computed: {" ".join(flags)}')
    differences += [
        f'note: augment.{field} is {new} here and was {old} there'
        for field, old, new in [('mean', trained.info.mean, mean), ('std', trained.info.std, std)]
        if tuple(old) != tuple(new)
    ]
    return _like(fresh, params), Report(trained.name, rows, differences)


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of nested dicts by path, such as 'backbone/stages/0/first/norm1/scale'."""
    return {
        '/'.join(map(str, path)): leaf for path, leaf in traverse_util.flatten_dict(tree).items()
    }


def _like(tree: Mapping[str, Any], leaves: Mapping[str, Any]) -> dict[str, Any]:
    paths = traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict({path: leaves['/'.join(map(str, path))] for path in paths})


def _fill_backbone(
    params: dict[str, np.ndarray], backbone: BackboneConfig, source: _Source
) -> list[Row]:
    """Fills the backbone in place."""
    kinds = [type(config).__name__ for config in (source.model.backbone, backbone)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f'config.init_from={source.name}: a backbone of another kind, {kinds[0]} there and '
            f'{kinds[1]} here. Give config.model.backbone that of the source'
        )
    needed = [path for path in params if path.startswith('backbone/')]
    theirs = {path: array for path, array in source.params.items() if path.startswith('backbone/')}
    rows, problems = [], []
    for path in needed:
        shape, array = params[path].shape, theirs.get(path)
        here, there = shape_text(shape), 'missing' if array is None else shape_text(array.shape)
        problem = f'{path} is {there} there and {here} here'
        if here == there:
            params[path] = np.asarray(array)
            rows.append(Row(path, 'used', here))
        elif is_positions(path) and array is not None:
            try:
                params[path] = resize_positions(path, np.asarray(array), shape)
                rows.append(Row(path, 'resized', f'{there} -> {here}'))
            except ValueError:
                problems.append(problem)
        elif array is None and _optional(path, backbone):
            rows.append(Row(path, 'fresh', f'{here}, not in the source'))
        else:
            problems.append(problem)
    for path in theirs:
        if path in params:
            continue
        there = shape_text(theirs[path].shape)
        rows.append(Row(path, 'ignored', f'{there}, not in this model'))
        if not _optional(path, backbone):
            problems.append(f'{path} is {there} there and missing here')
    if problems:
        raise UserError(
            f'config.init_from={source.name}: a backbone of another architecture, only {len(rows)} '
            f'of {len(needed)} parameters fit; for example, {problems[0]}. Give '
            'config.model.backbone that of the source'
        )
    return rows


def _optional(path: str, backbone: BackboneConfig) -> bool:
    """Whether one backbone may have a parameter and another of its kind lack it."""
    return is_positions(path) or path.split('/')[1] in backbone.OPTIONAL


def _fill_heads(
    params: dict[str, np.ndarray],
    model: MultiTrainConfig,
    ours: Mapping[str, tuple[str, ...]],
    source: _Source,
) -> list[Row]:
    """Fills the heads of datasets that the source has too, in place."""
    hidden, theirs = model.head_hidden, source.model.head_hidden
    differs = f'head_hidden {hidden} here, {theirs} there' if hidden != theirs else ''

    def fill(d: int, o: int, here: np.ndarray, there: np.ndarray) -> None:
        for path in ('heads/hidden_kernel', 'heads/hidden_bias') if hidden else ():
            params[path][d] = source.params[path][o]
        for path in ('heads/kernel', 'heads/bias'):
            params[path][d][..., here] = source.params[path][o][..., there]

    return _fill_each('heads', 'classes', ours, source.classes, differs, fill)


def _fill_localisation_heads(
    params: dict[str, np.ndarray],
    model: MultiTrainConfig,
    ours: Mapping[str, tuple[str, ...]],
    source: _Source,
) -> list[Row]:
    """Fills the localisation heads of datasets that the source has too, in place."""
    head, theirs = model.localisation_head, source.model.localisation_head
    differs = ''
    if head is not None and theirs is not None and head.context != theirs.context:
        differs = f'head.context is {head.context} here, not there'

    def fill(d: int, o: int, here: np.ndarray, there: np.ndarray) -> None:
        own = f'localisation_heads/{d}/'
        for path in [path for path in params if path.startswith(own)]:
            part = path.removeprefix(own)
            array = np.asarray(source.params[f'localisation_heads/{o}/{part}'])
            if part.startswith('output/'):  # one column for each action
                params[path][..., here] = array[..., there]
            else:
                params[path] = array

    return _fill_each('localisation_heads', 'actions', ours, source.actions, differs, fill)


def _fill_each(
    part: str,
    kind: str,
    ours: Mapping[str, tuple[str, ...]],
    theirs: Mapping[str, tuple[str, ...]],
    differs: str,
    fill: Callable[[int, int, np.ndarray, np.ndarray], None],
) -> list[Row]:
    """Fills the heads of one form.

    Args:
        part: of the parameters.
        kind: what they tell apart.
        ours, theirs: names of these, by dataset.
        differs: why no head can be kept; '': nothing is in the way.
        fill: head d from their head o, given the places here and there of what both have.
    """
    rows = []
    for d, (name, classes) in enumerate(ours.items()):
        here, there = _common_classes(ours, theirs, name)
        if not len(here):
            row = 'fresh', _why_fresh(theirs, name, f'{len(classes)} {kind}')
        elif differs:
            row = 'fresh', differs
        else:
            fill(d, list(theirs).index(name), here, there)
            row = 'used', _kept(here, there, classes, theirs[name])
        rows.append(Row(f'{part}/{name}', *row))
    gone = 'no dataset of this name in this model'
    return rows + [Row(f'{part}/{name}', 'ignored', gone) for name in theirs if name not in ours]


def _classes(datasets: Sequence[DatasetSpec]) -> dict[str, tuple[str, ...]]:
    return {spec.name: spec.classes for spec in datasets}


def _fill_projections(
    params: dict[str, np.ndarray],
    model: MultiTrainConfig,
    ours: Mapping[str, tuple[str, ...]],
    source: _Source,
) -> list[Row]:
    """Fills the projections between datasets that the source has too, in place."""
    if not any(path.startswith('projections/') for path in params):
        return []
    rows, theirs, names = [], source.classes, list(ours)
    in_source = any(path.startswith('projections/') for path in source.params)
    same_form = model.projection_rank == source.model.projection_rank
    for d, target in enumerate(names):
        columns, their_columns = _common_classes(ours, theirs, target)
        for j, o in enumerate(Projections.sources(len(names), d)):
            other, row_name = names[o], f'projections/{names[o]} -> {target}'
            lines, their_lines = _common_classes(ours, theirs, other)
            if not in_source:
                rows.append(Row(row_name, 'fresh', 'the source has no projections'))
            elif not len(lines) or not len(columns):
                rows.append(Row(row_name, 'fresh', 'the source lacks one of them'))
            elif not same_form:
                ranks = (
                    f'projection_rank {model.projection_rank} here, '
                    f'{source.model.projection_rank} there'
                )
                rows.append(Row(row_name, 'fresh', ranks))
            else:
                their_target, their_other = list(theirs).index(target), list(theirs).index(other)
                their_j = Projections.sources(len(theirs), their_target).index(their_other)
                for side, own, their_own in (
                    ('left', lines, their_lines),
                    ('right', (slice(None), columns), (slice(None), their_columns)),
                    ('kernel', np.ix_(lines, columns), np.ix_(their_lines, their_columns)),
                ):
                    if (path := f'projections/{side}') in params:
                        array = source.params[path][their_target, their_j]
                        params[path][d, j][own] = array[their_own]
                note = f'{len(lines)} x {len(columns)} classes'
                rows.append(Row(row_name, 'used', note))
    return rows


def _fill_expander(params: dict[str, np.ndarray], source: _Source) -> list[Row]:
    """Fills the expander in place, all of it or nothing."""
    paths = [path for path in params if path.startswith('expander/')]
    if not paths:
        return []
    if 'expander/fc1/kernel' not in source.params:
        return [Row('expander', 'fresh', 'the source has none')]
    here, there = params['expander/fc1/kernel'].shape, source.params['expander/fc1/kernel'].shape
    if here != there:
        return [Row('expander', 'fresh', f'{shape_text(here)} here, {shape_text(there)} there')]
    for path in paths:
        params[path] = np.asarray(source.params[path])
    return [Row('expander', 'used', shape_text(here))]


def _common_classes(
    ours: Mapping[str, tuple[str, ...]], theirs: Mapping[str, tuple[str, ...]], dataset: str
) -> tuple[np.ndarray, np.ndarray]:
    """Places, here and there, of the classes that both models have in a dataset."""
    place = {name: c for c, name in enumerate(theirs.get(dataset, ()))}
    pairs = [(c, place[name]) for c, name in enumerate(ours[dataset]) if name in place]
    here, there = np.array(pairs, np.int64).reshape(-1, 2).T
    return here, there


def _why_fresh(theirs: Mapping[str, tuple[str, ...]], dataset: str, size: str) -> str:
    if not theirs:
        return 'the source has no such heads'
    if dataset not in theirs:
        return f'{size}; the source has {", ".join(theirs)}'
    return f'{size}, none of which is in the source (there, for example, {theirs[dataset][0]!r})'


def _kept(
    here: np.ndarray, there: np.ndarray, classes: Sequence[str], their_classes: Sequence[str]
) -> str:
    note = f'{len(here)} of {len(classes)} classes'
    if len(here) < len(classes):
        other = next(name for name in classes if name not in their_classes)
        note += f', the others fresh, such as {other!r}'
    if len(there) < len(their_classes):
        note += f'; {len(their_classes) - len(there)} classes of the source ignored'
    if np.any(np.diff(there) < 0):
        note += '; in another order'
    return note
