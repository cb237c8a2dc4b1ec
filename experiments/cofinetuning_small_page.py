"""The results page of `cofinetuning_small.py`: tables and a plot, from the lines of finished trainings alone."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments import small_page
from experiments.small_page import differences, plot_arms, row, spread, table_head

BASELINE = 'transfer'
_CHANCE = 10  # of ten movements, all equally frequent in validation, each box has one
_TITLES = {
    'alone': 'scenes only',
    'transfer': 'transfer',
    'transfer_half': 'transfer, half on scenes',
    'task_by_task': 'task_by_task',
    'concatenate': 'concatenate',
    'weighted': 'weighted, size^0.5',
    'alternating': 'alternating',
    'uniform': 'uniform',
    'accumulated': 'accumulated',
}
_FIGURES = ('mAP', 'frequent', 'middle', 'rare')
_HALF = (
    'transfer_half',
    'alternating',
    'uniform',
    'accumulated',
)  # half of the clips of each are of "scenes"
_UPSTREAM = 'directions'
_LIMITS = (
    '## Limits',
    '',
    'The papers train tens of millions of parameters on hundreds of thousands of videos; here it is a model of 0.16 M from random',
    'parameters, and upstream the same movements are shown as downstream, which favours whatever uses them. Hyper-parameters',
    "are the config's for all arms; none was tuned for any arm. The sizes come from a few pilot trainings with two upstream datasets",
    '(a seed that is not among these, and three arms of seed 0), cut down to the computing time there was.',
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The seeds of one condition that all arms have finished.

    Attributes:
        upstream_videos, scene_videos, steps: the condition.
        arms: arm -> figure -> f[seeds]: those of `_FIGURES` and 'top1' upstream, in percent, 'clips' of "scenes" seen, 'loss'
            of its boxes in the last updates. An arm without upstream data has no 'top1'.
    """

    upstream_videos: int
    scene_videos: int
    steps: int
    arms: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def seeds(self) -> int:
        return len(self.arms[BASELINE]['mAP'])


def read_outcomes(lines: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """Outcomes of the conditions of which all arms have finished at least two seeds."""
    conditions: dict[tuple[int, int, int], dict[int, dict[str, Mapping[str, Any]]]] = {}
    for line in lines:
        condition = line['upstream_videos'], line['scene_videos'], line['steps']
        conditions.setdefault(condition, {}).setdefault(line['seed'], {})[line['arm']] = line
    outcomes = []
    for condition, seeds in conditions.items():
        complete = [found for _, found in sorted(seeds.items()) if found.keys() == _TITLES.keys()]
        if len(complete) > 1:
            outcomes.append(
                Outcome(
                    *condition,
                    {arm: _figures([found[arm] for found in complete]) for arm in _TITLES},
                )
            )
    return outcomes


def _figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    found = {name: 100 * np.array([line[name] for line in lines]) for name in _FIGURES}
    if 'top1' in lines[0]:
        found['top1'] = 100 * np.array([line['top1'] for line in lines])
    found['clips'] = np.array([line['clips']['scenes'] for line in lines])
    found['loss'] = np.array([line['loss'] for line in lines])
    return found


def write_page(
    path: Path, outcomes: Sequence[Outcome], *, lines: Sequence[Mapping[str, Any]], command: str
) -> None:
    """Writes the page and, beside it, its plot and the lines that it was made from."""
    picture, data = path.with_suffix('.png'), path.with_suffix('.jsonl')
    data.write_text(''.join(f'{json.dumps(line)}\n' for line in lines), encoding='utf-8')
    _plot(picture, outcomes)
    finished = max(line['finished'] for line in lines)
    text = [
        '# Co-finetuning at small scale',
        '',
        'Written by the command below from its runs; what each arm is, and what is equal between them, is told at its top.',
        '',
        f'    {command}',
        '',
        f'{small_page.date_and_machine(finished)}. Average precision at 0.5 IoU on the validation videos of "scenes" in percent,',
        'at the annotated boxes: mean over all actions (mAP) and over the frequent, middle and rare third of them, by boxes in the',
        'training videos. Mean over seeds ± standard deviation. A seed is another draw of the videos and of the initialisation;',
        f'within a seed all arms have the same videos. Chance is {_CHANCE}. All trainings, one a line: [{data.name}]({data.name}).',
    ]
    for outcome in outcomes:
        text += ['', *_tables(outcome)]
    text += ['', f'![average precision of every arm and seed]({picture.name})', '', *_LIMITS, '']
    path.write_text('\n'.join(text), encoding='utf-8')


def _tables(outcome: Outcome) -> list[str]:
    lines = [
        f'## {outcome.upstream_videos} training videos upstream, {outcome.scene_videos} of scenes, {outcome.steps} updates, '
        f'{outcome.seeds} seeds',
        '',
        *table_head(['arm', *_FIGURES, 'passes over scenes', 'training loss', _UPSTREAM]),
    ]
    for arm, figures in outcome.arms.items():
        cells = [spread(figures[name]) for name in _FIGURES]
        cells += [
            f'{figures["clips"].mean() / outcome.scene_videos:.0f}',
            f'{figures["loss"].mean():.3f}',
        ]
        cells.append(spread(figures['top1']) if 'top1' in figures else '')
        lines.append(row(_TITLES[arm], cells))
    titled = {_TITLES[arm]: figures for arm, figures in outcome.arms.items()}
    lines += [
        '',
        '"Training loss" is the binary cross-entropy at the boxes of the training clips in the last (at most 100) updates. The last '
        'column is top-1 upstream; of the transfer arms it is that of the first run, as the second has no such head.',
        '',
        *differences(titled, _TITLES[BASELINE], _FIGURES),
        '',
        'The same among the arms of which half of the clips are of scenes:',
        '',
        *differences(
            {_TITLES[arm]: titled[_TITLES[arm]] for arm in _HALF}, _TITLES[_HALF[0]], _FIGURES
        ),
    ]
    return lines


def _plot(path: Path, outcomes: Sequence[Outcome]) -> None:
    """A panel for each condition and figure."""
    figure, panels = small_page.panels(len(outcomes), len(_FIGURES))
    for line, outcome in zip(panels, outcomes):
        for axes, name in zip(line, _FIGURES):
            title = f'{name}, {outcome.scene_videos} videos of scenes, {outcome.steps} updates'
            values = {_TITLES[arm]: figures[name] for arm, figures in outcome.arms.items()}
            plot_arms(axes, values, title=title, chance=_CHANCE)
            axes.set_ylim(0, 100)
        line[0].set_ylabel('average precision, %')
    figure.savefig(path)
