"""The directory of a run: held by one at a time, with what was asked for in it."""

import json
import subprocess
import sys

import jax
import pytest

from multitrain_jax import train
from multitrain_jax.config import load_config
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation import results
from multitrain_jax.training import workdir as workdirs
from tests.helpers import tiny
from tests.helpers.calling import ROOT
from tests.helpers.tiny import quick_compile  # noqa: F401

HOLD = """
import sys, time
from pathlib import Path
from multitrain_jax.training import workdir
from tests.helpers import tiny
path = workdir.make_workdir(sys.argv[1])
with workdir.held(path):
    workdir.write_request(path, tiny.config())
    print('held', flush=True)
    time.sleep(600)
"""


def run(workdir, **changes):
    config = tiny.config(epochs=1.0, **changes)
    source = tiny.ArraySource(config, steps_per_epoch=2)
    return train.train_and_evaluate(config, workdir, source=source, devices=jax.devices()[:1])


def test_a_workdir_in_use_is_refused_until_its_process_has_gone(tmp_path):
    """Also where that ended without cleaning up."""
    command = [sys.executable, '-c', HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == 'held\n'
            with pytest.raises(UserError) as error:
                run(tmp_path)
        finally:
            other.kill()
    text = str(error.value)
    assert f'{tmp_path}: another run uses it' in text and f'process {other.pid}' in text
    assert 'use another --workdir' in text and '\n' not in text
    assert not (tmp_path / 'checkpoints').exists()
    assert run(tmp_path).steps == 2


def test_the_first_process_holds_it_for_all(tmp_path, monkeypatch):
    """The others learn from it, and stop with the same text."""
    workdirs.make_workdir(tmp_path)
    answers = []
    monkeypatch.setattr(workdirs, 'on_all_hosts', lambda free: answers.append(free) or free)
    with workdirs.held(tmp_path):
        monkeypatch.setattr(jax, 'process_index', lambda: 1)
        with workdirs.held(tmp_path):  # process 1 of the same run
            pass
        monkeypatch.setattr(workdirs, 'on_all_hosts', lambda free: False)
        with pytest.raises(UserError, match='another run uses it'):
            with workdirs.held(tmp_path):  # process 1 of another one
                pass
    assert answers == [True, True]


def test_the_request_can_be_read_and_used_again(tmp_path, monkeypatch):
    """The config with its overrides, and one command line for every start."""
    monkeypatch.setattr(sys, 'orig_argv', ['python', 'run.py', '--config=a b.py'])
    run(tmp_path, optimizer__clip_norm=0.5)
    config = tiny.config(epochs=1.0, optimizer__clip_norm=0.5)
    assert load_config([f'--config={tmp_path}/config.json']) == config
    changed = load_config([f'--config={tmp_path}/config.json', '--config.optimizer.clip_norm=2'])
    assert changed.optimizer.clip_norm == 2.0
    text = (tmp_path / 'config.json').read_text()
    assert '\n    "clip_norm": 0.5,\n' in text and 'num_classes' not in text
    monkeypatch.setattr(sys, 'orig_argv', ['python', 'run.py', '--config.epochs=2'])
    config = tiny.config(epochs=2.0)
    source = tiny.ArraySource(config, steps_per_epoch=2)
    train.train_and_evaluate(config, tmp_path, source=source, devices=jax.devices()[:1])
    lines = (tmp_path / 'command.txt').read_text().splitlines()
    assert [line.partition('  # ')[0] for line in lines] == [
        "python run.py '--config=a b.py'",
        'python run.py --config.epochs=2',
    ]
    versions = json.loads((tmp_path / 'versions.json').read_text())
    assert versions['jax'] == jax.__version__ and versions['devices'].startswith('8 x cpu')


@pytest.mark.parametrize('content', ['{"a"', '[1]', '{"sed": 1}'])
def test_other_json_is_refused(content, tmp_path):
    (tmp_path / 'x.json').write_text(content)
    with pytest.raises(UserError) as error:
        load_config([f'--config={tmp_path}/x.json'])
    assert '\n' not in str(error.value)


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / 'log.txt').touch()  # which may still be writable

    def refuse(**options):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(workdirs.tempfile, 'TemporaryFile', refuse)
    with pytest.raises(UserError, match='cannot be made or written .Permission denied'):
        workdirs.make_workdir(tmp_path)


def test_the_summary_names_the_best_checkpoint(tmp_path):
    outcome = run(tmp_path, checkpoint__keep_best='average')
    step, figure = outcome.best
    assert step == 2 and (tmp_path / 'best' / 'checkpoints' / '2').is_dir()
    table = results.table(outcome)
    assert f'{tmp_path}/best' in table and f'step 2, {figure:.1%}' in table
    assert f'multitrain_jax.export {tmp_path} --best' in table
    assert results.load(tmp_path) == outcome
    assert run(tmp_path, checkpoint__keep_best='average') == outcome
