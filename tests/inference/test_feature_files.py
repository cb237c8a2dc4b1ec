"""Embeddings of videos on disk, made by the command: what is in them, and going on."""

import csv
import shutil

import numpy as np
import pytest

import multitrain_jax as mt
from multitrain_jax.npz import read_npz
from tests.helpers.calling import call
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.video_writer import number_image, write_video

RATE, COUNTS = 10, {'a.mp4': 25, 'deep/b.mp4': 11, 'a.avi': 11}


@pytest.fixture(scope='module')
def export(finished_run):
    return finished_run[2] / 'export'


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('videos')
    (folder / 'deep').mkdir()
    for name, count in COUNTS.items():
        images = [number_image(7 * n % 256) for n in range(count)]
        write_video(folder / name, images, rate=RATE, options={'crf': '12'})
    (folder / 'bad.mp4').write_text('no video')
    return folder


def _index(folder):
    with open(folder / 'index.csv', newline='') as file:
        return {row['video']: row for row in csv.DictReader(file)}


def test_windows(export, videos, tmp_path):
    """The embeddings of a window are those of its frames as a video; bad files have a line only."""
    output = tmp_path / 'features'
    code, out, err = call(
        'features', export, f'--output={output}', '--window=10f', '--logits', videos
    )
    assert code == 2 and out == '' and '3 of 4 videos' in err
    assert 'error: ' in err and 'bad.mp4' in err
    index = _index(output)
    assert {name: row['file'] for name, row in index.items()} == {
        'a.avi': 'a.avi.npz',
        'a.mp4': 'a.mp4.npz',
        'bad.mp4': '',
        'deep/b.mp4': 'deep/b.npz',
    }
    assert 'empty or unreadable' in index['bad.mp4']['error']
    assert float(index['a.mp4']['seconds']) == pytest.approx(2.5, abs=0.01)
    arrays = read_npz(output / 'a.mp4.npz')
    np.testing.assert_allclose(arrays['times'], [[0, 1], [1, 2], [2, 2.5]], atol=1e-3)
    model = mt.load(export)
    assert arrays['embedding'].shape == (3, model.info.model.backbone.embedding_width)
    part = tmp_path / 'part.mp4'
    images = [number_image(7 * n % 256) for n in range(10, 20)]
    write_video(part, images, rate=RATE, options={'crf': '12'})
    clips = mt.read_clips(part, model, temporal_views=1, spatial_views=1)
    # Encoded twice, a frame is not quite the same.
    np.testing.assert_allclose(arrays['embedding'][1:2], model.embed(clips), atol=0.05)
    for name, spec in model.info.datasets.items():
        assert arrays[f'logits/{name}'].shape == (3, len(spec.classes))


def test_going_on(export, videos, tmp_path):
    own, output = tmp_path / 'own', tmp_path / 'features'
    shutil.copytree(videos, own)
    line = ['features', export, f'--output={output}', own]
    assert call(*line)[0] == 2
    before = {path: path.stat().st_mtime_ns for path in output.rglob('*.npz')}
    assert len(before) == 3
    shutil.copy(own / 'a.mp4', own / 'bad.mp4')  # mended
    (output / 'deep/b.npz').unlink()
    with open(output / 'index.csv', 'a') as file:
        file.write('c.mp4,c.n')  # the computer stopped while it was written
    assert call(*line)[0] == 0
    after = {path: path.stat().st_mtime_ns for path in output.rglob('*.npz')}
    made = {
        str(path.relative_to(output)) for path, time in after.items() if before.get(path) != time
    }
    assert made == {'bad.npz', 'deep/b.npz'}
    index = _index(output)
    assert list(index) == ['a.avi', 'a.mp4', 'bad.mp4', 'deep/b.mp4']
    assert not any(row['error'] for row in index.values())
    code, _, err = call(*line, '--window=2')
    assert code == 2 and 'holds features of window None, not 2s' in err


def test_whole_videos_in_npy_files(export, videos, tmp_path):
    output, model = tmp_path / 'features', mt.load(export)
    line = ['features', export, f'--output={output}', '--format=npy', videos / 'a.mp4']
    assert call(*line)[0] == 0
    embedding, times = (np.load(output / name) for name in ('a.npy', 'a.times.npy'))
    clips = mt.read_clips(videos / 'a.mp4', model)
    np.testing.assert_allclose(embedding, model.embed(clips), atol=1e-5)
    # Two clips of four frames of 25, each in three crops: from the beginning and to the end.
    np.testing.assert_allclose(times, [[0, 0.3]] * 3 + [[2.1, 2.4]] * 3, atol=1e-3)
