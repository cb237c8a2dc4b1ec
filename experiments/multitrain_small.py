"""MultiTrain's claim at small scale: one model per dataset, joint training, and what each of the two losses adds.

    python experiments/multitrain_small.py --output=runs/multitrain_small [--seeds=5] \\
        [--conditions 40:500 80:500]

Trains on the synthetic datasets "motions" and "directions" with few videos of each. A condition is VIDEOS:STEPS, the
training videos of each dataset (of 10 classes) and the updates of every training. The arms:

    separate      a model for each dataset, cross-entropy
    joint         one model for both, cross-entropy
    informative   joint, and the informative loss
    projection    joint, and the projection loss
    both          joint, and both losses: MultiTrain

Every arm has the model, optimizer and augmentation of configs/quickstart.py, as they are there. Equal compute: every
arm sees the same number of clips of each dataset in the same number of updates (the separate models have half the
batch, all of it of their own dataset). A seed is another draw of the videos *and* of the initialisation;
within a seed all arms have the same videos, so that differences are taken seed by seed.

Runs are kept under --output: started again, the command goes on where it was stopped. At the end it writes
experiments/MULTITRAIN_SMALL.md and its plot from the results alone.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import functools
import itertools
from pathlib import Path
import sys

import ml_collections
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from configs import quickstart  # noqa: E402
from experiments import small_runs  # noqa: E402
from experiments.multitrain_small_page import (
    Outcome,
    read_agreements,
    training_accuracy,
    write_page,
)  # noqa: E402
from experiments.small_runs import Training  # noqa: E402
from multitrain_jax.config import read_config  # noqa: E402
from multitrain_jax.errors import UserError, run_command  # noqa: E402
from multitrain_jax.evaluation import results  # noqa: E402
from multitrain_jax.reporting.projections import Agreement  # noqa: E402
from multitrain_jax.train import train_and_evaluate  # noqa: E402

DATASETS = ('directions', 'motions')


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: on which datasets, and which losses join the cross-entropy."""

    datasets: tuple[str, ...] = DATASETS
    projection: bool = False
    informative: bool = False


# Arm -> its trainings by name, which is also the directory of each.
ARMS: dict[str, dict[str, Run]] = {
    'separate': {f'only_{name}': Run((name,)) for name in DATASETS},
    'joint': {'joint': Run()},
    'informative': {'informative': Run(informative=True)},
    'projection': {'projection': Run(projection=True)},
    'both': {'both': Run(projection=True, informative=True)},
}
RUNS = {name: run for arm in ARMS.values() for name, run in arm.items()}


@dataclasses.dataclass(frozen=True)
class Condition:
    """What all runs that are compared with each other share, besides configs/quickstart.py."""

    train_videos: int  # of each dataset
    steps: int  # updates of every training

    @property
    def directory(self) -> str:
        return f'videos_{self.train_videos}_steps_{self.steps}'


def run_config(
    run: Run, condition: Condition, seed: int, validation_videos: int, output: Path
) -> ml_collections.ConfigDict:
    """The quickstart with the run's datasets and losses; nothing else differs between arms."""
    config = quickstart.get_config()
    config.seed = seed
    config.data_root = str(workdir_of(output, condition, seed, 'data'))
    config.synthetic.update(
        train_videos=condition.train_videos, validation_videos=validation_videos, seed=seed
    )
    config.epochs = condition.steps * config.batch_size / (condition.train_videos * len(DATASETS))
    for name in DATASETS:
        if name not in run.datasets:
            del config.datasets[name]
    config.batch_size = config.batch_size * len(run.datasets) // len(DATASETS)
    if not run.projection:
        config.objective.lambda_proj = 0.0
    if not run.informative:
        config.objective.lambda_inf = 0.0
    config.model.projections, config.model.expander = run.projection, run.informative
    config.checkpoint.update(every_steps=10**9, keep=1)  # short runs: only the last is kept
    config.log_every_steps = 100
    return config


def workdir_of(output: Path, condition: Condition, seed: int, name: str) -> Path:
    return output / condition.directory / f'seed_{seed}' / name


