"""Times found from packets are those of decoding."""

import pathlib

import numpy as np
import pytest

from data_pipelines.videos import timeline
from data_pipelines.videos.decoder import Decoder
from data_pipelines.videos.demuxer import VideoError
from tests.helpers.golden import shared_path
from tests.helpers.video_writer import write_numbered

VIDEOS = pathlib.Path(__file__).parents[2] / 'data' / 'videos'


def _by_decoding(path):
    with Decoder(str(path)) as decoder:
        return [(time, decoder.last_duration) for time, _ in decoder.frames()]


def _compare(path):
    found = timeline.timeline(str(path))
    np.testing.assert_allclose(found.listed, _by_decoding(path), atol=1e-6)
    return found


@pytest.mark.parametrize('path', sorted(VIDEOS.glob('*.*')), ids=lambda path: path.name)
def test_awkward_videos(path):
    if path.suffix == '.md':
        return
    found = _compare(path)
    joined = path.name in ('joined.ts', 'joined.mpg', 'absurd_time.ts')
    assert ('times jump' in found.damage()) == joined
    assert not (joined and found.key_times)  # the file's own clock does not lead there


@pytest.mark.parametrize(
    'name',
    [
        'demo.mp4',
        'test.avi',
        'nasa_13013.mp4',
        'bad/variable_frame_rate.mp4',
        'bad/rotated_90.mp4',
        'bad/no_duration_stream.webm',
        'bad/truncated_faststart.mp4',
        'bad/one_frame.mp4',
    ],
)
def test_shared_videos(name):
    found = _compare(shared_path(f'videos/{name}'))
    assert found.size == {'nasa_13013.mp4': (270, 480), 'bad/rotated_90.mp4': (240, 180)}.get(
        name, found.size
    )


@pytest.mark.parametrize('name', ['v.mp4', 'v.mkv', 'v.ts', 'v.avi'])
def test_key_frames(tmp_path, name):
    write_numbered(tmp_path / name, 50, options={'g': '10', 'bf': '2', 'sc_threshold': '0'})
    found = _compare(tmp_path / name)
    keys = [] if name == 'v.ts' else np.arange(5) * 0.4
    np.testing.assert_allclose(found.key_times, keys, atol=1e-3)
    assert timeline._from_packets(str(tmp_path / name)) is not None  # nothing was decoded


def test_a_replaced_video_is_read_anew(tmp_path):
    write_numbered(tmp_path / 'v.mp4', 10)
    assert len(timeline.timeline(str(tmp_path / 'v.mp4')).listed) == 10
    write_numbered(tmp_path / 'v.mp4', 20)
    assert len(timeline.timeline(str(tmp_path / 'v.mp4')).listed) == 20


@pytest.mark.parametrize('name', ['empty.mp4', 'text_file.mp4', 'audio_only.mp4', 'none.mp4'])
def test_unreadable(name):
    with pytest.raises(VideoError):
        timeline.timeline(str(shared_path('videos/bad').joinpath(name)))
