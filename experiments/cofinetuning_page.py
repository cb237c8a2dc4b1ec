"""The page of `cofinetuning.py`: tables and a plot, from its lines alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import page
from experiments.ledger import Ledger
from experiments.page import row, table_head

TITLES = {
    'alone': 'scenes only',
    'transfer': 'transfer',
    'weighted': 'co-finetuning, weighted',
    'by_batch': 'co-finetuning, weighted by batch',
    'accumulated': 'co-finetuning, accumulated',
    'multitrain': "weighted, + MultiTrain's losses",
}
_BEFORE = (
    'An earlier page, of another regime (one learning rate for all arms, ratios by size, 3 seeds), '
    'had "scenes" only best in mAP, 57 against 44 to 53 of transfer and 35 to 48 of co-finetuning, '
    'and on the rare third co-finetuning above transfer, 19 to 26 against 16 to 20.'
)
_FIGURES = ('mAP', 'frequent', 'middle', 'rare')
_SCHEDULES = ('weighted', 'by_batch', 'accumulated')


def write(path: Path, ledger: Ledger) -> None:
    """Writes the page and, beside it, its plot and a copy of the lines."""
    lines = ledger.find(search=False)
    arms = {arm: _figures([line for line in lines if line['arm'] == arm]) for arm in TITLES}
    arms = {arm: found for arm, found in arms.items() if found['mAP']}
    picture = path.with_suffix('.png')
    text = [
        "# Co-finetuning's experiment, small",
        '',
        *_findings(arms),
        '',
        _BEFORE,
        '',
        page.WRITTEN,
        '',
        '    python experiments/cofinetuning.py --output=runs/method',
        '',
        page.date_and_machine([line for line in ledger.lines if 'arm' in line])
        + ' Average precision on the validation videos of "scenes", percent, over all actions and'
        ' over the frequent, middle and rare third of them by boxes in training; mean over seeds ±'
        f' standard deviation. {page.PAIRED}',
        '',
        *_table(arms),
    ]
    for base in ('transfer', 'alone'):
        if base in arms:
            text += ['', *_differences(arms, base)]
    text += ['', '## Hyper-parameters that the search found', '', *_settings(lines)]
    if all(len(found['mAP']) > 1 for found in arms.values()) and arms:
        _plot(picture, arms)
        text += ['', f'![average precision of every arm and seed]({picture.name})']
    path.write_text('\n'.join([*text, *page.checked(ledger), '']), encoding='utf-8')
    page.copy_lines(path, ledger)


def _figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    return {
        name: {line['seed']: 100 * line[name] for line in lines if name in line}
        for name in (*_FIGURES, 'upstream')
    }


def _paired(arms, arm: str, base: str, name: str) -> np.ndarray:
    mine, other = arms[arm][name], arms[base][name]
    return np.array([mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys())])


def _findings(arms) -> list[str]:
    """What came out: a sentence for each baseline, and of the schedules for each figure."""
    figures = {'mAP': 'mAP', 'rare third': 'rare'}
    claims = {
        f'Co-finetuning against {TITLES[base]}, {figure}': {
            TITLES[arm].removeprefix('co-finetuning, '): (arm, base, name) for arm in _SCHEDULES
        }
        for base in ('transfer', 'alone')
        for figure, name in figures.items()
    }
    for title, pair in (
        ('Transfer against scenes only', ('transfer', 'alone')),
        ("MultiTrain's losses on top of weighted co-finetuning", ('multitrain', 'weighted')),
    ):
        claims[title] = {figure: (*pair, name) for figure, name in figures.items()}
    found = []
    for title, those in claims.items():
        values = {
            condition: _paired(arms, arm, base, name)
            for condition, (arm, base, name) in those.items()
            if arm in arms and base in arms
        }
        values = {condition: one for condition, one in values.items() if len(one) > 1}
        if values:
            found.append(f'* {page.claim(title, values)}.')
    return ['In points of average precision:', '', *found]


def _table(arms) -> list[str]:
    lines = table_head(['arm', 'seeds', *_FIGURES, 'top-1 upstream'])
    for arm, figures in arms.items():
        cells = [page.spread(np.array(list(figures[name].values()))) for name in _FIGURES]
        upstream = np.array(list(figures['upstream'].values()))
        cells = [str(len(figures['mAP'])), *cells, page.spread(upstream) if len(upstream) else '']
        lines.append(row(TITLES[arm], cells))
    return lines


def _differences(arms, base: str) -> list[str]:
    lines = [f'Differences from "{TITLES[base]}":', '', *table_head(['arm', *_FIGURES])]
    for arm in arms:
        if arm != base:
            cells = [page.difference(_paired(arms, arm, base, name)) for name in _FIGURES]
            lines.append(row(TITLES[arm], cells))
    return lines


def _settings(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for arm, title in TITLES.items():
        one = next((line for line in lines if line['arm'] == arm), None)
        if one is not None:
            rows.append(row(title, [f'{one["rate"]:g}', f'{one["part"]:g}']))
    return [*table_head(['arm', 'learning rate', 'part of scenes']), *rows]


def _plot(path: Path, arms) -> None:
    figure, axes = page.panels(1, 2)
    for panel, name in zip(axes[0], ('mAP', 'rare')):
        seeds = sorted(set.intersection(*(set(arms[arm][name]) for arm in arms)))
        figures = {TITLES[arm]: np.array([arms[arm][name][seed] for seed in seeds]) for arm in arms}
        title = {'mAP': 'all actions', 'rare': 'rare third'}[name]
        page.plot_arms(panel, figures, title=title)
    axes[0][0].set_ylabel('average precision, %')
    figure.savefig(path)
