"""Two processes with 4 simulated devices each, on this machine:
the numbers of one process with 8; what is written once.
"""

import contextlib
import csv
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from multitrain_jax.checkpoints.trained_model import open_trained
from tests.helpers import tiny
from tests.helpers.box_records import write_scenes
from tests.helpers.event_files import scalars

ROOT = pathlib.Path(__file__).parent.parent
LAUNCHER = str(ROOT / 'scripts' / 'local_processes.sh')
CONFIG = """
from tests.helpers import tiny_config

def get_config():
    config = tiny_config.get_config()
    config.datasets.scenes = dict(
        path='scenes', sampling='key_frame', stride=1, target_frame_rate=None, flip=True
    )
    # Each replica draws its own dropout.
    config.localisation = dict(max_boxes=2, head=dict(dropout=0.0))
    return config
"""
STEPS = 4
CHANGES = (
    '--config.epochs=1.23',
    '--config.checkpoint.every_steps=2',
    '--config.evaluation.spatial_views=1',
)
SPEEDS = ('train/clips_per_second', 'train/data_wait_share', 'steps_per_sec', 'uptime')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Records of two classifying datasets and one with boxes; the config that names them."""
    place = write_scenes(tiny.write_datasets(tmp_path_factory.mktemp('hosts')))
    (place / 'config.py').write_text(CONFIG)
    return place


def environment():
    return os.environ | {
        'XLA_FLAGS': '',
        'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
        'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
        'PYTHONPATH': str(ROOT),
    }


def start(place, workdir, *more, processes=1, devices=8):
    """Starts a training; with several processes each has `devices`."""
    command = [sys.executable, 'run.py', f'--config={place / "config.py"}', f'--workdir={workdir}']
    command += [f'--config.data_root={place}', f'--config.cpu_devices={devices}', *CHANGES, *more]
    if processes > 1:
        command = [LAUNCHER, str(processes), *command]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    with ended(process):
        output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    return output


@contextlib.contextmanager
def ended(process):
    """Nothing is left afterwards of what `start` has started."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope='module')
def one(place):
    finish(start(place, place / 'one'))
    return place / 'one'


@pytest.fixture(scope='module')
def two(place):
    """(workdir, standard output of both processes)."""
    output = finish(start(place, place / 'two', processes=2, devices=4))
    return place / 'two', output


def assert_same_parameters(one, other):
    params, others = (open_trained(workdir / 'export').params for workdir in (one, other))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(a).max() + 1e-6),
        params,
        others,
    )


def test_two_processes_take_the_steps_of_one(one, two):
    """All metrics of all steps: that also takes each record on exactly one process,
    and the batch's order.
    """
    workdir, _ = two
    expected, found = scalars(one), scalars(workdir)
    assert (
        set(expected) == set(found)
        and 'train/loss' in expected
        and 'evaluation/scenes/mean_average_precision' in expected
    )
    assert len(expected['train/loss']) == STEPS
    for tag in expected:
        if tag in SPEEDS:
            continue
        assert expected[tag].keys() == found[tag].keys(), tag
        for step, values in expected[tag].items():
            np.testing.assert_allclose(
                found[tag][step], values, rtol=2e-4, atol=1e-6, err_msg=f'{tag}, step {step}'
            )
    assert_same_parameters(one, workdir)


def test_everything_is_evaluated_and_written_once(one, two):
    workdir, output = two
    own, others = (
        json.loads((path / 'results.json').read_text())['accuracy'] for path in (one, workdir)
    )
    assert {name: result['videos'] for name, result in others.items()} == {
        'colours': 7,
        'shades': 7,
        'scenes': 6,
    }
    assert others['scenes']['boxes'] == own['scenes']['boxes'] > 0
    assert output.count('steps') == 1  # one table
    assert {path.name for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit()} == {
        '2',
        '4',
    }
    assert len(list(workdir.glob('events.*'))) == len(list(one.glob('events.*')))
    assert {path.name for path in workdir.glob('*.txt')} == {
        'command.txt',
        'log.txt',
        'log_1.txt',
    }
    for name in ('log.txt', 'log_1.txt'):
        assert '2 process(es)' in (workdir / name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('processes', 'devices', 'more'),
    [
        (1, 2, ()),  # pmap
        (1, 8, ('--config.parallel.model=2', '--config.parallel.shard_optimizer=True')),
        (2, 2, ('--config.parallel.model=2',)),
    ],
)
def test_another_number_of_processes_and_devices_goes_on(
    place, two, tmp_path, processes, devices, more
):
    workdir = tmp_path / 'run'
    shutil.copytree(two[0], workdir)
    for name in ('checkpoints/4', 'export'):
        shutil.rmtree(workdir / name)
    (workdir / 'results.json').unlink()
    finish(start(place, workdir, *more, processes=processes, devices=devices))
    assert 'resuming at step 2 of 4' in (workdir / 'log.txt').read_text()
    assert_same_parameters(two[0], workdir)


