"""The results page of `multitrain_small.py`: tables and a plot, from finished runs alone."""

from collections.abc import Mapping, Sequence
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
_TITLES = {
    'separate': 'separate models',
    'joint': 'joint, cross-entropy',
    'informative': '+ informative loss',
    'projection': '+ projection loss',
    'both': '+ both (MultiTrain)',
}


@dataclasses.dataclass(frozen=True)
class Size:
    """All finished seeds of one number of training videos.

    Attributes:
        train_videos: of each dataset.
        top1: by arm and dataset, percent of every seed; 'average' is over the datasets.
        agreements: by arm and projection, of every seed.
        clips: that each training saw of each dataset.
    """

    train_videos: int
    top1: Mapping[str, Mapping[str, np.ndarray]]
    agreements: Mapping[str, Mapping[str, Sequence[Agreement]]]
    clips: int

    @property
    def seeds(self) -> int:
        return len(self.top1[_BASELINE]['average'])


def read_agreements(workdir: Path, relations: Path) -> dict[str, Agreement]:
    """How well each projection of a run knows the true relations of the classes."""
    projections = read_projections(workdir)
    known = read_relations(relations, projections)
    return {one.name: agreement(one, known) for one in projections}


def write_page(path: Path, sizes: Sequence[Size], *, command: str, finished: float) -> None:
    """Writes the page and, beside it, its plot.

    Args:
        path: of the page.
        sizes: results.
        command: that produced them.
        finished: when the last run ended, seconds since 1970.
    """
    picture = path.with_suffix('.png')
    _plot(picture, sizes)
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
    for size in sizes:
        lines += ['', *_tables(size)]
    lines += ['', f'![accuracy of every arm and seed]({picture.name})', '']
    path.write_text('\n'.join(lines), encoding='utf-8')


def _tables(size: Size) -> list[str]:
    columns = list(size.top1[_BASELINE])
    lines = [
        f'## {size.train_videos} training videos of each dataset, {size.seeds} seeds, {size.clips} clips seen of each',
        '',
        f'| arm | {" | ".join(columns)} |',
        '|---' * (len(columns) + 1) + '|',
    ]
    for arm, top1 in size.top1.items():
        cells = [f'{values.mean():.1f} ± {values.std(ddof=1):.1f}' for values in (top1[name] for name in columns)]
        lines.append(f'| {_TITLES[arm]} | {" | ".join(cells)} |')
    lines += [
        '',
        f'Difference from "{_TITLES[_BASELINE]}", seed by seed: mean [95 % interval, Student], seeds that are better.',
        '',
        f'| arm | {" | ".join(columns)} |',
        '|---' * (len(columns) + 1) + '|',
    ]
    for arm, top1 in size.top1.items():
        if arm != _BASELINE:
            cells = [_difference(top1[name] - size.top1[_BASELINE][name]) for name in columns]
            lines.append(f'| {_TITLES[arm]} | {" | ".join(cells)} |')
    if size.agreements:
        projections = list(next(iter(size.agreements.values())))
        lines += [
            '',
            'Classes whose best match by the projection is truly related, of those that have related classes in the other '
            'dataset (`python -m multitrain_jax.projections --relations=...`):',
            '',
            f'| arm | {" | ".join(projections)} |',
            '|---' * (len(projections) + 1) + '|',
        ]
        for arm, found in size.agreements.items():
            cells = [
                f'{np.mean([one.right for one in found[name]]):.1f} of {found[name][0].classes}' for name in projections
            ]
            lines.append(f'| {_TITLES[arm]} | {" | ".join(cells)} |')
        first = next(iter(size.agreements.values()))
        cells = [f'{first[name][0].chance:.1f}' for name in projections]
        lines.append(f'| drawn blindly | {" | ".join(cells)} |')
    return lines


def _difference(values: np.ndarray) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = error * stats.t.ppf(0.975, len(values) - 1)
    return f'{values.mean():+.1f} [{values.mean() - half:+.1f}, {values.mean() + half:+.1f}], {(values > 0).sum()}/{len(values)}'


def _plot(path: Path, sizes: Sequence[Size]) -> None:
    """A panel for each size and dataset: a dot for each arm and seed, seeds joined, bars at the means."""
    columns = [name for name in sizes[0].top1[_BASELINE] if name != 'average']
    figure = Figure((4.2 * len(columns), 2.9 * len(sizes)), dpi=90, layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(sizes), len(columns), squeeze=False, sharey=True, sharex=True)
    for row, size in enumerate(sizes):
        arms = list(size.top1)
        for column, name in enumerate(columns):
            axes = panels[row, column]
            values = np.stack([size.top1[arm][name] for arm in arms])  # [arms, seeds]
            axes.plot(values, '.-', linewidth=0.6, markersize=7, alpha=0.8)
            for place, mean in enumerate(values.mean(axis=1)):
                axes.plot([place - 0.3, place + 0.3], [mean, mean], color='black', linewidth=2)
            axes.set_title(f'{name}, {size.train_videos} training videos', fontsize=10)
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
