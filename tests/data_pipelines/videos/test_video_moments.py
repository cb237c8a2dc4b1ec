"""Clips around moments of a video whose brightness tells the number of each frame."""

import numpy as np
import pytest

from data_pipelines.clip import boxes, frame_sampling
from data_pipelines.videos import mp4
from data_pipelines.videos.video_moments import video_moments, video_times

RATE, COUNT = 10, 45


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp('moments') / 'video.mp4'
    mp4.write_video(path, (np.full((48, 96, 3), 20 + 5 * i, np.uint8) for i in range(COUNT)), RATE)
    return path


def _numbers(clips):
    """Frame numbers that the brightness says, i64[S, T]."""
    return np.rint((clips.mean((2, 3, 4)) - 20) / 5).astype(int)


def test_times(video):
    times = video_times(video)
    np.testing.assert_allclose(times.seconds, np.arange(COUNT) / RATE, atol=1e-6)
    assert times.frame_rate == pytest.approx(RATE) and not times.damage


def test_clips_are_those_around_key_frames_in_order_of_time(video):
    sizes = dict(num_frames=4, crop_size=32, short_side=32, spatial_views=3)
    moments = [3.0, 0.05, 2.0, 4.4, 2.04]
    found = list(
        video_moments(
            video, video_times(video), moments, stride=3, target_frame_rate=float(RATE), **sizes
        )
    )
    assert [moment.seconds for moment in found] == sorted(moments)
    for moment in found:
        assert moment.clips.shape == (3, 4, 32, 32, 3)
        key_frame = int(moment.seconds * RATE + 1e-6)
        expected = frame_sampling.key_frame_clip(key_frame, 12.0, 4, COUNT)
        np.testing.assert_array_equal(_numbers(moment.clips), np.stack([expected] * 3))
    np.testing.assert_array_equal(_numbers(found[2].clips)[0], [14, 17, 20, 23])
    assert [window.left for window, _, _ in found[0].views] == [0, 16, 32]
    # A box in the left quarter is in the left crop only; one across the middle in all three.
    _, mask = boxes.in_views(np.array([[0.0, 0.2, 0.2, 0.8], [0.4, 0.2, 0.6, 0.8]]), found[0].views)
    np.testing.assert_array_equal(mask, [[True, True], [False, True], [False, True]])


def test_no_moments_no_clips(video):
    sizes = dict(num_frames=4, crop_size=32, short_side=32, spatial_views=1)
    assert not list(
        video_moments(video, video_times(video), [], stride=3, target_frame_rate=None, **sizes)
    )
