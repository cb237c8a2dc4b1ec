"""What a command shows of an error, and how it ends."""

import contextlib
import os
import subprocess
import sys

import jax
import pytest

from data_pipelines import files
from data_pipelines.datasets import dataset_info
from multitrain_jax.errors import UserError, naming, run_command
from tests.helpers.calling import ROOT


def raising(error):
    def main():
        raise error

    return main


def ending(main, capsys):
    with pytest.raises(SystemExit) as end:
        run_command(main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(('returned', 'code'), [(None, 0), (0, 0), (2, 2)])
def test_exit_codes(returned, code, capsys):
    assert ending(lambda: returned, capsys) == (code, '')


def test_a_users_mistake_is_one_line(capsys):
    assert ending(raising(UserError('field: wrong')), capsys) == (2, 'error: field: wrong\n')


def test_errors_of_the_data_rooms_are_the_users(capsys, tmp_path):
    code, err = ending(lambda: dataset_info.load_dataset_info(tmp_path), capsys)
    assert code == 2 and err.startswith(f'error: {tmp_path}: no dataset.json here')


def test_other_errors_keep_their_traceback(capsys):
    with pytest.raises(ValueError, match='invalid literal'):
        run_command(lambda: int('many'))
    with pytest.raises(KeyError):
        run_command(raising(KeyError('x')))


def test_the_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv('MULTITRAIN_TRACEBACK', '1')
    with pytest.raises(UserError):
        run_command(raising(UserError('wrong')))


def test_interrupt(capsys):
    assert ending(raising(KeyboardInterrupt()), capsys) == (130, 'interrupted\n')


def test_what_cannot_be_read_is_named(capsys):
    """The system says of an open file only `[Errno 5] Input/output error`."""
    memory = '/proc/self/mem'  # nothing can be read at its beginning
    with contextlib.closing(files.open_random_access(memory)) as file:
        for read in (lambda: files.read_bytes(memory), lambda: file.read(8, 0)):
            assert ending(read, capsys) == (2, f'error: {memory}: Input/output error\n')

    def own():
        with naming('mine.json'):
            os.pread(file_number, 8, 0)

    file_number = os.open(memory, os.O_RDONLY)
    assert ending(own, capsys) == (2, 'error: mine.json: Input/output error\n')
    os.close(file_number)


@pytest.mark.parametrize(
    'error',
    [
        MemoryError('Unable to allocate 8 GiB'),
        jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n' * 3),
        jax.errors.JaxRuntimeError('INTERNAL: YNNPACK operation failed'),
    ],
)
def test_want_of_memory_is_one_line(error, capsys):
    code, err = ending(raising(error), capsys)
    assert code == 2 and err.count('\n') == 1
    assert err.startswith(
        f'error: no memory left ({str(error).splitlines()[0]}); do less at a time'
    )
    with pytest.raises(jax.errors.JaxRuntimeError):
        run_command(raising(jax.errors.JaxRuntimeError('INVALID_ARGUMENT: shapes')))


WITHOUT_MEMORY = """
import pathlib, resource, sys
import numpy as np
from multitrain_jax.errors import run_command
from multitrain_jax.inference.model import Model
from tests.helpers import small_models

def main():
    trained = small_models.trained()
    model = Model(trained)
    clips = np.zeros((1, *model.clip_shape), np.uint8)
    model.logits(clips)
    used = 4096 * int(pathlib.Path('/proc/self/statm').read_text().split()[0])
    clips = np.zeros((20_000, *model.clip_shape), np.uint8)
    resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
    Model(trained, batch_size=20_000).logits(clips)

run_command(main)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='needs a limit on memory')
def test_a_model_that_finds_no_memory():
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_MEMORY], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and 'no memory left (RESOURCE_EXHAUSTED' in lines[0]
    assert 'Traceback' not in done.stderr and 'Abort' not in done.stderr
