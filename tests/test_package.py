"""The wheel, as somebody who has no clone of the repository gets it."""

import email
import os
import subprocess
import sys
import zipfile

import pytest

from tests.helpers.calling import ROOT
from tests.helpers.video_writer import write_numbered

pytest.importorskip('hatchling')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    command = [sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob('*.whl')
    return zipfile.ZipFile(path)


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    wheel.extractall(folder)
    return folder


def _run(installed, cwd, *arguments):
    """`multitrain ARGUMENTS`: as of a script in bin/, the current directory is not on the path."""
    program = 'from multitrain_jax.__main__ import main; raise SystemExit(main())'
    return subprocess.run(
        [sys.executable, '-P', '-c', program, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {'PYTHONPATH': str(installed)},
        capture_output=True,
        text=True,
    )


def test_what_the_wheel_holds(wheel):
    names = wheel.namelist()
    assert {name.partition('/')[0].partition('-')[0] for name in names} == {
        'multitrain_jax',
        'data_pipelines',
    }
    shipped = {path.name for path in (ROOT / 'configs').glob('*.py')}
    inside = 'multitrain_jax/configs/'
    assert {name.removeprefix(inside) for name in names if name.startswith(inside)} >= shipped
    (metadata,) = (name for name in names if name.endswith('/METADATA'))
    fields = email.message_from_bytes(wheel.read(metadata))
    assert fields['Requires-Python'] == '>=3.11'
    assert {'gpu', 'tpu', 'import', 'tfds', 'beam', 'test'} <= set(fields.get_all('Provides-Extra'))


def test_a_shipped_experiment_is_found_without_a_clone(installed, tmp_path):
    done = _run(installed, tmp_path, 'train', '--config=quickstart', '--print_config')
    assert done.returncode == 0 and 'config.batch_size' in done.stdout, done.stderr


def test_a_package_in_the_current_directory_is_not_taken_for_ours(installed, tmp_path):
    for name in ('data_pipelines', 'multitrain_jax'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text('raise ImportError("not this one")')
    for split in ('train', 'validation'):
        for label in ('sit', 'walk'):
            folder = tmp_path / 'videos' / split / label
            folder.mkdir(parents=True)
            write_numbered(folder / f'{split}_{label}.mp4', 4)
    done = _run(installed, tmp_path, 'convert', 'folder', '--videos=videos', '--output=data')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'data' / 'dataset.json').exists()
