"""The doctor finds what is well, and what is not with its remedy;
nothing that is wrong stops it.
"""

import dataclasses
import json
import logging
import resource
import shutil
import sys

import pytest

from data_pipelines.clip import decode
from data_pipelines.datasets import dataset_info
from data_pipelines.storage.sequence_example import VIDEO_FILENAME
from multitrain_jax import doctor
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.diagnosis import experiment, machine
from multitrain_jax.reporting import writers
from tests.helpers import tiny, tiny_records
from tests.helpers.tiny import quick_compile  # noqa: F401

CONFIG = f'--config={tiny.CONFIG_FILE}'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tiny.write_datasets(tmp_path_factory.mktemp('data'))


@pytest.fixture
def command(monkeypatch, capsys):
    """The command: (exit code, standard output)."""

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['doctor', *map(str, arguments)])
        return doctor.main(), capsys.readouterr().out

    return call


def checks_of(part, *arguments):
    """{name: check} of a part."""
    return {check.name: check for check in doctor.examine(part, *arguments)}


def of_config(*arguments):
    return checks_of(experiment.experiment, [CONFIG, *arguments])


def test_all_is_well_here(command, data, finished_run):
    code, out = command(
        '--json', CONFIG, f'--config.data_root={data}', f'--config.init_from={finished_run[2]}'
    )
    content = json.loads(out)
    found = {(entry['part'], entry['name']): entry for entry in content['checks']}
    assert (
        code == 0
        and content['ok']
        and not [entry for entry in found.values() if entry['state'] == 'fail']
    )
    assert {part for part, _ in found} == {
        'packages',
        'devices',
        'this machine',
        'decoding',
        'training',
        'experiment',
    }
    assert (
        'jax ' in found['packages', 'required']['text']
        and 'numpy ' in found['packages', 'required']['text']
    )
    assert found['devices', 'CPU']['text'] == '8 cpus'
    assert found['training', 'a tiny step']['text'].startswith('on 8 devices: loss ')
    assert found['experiment', 'colours, train']['text'].startswith('20 records of 3 classes')
    assert found['experiment', 'shades, validation']['text'].startswith(
        '7 records of 5 classes, 3 views each'
    )
    assert found['experiment', 'batches']['text'].startswith(
        '16 clips, 2 on each of 8 replicas; 40 clips an epoch, 10 steps'
    )
    total = sum(leaf.size for leaf in flat_params(finished_run))
    assert found['experiment', 'parameters']['text'].startswith(f'{total:,} (backbone ')
    assert (
        f'{total:,} parameters, heads of colours, shades'
        in found['experiment', 'init_from']['text']
    )


def flat_params(finished_run):
    from multitrain_jax.weights import warm_start

    return warm_start.flatten(open_trained(finished_run[2]).params).values()


def test_the_table_names_what_fails_and_how_to_mend_it(command, data, tmp_path, monkeypatch):
    for slow in ('devices', 'training_step'):  # are in the test above
        monkeypatch.setattr(machine, slow, lambda: iter(()))
    shutil.copytree(data / 'colours', tmp_path / 'colours')
    (tmp_path / 'colours' / 'train-00000-of-00002').unlink()
    code, out = command(CONFIG, f'--config.data_root={tmp_path}', '--config.init_from=/nowhere')
    assert code == 1 and out.rstrip().endswith('3 failures')
    lines = out.splitlines()
    broken = next(i for i, line in enumerate(lines) if line.startswith('  fail  colours, train '))
    assert 'this shard is missing' in ' '.join(lines[broken : broken + 3])
    assert f'-> python -m data_pipelines.inspect {tmp_path}/colours' in ' '.join(
        ' '.join(lines[broken:]).split()
    )
    assert any(line.startswith('  fail  shades ') for line in lines)  # both splits in one line
    assert any(line.startswith('  ok    colours, validation ') for line in lines)
    assert any(line.startswith('  fail  init_from ') for line in lines)


