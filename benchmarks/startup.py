"""Seconds from the start of the process to the first training step, with an empty and with a filled
compilation cache.

    python -m benchmarks.startup [--config=configs/quickstart.py] [--data_root=DIR] \\
        [--rounds=3] [-- --config.FIELD=VALUE ...]

The datasets are made before the clock starts, if they are not there. Every run is ended after its
first step. `help` is `run.py --help`. CPU seconds are of the process and count both cores.
"""

import argparse
import os
from pathlib import Path
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = Path(__file__).resolve().parent.parent
FIRST_STEP = 'first step done'
READY = 'compiling the training step'  # everything before it is done


def start(config: str, data_root: str, cache: str, overrides: list[str]) -> dict[str, float]:
    """Clock seconds to `READY` and to the first step, and CPU seconds to the end of it."""
    with tempfile.TemporaryDirectory() as workdir:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        process = subprocess.Popen(
            [
                sys.executable,
                'run.py',
                f'--config={config}',
                f'--workdir={workdir}',
                f'--config.data_root={data_root}',
                f'--config.compilation_cache_dir={cache}',
                *overrides,
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        times, lines = {}, []
        for line in process.stderr:
            lines.append(line)
            if READY in line:
                times['ready'] = time.perf_counter() - began
            if FIRST_STEP in line:
                times['first step'] = time.perf_counter() - began
                break
        process.kill()
        process.communicate()
        if 'first step' not in times:
            raise SystemExit(f'the run ended before its first step:\n{"".join(lines)}')
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times['CPU'] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return times


def help_seconds() -> dict[str, float]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, 'run.py', '--help'], cwd=ROOT, stdout=subprocess.DEVNULL, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        'first step': time.perf_counter() - began,
        'CPU': after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--config', default='configs/quickstart.py')
    parser.add_argument('--data_root', default='data/quickstart')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument(
        'overrides', nargs='*', help='of fields of the config: -- --config.FIELD=VALUE'
    )
    args = parser.parse_args()
    data_root = os.path.abspath(args.data_root)
    runs: dict[str, list[dict[str, float]]] = {'help': [], 'cold': [], 'warm': []}
    with tempfile.TemporaryDirectory() as first:
        start(
            args.config, data_root, first, args.overrides
        )  # makes the data and fills Python's own caches
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as cache:
            runs['help'].append(help_seconds())
            for kind in ('cold', 'warm'):
                runs[kind].append(start(args.config, data_root, cache, args.overrides))
    columns = ('ready', 'first step', 'CPU')
    print(f'{"":<6}' + ''.join(f'{column:>12}' for column in columns) + '   (s, medians)')
    for kind, own in runs.items():
        medians = {
            column: statistics.median(run[column] for run in own)
            for column in columns
            if column in own[0]
        }
        print(
            f'{kind:<6}'
            + ''.join(f'{medians.get(column, float("nan")):>12.1f}' for column in columns)
        )


if __name__ == '__main__':
    main()
