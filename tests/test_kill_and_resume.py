"""A run that is killed or stopped, and started again,
takes the same steps as one that was left alone.
"""

import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest

from multitrain_jax.evaluation import results
from tests.helpers import tiny
from tests.helpers.event_files import scalars

ROOT = pathlib.Path(__file__).parent.parent
CHANGES = (
    '--config.epochs=12',
    '--config.checkpoint.every_steps=5',
    '--config.evaluation.every_epochs=8',
    '--config.model.head_dropout=0.2',
    '--config.evaluation.spatial_views=1',
    '--config.optimizer.ema_decay=0.9',
    '--config.optimizer.layer_decay=0.8',
    '--config.objective.learned_dataset_weights=True',
    '--config.accumulation_steps=2',
    '--config.accumulation=two_pass',
)
STEPS = 30
SLOWLY = """
import os, runpy, sys, time
from multitrain_jax.training.interruptions import StopRequests

def check(requests, check=StopRequests.check, saved=sys.argv.pop(1)):
    time.sleep(os.path.exists(saved))
    check(requests)

StopRequests.check = check
runpy.run_path('run.py', run_name='__main__')
"""


def command(workdir, data, *more, stderr=subprocess.PIPE, slow_from=None):
    """A run; from the checkpoint `slow_from` on each step takes a second: time to end it."""
    environment = os.environ | {
        'XLA_FLAGS': '',
        'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
        'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    }
    script = ['-c', SLOWLY, str(slow_from)] if slow_from else ['run.py']
    arguments = [sys.executable, *script, f'--config={tiny.CONFIG_FILE}', f'--workdir={workdir}']
    return subprocess.Popen(
        [*arguments, f'--config.data_root={data}', *CHANGES, *more],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def life_until(workdir, data, moment, pause=0.0):
    """One life of a run, killed when moment(workdir, log)
    and `pause` seconds later: (exit code, log).
    """
    workdir.parent.mkdir(parents=True, exist_ok=True)
    file = workdir.with_name(f'{workdir.name}.log')
    with open(file, 'w', encoding='utf-8') as stream:
        process = command(workdir, data, stderr=stream)
        while process.poll() is None and not moment(workdir, file.read_text(encoding='utf-8')):
            time.sleep(0.002)
        time.sleep(pause)
        process.kill()
        process.communicate()
    return process.returncode, file.read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """(workdir left alone, workdir killed, stopped and finished, steps at which it continued)."""
    base = tmp_path_factory.mktemp('runs')
    data = tiny.write_datasets(base / 'data')
    alone = command(base / 'alone', data)
    out, log = alone.communicate()
    assert alone.returncode == 0, log

    saved = base / 'killed' / 'checkpoints'
    victim = command(base / 'killed', data, slow_from=saved / '10')
    while victim.poll() is None and not (saved / '10').exists():
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL, 'the run ended before it could be killed'
    continued_at = max(int(path.name) for path in saved.iterdir() if path.name.isdigit())
    # As a kill in the middle of saving leaves it.
    half = saved / f'{continued_at + 5}.orbax-checkpoint-tmp'
    shutil.rmtree(half, ignore_errors=True)
    (half / 'state').mkdir(parents=True)

    second = command(base / 'killed', data, slow_from=saved / '20')
    while second.poll() is None and not (saved / '20').exists():
        time.sleep(0.01)
    second.send_signal(signal.SIGTERM)
    out, log = second.communicate()
    assert f'resuming at step {continued_at} of {STEPS}' in log
    assert second.returncode == 75, log
    last = log.splitlines()[-1]
    assert re.fullmatch(
        rf'interrupted: SIGTERM after step \d+ of {STEPS}, saved in {saved}; the same command '
        r'goes on from there',
        last,
    )
    stopped_at = int(last.split()[4])
    assert stopped_at >= 20 and (saved / str(stopped_at)).is_dir()

    third, log = life_until(base / 'killed', data, lambda workdir, log: 'exporting to' in log)
    assert third in (-signal.SIGKILL, 0), log  # 0: it was faster
    assert stopped_at == STEPS or f'resuming at step {stopped_at} of {STEPS}' in log

    fourth = command(base / 'killed', data)
    out, log = fourth.communicate()
    assert fourth.returncode == 0, log
    return base / 'alone', base / 'killed', data, (continued_at, stopped_at)


def test_every_step_has_the_same_metrics(runs):
    alone, killed, _, (continued_at, stopped_at) = runs
    expected, got = scalars(alone), scalars(killed)
    assert list(expected['train/loss']) == list(range(1, STEPS + 1))
    assert got.keys() == expected.keys()
    timed = {'train/clips_per_second', 'train/data_wait_share'}
    for tag in expected.keys() - timed:
        assert got[tag].keys() == expected[tag].keys(), tag
        for step, values in got[tag].items():
            # Bit by bit; steps after the checkpoint may have been logged by both lives of the run.
            assert set(values) == set(expected[tag][step]), (tag, step)
    assert 0 < continued_at < stopped_at <= STEPS
    assert len(set(expected['train/loss'][step][0] for step in expected['train/loss'])) == STEPS


def assert_same_outcome(one, other):
    """Bit by bit: the figures, the parameters, and all of the last checkpoint."""
    import multitrain_jax as mt
    from multitrain_jax.checkpoints.runs import RunCheckpoints

    first, second = (results.load(workdir) for workdir in (one, other))
    assert (first.steps, first.accuracy) == (second.steps, second.accuracy)
    first, second = (mt.load(workdir / 'export')._params for workdir in (one, other))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), first, second)))
    sums = []
    for workdir in (one, other):
        saved = RunCheckpoints(workdir, keep=None)
        assert saved.latest_step() == STEPS
        sums.append(
            json.loads((saved.directory / str(STEPS) / 'checksums' / 'metadata').read_text())[
                'state'
            ]
        )
        saved.close()
    assert sums[0] == sums[1] and len(sums[0]) > 100


