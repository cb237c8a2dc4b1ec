"""What the results pages of the small experiments share: who and when, tables, spreads over seeds, dots of every seed."""

from collections.abc import Mapping, Sequence
import datetime
import os
from pathlib import Path
import platform

import jax
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from scipy import stats


def date_and_machine(finished: float) -> str:
    """When the last run ended (seconds since 1970), and where this is written."""
    day = datetime.datetime.fromtimestamp(finished, datetime.UTC).date().isoformat()
    return f'{day}; {os.cpu_count()} cores of {_processor()}, Python {platform.python_version()}, JAX {jax.__version__}'


def table_head(titles: Sequence[str]) -> list[str]:
    return [f'| {" | ".join(titles)} |', '|---' * len(titles) + '|']


def row(title: str, cells: Sequence[str]) -> str:
    return f'| {" | ".join([title, *cells])} |'


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation over seeds."""
    return f'{values.mean():.1f} ± {values.std(ddof=1):.1f}'


def _difference(values: np.ndarray) -> str:
    """Mean of differences taken seed by seed, its 95 % interval after Student, and how many seeds are better."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = error * stats.t.ppf(0.975, len(values) - 1)
    return f'{values.mean():+.1f} [{values.mean() - half:+.1f}, {values.mean() + half:+.1f}], {(values > 0).sum()}/{len(values)}'


def differences(
    arms: Mapping[str, Mapping[str, np.ndarray]], baseline: str, figures: Sequence[str]
) -> list[str]:
    """A table of what every arm has more than the baseline; `arms`: title -> figure -> f[seeds]."""
    lines = [
        f'Difference from "{baseline}", seed by seed: mean [95 % interval, Student], seeds that are better.',
        '',
        *table_head(['arm', *figures]),
    ]
    for title, found in arms.items():
        if title != baseline:
            lines.append(
                row(title, [_difference(found[name] - arms[baseline][name]) for name in figures])
            )
    return lines


def panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [rows, columns]; all have the same scales."""
    figure = Figure((4.2 * columns, 2.4 * rows + 0.7), dpi=90, layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)


def plot_arms(axes: Axes, figures: Mapping[str, np.ndarray], *, title: str, chance: float) -> None:
    """A dot for each arm and seed, seeds joined, bars at the means; `figures`: by arm, f[seeds]."""
    values = np.stack(list(figures.values()))  # [arms, seeds]
    axes.plot(values, '.-', linewidth=0.6, markersize=7, alpha=0.8)
    for place, mean in enumerate(values.mean(axis=1)):
        axes.plot([place - 0.3, place + 0.3], [mean, mean], color='black', linewidth=2)
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(figures)), list(figures), rotation=25, ha='right', fontsize=8)
    axes.axhline(chance, color='grey', linewidth=0.8, linestyle=':')
    axes.grid(axis='y', linewidth=0.3)


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
        return next(line.partition(': ')[2] for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
