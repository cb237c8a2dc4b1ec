"""The results page of `multitrain_small.py`: tables and a plot, from finished runs alone."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import datetime
import os
from pathlib import Path
import platform

import jax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from scipy import stats

from multitrain_jax.projections import Agreement, agreement, read_projections, read_relations

_BASELINE = 'joint'
_LIMITS = (
    '## Limits',
    '',
    "The paper trains 51 M parameters from a Kinetics model with batches of 512; here it is the quickstart's model of 0.16 M from",
    'random parameters with batches of 16, so that the informative loss estimates 64 variances and their covariances from 16',
    'clips. Hyper-parameters are those of the quickstart for all arms, including the weights of the two losses, which are the',
    "paper's; none was tuned for any arm. Where an arm has not learned its training clips, more updates may change its place.",
)
_TITLES = {
    'separate': 'separate models',
    'joint': 'joint, cross-entropy',
    'informative': '+ informative loss',
    'projection': '+ projection loss',
    'both': '+ both (MultiTrain)',
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All finished seeds of one condition.

    Attributes:
        train_videos: of each dataset.
        steps: updates of each training.
        test: top-1 on the validation videos by arm and dataset, percent of every seed; 'average' is over the datasets.
        train: likewise of the augmented training clips of the last updates.
        agreements: by arm and projection, of every seed.
    """

    train_videos: int
    steps: int
    test: Mapping[str, Mapping[str, np.ndarray]]
    train: Mapping[str, Mapping[str, np.ndarray]]
    agreements: Mapping[str, Mapping[str, Sequence[Agreement]]]

    @property
    def seeds(self) -> int:
        return len(self.test[_BASELINE]['average'])