def test_wrong_command_line(command):
    with pytest.raises(SystemExit) as end:
        command('--nope')
    assert end.value.code == 2


def test_configs_that_cannot_be_read_or_do_not_fit(data):
    found = of_config('--config.epoch=3')
    assert (
        list(found) == ['config']
        and found['config'].state == 'fail'
        and 'epochs' in found['config'].text
    )
    found = of_config(f'--config.data_root={data}', '--config.batch_size=12')
    assert (
        found['batches'].state == 'fail'
        and 'batch_size=12 does not divide' in found['batches'].text
    )
    found = of_config(f'--config.data_root={data}', '--config.optimizer.warmup_steps=1000')
    assert 'warm-up of 1000 steps' in found['batches'].text


def test_damaged_and_lonely_records(data, tmp_path):
    shutil.copytree(data, tmp_path / 'd')
    shard = tmp_path / 'd' / 'shades' / 'validation-00000-of-00002'
    content = bytearray(shard.read_bytes())
    content[60] ^= 255
    shard.write_bytes(content)
    (tmp_path / 'd' / 'shades' / 'validation.frames').unlink(missing_ok=True)
    info = json.loads((tmp_path / 'd' / 'colours' / 'dataset.json').read_text())
    info['splits']['train']['class_counts'] = [12, 0, 8]
    (tmp_path / 'd' / 'colours' / 'dataset.json').write_text(json.dumps(info))
    found = of_config(f'--config.data_root={tmp_path / "d"}')
    assert (
        found['shades, validation'].state == 'fail'
        and 'damaged' in found['shades, validation'].text
    )
    assert (
        found['colours, train'].state == 'warn'
        and "such as 'green'" in found['colours, train'].text
    )
    assert 'with 400 classes' in found['parameters'].text  # what is not known is said


def test_nothing_is_rendered(tmp_path):
    arguments = ['--config=configs/quickstart.py', f'--config.data_root={tmp_path / "new"}']
    found = checks_of(experiment.experiment, arguments)
    assert (
        'the run renders and converts it first' in found['motions'].text
        and not (tmp_path / 'new').exists()
    )
    assert not [check for check in found.values() if check.state == 'fail']


def test_packages_that_are_missing_old_or_do_not_belong_together(monkeypatch):
    versions = machine._version
    wrong = {'flax': None, 'tensorboard': None, 'numpy': '1.26.4', 'jaxlib': '0.1.0', 'av': '1.0'}
    monkeypatch.setattr(machine, '_version', lambda name: wrong.get(name, versions(name)))
    found = checks_of(machine.packages)
    assert {name: found[name].state for name in wrong} == {
        'flax': 'fail',
        'tensorboard': 'warn',
        'numpy': 'fail',
        'jaxlib': 'fail',
        'av': 'warn',
    }
    assert (
        'go to the log only' in found['tensorboard'].text
        and "'numpy>=2.0'" in found['numpy'].remedy
    )
    assert all(name not in found['required'].text for name in ('flax', 'tensorboard', 'numpy'))


@pytest.mark.parametrize(
    'kind, text', [('tensorboard', "TensorBoard's own writer"), ('log', 'go to the log only')]
)
def test_without_tensorflow(kind, text, monkeypatch):
    monkeypatch.setattr(writers, 'import_writers', lambda: kind)
    found = checks_of(machine.devices)
    assert found['TensorFlow'].state == 'ok' and text in found['TensorFlow'].text


def test_dependencies_are_those_of_the_installed_project_or_of_the_clone(monkeypatch):
    declared = [requirement.name for requirement in machine._requirements()]
    assert 'jax' in declared and 'av' in declared and 'pytest' not in declared
    lines = ['jax>=0.10', "numpy<1; python_version < '3'", "torch>=2; extra == 'import'"]
    monkeypatch.setattr(machine.importlib.metadata, 'requires', lambda name: lines)
    assert [str(requirement) for requirement in machine._requirements()] == ['jax>=0.10']


