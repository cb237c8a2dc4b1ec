"""The model is named alike for all commands: an export, a run,
a checkpoint of it, by place or by flag.
"""

import json

import numpy as np
import pytest

from multitrain_jax.checkpoints.trained_model import open_trained
from tests.helpers import tiny, video_writer
from tests.helpers.calling import call
from tests.helpers.tiny import quick_compile  # noqa: F401


@pytest.fixture(scope='module')
def places(finished_run, tmp_path_factory):
    """The newest checkpoint in all forms that it has, and an earlier one."""
    workdir = finished_run[2]
    return {
        'run': workdir,
        'checkpoints': workdir / 'checkpoints',
        'newest': workdir / 'checkpoints' / '8',
        'export': workdir / 'export',
        'earlier': workdir / 'checkpoints' / '6',
    }


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    frames = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), np.uint8)
    path = tmp_path_factory.mktemp('video') / 'v.mp4'
    video_writer.write_video(path, frames)
    return path


def predictions(video, *model):
    code, out, err = call('predict', '--json', *model, video)
    assert code == 0, err
    return json.loads(out)[0]['predictions']


def test_predict(places, video):
    expected = predictions(video, places['export'])
    for form in ('run', 'checkpoints', 'newest'):
        assert predictions(video, places[form]) == expected
    for flag in ('--checkpoint', '--workdir'):
        assert predictions(video, f'{flag}={places["run"]}') == expected
    earlier = predictions(video, places['earlier'])
    assert earlier != expected and earlier == predictions(video, places['run'], '--step=6')


def test_projections(places, tmp_path):
    def found(*model):
        code, out, err = call('projections', *model, '--json', f'--output={tmp_path}')
        assert code == 0, err
        return json.loads(out)

    expected = found(f'--checkpoint={places["run"]}')
    assert found(places['newest']) == found(f'--workdir={places["checkpoints"]}') == expected
    assert found(places['run'], '--step=6') == found(places['earlier']) != expected


def test_export(places, tmp_path):
    """Of a run, and of an export, which is copied."""
    for form in ('run', 'newest', 'export'):
        code, _, err = call('export', places[form], f'--output={tmp_path / form}')
        assert code == 0, err
        files = [
            json.loads((place / 'model.json').read_text())
            for place in (tmp_path / form, places['export'])
        ]
        assert files[0] == files[1]


def test_evaluate(places, tmp_path):
    data = tiny.write_datasets(tmp_path / 'data')
    more = [f'--config={tiny.CONFIG_FILE}', f'--config.data_root={data}', '--spatial_views=1']
    tables = set()
    for number, model in enumerate(
        (places['run'], places['export'], f'--checkpoint={places["newest"]}')
    ):
        code, out, err = call('evaluate', model, *more, f'--output={tmp_path / str(number)}')
        assert code == 0, err
        tables.add(out.partition('\nfiles: ')[0])
    assert len(tables) == 1


def test_the_best_checkpoint(places, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'best').symlink_to(places['run'])
    code, out, err = call('export', tmp_path / 'run', '--best', f'--output={tmp_path / "e"}')
    assert (code, out) == (0, f'exported step 8 to {tmp_path / "e"}\n'), err
    assert open_trained(tmp_path / 'e').datasets == open_trained(places['run']).datasets
    code, _, err = call('export', places['run'], '--best', f'--output={tmp_path / "f"}')
    assert code == 2 and 'no best checkpoint in it; config.checkpoint.keep_best keeps one' in err
    code, _, err = call('projections', places['run'], '--best', '--step=6')
    assert code == 2 and '--best and --step=6 are both given' in err