def unfinished(
    output: Path, conditions: Sequence[Condition], seeds: int, validation_videos: int
) -> list[Training]:
    """What is to be trained: one condition after the other, in it seed by seed."""
    everything = itertools.product(conditions, range(seeds), RUNS)
    return [
        Training(
            f'{condition.train_videos} videos, {condition.steps} steps, seed {seed}, {name}',
            condition.steps,
            functools.partial(train, condition, seed, name, validation_videos, output),
        )
        for condition, seed, name in everything
        if results.load(workdir_of(output, condition, seed, name)) is None
    ]


def train(condition: Condition, seed: int, name: str, validation_videos: int, output: Path) -> str:
    config = read_config(run_config(RUNS[name], condition, seed, validation_videos, output))
    outcome = train_and_evaluate(config, workdir_of(output, condition, seed, name))
    return ', '.join(f'{dataset} {result.top1:.1%}' for dataset, result in outcome.accuracy.items())


def read_outcome(output: Path, condition: Condition, seeds: int) -> Outcome | None:
    """Results of the seeds that all arms have finished; None where there are fewer than two."""
    columns = (*DATASETS, 'average')
    test, train = ({arm: {name: [] for name in columns} for arm in ARMS} for _ in range(2))
    agreements: dict[str, dict[str, list[Agreement]]] = {}
    for seed in range(seeds):
        found = {name: results.load(workdir_of(output, condition, seed, name)) for name in RUNS}
        if None in found.values():
            continue
        for arm, runs in ARMS.items():
            tested, trained = {}, {}
            for run in runs:
                tested |= {name: 100 * result.top1 for name, result in found[run].accuracy.items()}
                trained |= training_accuracy(
                    workdir_of(output, condition, seed, run), found[run].accuracy
                )
            for table, accuracy in ((test, tested), (train, trained)):
                for name in DATASETS:
                    table[arm][name].append(accuracy[name])
                table[arm]['average'].append(sum(accuracy.values()) / len(DATASETS))
            if any(run.projection for run in runs.values()):
                relations = (
                    workdir_of(output, condition, seed, 'data') / 'videos' / 'relations.json'
                )
                for name, one in read_agreements(
                    workdir_of(output, condition, seed, arm), relations
                ).items():
                    agreements.setdefault(arm, {}).setdefault(name, []).append(one)
    if len(test['joint']['average']) < 2:
        return None
    test, train = (
        {
            arm: {name: np.array(values) for name, values in columns.items()}
            for arm, columns in table.items()
        }
        for table in (test, train)
    )
    return Outcome(condition.train_videos, condition.steps, test, train, agreements)


def write_results(page: Path, output: Path, conditions: Sequence[Condition], seeds: int) -> None:
    """Writes the page of what is finished.

    Raises:
        UserError: too little is.
    """
    found = [
        outcome
        for outcome in (read_outcome(output, one, seeds) for one in conditions)
        if outcome is not None
    ]
    if not found:
        raise UserError(f'{output}: no two seeds of which all arms are finished')
    finished = max(path.stat().st_mtime for path in output.glob('*/seed_*/*/results.json'))
    chosen = ' '.join(f'{one.train_videos}:{one.steps}' for one in found)
    clips = quickstart.get_config().batch_size / len(DATASETS)
    command = f'python experiments/multitrain_small.py --output=runs/multitrain_small --seeds={seeds} --conditions {chosen}'
    write_page(page, found, clips_per_step=clips, command=command, finished=finished)


def parse_condition(text: str) -> Condition:
    videos, colon, steps = text.partition(':')
    if not (colon and videos.isdecimal() and steps.isdecimal() and int(videos) and int(steps)):
        raise argparse.ArgumentTypeError(f'{text!r} is not VIDEOS:STEPS, such as 40:500')
    return Condition(int(videos), int(steps))


def main() -> int:
    return small_runs.run_experiment(
        'multitrain_small',
        __doc__,
        conditions=parse_condition,
        metavar='VIDEOS:STEPS',
        default=('40:500', '80:500'),
        validation_videos=(200, 'of each dataset'),
        cpu_devices=quickstart.get_config().cpu_devices,
        unfinished=unfinished,
        write_results=write_results,
    )


if __name__ == '__main__':
    run_command(main)