def test_the_outcome_is_the_same(runs):
    alone, killed, _, _ = runs
    assert_same_outcome(alone, killed)


MOMENTS = {  # (when, up to how many seconds later)
    'at any time': (lambda workdir, log: True, 12),
    'training': (lambda workdir, log: 'first step done' in log, 1),
    # What an earlier life has left half-written is gone before the first step.
    'saving': (
        lambda workdir, log: (
            'first step done' in log
            and any((workdir / 'checkpoints').glob('*orbax-checkpoint-tmp*'))
        ),
        0.05,
    ),
    'evaluating': (lambda workdir, log: 'evaluating at step' in log, 0.5),
    'exporting and writing results': (lambda workdir, log: 'exporting to' in log, 0.3),
}


@pytest.mark.slow
def test_killed_at_twenty_moments(runs, tmp_path):
    """Life after life in one workdir, until it is finished, then in another."""
    alone, _, data, _ = runs
    rng = random.Random(0)
    moments = [name for name in MOMENTS for _ in range(4)]
    rng.shuffle(moments)
    killed, finished = collections.Counter(), 0
    workdir = tmp_path / '0'
    while moments or not (workdir / 'results.json').exists():
        name = moments[0] if moments else None
        moment, most = MOMENTS[name] if name else (lambda workdir, log: False, 0)
        code, log = life_until(workdir, data, moment, rng.uniform(0, most))
        assert 'damaged' not in log and 'Traceback' not in log, log
        if code == -signal.SIGKILL:
            killed[name] += 1
            moments.pop(0)
        else:
            assert code == 0, log
        if code == 0 and moments:  # it was finished before the moment came
            assert_same_outcome(alone, workdir)
            finished += 1
            workdir = tmp_path / str(finished)
    assert_same_outcome(alone, workdir)
    print(killed, finished + 1, 'runs finished')
    assert killed == {name: 4 for name in MOMENTS}


def test_a_finished_run_says_so(runs):
    alone, _, data, _ = runs
    before = sorted(alone.rglob('*'))
    again = command(alone, data)
    out, log = again.communicate()
    assert again.returncode == 0, log
    assert f'this run is finished (step {STEPS} of {STEPS})' in log
    assert 'average' in out
    assert sorted(alone.rglob('*')) == before


@pytest.mark.slow  # test_train.py has the quick form
def test_a_workdir_of_another_model_is_refused(runs):
    alone, _, data, _ = runs
    other = command(alone, data, '--config.model.head_hidden=16')
    out, log = other.communicate()
    assert other.returncode == 2
    (line,) = [line for line in log.splitlines() if not line.startswith('[')]
    assert line.startswith('error: ') and 'model.head_hidden was 8, is 16 now' in line
