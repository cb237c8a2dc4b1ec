"""run.py as a user meets it: mistakes give one line and exit code 2, and leave nothing behind."""

import pytest

from tests.helpers import tiny
from tests.helpers.calling import ROOT, call
from tests.helpers.tiny import quick_compile  # noqa: F401


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tiny.write_datasets(tmp_path_factory.mktemp('data'))


CONFIG = f'--config={tiny.CONFIG_FILE}'
MISTAKES = {
    'no config': (['--workdir=W'], ['--config is missing']),
    'no such config': (
        ['--config=configs/none.py', '--workdir=W'],
        ['--config=configs/none.py', 'No such file'],
    ),
    'no workdir': ([CONFIG], ['--workdir is missing']),
    'unknown flag': ([CONFIG, '--workdir=W', '--batch=3'], ['batch']),
    'field without its config': (
        [CONFIG, '--workdir=W', '--epochs=2'],
        ['unknown flag --epochs; did you mean --config.epochs?'],
    ),
    'nested field without its config': (
        [CONFIG, '--workdir=W', '--optimizer.warmup_epochs', '2'],
        ['did you mean --config.optimizer.warmup_epochs?'],
    ),
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
def test_a_field_that_is_none_may_be_given(field, data, tmp_path):
    code, _, err = call(
        'run',
        CONFIG,
        f'--workdir={tmp_path}',
        f'--config.data_root={data}',
        f'--config.{field}=nowhere',
    )
    lines = [line for line in err.splitlines() if not line.startswith('[')]
    assert (
        code == 2 and len(lines) == 1 and lines[0].startswith(f'error: config.{field}=nowhere')
    ), err


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_give_one_line(name, data, tmp_path):
    arguments, parts = MISTAKES[name]
    workdir = tmp_path / 'workdir'
    places = {
        '--workdir=W': f'--workdir={workdir}',
        '--config.data_root=D': f'--config.data_root={data}',
    }
    code, out, err = call('run', *[places.get(argument, argument) for argument in arguments])
    assert code == 2
    lines = [line for line in err.splitlines() if not line.startswith('[')]  # without progress
    assert len(lines) == 1 and lines[0].startswith('error: '), err
    for part in parts:
        assert part in lines[0]
    assert 'Traceback' not in out + err
    assert not workdir.exists() or [p.name for p in workdir.iterdir()] in ([], ['log.txt'])


def test_help_shows_an_example():
    code, out, _ = call('run', '--help')
    assert code == 0 and 'python run.py --config=configs/quickstart.py --workdir=' in out


def test_all_fields_are_shown_without_a_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call('run', CONFIG, '--print_config', '--config.seed=5')
    assert (code, err) == (0, '') and not list(tmp_path.iterdir())
    assert '* config.seed = 5  [0]' in out and 'config.datasets.shades.loss_weight = 0.5' in out


@pytest.mark.parametrize('name', ['quickstart', 'quickstart.py', 'configs/quickstart.py'])
def test_shipped_configs_are_found_by_name_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call('run', f'--config={name}', '--config.epochs=0', '--workdir=w')
    assert code == 2 and 'epochs=0' in err, err


def test_a_file_of_the_user_comes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'quickstart.py').write_text('raise ValueError("mine")')
    code, _, err = call('run', '--config=quickstart.py', '--workdir=w')
    assert code == 2 and 'mine' in err
    code, _, err = call('run', '--config=elsewhere/quickstart.py', '--workdir=w')
    assert code == 2 and 'No such file' in err
    assert 'multitrain, ' in err and 'quickstart, ' in err
