"""An export is the trained model; nothing else is mistaken for one, or overwritten by one."""

import json
import re
import shutil
import subprocess
import sys

from flax import nnx
import jax
import numpy as np
import pytest

import multitrain_jax as mt
from multitrain_jax import export
from multitrain_jax.augment.normalize import normalize
from multitrain_jax.checkpoints import exports, runs
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.errors import UserError
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401


def trained_outputs(finished_run, step, clips):
    """Embedding and logits of the training model with the parameters of a checkpoint."""
    config, source, workdir = finished_run
    saved = runs.RunCheckpoints(workdir, keep=10)
    graphdef, abstract = tiny.abstract(config, source.datasets)
    params = saved.restore_params(step, abstract)
    saved.close()
    video = normalize(clips, mean=config.augment.mean, std=config.augment.std)
    outputs = jax.jit(lambda params, video: nnx.merge(graphdef, params)(video))(params, video)
    return np.asarray(outputs.embedding), np.asarray(outputs.logits)


@pytest.fixture(scope='module')
def clips(finished_run):
    return np.stack([finished_run[1].clip(9, number) for number in range(3)])


def check_is(model, embedding, logits, clips):
    np.testing.assert_allclose(model.embed(clips), embedding, atol=1e-5)
    got = model.logits(clips)
    assert list(got) == list(tiny.CLASSES)
    for number, (name, classes) in enumerate(tiny.CLASSES.items()):
        assert got[name].shape == (3, len(classes)) and got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], logits[number][:, : len(classes)], atol=1e-5)


def test_an_export_asks_for_no_gpu():
    backbone = 'model__backbone__'
    config = tiny.config(
        **{
            f'{backbone}dtype': 'bfloat16',
            f'{backbone}attention': 'cudnn',
            f'{backbone}remat_attention': True,
        }
    )
    info = exports.model_info(config, tiny.ArraySource(config, steps_per_epoch=1).datasets)
    assert (info.model.backbone.attention, info.model.backbone.remat_attention) == ('xla', False)


def test_the_runs_export_is_the_trained_model(finished_run, clips):
    embedding, logits = trained_outputs(finished_run, 8, clips)
    check_is(mt.load(finished_run[2] / 'export'), embedding, logits, clips)
    assert np.ptp(embedding, axis=0).max() > 1e-3  # not the same for every clip


def test_any_checkpoint_can_be_exported(finished_run, clips, tmp_path):
    workdir = finished_run[2]
    arguments = [
        sys.executable,
        '-m',
        'multitrain_jax.export',
        f'--workdir={workdir}',
        f'--output={tmp_path / "e"}',
    ]
    done = subprocess.run([*arguments, '--step=6'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'exported step 6 to {tmp_path / "e"}\n'
    embedding, logits = trained_outputs(finished_run, 6, clips)
    check_is(mt.load(tmp_path / 'e'), embedding, logits, clips)
    assert np.abs(embedding - trained_outputs(finished_run, 8, clips)[0]).max() > 1e-4
    content = json.loads((tmp_path / 'e' / 'model.json').read_text())
    assert content['datasets']['shades']['classes'] == list(tiny.CLASSES['shades'])
    assert not content['model']['expander'] and not content['model']['projections']
    # Again to the same place: replaced.
    open_trained(workdir).export(tmp_path / 'e')
    check_is(mt.load(tmp_path / 'e'), *trained_outputs(finished_run, 8, clips), clips)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['e']


@pytest.mark.parametrize('kind', ['directory', 'file'])
def test_a_foreign_place_is_left_alone(finished_run, tmp_path, kind):
    place = tmp_path / 'photos'
    if kind == 'directory':
        place.mkdir()
        (place / 'holiday.txt').write_text('mine')
    else:
        place.write_text('mine')
    with pytest.raises(UserError, match='photos: .*no export'):
        open_trained(finished_run[2]).export(place)
    assert (place / 'holiday.txt' if kind == 'directory' else place).read_text() == 'mine'
    assert [path.name for path in tmp_path.iterdir()] == ['photos']


def test_no_run_and_no_checkpoint(finished_run, tmp_path, monkeypatch):
    out = f'--output={tmp_path / "out"}'
    for arguments, message in (
        ([str(tmp_path / 'none')], 'neither a run (directory "checkpoints") nor an export'),
        ([str(finished_run[2]), '--step=5'], 'no checkpoint of step 5; it has [3, 6, 8]'),
    ):
        monkeypatch.setattr(sys, 'argv', ['export', *arguments, out])
        with pytest.raises(UserError, match=re.escape(message)):
            export.main()
    assert not list(tmp_path.iterdir())


def change_model(path, change):
    content = json.loads((path / 'model.json').read_text())
    change(content)
    (path / 'model.json').write_text(json.dumps(content))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda c: c['model'].update(head_hidden=16),
            r'another architecture: parameter heads.* has shape \[.*\], must be',
        ),
        (
            lambda c: c['model']['backbone'].update(stage_blocks=[2]),
            'another architecture: parameter .* is missing',
        ),
        (
            lambda c: c['model'].update(haed_hidden=16),
            'haed_hidden: unknown field; did you mean .*head_hidden',
        ),
        (lambda c: c.update(version=99), 'another version'),
        (lambda c: c.update(format='picture'), 'not the description of an export'),
    ],
)
def test_an_export_that_does_not_fit_its_description(finished_run, tmp_path, change, message):
    shutil.copytree(finished_run[2] / 'export', tmp_path / 'e')
    change_model(tmp_path / 'e', change)
    with pytest.raises(UserError, match=message) as error:
        mt.load(tmp_path / 'e')
    assert '\n' not in str(error.value)


def test_damaged_exports(finished_run, tmp_path):
    with pytest.raises(UserError, match='neither a run'):
        mt.load(tmp_path)
    shutil.copytree(finished_run[2] / 'export', tmp_path / 'e')
    shutil.rmtree(tmp_path / 'e' / 'params')
    with pytest.raises(UserError, match='not a readable checkpoint') as error:
        mt.load(tmp_path / 'e')
    assert '\n' not in str(error.value)
    (tmp_path / 'e' / 'model.json').write_text('{"format"')
    with pytest.raises(UserError, match='not JSON'):
        mt.load(tmp_path / 'e')


def test_damaged_numbers_are_noticed(finished_run, tmp_path):
    """Not by the storage, which checks only its tables."""
    shutil.copytree(finished_run[2] / 'export', tmp_path / 'export')
    files = [path for path in (tmp_path / 'export' / 'params' / 'ocdbt.process_0' / 'd').iterdir()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(UserError, match='export: damaged: '):
        mt.load(tmp_path / 'export')
