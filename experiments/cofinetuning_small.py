"""Co-finetuning's claim at small scale: training with a small downstream set from the start, or fine-tuning on it after.

    python experiments/cofinetuning_small.py --output=runs/cofinetuning_small [--seeds=5] \\
        [--conditions 200:60:800]

Upstream is the synthetic dataset "directions", downstream is "scenes": boxes with actions, long-tailed, few videos. A
condition is UPSTREAM:SCENES:STEPS, the training videos of either and the updates of every training. The arms:

    alone         "scenes" only
    transfer      two runs: upstream, then "scenes" from its backbone, each with a learning-rate schedule of its own;
                  updates in proportion to the numbers of videos, as in `concatenate`
    transfer_half    the same, but half of the updates on "scenes", as in `alternating`
    task_by_task  the same order as `transfer` in one run, with one learning-rate schedule
    concatenate, weighted, alternating, uniform, accumulated      co-finetuning with each schedule;
                  weighted: every clip, by size ** 0.5

Every arm has the model, optimizer and augmentation of configs/quickstart_cofinetune.py without MultiTrain's two losses.
Equal data and compute: every arm has the same videos, and as many updates and clips; `accumulated` makes
each update of half a batch of either dataset. How often a video of "scenes" is seen follows from the schedule and
is told. A seed is another draw of the videos *and* of the initialisation; within a seed all arms have the same videos, so
that differences are taken seed by seed. Figures are those of the last update; boxes are the annotated ones, so
that no detector has a part in them. In the validation videos all actions are equally frequent.

Every finished training is a line of OUTPUT/results.jsonl: started again, the command goes on where it was stopped. At the
end it writes experiments/COFINETUNING_SMALL.md, its plot and a copy of these lines (--page_only: only that).
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import json
from pathlib import Path
import sys
import time
from typing import Any

import ml_collections

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from configs import quickstart_cofinetune  # noqa: E402
from experiments import small_runs  # noqa: E402
from experiments.cofinetuning_small_page import read_outcomes, write_page  # noqa: E402
from experiments.small_runs import Training  # noqa: E402
from multitrain_jax.config import read_config  # noqa: E402
from multitrain_jax.errors import UserError, run_command  # noqa: E402
from multitrain_jax.train import train_and_evaluate  # noqa: E402

UPSTREAM = 'directions'
DOWNSTREAM = 'scenes'
BATCH_SIZE = 8  # clips per update: 4 of each dataset where an update has a batch of either
RESULTS_FILE = 'results.jsonl'


@dataclasses.dataclass(frozen=True)
class Stage:
    """One run of an arm.

    Attributes:
        datasets: it trains on.
        share: of the arm's updates.
        schedule: of mini-batches.
    """

    datasets: tuple[str, ...]
    share: float
    schedule: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Condition:
    """What all arms that are compared with each other share."""

    upstream_videos: int  # for training
    scene_videos: int
    steps: int  # updates of every arm

    @property
    def directory(self) -> str:
        return f'upstream_{self.upstream_videos}_scenes_{self.scene_videos}_steps_{self.steps}'

    def videos(self, datasets: Sequence[str]) -> int:
        return sum(
            self.scene_videos if name == DOWNSTREAM else self.upstream_videos for name in datasets
        )


def arms(condition: Condition) -> dict[str, tuple[Stage, ...]]:
    """The runs of each arm, one after the other; the second starts from the first."""
    everything, one = (UPSTREAM, DOWNSTREAM), {'kind': 'concatenate'}
    by_size = condition.scene_videos / condition.videos(everything)

    def transfer(share: float) -> tuple[Stage, ...]:
        return Stage((UPSTREAM,), 1 - share, one), Stage((DOWNSTREAM,), share, one)

    def together(kind: str, **options) -> tuple[Stage, ...]:
        return (Stage(everything, 1.0, {'kind': kind, **options}),)

    return {
        'alone': (Stage((DOWNSTREAM,), 1.0, one),),
        'transfer': transfer(by_size),
        'transfer_half': transfer(0.5),
        'task_by_task': together('task_by_task', order=everything),
        'concatenate': together('concatenate'),
        'weighted': together('weighted', by='example', size_power=0.5),
        'alternating': together('alternating'),
        'uniform': together('uniform'),
        'accumulated': together('accumulated'),
    }


def stage_config(
    stages: Sequence[Stage],
    number: int,
    condition: Condition,
    seed: int,
    validation_videos: int,
    workdir: Path,
) -> ml_collections.ConfigDict:
    """quickstart_cofinetune with the stage's datasets and schedule; nothing else differs between arms."""
    config, stage = quickstart_cofinetune.get_config(), stages[number]
    config.seed = seed
    config.data_root = str(workdir.parent / 'data')
    config.synthetic.update(
        train_videos=condition.upstream_videos,
        validation_videos=validation_videos,
        seed=seed,
        scene_train_videos=condition.scene_videos,
        scene_validation_videos=2 * validation_videos,
    )
    config.batch_size = BATCH_SIZE
    steps = steps_of(stages, condition)[number]
    config.epochs = steps * BATCH_SIZE / condition.videos(stage.datasets)
    config.optimizer.update(warmup_epochs=0.0, warmup_steps=max(1, round(steps / 20)))
    for name in set(config.datasets) - set(stage.datasets):
        del config.datasets[name]
    config.schedule.update({'by': 'example', 'size_power': 1.0, **stage.schedule})
    if stage.schedule['kind'] == 'accumulated':
        for name in stage.datasets:
            config.datasets[name].batch_size = BATCH_SIZE // len(stage.datasets)
    if number:
        config.init_from = str(workdir / str(number - 1))
    config.objective.update(lambda_proj=0.0, lambda_inf=0.0)
    config.model.update(projections=False, expander=False)
    config.localisation.candidates = 'ground_truth'
    config.checkpoint.update(every_steps=10**9, keep=1)  # short runs: only the last is kept
    config.log_every_steps = 100
    return config


