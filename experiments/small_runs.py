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
from typing import Any

from multitrain_jax import parallel, progress
from multitrain_jax.errors import UserError

_log = logging.getLogger('multitrain_jax')

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


def add_arguments(parser: argparse.ArgumentParser, *, page: Path) -> None:
    """The arguments that all of them have."""
    parser.add_argument('--output', required=True, help='directory of videos and runs')
    parser.add_argument('--seeds', type=int, default=5, help='(default: %(default)s)')
    parser.add_argument('--at_most', type=int, metavar='N', help='trainings; the next call goes on (default: all)')
    parser.add_argument('--page', default=str(page), help='(default: %(default)s)')
    parser.add_argument('--page_only', action='store_true', help='train nothing; write the page of what is finished')


def run_each(todo: Sequence[Training], *, cpu_devices: int, at_most: int | None = None) -> int:
    """Does the trainings in turn; a new process for each, which leaves nothing behind: no compiled program, no memory.

    Returns:
        how many are left.
    """
    countdown = progress.Countdown(sum(training.steps for training in todo))
    done = 0
    for number, training in enumerate(todo[:at_most]):
        _, left = countdown.update(done)
        _log.info('==== %s: training %d of %d, %s left', training.title, number + 1, len(todo), progress.duration(left))
        started = time.monotonic()
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as process:
            outcome = process.submit(_run, training, cpu_devices).result()
        _log.info('==== %s: %s (%s)', training.title, outcome, progress.duration(time.monotonic() - started))
        done += training.steps
    return len(todo[at_most:]) if at_most is not None else 0


def _run(training: Training, cpu_devices: int) -> str:
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    parallel.use_cpu_devices(cpu_devices)
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
            raise UserError(f'{output} holds runs with {stored}, not {dict(current)}; choose another --output')
        return
    output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(current, indent=1) + '\n', encoding='utf-8')


def logged(workdir: Path, tag: str) -> list[tuple[int, float]]:
    """(step, value) of a figure of a run, from its TensorBoard files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(workdir))
    events.Reload()
    return [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
