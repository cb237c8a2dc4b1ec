"""A run that is asked to stop saves, says so, and goes on as if nothing had been."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from multitrain_jax import train
from multitrain_jax.errors import Interrupted
from multitrain_jax.reporting import writers
from multitrain_jax.training import interruptions
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401

ROOT = pathlib.Path(__file__).parent.parent.parent
STEPS = 8


class Recorder(writers.LogWriter):
    """Keeps what is written: {step: {name: value}}."""

    def __init__(self):
        self.written = {}

    def write_scalars(self, step, scalars):
        self.written.setdefault(step, {}).update(scalars)


@pytest.fixture
def recorder(monkeypatch):
    writer = Recorder()
    monkeypatch.setattr(writers, 'open_writer', lambda *args, **options: writer)
    return writer


def life(workdir, *, signal_at=None, in_evaluation=False, devices=1, **changes):
    """One life of a run of 8 steps; a signal comes with the batch of a step,
    or with an evaluation's after it.
    """
    settings = dict(
        evaluation__every_epochs=2.0, checkpoint__every_steps=3
    )  # evaluates every 4 steps
    config = tiny.config(**settings | changes)
    source = tiny.ArraySource(config, steps_per_epoch=2)
    batch, evaluation_batches, train_batches, taken = (
        source.batch,
        source.evaluation_batches,
        source.train_batches,
        [],
    )

    def interrupt():
        if not taken:
            taken.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    def training(step):
        if step == signal_at and not in_evaluation:
            interrupt()
        return batch(step)

    def evaluating(dataset):
        for part in evaluation_batches(dataset):
            yield part
            if in_evaluation:
                interrupt()

    def opening(*steps):
        if signal_at == 'start':
            interrupt()
        return train_batches(*steps)

    source.batch, source.evaluation_batches, source.train_batches = training, evaluating, opening
    return train.train_and_evaluate(config, workdir, source=source, devices=jax.devices()[:devices])


def exported(workdir):
    import multitrain_jax as mt

    return jax.tree.leaves(mt.load(workdir / 'export')._params)


def without_speed(written):
    timed = ('train/clips_per_second', 'train/data_wait_share')
    return {
        step: {name: x for name, x in of.items() if name not in timed}
        for step, of in written.items()
    }


@pytest.mark.parametrize('in_evaluation', [False, True])
def test_it_goes_on_as_if_it_had_not_been_stopped(in_evaluation, tmp_path, recorder):
    before = signal.getsignal(signal.SIGTERM)
    outcome = life(tmp_path / 'whole')
    whole, recorder.written = without_speed(recorder.written), {}
    with pytest.raises(
        Interrupted,
        match=r'SIGTERM after step \d of 8, saved in .*/checkpoints; the same command goes on',
    ) as stopped:
        life(tmp_path / 'stopped', signal_at=5, in_evaluation=in_evaluation)
    assert signal.getsignal(signal.SIGTERM) is before
    assert '\n' not in str(stopped.value)
    at = int(str(stopped.value).split()[3])
    assert at == 4 if in_evaluation else at < STEPS
    assert (4 in recorder.written and 'evaluation/average' in recorder.written[4]) == (
        not in_evaluation and at >= 4
    )
    assert (tmp_path / 'stopped' / 'checkpoints' / str(at)).is_dir()
    assert not (tmp_path / 'stopped' / 'results.json').exists()

    again = life(tmp_path / 'stopped')
    assert again.accuracy == outcome.accuracy
    assert without_speed(recorder.written) == whole
    for one, other in zip(
        exported(tmp_path / 'whole'), exported(tmp_path / 'stopped'), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_in_the_last_evaluation_all_steps_are_saved(tmp_path, recorder):
    with pytest.raises(Interrupted, match='SIGTERM after step 8 of 8, saved in'):
        life(tmp_path, in_evaluation=True, evaluation__every_epochs=0.0)
    assert (tmp_path / 'checkpoints' / '8').is_dir() and not (tmp_path / 'export').exists()
    assert life(tmp_path).steps == STEPS


def test_before_the_first_step_nothing_is_saved(tmp_path, recorder):
    with pytest.raises(Interrupted, match='SIGTERM after step 0 of 8, nothing to save'):
        life(tmp_path, signal_at='start')
    assert not any((tmp_path / 'checkpoints').iterdir())


def test_the_second_ctrl_c_ends_at_once():
    with interruptions.listen() as requests:
        os.kill(os.getpid(), signal.SIGINT)
        assert requests.name == 'SIGINT'
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers send it more than once
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_do_not_listen():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        with interruptions.listen() as requests:
            requests.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


PROCESS = """
import os, signal, sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from multitrain_jax.training import interruptions
with interruptions.listen() as requests:
    for step in range(20):
        if step == 7 and sys.argv[2] == '1':
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            requests.check()
        except interruptions.StopRequested:
            print(step, requests.name)
            break
"""


def test_all_processes_stop_at_the_same_step():
    """One of two gets the signal."""
    environment = os.environ | {'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'}
    with socket.socket() as port:
        # Nobody else is given it meanwhile; JAX shares it.
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port.bind(('localhost', 0))
        address = f'localhost:{port.getsockname()[1]}'
        processes = [
            subprocess.Popen(
                [sys.executable, '-c', PROCESS, address, str(number)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]
        try:
            ends = [process.communicate(timeout=240) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert [process.returncode for process in processes] == [0, 0], ends
    assert [out.splitlines()[-1] for out, _ in ends] == ['8 None', '8 SIGTERM']


@pytest.mark.slow
def test_it_goes_on_with_other_devices(tmp_path, recorder):
    """Stopped on two devices, continued on one: the losses of one device, to rounding."""
    life(tmp_path / 'one', evaluation__every_epochs=0.0)
    whole, recorder.written = without_speed(recorder.written), {}
    with pytest.raises(Interrupted):
        life(tmp_path / 'moved', signal_at=5, devices=2, evaluation__every_epochs=0.0)
    assert 2 < max(recorder.written) < STEPS
    life(tmp_path / 'moved', evaluation__every_epochs=0.0)
    for step in range(1, STEPS + 1):
        for name in ('train/loss', 'train/gradient_norm'):
            np.testing.assert_allclose(recorder.written[step][name], whole[step][name], rtol=1e-3)
