"""MultiTrain's claim at small scale: one model per dataset, joint training, and what each of the two losses adds.

    python experiments/multitrain_small.py --output=runs/multitrain_small [--seeds=5] [--train_videos 40 80]

Trains on the synthetic datasets "motions" and "directions" with few videos of each (10 classes: 4 or 8 of a class):

    separate      a model for each dataset, cross-entropy
    joint         one model for both, cross-entropy
    informative   joint, and the informative loss
    projection    joint, and the projection loss
    both          joint, and both losses: MultiTrain

Every arm has the model, optimizer and augmentation of configs/quickstart.py, as they are there. Equal compute: every
arm sees the same number of clips of each dataset in the same number of updates, whatever the number of videos (the
separate models have half the batch, all of it of their own dataset). A seed is another draw of the videos *and* of the initialisation;
within a seed all arms have the same videos, so that differences are taken seed by seed.

Runs are kept under --output: started again, the command goes on where it was stopped. At the end it writes
experiments/MULTITRAIN_SMALL.md and its plot from the results alone.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import itertools
import json
import logging
import os
from pathlib import Path
import sys
import time

import jax
import ml_collections
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from configs import quickstart  # noqa: E402
from experiments.multitrain_small_page import Size, read_agreements, write_page  # noqa: E402
from multitrain_jax import parallel, progress, results  # noqa: E402
from multitrain_jax.config import read_config  # noqa: E402
from multitrain_jax.errors import UserError, run_command  # noqa: E402
from multitrain_jax.projections import Agreement  # noqa: E402
from multitrain_jax.train import train_and_evaluate  # noqa: E402

_log = logging.getLogger('multitrain_jax')

DATASETS = ('directions', 'motions')
SETTINGS_FILE = 'settings.json'


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
class Settings:
    """What all runs of one experiment share, besides configs/quickstart.py."""

    validation_videos: int  # of each dataset
    steps: int


def run_config(run: Run, train_videos: int, seed: int, settings: Settings, output: Path) -> ml_collections.ConfigDict:
    """The quickstart with the run's datasets and losses; nothing else differs between arms."""
    config = quickstart.get_config()
    config.seed = seed
    config.data_root = str(output / f'videos_{train_videos}' / f'seed_{seed}' / 'data')
    config.synthetic.update(train_videos=train_videos, validation_videos=settings.validation_videos, seed=seed)
    config.epochs = settings.steps * config.batch_size / (train_videos * len(DATASETS))
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


def workdir_of(output: Path, train_videos: int, seed: int, name: str) -> Path:
    return output / f'videos_{train_videos}' / f'seed_{seed}' / name


def run_all(output: Path, sizes: Sequence[int], seeds: int, settings: Settings) -> None:
    """Trains what is not finished yet: one size after the other, in it seed by seed."""
    everything = itertools.product(sizes, range(seeds), RUNS)
    todo = [what for what in everything if results.load(workdir_of(output, *what)) is None]
    countdown = progress.Countdown(len(todo))
    for number, (train_videos, seed, name) in enumerate(todo):
        _, left = countdown.update(number)
        title = f'{train_videos} videos, seed {seed}, {name}'
        _log.info('==== %s: training %d of %d, %s left', title, number + 1, len(todo), progress.duration(left))
        config = read_config(run_config(RUNS[name], train_videos, seed, settings, output))
        started = time.monotonic()
        outcome = train_and_evaluate(config, workdir_of(output, train_videos, seed, name))
        jax.clear_caches()  # dozens of trainings' programs would use up the process's memory mappings
        accuracy = ', '.join(f'{dataset} {result.top1:.1%}' for dataset, result in outcome.accuracy.items())
        _log.info('==== %s: %s (%s)', title, accuracy, progress.duration(time.monotonic() - started))


