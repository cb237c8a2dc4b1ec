"""The page of `multitrain.py`: tables and plots, from its lines alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import page
from experiments.ledger import Ledger
from experiments.page import row, table_head

TITLES = {
    'single': 'single models',
    'joint': 'joint, cross-entropy',
    'informative': '+ informative loss',
    'projection': '+ projection loss',
    'both': '+ both (MultiTrain)',
    'both_plain': '+ both, plain accumulation',
    'maps': 'joint, label maps known',
}
_SETTINGS = {'rate': 'learning rate', 'lambda_inf': 'lambda_inf', 'lambda_proj': 'lambda_proj'}


_BEFORE = (
    "An earlier page, of another regime (random start, batch 16, the paper's weights of the "
    'losses, '
    'one setting for all arms), had the informative loss at -18 and -33 points against joint '
    'training and both losses at -15 and -37: [DIAGNOSE.md](DIAGNOSE.md) tells why.'
)


def write(
    path: Path,
    ledger: Ledger,
    datasets: Sequence[str],
    *,
    title: str = "MultiTrain's experiment, in the paper's regime and small",
    command: str = 'python experiments/multitrain.py --output=runs/method',
    note: str = _BEFORE,
) -> None:
    """Writes the page and, beside it, its plots and a copy of the lines.

    Args:
        path: of the page.
        ledger: finished trainings.
        datasets: all, those of the smaller numbers first.
        title: of the page.
        command: that makes it.
        note: that follows what came out.
    """
    reported = [line for line in ledger.lines if line.get('search') is False]
    videos = min((line['videos'] for line in ledger.find(search=True)), default=None)
    compared = [line for line in reported if line['videos'] == videos]
    counts = sorted({line['datasets'] for line in compared if 'datasets' in line})
    clips = {line['datasets']: line['clips'] for line in compared if 'datasets' in line}
    accuracy = {
        count: accuracies(
            [line for line in compared if line['clips'] == clips[count]], datasets[:count]
        )
        for count in counts
    }
    accuracy = {count: arms for count, arms in accuracy.items() if 'joint' in arms}
    pictures = [path.with_name(f'{path.stem}_{name}.png') for name in ('ARMS', 'PROJECTIONS')]
    text = [
        f'# {title}',
        '',
        *findings(accuracy),
        '',
        note,
        '',
        page.WRITTEN,
        '',
        f'    {command}',
        '',
        page.date_and_machine([line for line in ledger.lines if 'arm' in line])
        + (f' {videos} training and 400 validation videos of each dataset;' if videos else '')
        + f' top-1, percent, mean over seeds ± standard deviation. {page.PAIRED}',
    ]
    for count, arms in accuracy.items():
        text += ['', *_section(arms, datasets[:count], clips[count])]
    searched = {line['datasets'] for line in ledger.find(search=True) if 'datasets' in line}
    text += ['', '## Hyper-parameters that the search found', '']
    text += [f'With {count} datasets, on two other seeds:' for count in searched]
    text += ['', *_settings_table(compared)]
    if accuracy:
        _plot_arms(pictures[0], accuracy)
        text += ['', f'![accuracy of every arm and seed]({pictures[0].name})']
    grown = [line for line in reported if line['arm'] == 'projection' and line['datasets'] == 4]
    if any('related' in line for line in reported):
        text += ['', '## Whether projections find the relations of the classes', '']
        text += _projection_table(compared, grown)
    if len({line['videos'] for line in grown}) > 1:
        _plot_projections(pictures[1], grown)
        text += ['', f'![best matches that are related]({pictures[1].name})']
    text += [*page.checked(ledger), '']
    path.write_text('\n'.join(text), encoding='utf-8')
    page.copy_lines(path, ledger)


def accuracies(
    lines: Sequence[Mapping[str, Any]], datasets: Sequence[str]
) -> dict[str, dict[str, dict[int, float]]]:
    """By arm and dataset ('average': of all), percent of every seed."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for line in lines:
        if line['arm'] == 'single' and line['dataset'] in datasets:
            own = found.setdefault('single', {}).setdefault(line['dataset'], {})
            own[line['seed']] = 100 * line['top1'][line['dataset']]
        elif line.get('datasets') == len(datasets):
            for name in datasets:
                own = found.setdefault(line['arm'], {}).setdefault(name, {})
                own[line['seed']] = 100 * line['top1'][name]
    for arm, by_dataset in list(found.items()):
        if len(by_dataset) < len(datasets):
            del found[arm]
            continue
        seeds = sorted(set.intersection(*(set(own) for own in by_dataset.values())))
        by_dataset['average'] = {
            seed: float(np.mean([by_dataset[name][seed] for name in datasets])) for seed in seeds
        }
    return {arm: found[arm] for arm in TITLES if arm in found}


_CLAIMS = {
    ('joint', 'single'): 'Joint training against single models',
    ('both', 'joint'): 'MultiTrain (both losses) against joint training',
    ('both', 'both_plain'): 'MultiTrain by two-pass against plain accumulation',
    ('maps', 'joint'): 'Known relations of the classes, the ceiling, against joint training',
}


