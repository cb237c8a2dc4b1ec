"""The results page of `multitrain_small.py`: tables and a plot, from finished runs alone."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from pathlib import Path

import numpy as np

from experiments import small_page, small_runs
from experiments.small_page import differences, plot_arms, row, spread, table_head
from multitrain_jax.reporting.projections import (
    Agreement,
    agreement,
    read_projections,
    read_relations,
)

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
    return {name: 100 * small_runs.logged(workdir, f'top1/{name}')[-1][1] for name in datasets}


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
    lines = [
        '# MultiTrain at small scale',
        '',
        'Written by the command below from its runs; what each arm is, and what is equal between them, is told at its top.',
        '',
        f'    {command}',
        '',
        f'{small_page.date_and_machine(finished)}. Top-1 accuracy on the validation videos in percent, mean over seeds ± standard deviation. A seed',
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
        *table_head(['arm', *columns, 'training clips']),
    ]
    for arm, top1 in outcome.test.items():
        cells = [spread(top1[name]) for name in columns] + [spread(outcome.train[arm]['average'])]
        lines.append(row(_TITLES[arm], cells))
    lines += [
        '',
        '"Training clips" is the average top-1 of the (augmented, mixed) training clips of the last 100 updates: how far the '
        'training set was learned at this compute.',
        '',
        *differences(
            {_TITLES[arm]: top1 for arm, top1 in outcome.test.items()}, _TITLES[_BASELINE], columns
        ),
    ]
    if outcome.agreements:
        first = next(iter(outcome.agreements.values()))
        lines += [
            '',
            'Classes whose best match by the projection is truly related, of those that have related classes in the other '
            'dataset (`python -m multitrain_jax.projections --relations=...`), mean over seeds:',
            '',
            *table_head(['arm', *first]),
        ]
        for arm, found in outcome.agreements.items():
            cells = [
                f'{np.mean([one.right for one in found[name]]):.1f} of {found[name][0].classes}'
                for name in first
            ]
            lines.append(row(_TITLES[arm], cells))
        lines.append(row('drawn blindly', [f'{found[0].chance:.1f}' for found in first.values()]))
    return lines


def _plot(path: Path, outcomes: Sequence[Outcome]) -> None:
    """A panel for each condition and dataset."""
    columns = [name for name in outcomes[0].test[_BASELINE] if name != 'average']
    figure, panels = small_page.panels(len(outcomes), len(columns))
    for line, outcome in zip(panels, outcomes):
        for axes, name in zip(line, columns):
            figures = {_TITLES[arm]: top1[name] for arm, top1 in outcome.test.items()}
            title = f'{name}, {outcome.train_videos} training videos, {outcome.steps} updates'
            plot_arms(axes, figures, title=title, chance=10)
            axes.set_ylim(0, 100)
        line[0].set_ylabel('top-1, %')
    figure.savefig(path)
