"""run.py as a user meets it: mistakes give one line and exit code 2, and leave nothing behind."""

import logging
import pathlib
import runpy
import sys

from absl import flags
import pytest

from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tiny.write_datasets(tmp_path_factory.mktemp('data'))


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs run.py's command line in this process: (exit code, standard output, standard error)."""
    before = set(flags.FLAGS)
    handlers = logging.getLogger().handlers[:]

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['run.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / 'run.py'), run_name='__main__')
        forget_flags()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    def forget_flags():  # run.py defines its own every time
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)

    yield call
    forget_flags()
    logging.getLogger().handlers[:] = handlers


CONFIG = f'--config={tiny.CONFIG_FILE}'
MISTAKES = {
    'no config': (['--workdir=W'], ['--config is missing']),
    'no such config': (
        ['--config=configs/none.py', '--workdir=W'],
        ['--config=configs/none.py', 'No such file'],
    ),
    'no workdir': ([CONFIG], ['--workdir is missing']),
    'unknown flag': ([CONFIG, '--workdir=W', '--batch=3'], ['batch']),
    'stray argument': ([CONFIG, '--workdir=W', 'more'], ["'more'"]),
    'unknown field': (
        [CONFIG, '--workdir=W', '--config.epoch=3'],
        ['config.epoch', 'unknown', 'epochs'],
    ),
    'unknown nested field': (
        [CONFIG, '--workdir=W', '--config.optimizer.learning_rate=3'],
        ['config.optimizer.learning_rate', 'unknown'],
    ),
    'unknown field of a dataset': (
        [CONFIG, '--workdir=W', '--config.datasets.colours.stryde=3'],
        ['config.datasets.colours.stryde', 'unknown', 'stride'],
    ),
    'wrong type': (
        [CONFIG, '--workdir=W', '--config.batch_size=many'],
        ['config.batch_size', 'many'],
    ),
    'wrong type in a group': (
        [CONFIG, '--workdir=W', '--config.input.short_side=16'],
        ['config.input.short_side'],
    ),
    'value refused': (
        [CONFIG, '--workdir=W', '--config.objective.label_smoothing=1.5'],
        ['config.objective', 'label_smoothing=1.5', '[0, 1)'],
    ),
    'value not of the list': (
        [CONFIG, '--workdir=W', '--config.datasets.shades.sampling=random'],
        ['config.datasets.shades.sampling', "'random'", "'strided'", "'uniform'"],
    ),
    'no epochs': ([CONFIG, '--workdir=W', '--config.epochs=0'], ['epochs=0', 'positive']),
    'crops that do not fit': (
        [CONFIG, '--workdir=W', '--config.evaluation.short_side=8'],
        ['evaluation.short_side=8', 'image_size'],
    ),
    'frames smaller than a patch': (
        [CONFIG, '--workdir=W', '--config.model.backbone.num_frames=1'],
        ['config.model.backbone', '1 frames', 'patch_stride'],
    ),
    'batch over devices': (
        [CONFIG, '--workdir=W', '--config.batch_size=12'],
        ['batch_size=12', '8 devices', 'multiple of 8'],
    ),
    'evaluation batch over devices': (
        [CONFIG, '--workdir=W', '--config.evaluation.batch_size=4'],
        ['evaluation.batch_size=4', '8 devices'],
    ),
    'groups of mixup over devices': (
        [CONFIG, '--workdir=W', '--config.batch_size=24'],
        ['3 clips per device', 'mix_group=2'],
    ),
    'missing data': (
        [CONFIG, '--workdir=W', '--config.data_root=/nowhere/at/all'],
        ['colours', '/nowhere/at/all/colours', 'data_pipelines.convert'],
    ),
    'missing split': (
        [
            CONFIG,
            '--workdir=W',
            '--config.data_root=D',
            '--config.datasets.shades.evaluation_split=test',
        ],
        ['shades', "'test'", 'train, validation'],
    ),
    'warm-up longer than the run': (
        [CONFIG, '--workdir=W', '--config.data_root=D', '--config.optimizer.warmup_steps=1000'],
        ['warm-up of 1000 steps', 'warmup_steps'],
    ),
    'workdir in a file': (
        [CONFIG, f'--workdir={ROOT}/run.py/below'],
        ['--workdir', 'cannot be made'],
    ),
    'workdir not writable': ([CONFIG, '--workdir=/proc/none'], ['--workdir', 'cannot be made']),
}


@pytest.mark.parametrize('field', ['projections_from', 'init_from', 'replay'])
def test_a_field_that_is_none_may_be_given(field, run, data, tmp_path):
    code, _, err = run(
        CONFIG, f'--workdir={tmp_path}', f'--config.data_root={data}', f'--config.{field}=nowhere'
    )
    lines = [line for line in err.splitlines() if not line.startswith('[')]
    assert (
        code == 2 and len(lines) == 1 and lines[0].startswith(f'error: config.{field}=nowhere')
    ), err


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_give_one_line(name, run, data, tmp_path):
    arguments, parts = MISTAKES[name]
    workdir = tmp_path / 'workdir'
    places = {
        '--workdir=W': f'--workdir={workdir}',
        '--config.data_root=D': f'--config.data_root={data}',
    }
    code, out, err = run(*[places.get(argument, argument) for argument in arguments])
    assert code == 2
    lines = [line for line in err.splitlines() if not line.startswith('[')]  # without progress
    assert len(lines) == 1 and lines[0].startswith('error: '), err
    for part in parts:
        assert part in lines[0]
    assert 'Traceback' not in out + err
    assert not workdir.exists() or [p.name for p in workdir.iterdir()] in ([], ['log.txt'])


def test_help_shows_an_example(run):
    code, out, _ = run('--help')
    assert code == 0 and 'python run.py --config=configs/quickstart.py --workdir=' in out


def test_all_fields_are_shown_without_a_workdir(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(CONFIG, '--print_config', '--config.seed=5')
    assert (code, err) == (0, '') and not list(tmp_path.iterdir())
    assert '* config.seed = 5  [0]' in out and 'config.datasets.shades.loss_weight = 0.5' in out