def training_accuracy(workdir: Path, datasets: Iterable[str]) -> dict[str, float]:
    """Top-1 of the training clips of the last 100 updates, percent, from a run's TensorBoard files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(workdir))
    events.Reload()
    last = {name: events.Tensors(f'top1/{name}')[-1].tensor_proto for name in datasets}
    return {name: 100 * float(tensor_util.make_ndarray(value)) for name, value in last.items()}


def read_agreements(workdir: Path, relations: Path) -> dict[str, Agreement]:
    """How well each projection of a run knows the true relations of the classes."""
    projections = read_projections(workdir)
    known = read_relations(relations, projections)
    return {one.name: agreement(one, known) for one in projections}


def write_page(
    path: Path, outcomes: Sequence[Outcome], *, clips_per_step: float, command: str, finished: float
) -> None:
    """Writes the page and, beside it, its plot.

    Args:
        path: of the page.
        outcomes: one for each condition.
        clips_per_step: of each dataset.
        command: that produced them.
        finished: when the last run ended, seconds since 1970.
    """
    picture = path.with_suffix('.png')
    _plot(picture, outcomes)
    day = datetime.datetime.fromtimestamp(finished, datetime.UTC).date().isoformat()
    versions = f'Python {platform.python_version()}, JAX {jax.__version__}'
    machine = f'{os.cpu_count()} cores of {_processor()}, {versions}'
    lines = [
        '# MultiTrain at small scale',
        '',
        'Written by the command below from its runs; what each arm is, and what is equal between them, is told at its top.',
        '',
        f'    {command}',
        '',
        f'{day}; {machine}. Top-1 accuracy on the validation videos in percent, mean over seeds ± standard deviation. A seed',
        'is another draw of the videos and of the initialisation; within a seed all arms have the same videos. Chance is 10.',
    ]
    for outcome in outcomes:
        lines += ['', *_tables(outcome, clips_per_step)]
    lines += ['', f'![accuracy of every arm and seed]({picture.name})', '', *_LIMITS, '']
    path.write_text('\n'.join(lines), encoding='utf-8')


def _tables(outcome: Outcome, clips_per_step: float) -> list[str]:
    columns = list(outcome.test[_BASELINE])
    clips = round(outcome.steps * clips_per_step)
    lines = [
        f'## {outcome.train_videos} training videos of each dataset, {outcome.steps} updates, {outcome.seeds} seeds',
        '',
        f'{clips} clips seen of each dataset: {clips / outcome.train_videos:.0f} of every video.',
        '',
        *_table_head(['arm', *columns, 'training clips']),
    ]
    for arm, top1 in outcome.test.items():
        cells = [_spread(top1[name]) for name in columns] + [_spread(outcome.train[arm]['average'])]
        lines.append(_row(_TITLES[arm], cells))
    lines += [
        '',
        '"Training clips" is the average top-1 of the (augmented, mixed) training clips of the last 100 updates: how far the '
        'training set was learned at this compute.',
        '',
        f'Difference from "{_TITLES[_BASELINE]}", seed by seed: mean [95 % interval, Student], seeds that are better.',
        '',
        *_table_head(['arm', *columns]),
    ]
    for arm, top1 in outcome.test.items():
        if arm != _BASELINE:
            cells = [_difference(top1[name] - outcome.test[_BASELINE][name]) for name in columns]
            lines.append(_row(_TITLES[arm], cells))
    if outcome.agreements:
        first = next(iter(outcome.agreements.values()))
        lines += [
            '',
            'Classes whose best match by the projection is truly related, of those that have related classes in the other '
            'dataset (`python -m multitrain_jax.projections --relations=...`), mean over seeds:',
            '',
            *_table_head(['arm', *first]),
        ]
        for arm, found in outcome.agreements.items():
            cells = [f'{np.mean([one.right for one in found[name]]):.1f} of {found[name][0].classes}' for name in first]
            lines.append(_row(_TITLES[arm], cells))
        lines.append(_row('drawn blindly', [f'{found[0].chance:.1f}' for found in first.values()]))
    return lines


def _table_head(titles: Sequence[str]) -> list[str]:
    return [f'| {" | ".join(titles)} |', '|---' * len(titles) + '|']


def _row(title: str, cells: Sequence[str]) -> str:
    return f'| {" | ".join([title, *cells])} |'


def _spread(values: np.ndarray) -> str:
    return f'{values.mean():.1f} ± {values.std(ddof=1):.1f}'


def _difference(values: np.ndarray) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = error * stats.t.ppf(0.975, len(values) - 1)
    return f'{values.mean():+.1f} [{values.mean() - half:+.1f}, {values.mean() + half:+.1f}], {(values > 0).sum()}/{len(values)}'


def _plot(path: Path, outcomes: Sequence[Outcome]) -> None:
    """A panel for each condition and dataset: a dot for each arm and seed, seeds joined, bars at the means."""
    columns = [name for name in outcomes[0].test[_BASELINE] if name != 'average']
    figure = Figure((4.2 * len(columns), 2.4 * len(outcomes) + 0.7), dpi=90, layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(outcomes), len(columns), squeeze=False, sharey=True, sharex=True)
    for row, outcome in enumerate(outcomes):
        arms = list(outcome.test)
        for column, name in enumerate(columns):
            axes = panels[row, column]
            values = np.stack([outcome.test[arm][name] for arm in arms])  # [arms, seeds]
            axes.plot(values, '.-', linewidth=0.6, markersize=7, alpha=0.8)
            for place, mean in enumerate(values.mean(axis=1)):
                axes.plot([place - 0.3, place + 0.3], [mean, mean], color='black', linewidth=2)
            axes.set_title(f'{name}, {outcome.train_videos} training videos, {outcome.steps} updates', fontsize=9)
            axes.set_xticks(range(len(arms)), [_TITLES[arm] for arm in arms], rotation=25, ha='right', fontsize=8)
            axes.axhline(10, color='grey', linewidth=0.8, linestyle=':')
            axes.set_ylim(0, 100)
            axes.grid(axis='y', linewidth=0.3)
            if column == 0:
                axes.set_ylabel('top-1, %')
    figure.savefig(path)


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
        return next(line.partition(': ')[2] for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
