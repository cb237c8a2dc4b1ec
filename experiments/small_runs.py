"""What the experiments at small scale share: trainings one after the other, each in a process of its own, resumable."""

import argparse
from collections.abc import Callable, Mapping, Sequence
import concurrent.futures
import dataclasses
import json
import logging
import multiprocessing
import os
from pathlib import Path
import time
from typing import Any, TypeVar

from multitrain_jax.errors import UserError
from multitrain_jax.parallel.mesh import use_cpu_devices
from multitrain_jax.reporting import progress

_log = logging.getLogger('multitrain_jax')

Condition = TypeVar('Condition')

_SETTINGS_FILE = 'settings.json'


@dataclasses.dataclass(frozen=True)
class Training:
    """One training that is to be done.

    Attributes:
        title: what it is, for the log.
        steps: updates, which tell the time that is left.
        run: does it and says in a few words what came out; a function of a module, or `functools.partial` of one, as it
            is called in another process.
    """

    title: str
    steps: int
    run: Callable[[], str]


def run_experiment(
    name: str,
    description: str,
    *,
    conditions: Callable[[str], Condition],
    metavar: str,
    default: Sequence[str],
    validation_videos: tuple[int, str],
    cpu_devices: int,
    unfinished: Callable[[Path, Sequence[Condition], int, int], Sequence[Training]],
    write_results: Callable[[Path, Path, Sequence[Condition], int], None],
) -> int:
    """The command `python experiments/NAME.py`: trains what is not finished and writes the page.

    Args:
        name: of the experiment.
        description: of it, for --help.
        conditions: reads a condition as it stands on the command line, `metavar`.
        metavar: see `conditions`.
        default: conditions.
        validation_videos: how many, and of what.
        cpu_devices: that a CPU counts as.
        unfinished: output, conditions, seeds and validation videos -> what is to be trained.
        write_results: page, output, conditions and seeds: writes the page.
    """
    parser = argparse.ArgumentParser(
        prog=f'python experiments/{name}.py',
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--output', required=True, help='directory of videos and runs')
    parser.add_argument('--seeds', type=int, default=5, help='(default: %(default)s)')
    parser.add_argument(
        '--conditions',
        type=conditions,
        nargs='+',
        metavar=metavar,
        default=[conditions(text) for text in default],
        help=f'(default: {" ".join(default)})',
    )
    count, of_what = validation_videos
    parser.add_argument(
        '--validation_videos', type=int, default=count, help=f'{of_what} (default: %(default)s)'
    )
    parser.add_argument(
        '--at_most', type=int, metavar='N', help='trainings; the next call goes on (default: all)'
    )
    page = Path(__file__).with_name(f'{name.upper()}.md')
    parser.add_argument('--page', type=Path, default=page, help='(default: %(default)s)')
    parser.add_argument(
        '--page_only', action='store_true', help='train nothing; write the page of what is finished'
    )
    args = parser.parse_args()
    progress.set_up_logging()
    output = Path(args.output).expanduser().resolve()
    check_settings(output, {'validation_videos': args.validation_videos})
    if not args.page_only:
        todo = unfinished(output, args.conditions, args.seeds, args.validation_videos)
        left = run_each(todo, cpu_devices=cpu_devices, at_most=args.at_most)
        if left:
            print(f'{left} trainings are left; the same command goes on')
            return 0
    write_results(args.page, output, args.conditions, args.seeds)
    print(f'results: {args.page}')
    return 0


def run_each(todo: Sequence[Training], *, cpu_devices: int, at_most: int | None = None) -> int:
    """Does the trainings in turn; a new process for each, which leaves nothing behind: no compiled program, no memory.

    Returns:
        how many are left.
    """
    countdown = progress.Countdown(sum(training.steps for training in todo))
    done = 0
    for number, training in enumerate(todo[:at_most]):
        _, left = countdown.update(done)
        _log.info(
            '==== %s: training %d of %d, %s left',
            training.title,
            number + 1,
            len(todo),
            progress.duration(left),
        )
        started = time.monotonic()
        with concurrent.futures.ProcessPoolExecutor(
            1, multiprocessing.get_context('spawn')
        ) as process:
            outcome = process.submit(_run, training, cpu_devices).result()
        _log.info(
            '==== %s: %s (%s)',
            training.title,
            outcome,
            progress.duration(time.monotonic() - started),
        )
        done += training.steps
    return len(todo[at_most:]) if at_most is not None else 0


def _run(training: Training, cpu_devices: int) -> str:
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    use_cpu_devices(cpu_devices)
    progress.set_up_logging()
    return training.run()


def check_settings(output: Path, current: Mapping[str, Any]) -> None:
    """Runs that differ in what is not part of their names must not be mixed.

    Raises:
        UserError: `output` holds such runs.
    """
    path = output / _SETTINGS_FILE
    if path.exists():
        stored = json.loads(path.read_text(encoding='utf-8'))
        if stored != current:
            raise UserError(
                f'{output} holds runs with {stored}, not {dict(current)}; choose another --output'
            )
        return
    output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(current, indent=1) + '\n', encoding='utf-8')


def logged(workdir: Path, tag: str) -> list[tuple[int, float]]:
    """(step, value) of a figure of a run, from its TensorBoard files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(workdir))
    events.Reload()
    return [
        (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
        for event in events.Tensors(tag)
    ]
