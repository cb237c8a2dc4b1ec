"""The command `multitrain`: it lists and starts every command of the project, from anywhere."""

import os
import re
import subprocess
import sys

import pytest

from multitrain_jax.__main__ import COMMANDS, help_text
from tests.helpers.calling import ROOT

# No commands of a user's.
_WORKERS = {'data_pipelines.conversion.worker', 'data_pipelines.row_worker', 'multitrain_jax'}


def _multitrain(*arguments, cwd=ROOT, executable=('-m', 'multitrain_jax'), **options):
    return subprocess.run(
        [sys.executable, *executable, *arguments],
        cwd=cwd,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONSAFEPATH': '1'},
        capture_output=True,
        text=True,
        **options,
    )


def test_every_module_that_is_a_command_is_listed():
    found = set()
    for package in ('multitrain_jax', 'data_pipelines'):
        for path in (ROOT / package).rglob('*.py'):
            if re.search(r"^if __name__ == '__main__':", path.read_text(), re.M):
                name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
                found.add(name.removesuffix('.__main__'))
    assert found - _WORKERS == set(COMMANDS.values())


def test_help_has_a_line_for_each_and_imports_nothing_heavy(tmp_path):
    lines = help_text().splitlines()
    for name in COMMANDS:
        (line,) = [line for line in lines if line.startswith(f'  {name} ')]
        assert len(line) < 125 and line.endswith('.')
    assert 'quickstart_cofinetune' in help_text()
    watched = (
        'import sys, multitrain_jax.__main__ as m; sys.argv = ["multitrain", "--help"]; m.main(); '
        'heavy = {"jax", "numpy", "av", "cv2", "flax"} & set(sys.modules); sys.exit(str(heavy) '
        'if heavy else 0)'
    )
    done = _multitrain(executable=('-c', watched), cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == help_text(), done.stderr


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_has_help_and_no_warning(name, tmp_path):
    done = _multitrain(name, '--help', cwd=tmp_path)
    assert done.returncode == 0 and '--' in done.stdout and not done.stderr, done.stderr


@pytest.mark.parametrize(
    'arguments, text',
    [
        (['projection'], "'projection' is no command; did you mean 'projections'?"),
        (['fly'], "'fly' is no command; there are convert, inspect"),
        (['train', '--config=quickstart'], '--workdir is missing'),
        (['predict', '--checkpoint=/nowhere', 'x.mp4'], '/nowhere'),
    ],
)
def test_mistakes_give_one_line(arguments, text, tmp_path):
    done = _multitrain(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith('error: ') and text in done.stderr