def steps_of(stages: Sequence[Stage], condition: Condition) -> list[int]:
    """Updates of each stage; together those of the condition."""
    ends = [
        round(condition.steps * sum(stage.share for stage in stages[: number + 1]))
        for number in range(len(stages))
    ]
    return [end - start for start, end in zip([0, *ends], ends)]


def train(condition: Condition, seed: int, arm: str, validation_videos: int, output: Path) -> str:
    """Trains one arm and adds its line to the results."""
    workdir = output / condition.directory / f'seed_{seed}' / arm
    stages = arms(condition)[arm]
    line = {**dataclasses.asdict(condition), 'seed': seed, 'arm': arm, 'clips': {}}
    for number, steps in enumerate(steps_of(stages, condition)):
        config = read_config(
            stage_config(stages, number, condition, seed, validation_videos, workdir)
        )
        outcome = train_and_evaluate(config, workdir / str(number))
        for name, result in outcome.accuracy.items():
            line['clips'][name] = round(
                steps
                * BATCH_SIZE
                * _mean(small_runs.logged(workdir / str(number), f'share/{name}'))
            )
            if name == DOWNSTREAM:
                line |= {'mAP': result.mean_average_precision, 'boxes': result.boxes}
                line |= {third: getattr(result, third) for third in ('frequent', 'middle', 'rare')}
            else:
                line['top1'] = result.top1
    # How far the training clips were learned: the localisation loss of the last updates.
    line['loss'] = small_runs.logged(workdir / str(len(stages) - 1), f'localisation/{DOWNSTREAM}')[
        -1
    ][1]
    line['finished'] = time.time()
    with open(output / RESULTS_FILE, 'a', encoding='utf-8') as file:
        file.write(json.dumps(line) + '\n')
    return f'mAP {line["mAP"]:.1%}, rare {line["rare"]:.1%}'


def _mean(windows: Sequence[tuple[int, float]]) -> float:
    """The mean over all steps of what was logged as means over the steps since the last time."""
    ends = [step for step, _ in windows]
    lengths = [end - start for start, end in zip([0, *ends], ends)]
    return sum(length * value for length, (_, value) in zip(lengths, windows)) / ends[-1]


def read_lines(output: Path) -> list[dict[str, Any]]:
    """The finished trainings."""
    path = output / RESULTS_FILE
    return (
        [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
        if path.exists()
        else []
    )


def unfinished(
    output: Path, conditions: Sequence[Condition], seeds: int, validation_videos: int
) -> list[Training]:
    """What is to be trained: one condition after the other, in it seed by seed."""
    finished = {(_condition(line), line['seed'], line['arm']) for line in read_lines(output)}
    return [
        Training(
            f'{condition.directory}, seed {seed}, {arm}',
            condition.steps,
            functools.partial(train, condition, seed, arm, validation_videos, output),
        )
        for condition, seed in itertools.product(conditions, range(seeds))
        for arm in arms(condition)
        if (condition, seed, arm) not in finished
    ]


def _condition(line: Mapping[str, Any]) -> Condition:
    return Condition(*(line[field.name] for field in dataclasses.fields(Condition)))


def write_results(page: Path, output: Path, conditions: Sequence[Condition], seeds: int) -> None:
    """Writes the page of what is finished.

    Raises:
        UserError: too little is.
    """
    lines = [
        line
        for line in read_lines(output)
        if line['seed'] < seeds and _condition(line) in conditions
    ]
    outcomes = read_outcomes(lines)
    if not outcomes:
        raise UserError(f'{output}: no two seeds of which all arms are finished')
    chosen = ' '.join(f'{one.upstream_videos}:{one.scene_videos}:{one.steps}' for one in outcomes)
    command = f'python experiments/cofinetuning_small.py --output=runs/cofinetuning_small --seeds={seeds} --conditions {chosen}'
    write_page(page, outcomes, lines=lines, command=command)


def parse_condition(text: str) -> Condition:
    parts = text.split(':')
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not UPSTREAM:SCENES:STEPS, such as 200:60:800'
        )
    return Condition(*map(int, parts))


def main() -> int:
    return small_runs.run_experiment(
        'cofinetuning_small',
        __doc__,
        conditions=parse_condition,
        metavar='UPSTREAM:SCENES:STEPS',
        default=('200:60:800',),
        validation_videos=(100, 'of the upstream dataset; of "scenes" twice as many'),
        cpu_devices=quickstart_cofinetune.get_config().cpu_devices,
        unfinished=unfinished,
        write_results=write_results,
    )


if __name__ == '__main__':
    run_command(main)