@pytest.mark.slow
def test_a_state_divided_over_processes_is_saved_and_goes_on(place, one, tmp_path):
    """ZeRO-1 and shared kernels over 2 processes, then whole on one device."""
    workdir, divided = (
        tmp_path / 'run',
        ('--config.parallel.model=2', '--config.parallel.shard_optimizer=True'),
    )
    finish(start(place, workdir, *divided, processes=2, devices=4))
    assert_same_parameters(one, workdir)
    for name in ('checkpoints/4', 'export'):
        shutil.rmtree(workdir / name)
    (workdir / 'results.json').unlink()
    finish(start(place, workdir, devices=1))
    assert_same_parameters(one, workdir)


@pytest.mark.slow
def test_evaluation_by_two_processes(place, one, tmp_path):
    for processes, name in ((1, 'alone'), (2, 'both')):
        command = [
            sys.executable,
            '-m',
            'multitrain_jax.evaluate',
            f'--workdir={one}',
            f'--output={tmp_path / name}',
        ]
        if processes > 1:
            command = [LAUNCHER, str(processes), *command]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
    alone, both = (
        json.loads((tmp_path / name / 'metrics.json').read_text()) for name in ('alone', 'both')
    )
    # Sums of float32, in another order; all other figures are equal.
    losses = [
        {name: result.pop('loss') for name, result in one['datasets'].items() if 'loss' in result}
        for one in (alone, both)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6) and losses[0]
    assert both == alone and alone['datasets']['scenes']['videos'] == 6
    rows = [
        sorted(csv.reader((tmp_path / name / 'detections_scenes.csv').open()))
        for name in ('alone', 'both')
    ]
    assert [row[:2] for row in rows[0]] == [row[:2] for row in rows[1]] and len(rows[0]) > 0


@pytest.mark.slow
@pytest.mark.parametrize('lost', [0, 1])
def test_when_a_process_is_killed_the_other_says_so_and_ends(place, tmp_path, lost):
    run = start(place, tmp_path / 'run', '--config.epochs=1000', processes=2, devices=4)
    log = tmp_path / 'run' / 'log.txt'
    deadline = time.monotonic() + 400
    with ended(run):
        while not (log.exists() and 'step 3/' in log.read_text()):
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.5)
        children = subprocess.run(
            ['pgrep', '-P', str(run.pid), '-a'], capture_output=True, text=True
        ).stdout.splitlines()
        (victim,) = [int(line.split()[0]) for line in children if line.endswith(f'_id={lost}')]
        os.kill(victim, signal.SIGKILL)
        _, errors = run.communicate(timeout=120)
    assert run.returncode != 0
    assert re.search(r'has lost another one|another task died', errors), errors


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['--coordinator_address=localhost:1234'],
            '--num_processes, --process_id missing: .* belong together',
        ),
        (
            ['--coordinator_address=localhost:1234', '--num_processes=2', '--process_id=2'],
            '--process_id=2 must be from 0 to 1, below --num_processes=2',
        ),
    ],
)
def test_processes_that_are_described_wrongly(place, arguments, message):
    command = [
        sys.executable,
        'run.py',
        f'--config={place / "config.py"}',
        f'--workdir={place / "none"}',
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and re.fullmatch(f'error: {message}\n', done.stderr), done.stderr
    assert not (place / 'none').exists()
