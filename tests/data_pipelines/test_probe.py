"""What is a video: FFmpeg decides, not a list of suffixes; what it merely draws is none."""

import wave

import cv2
import numpy as np
import pytest

from data_pipelines.probe import holds_video, is_video
from tests.helpers.golden import shared_path
from tests.helpers.video_writer import write_numbered


@pytest.mark.parametrize('suffix', ['m2ts', 'nut', 'm2v', 'f4v', 'y4m', 'strange', 'ogg', ''])
def test_videos(tmp_path, suffix):
    made = tmp_path / f'made.{ {"m2v": "mpg", "y4m": "y4m"}.get(suffix, "nut") }'
    codecs = {'mpg': 'mpeg2video', 'y4m': 'rawvideo'}
    write_numbered(made, 3, codec=codecs.get(made.suffix[1:], 'libx264'))
    path = made.rename(tmp_path / f'video.{suffix}')
    assert holds_video(str(path)) and is_video(str(path))


def test_an_animation():
    assert is_video(str(shared_path('cases/animated.gif')))


@pytest.mark.parametrize('suffix', ['h264', 'mjpeg', 'm1v'])
def test_raw_streams_by_their_suffix(tmp_path, suffix):
    codec = {'h264': 'libx264', 'mjpeg': 'mjpeg', 'm1v': 'mpeg1video'}[suffix]
    path = tmp_path / f'video.{suffix}'
    write_numbered(path, 30, codec=codec, **({'pix_fmt': 'yuvj420p'} if suffix == 'mjpeg' else {}))
    assert is_video(str(path))


def test_no_videos(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    for name in ('a.png', 'a.jpg', 'a.bmp'):
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / 'a.png').rename(tmp_path / 'picture')  # whatever it is called
    for name in ('words.txt', 'art.ans', 'words', 'data.json', 'data.csv'):
        (tmp_path / name).write_text('words\n' * 99)
    (tmp_path / 'empty').write_bytes(b'')
    (tmp_path / 'folder').mkdir()
    with wave.open(str(tmp_path / 'sound.wav'), 'wb') as output:
        output.setparams((1, 2, 8000, 0, 'NONE', ''))
        output.writeframes(bytes(8000))
    jpeg = cv2.imencode('.jpg', image)[1].tobytes()
    (tmp_path / 'train-00000-of-00001').write_bytes(b'\n\xff' + 30 * jpeg)  # as records are
    paths = [*tmp_path.iterdir(), tmp_path / 'gone']
    assert len(paths) == 13
    assert [path.name for path in paths if is_video(str(path))] == []
