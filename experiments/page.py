"""What the results pages share: tables, differences over seeds, when and where, dots of seeds."""

from collections.abc import Mapping, Sequence
import datetime
import json
from pathlib import Path
import platform
from typing import Any

import jax
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from scipy import stats

from experiments.ledger import Ledger

WRITTEN = (
    'Written by the command below from its trainings; what each is and what is equal between them '
    'is told at its top.'
)
PAIRED = 'Differences are taken seed by seed: mean [95 % interval, Student], seeds that are better.'


def date_and_machine(lines: Sequence[Mapping[str, Any]]) -> str:
    """When the last training ended, where this is written, what all of them took."""
    day = datetime.datetime.fromtimestamp(
        max((line['finished'] for line in lines), default=0), datetime.UTC
    ).date()
    minutes = sum(line.get('seconds', 0) for line in lines) / 60
    return (
        f'{day.isoformat()}; one core of {_processor()}, Python {platform.python_version()}, '
        f'JAX {jax.__version__}; {len(lines)} trainings, {minutes:.0f} minutes of computing.'
    )


def table_head(titles: Sequence[str]) -> list[str]:
    return [f'| {" | ".join(titles)} |', '|---' * len(titles) + '|']


def row(title: str, cells: Sequence[str]) -> str:
    return f'| {" | ".join([title, *cells])} |'


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation over seeds."""
    if len(values) < 2:
        return f'{values.mean():.1f}'
    return f'{values.mean():.1f} ± {values.std(ddof=1):.1f}'


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of differences taken seed by seed, and its 95 % interval after Student."""
    half = values.std(ddof=1) / np.sqrt(len(values)) * stats.t.ppf(0.975, len(values) - 1)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def difference(values: np.ndarray) -> str:
    """Mean, interval, and how many seeds are better."""
    if len(values) < 2:
        return ''
    mean, low, high = interval(values)
    return f'{mean:+.1f} [{low:+.1f}, {high:+.1f}], {(values > 0).sum()}/{len(values)}'


def verdict(values: np.ndarray) -> str:
    """In words: a gain or a loss where the interval says so."""
    word, figures = _word_and_figures(values)
    return f'{word}: {figures}'


def _word_and_figures(values: np.ndarray) -> tuple[str, str]:
    mean, low, high = interval(values)
    word = 'gain' if low > 0 else 'loss' if high < 0 else 'no difference found'
    return word, f'{mean:+.1f} [{low:+.1f}, {high:+.1f}]'


def claim(title: str, differences: Mapping[str, np.ndarray]) -> str:
    """A sentence of the verdicts under several conditions, those of one verdict together.

    Args:
        title: what is compared.
        differences: condition -> differences of two or more seeds.
    """
    by_word: dict[str, list[str]] = {}
    for condition, values in differences.items():
        word, figures = _word_and_figures(values)
        by_word.setdefault(word, []).append(f'{condition} {figures}')
    return f'{title}: ' + '; '.join(f'{word}, {", ".join(all_)}' for word, all_ in by_word.items())


def panels(
    rows: int,
    columns: int,
    *,
    width: float = 4.2,
    sharex: bool | str = True,
    sharey: bool | str = True,
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [rows, columns], `width` inches each."""
    figure = Figure((width * columns, 2.4 * rows + 0.7), dpi=90, layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey, sharex=sharex)


def copy_lines(path: Path, ledger: Ledger) -> None:
    """The trainings that a page was made from, beside it."""
    text = ''.join(json.dumps(line) + '\n' for line in ledger.lines)
    path.with_suffix('.jsonl').write_text(text, encoding='utf-8')


def checked(ledger: Ledger) -> list[str]:
    """What the comparison with the real training loop gave; see `setup.check`."""
    found = ledger.find(check='train_and_evaluate, a tenth')
    if not found:
        return []
    return [
        '',
        'The first tenth of one of these trainings was repeated by `train_and_evaluate` on the '
        f'same batches: relative distance of the parameters '
        f'{found[0]["relative_distance"]:.1e}.',
    ]


def plot_arms(axes: Axes, figures: Mapping[str, np.ndarray], *, title: str) -> None:
    """A dot for each arm and seed, seeds joined, bars at the means; `figures`: by arm, f[seeds]."""
    values = np.stack(list(figures.values()))  # [arms, seeds]
    axes.plot(values, '.-', linewidth=0.6, markersize=7, alpha=0.8)
    for place, mean in enumerate(values.mean(axis=1)):
        axes.plot([place - 0.3, place + 0.3], [mean, mean], color='black', linewidth=2)
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(figures)), list(figures), rotation=25, ha='right', fontsize=8)
    axes.grid(axis='y', linewidth=0.3)


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
        return next(line.partition(': ')[2] for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
