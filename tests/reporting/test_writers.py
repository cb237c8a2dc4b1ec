"""Where metrics are written."""

import concurrent.futures
import importlib.util
import itertools
import logging
import sys
import types

import cv2
import numpy as np
import pytest

from multitrain_jax.errors import UserError
from multitrain_jax.reporting import progress, writers
from tests.helpers.event_files import scalars, shown


@pytest.fixture
def without(monkeypatch):
    find = importlib.util.find_spec
    return lambda *names: monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name in names else find(name)
    )


def _write(workdir, **options):
    writer = writers.open_writer(str(workdir), **options)
    writer.write_scalars(7, {'loss': 0.5, 'top1/a': np.float32(1)})
    writer.flush()
    writer.write_scalars(9, {'loss': 0.25})
    writer.close()


@pytest.mark.parametrize('missing', ['clu', 'tensorflow'])
def test_without_tensorflow_tensorboard_reads_the_same_curves(missing, without, tmp_path, caplog):
    pytest.importorskip('clu')
    pytest.importorskip('tensorflow')
    (tmp_path / 'clu').mkdir()
    _write(tmp_path / 'clu', is_main_host=True)
    without(missing)
    with caplog.at_level(logging.INFO, 'multitrain_jax'):
        _write(tmp_path / 'own', is_main_host=True)
    curves = scalars(tmp_path / 'own')
    assert curves == scalars(tmp_path / 'clu')
    assert curves == {'loss': {7: [0.5], 9: [0.25]}, 'top1/a': {7: [1.0]}}
    assert '[7] loss=0.5' in caplog.text


def test_without_tensorflow_tensorboard_shows_the_same_pictures_and_texts(without, tmp_path):
    pytest.importorskip('clu')
    pytest.importorskip('tensorflow')
    picture = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    found = []
    for kind in ('clu', 'own'):
        if kind == 'own':
            without('tensorflow')
        (tmp_path / kind).mkdir()
        writer = writers.open_writer(str(tmp_path / kind), is_main_host=True)
        writer.write_images(3, {'train/clips': picture})
        writer.write_texts(0, {'config': '    seed: 1'})
        writer.write_hparams({'seed': 1, 'optimizer.b1': 0.9, 'schedule.kind': 'uniform'})
        writer.flush()
        writer.close()
        found.append(shown(tmp_path / kind))
    assert found[0].keys() == found[1].keys()
    for (tag, plugin), values in found[1].items():
        if plugin == 'images':  # after width and height, files
            assert values[:2] == found[0][tag, plugin][:2] == [b'7', b'5']
            for kind, number in itertools.product((0, 1), (0, 1)):
                file = np.frombuffer(found[kind][tag, plugin][2 + number], np.uint8)
                decoded = cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1]
                np.testing.assert_array_equal(decoded, picture[number])
        elif plugin == 'text':
            assert values == found[0][tag, plugin] == [b'    seed: 1']
    assert {plugin for _, plugin in found[1]} == {'images', 'text', 'hparams'}


def test_a_csv_file_beside_tensorboard_goes_on_where_it_was(without, tmp_path):
    without('tensorflow')
    _write(tmp_path, is_main_host=True, also=('csv',))
    _write(tmp_path, is_main_host=True, also=('csv',))
    lines = ['7,loss,0.5', '7,top1/a,1.0', '9,loss,0.25']
    assert (tmp_path / 'metrics.csv').read_text().splitlines() == [
        'step,name,value',
        *lines,
        *lines,
    ]
    assert scalars(tmp_path)['loss'] == {7: [0.5, 0.5], 9: [0.25, 0.25]}
    _write(tmp_path / 'other', is_main_host=False, also=('csv',))
    assert not (tmp_path / 'other').exists()


def test_weights_and_biases_gets_the_same_run_again(without, tmp_path, monkeypatch):
    without('tensorflow')
    calls = []

    class Run:
        def __init__(self, **options):
            calls.append(options)

        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append('finished')

    monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=Run))
    for _ in range(2):
        _write(tmp_path, is_main_host=True, also=('wandb',))
    first, second = calls[:4], calls[4:]
    assert first == second and first[0]['resume'] == 'allow' and first[0]['dir'] == str(tmp_path)
    assert first[1:] == [(7, {'loss': 0.5, 'top1/a': 1.0}), (9, {'loss': 0.25}), 'finished']
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(UserError, match='pip install wandb'):
        writers.open_writer(str(tmp_path), is_main_host=True, also=('wandb',))


def test_metrics_go_to_the_log_file_and_not_to_the_terminal(without, tmp_path, capsys):
    without('tensorflow')
    root = logging.getLogger()
    before = root.handlers[:], logging.raiseExceptions, sys.unraisablehook
    try:
        progress.set_up_logging(tmp_path)
        _write(tmp_path, is_main_host=True)
    finally:
        root.handlers[:], logging.raiseExceptions, sys.unraisablehook = before
    assert '[7] loss=0.5, top1/a=1' in (tmp_path / 'log.txt').read_text()
    assert 'loss' not in capsys.readouterr().err


def test_other_hosts_and_machines_without_tensorboard_write_to_the_log(without, tmp_path, caplog):
    without('tensorflow')
    with caplog.at_level(logging.INFO, 'multitrain_jax'):
        _write(tmp_path, is_main_host=False)
        assert '[7] loss=0.5' in caplog.text and 'not installed' not in caplog.text
        without('clu', 'tensorboard')
        _write(tmp_path, is_main_host=True)
    assert 'tensorboard is not installed; metrics go to the log only' in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_writer_that_is_being_opened_is_waited_for_at_its_first_use():
    written = []

    class Writer:
        def write_scalars(self, step, scalars):
            written.append((step, scalars))

    opening = concurrent.futures.Future()
    writer = writers.OpeningWriter(opening)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        handed_over = pool.submit(lambda: writer.flush)  # to be called at the end of a run
        without_waiting = concurrent.futures.wait([handed_over], timeout=60).done
        writing = pool.submit(lambda: writer.write_scalars(7, {'loss': 0.5}))
        assert not written and not writing.done()
        opening.set_result(Writer())
        writing.result()
    assert written == [(7, {'loss': 0.5})] and without_waiting
    failed = concurrent.futures.Future()
    failed.set_exception(OSError('disk full'))
    with pytest.raises(OSError, match='disk full'):
        writers.OpeningWriter(failed).flush()