def read_size(output: Path, train_videos: int, seeds: int, settings: Settings) -> Size | None:
    """Results of the seeds that all arms have finished; None where there are fewer than two."""
    top1: dict[str, dict[str, list[float]]] = {arm: {name: [] for name in (*DATASETS, 'average')} for arm in ARMS}
    agreements: dict[str, dict[str, list[Agreement]]] = {}
    for seed in range(seeds):
        found = {name: results.load(workdir_of(output, train_videos, seed, name)) for name in RUNS}
        if None in found.values():
            continue
        for arm, runs in ARMS.items():
            accuracy = {name: 100 * result.top1 for run in runs for name, result in found[run].accuracy.items()}
            for name in DATASETS:
                top1[arm][name].append(accuracy[name])
            top1[arm]['average'].append(sum(accuracy.values()) / len(DATASETS))
            if any(run.projection for run in runs.values()):
                relations = workdir_of(output, train_videos, seed, 'data') / 'videos' / 'relations.json'
                for name, one in read_agreements(workdir_of(output, train_videos, seed, arm), relations).items():
                    agreements.setdefault(arm, {}).setdefault(name, []).append(one)
    if len(top1['joint']['average']) < 2:
        return None
    arrays = {arm: {name: np.array(values) for name, values in columns.items()} for arm, columns in top1.items()}
    clips = settings.steps * quickstart.get_config().batch_size // len(DATASETS)
    return Size(train_videos, arrays, agreements, clips)


def write_results(page: Path, output: Path, sizes: Sequence[int], seeds: int, settings: Settings) -> None:
    """Writes the page of what is finished.

    Raises:
        UserError: too little is.
    """
    found = [size for size in (read_size(output, videos, seeds, settings) for videos in sizes) if size is not None]
    if not found:
        raise UserError(f'{output}: no two seeds of which all arms are finished')
    finished = max(path.stat().st_mtime for path in output.glob('videos_*/seed_*/*/results.json'))
    videos = ' '.join(map(str, sizes))
    command = f'python experiments/multitrain_small.py --output=runs/multitrain_small --seeds={seeds} --train_videos {videos}'
    write_page(page, found, command=command, finished=finished)


def check_settings(output: Path, settings: Settings) -> None:
    """Runs of other settings must not be mixed.

    Raises:
        UserError: `output` holds runs of other settings.
    """
    path = output / SETTINGS_FILE
    current = dataclasses.asdict(settings)
    if path.exists():
        stored = json.loads(path.read_text(encoding='utf-8'))
        if stored != current:
            raise UserError(f'{output} holds runs with {stored}, not {current}; choose another --output')
        return
    output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(current, indent=1) + '\n', encoding='utf-8')


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='python experiments/multitrain_small.py',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--output', required=True, help='directory of videos and runs')
    parser.add_argument('--seeds', type=int, default=5, help='(default: %(default)s)')
    parser.add_argument(
        '--train_videos', type=int, nargs='+', default=[40, 80], help='of each dataset; one or more (default: 40 80)'
    )
    parser.add_argument('--validation_videos', type=int, default=200, help='of each dataset (default: %(default)s)')
    parser.add_argument('--steps', type=int, default=500, help='updates of every training (default: %(default)s)')
    parser.add_argument('--page', default=str(ROOT / 'experiments' / 'MULTITRAIN_SMALL.md'), help='(default: %(default)s)')
    parser.add_argument('--page_only', action='store_true', help='train nothing; write the page of what is finished')
    args = parser.parse_args()
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    parallel.use_cpu_devices(quickstart.get_config().cpu_devices)
    progress.set_up_logging()

    output = Path(args.output).expanduser().resolve()
    settings = Settings(args.validation_videos, args.steps)
    check_settings(output, settings)
    if not args.page_only:
        run_all(output, args.train_videos, args.seeds, settings)
    write_results(Path(args.page), output, args.train_videos, args.seeds, settings)
    print(f'results: {args.page}')
    return 0


if __name__ == '__main__':
    run_command(main)