def findings(accuracy: Mapping[int, Mapping[str, Mapping[str, Mapping[int, float]]]]) -> list[str]:
    """What came out: sentences, and all comparisons with joint training."""
    claims = []
    for (arm, base), title in _CLAIMS.items():
        found = {
            f'{count} datasets': _paired(arms, arm, base)
            for count, arms in accuracy.items()
            if arm in arms and base in arms
        }
        found = {name: values for name, values in found.items() if len(values) > 1}
        if found:
            claims.append(f'* {page.claim(title, found)}.')
    if not claims:
        return ['Too few seeds are finished to tell anything.']
    lines = ['In points of top-1, mean of the datasets:', '', *claims, '']
    lines += table_head(['against joint training', *[f'{count} datasets' for count in accuracy]])
    for arm, title in TITLES.items():
        cells = [
            page.difference(_paired(arms, arm, 'joint')) if arm in arms else ''
            for arms in accuracy.values()
        ]
        if arm != 'joint' and any(cells):
            lines.append(row(title, cells))
    return lines


def _paired(arms, arm: str, base: str, name: str = 'average') -> np.ndarray:
    mine, other = arms[arm][name], arms[base][name]
    return np.array([mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys())])


def _section(arms, datasets: Sequence[str], clips: int) -> list[str]:
    names = ['average', *datasets]
    lines = [
        f'## {len(datasets)} datasets',
        '',
        f'{clips} clips of each dataset in every training: {clips * len(datasets) // 128} updates '
        'of 128 clips; single models: as many clips in batches of 16.',
        '',
        *table_head(['arm', 'seeds', *names]),
    ]
    for arm, figures in arms.items():
        cells = [page.spread(np.array(list(figures[name].values()))) for name in names]
        lines.append(row(TITLES[arm], [str(len(figures['average'])), *cells]))
    others = ('single', 'both')
    lines += ['', 'Differences of the average:', '']
    lines += table_head(['arm', *[f'from {TITLES[base]}' for base in others]])
    for arm in arms:
        cells = [
            page.difference(_paired(arms, arm, base)) if base != arm and base in arms else ''
            for base in others
        ]
        lines.append(row(TITLES[arm], cells))
    return lines


def _settings_table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for arm, title in TITLES.items():
        one = next((line for line in lines if line['arm'] == arm), None)
        if one is not None:
            rows.append(row(title, [f'{one[name]:g}' if name in one else '' for name in _SETTINGS]))
    return [*table_head(['arm', *_SETTINGS.values()]), *rows]


def _agreement(line: Mapping[str, Any]) -> tuple[float, float]:
    """Percent of the classes with relations whose best match is related; and by chance."""
    right, classes, chance = np.array(list(line['related'].values())).sum(0)
    return 100 * right / classes, 100 * chance / classes


def _projection_table(
    compared: Sequence[Mapping[str, Any]], grown: Sequence[Mapping[str, Any]]
) -> list[str]:
    groups: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    for line in [*compared, *grown]:
        if 'related' in line:
            key = line['arm'], line['datasets'], line['videos']
            groups.setdefault(key, []).append(_agreement(line))
    lines = [
        'Percent of the classes for which the largest weight of their row is that of a related '
        'class (one with a movement in common), over all pairs of datasets:',
        '',
        *table_head(['arm', 'datasets', 'training videos', 'related', 'blindly']),
    ]
    for (arm, count, videos), found in sorted(groups.items()):
        right, chance = np.array(found).T
        cells = [str(count), str(videos), page.spread(right), f'{chance.mean():.1f}']
        lines.append(row(TITLES[arm], cells))
    return lines


def _plot_arms(path: Path, accuracy) -> None:
    figure, axes = page.panels(1, len(accuracy), width=3.4)
    for panel, (count, arms) in zip(axes[0], accuracy.items()):
        seeds = sorted(set.intersection(*(set(arms[arm]['average']) for arm in arms)))
        figures = {
            TITLES[arm]: np.array([arms[arm]['average'][seed] for seed in seeds]) for arm in arms
        }
        page.plot_arms(panel, figures, title=f'{count} datasets')
    axes[0][0].set_ylabel('top-1, mean of the datasets, %')
    figure.savefig(path)


def _plot_projections(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    figure, axes = page.panels(1, 1, width=5.0)
    panel = axes[0][0]
    videos = sorted({line['videos'] for line in lines})
    by_videos = [
        np.array([_agreement(line) for line in lines if line['videos'] == count])
        for count in videos
    ]
    for count, found in zip(videos, by_videos):
        panel.plot([count] * len(found), found[:, 0], '.', color='tab:blue', alpha=0.6)
    panel.plot(
        videos, [found[:, 0].mean() for found in by_videos], color='tab:blue', label='projections'
    )
    panel.plot(
        videos, [found[:, 1].mean() for found in by_videos], ':', color='grey', label='blindly'
    )
    panel.set_xscale('log')
    panel.set_xticks(videos, [str(count) for count in videos])
    panel.minorticks_off()
    panel.set_xlabel('training videos of each dataset')
    panel.set_ylabel('best matches that are related, %')
    panel.set_ylim(0)
    panel.grid(linewidth=0.3)
    panel.legend(fontsize=8)
    figure.savefig(path)