def test_limits_of_the_system(monkeypatch, tmp_path):
    monkeypatch.setattr(resource, 'getrlimit', lambda what: (100, 5000))
    monkeypatch.setattr(machine, 'available_memory', lambda: 1 << 30)
    found = checks_of(machine.system)
    assert found['open files'].state == 'warn' and found['open files'].remedy == 'ulimit -n 4096'
    assert found['memory'].state == 'warn' and found['temporary files'].state in ('ok', 'warn')
    (tmp_path / 'file').write_text('')
    assert machine.writable('cache', tmp_path / 'new' / 'deep', 'x').state in ('ok', 'warn')
    assert machine.writable('cache', '/proc/none', 'mend it').remedy == 'mend it'
    assert list(tmp_path.iterdir()) == [tmp_path / 'file']


def test_a_decoder_that_gives_other_pixels(monkeypatch):
    right = decode.decode_frame
    monkeypatch.setattr(decode, 'decode_frame', lambda *arguments: 255 - right(*arguments))
    found = checks_of(machine.decoding)
    assert found['JPEG'].state == 'fail' and found['H.264'].state == 'ok'


def test_what_goes_wrong_in_a_part_is_a_failure():
    def unlucky_part():
        yield doctor.Check('ok', 'first', 'fine')
        raise KeyError('second')

    level = logging.getLogger('multitrain_jax').level
    found = checks_of(unlucky_part)
    assert logging.getLogger('multitrain_jax').level == level
    assert (
        found['first'].state == 'ok'
        and found['unlucky part'].state == 'fail'
        and 'KeyError' in found['unlucky part'].text
    )


def test_videos_that_are_trained_on_and_tested_on(data, tmp_path):
    """By name: shades tests on two videos that colours trains on."""
    found = of_config(f'--config.data_root={data}')
    assert found['leakage'].state == 'ok' and 'names and contents of 54' in found['leakage'].text
    for name in tiny.CLASSES:
        names, splits = [f'{name}_{number}.mp4' for number in range(20)], {}
        tested = [*names[:3], 'colours_7.mp4', 'colours_4'] if name == 'shades' else ['new.mp4'] * 5
        for split, own in (('train', names), ('validation', tested)):
            tiny_records.write_records(
                tmp_path / name,
                [
                    [tiny_records.flat_frame(number, frame) for frame in range(4)]
                    for number in range(len(own))
                ],
                [[number % 3] for number in range(len(own))],
                num_classes=len(tiny.CLASSES[name]),
                split=split,
                contexts=[{VIDEO_FILENAME: [own_name]} for own_name in own],
            )
            info = dataset_info.load_dataset_info(tmp_path / name)
            splits |= info.splits
        dataset_info.save_dataset_info(
            tmp_path / name,
            dataclasses.replace(info, splits=splits, classes=tiny.CLASSES[name]),
        )

    def leakage(*more):
        arguments = [CONFIG, f'--config.data_root={tmp_path}', *more]
        checks = doctor.examine(experiment.experiment, arguments)
        return [check for check in checks if check.name == 'leakage']

    checks = leakage()
    assert [check.state for check in checks] == ['warn', 'warn']
    between = next(check for check in checks if f'{tmp_path}/colours, train trains' in check.text)
    assert f'on 2 of 5 clips that {tmp_path}/shades, validation tests on (2 by name' in between.text
    own = next(check for check in checks if check is not between)
    assert 'shades, train trains on 3 of 5 clips that' in own.text
    command = f'inspect {tmp_path}/colours {tmp_path}/shades --quick'
    assert checks[0].remedy == '' and command in checks[1].remedy
    command = command.replace(' --quick', f' --video_root={tmp_path}/v --quick')
    assert command in leakage('--config.datasets.shades.video_root=v')[-1].remedy
