"""What a command shows of an error, and how it ends."""

import pytest

from data_pipelines.datasets import dataset_info
from multitrain_jax.errors import UserError, run_command


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
