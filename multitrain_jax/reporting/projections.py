"""Which classes of two datasets belong together, read off the projections of a trained model.

The projection from dataset A to dataset B maps A's logits to B's classes; its largest weights name
the pairs of classes that go together (MultiTrain, supplement, table 4).
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.errors import UserError
from multitrain_jax.reporting.heat_map import MOST_NAMES, heat_map

# {dataset: {other dataset: {class: classes of the other that are related to it}}}
Relations = Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]


@dataclasses.dataclass(frozen=True)
class Projection:
    """The projection between two datasets.

    Attributes:
        source, target: names of the datasets.
        source_classes, target_classes: names of their classes.
        weight: f32[source classes, target classes].
    """

    source: str
    target: str
    source_classes: tuple[str, ...]
    target_classes: tuple[str, ...]
    weight: np.ndarray

    @property
    def name(self) -> str:
        return f'{self.source} to {self.target}'

    def top(self, count: int) -> Iterator[tuple[int, int]]:
        """(source class, target class) of the largest weights, falling."""
        for flat in np.argsort(-self.weight, axis=None, kind='stable')[:count]:
            row, column = np.unravel_index(flat, self.weight.shape)
            yield int(row), int(column)

    def matches(self) -> np.ndarray:
        """i64[source classes]: the target class of each one's largest weight."""
        return self.weight.argmax(axis=1)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How often the best match of a class is one that is known to be related.

    Attributes:
        right: classes whose best match is related.
        classes: classes that have related ones.
        chance: how many would be right if matches were drawn blindly.
    """

    right: int
    classes: int
    chance: float


def projections_of(trained: TrainedModel) -> list[Projection]:
    """All projections of a trained model, target by target.

    Raises:
        UserError: it has none.
    """
    classes = {spec.name: spec.classes for spec in trained.datasets}
    return [
        Projection(source, target, classes[source], classes[target], weight)
        for (source, target), weight in trained.projections().items()
    ]


def read_relations(path: str | os.PathLike, projections: Sequence[Projection]) -> Relations:
    """Known relations: JSON, {dataset: {other dataset: {class: [related classes of the other]}}}.

    Datasets that the model does not have are left out; a class with an empty list is related to
    none.

    Raises:
        UserError: the file cannot be read, or names a class that a dataset of the model does not
            have.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'--relations={path}: cannot be read ({error.strerror})') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'--relations={path}: not JSON ({error})') from error
    relations: dict[str, dict[str, dict[str, list[str]]]] = {}
    for projection in projections:
        try:
            own = content.get(projection.source, {}).get(projection.target)
            if own is None:
                continue
            own = {name: list(related) for name, related in own.items()}
        except (AttributeError, TypeError) as error:
            raise UserError(
                f'--relations={path}: must be {{dataset: {{other dataset: {{class: [classes of '
                f'the other]}}}}}}'
            ) from error
        named = [(projection.source, projection.source_classes, name) for name in own]
        for related in own.values():
            named += [(projection.target, projection.target_classes, name) for name in related]
        for dataset, classes, name in named:
            if name not in classes:
                raise UserError(f'--relations={path}: {dataset} has no class {name!r}')
        relations.setdefault(projection.source, {})[projection.target] = own
    if not relations:
        pairs = ', '.join(projection.name for projection in projections)
        raise UserError(f'--relations={path}: says nothing of the pairs of this model ({pairs})')
    return relations


def agreement(projection: Projection, relations: Relations) -> Agreement | None:
    """Whether the best matches are related; None where the relations say nothing of this pair."""
    known = relations.get(projection.source, {}).get(projection.target)
    if known is None:
        return None
    related = {name: others for name, others in known.items() if others}
    targets = projection.target_classes
    matches = dict(zip(projection.source_classes, projection.matches()))
    return Agreement(
        right=sum(targets[matches[name]] in others for name, others in related.items()),
        classes=len(related),
        chance=sum(len(set(others)) / len(targets) for others in related.values()),
    )


def to_json(projection: Projection, top: int, relations: Relations) -> dict[str, Any]:
    """One pair of datasets for `projections.json`."""
    known = relations.get(projection.source, {}).get(projection.target, {})

    def entry(row: int, column: int) -> dict[str, Any]:
        first, second = projection.source_classes[row], projection.target_classes[column]
        pair = {'class': first, 'match': second, 'weight': float(projection.weight[row, column])}
        return {**pair, 'related': second in known[first]} if known.get(first) else pair

    content = {
        'source': projection.source,
        'target': projection.target,
        'top': [entry(*place) for place in projection.top(top)],
        'best_match_of_every_class': [
            entry(row, int(column)) for row, column in enumerate(projection.matches())
        ],
    }
    found = agreement(projection, relations)
    if found is not None:
        content['best_matches_related'] = dataclasses.asdict(found)
    return content


def to_text(projection: Projection, top: int, relations: Relations) -> str:
    """One pair of datasets as a table."""
    content = to_json(projection, top, relations)
    width = max(len(entry['class']) for entry in content['top'])
    lines = [projection.name]
    for entry in content['top']:
        related = {True: '  related', False: '  not related', None: ''}[entry.get('related')]
        lines.append(
            f'  {entry["weight"]:7.3f}  {entry["class"]:<{width}}  {entry["match"]}{related}'
        )
    found = agreement(projection, relations)
    if found is not None:
        lines.append(
            f'  best match related: {found.right} of {found.classes} classes that have related '
            f'ones (blindly: {found.chance:.1f})'
        )
    return '\n'.join(lines) + '\n'


def draw(projection: Projection, path: str | os.PathLike, relations: Relations) -> None:
    """Writes a heat map as PNG; of many classes those with the largest weights."""
    weight, known = (
        projection.weight,
        relations.get(projection.source, {}).get(projection.target, {}),
    )
    rows, columns = shown_classes(weight)
    shown = weight[np.ix_(rows, columns)]
    sources = [projection.source_classes[row] for row in rows]
    targets = [projection.target_classes[column] for column in columns]
    title = projection.name
    if shown.shape != weight.shape:
        title += (
            f'\n({len(rows)} of {weight.shape[0]}, {len(columns)} of {weight.shape[1]} classes)'
        )
    related = [
        (i, j)
        for i, name in enumerate(sources)
        for j, other in enumerate(targets)
        if other in known.get(name, ())
    ]
    heat_map(
        path,
        shown,
        rows=sources,
        columns=targets,
        title=title,
        row_title=projection.source,
        column_title=projection.target,
        value_title='weight',
        signed=True,
        dots=enumerate(shown.argmax(axis=1)),
        frames=related,
        note='dots: best match of a row' + (', frames: related classes' if known else ''),
    )


def shown_classes(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the heat map: all, or those of the largest weights."""
    rows, columns = (np.arange(length) for length in weight.shape)
    if len(rows) > MOST_NAMES:
        rows = np.sort(np.argsort(-weight.max(axis=1), kind='stable')[:MOST_NAMES])
    if len(columns) > MOST_NAMES:
        columns = np.sort(np.argsort(-weight[rows].max(axis=0), kind='stable')[:MOST_NAMES])
    return rows, columns
