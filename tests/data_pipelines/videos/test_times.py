"""Times of videos whose containers state none, wrong ones, or begin anew: every frame once, in
order.

The files, see `tests/data/videos/README.md`, show their frames' numbers.
"""

import pathlib

import numpy as np
import pytest

from data_pipelines.videos import demuxer, video_moments
from data_pipelines.videos.video_file import VideoError, read_frames
from tests.helpers.golden import shared_path
from tests.helpers.video_views import video_views
from tests.helpers.video_writer import numbers_of, write_numbered

VIDEOS = pathlib.Path(__file__).parents[2] / 'data' / 'videos'
RATE = 25
WHOLE = ['b_frames.avi', 'raw.h264', 'raw.m4v', 'joined.ts', 'joined.mpg', 'absurd_time.ts']


@pytest.mark.parametrize('threads', [1, 0])
@pytest.mark.parametrize('name', WHOLE)
def test_every_frame_once_and_in_order(name, threads):
    own = read_frames(VIDEOS / name, threads=threads)
    assert numbers_of(own.frames) == list(range(40))
    assert own.frame_rate == pytest.approx(RATE)
    np.testing.assert_allclose(own.timestamps, np.arange(40) / RATE, atol=1e-6)
    picked = read_frames(VIDEOS / name, frame_rate=10, threads=threads)
    assert numbers_of(picked.frames) == [int(2.5 * k) for k in range(16)]


@pytest.mark.parametrize('name', WHOLE)
@pytest.mark.parametrize('start, end', [(1.04, 1.3), (1.2, None), (1.33, 1.5), (0.5, 1.0)])
def test_segments(name, start, end):
    stop = 1.6 if end is None else end
    want = [k for k in range(40) if start - 1e-6 <= k / RATE < stop - 1e-6]
    segment = read_frames(VIDEOS / name, start=start, end=end)
    assert numbers_of(segment.frames) == want
    np.testing.assert_allclose(segment.timestamps, np.array(want) / RATE, atol=1e-6)
    picked = read_frames(VIDEOS / name, start=start, end=end, frame_rate=50)
    times = np.arange(start, stop - 1e-6, 0.02)
    assert numbers_of(picked.frames) == [int(t * RATE + 1e-6) for t in times]


def test_skipped_frames():
    own = read_frames(VIDEOS / 'skipped.avi')
    assert numbers_of(own.frames) == list(range(0, 40, 4))
    np.testing.assert_allclose(own.timestamps, np.arange(0, 40, 4) / RATE, atol=1e-6)
    filled = read_frames(VIDEOS / 'skipped.avi', frame_rate=RATE)
    assert numbers_of(filled.frames) == [k // 4 * 4 for k in range(37)]


def test_a_late_beginning():
    beginning = 0.6
    own = read_frames(VIDEOS / 'late.mkv')
    assert numbers_of(own.frames) == list(range(40))
    np.testing.assert_allclose(own.timestamps, beginning + np.arange(40) / RATE, atol=1e-3)
    # The first frame also serves the picks before it.
    picked = read_frames(VIDEOS / 'late.mkv', start=0.3, end=0.9, frame_rate=10)
    assert numbers_of(picked.frames) == [0, 0, 0, 0, 2, 5]


@pytest.mark.parametrize('name', ['b_frames.avi', 'raw.h264', 'raw.m4v', 'skipped.avi', 'late.mkv'])
def test_what_ffmpeg_calls_sound_is_not_damaged(name):
    assert read_frames(VIDEOS / name).damage == ''


@pytest.mark.parametrize(
    'name, damage',
    [
        # FFmpeg, too, says of the first: "corrupt input packet in stream 0".
        ('joined.ts', '1 damaged packets, times jump at 0.800 s; they go on without a gap'),
        ('joined.mpg', 'times jump at 0.800 s; they go on without a gap'),
        ('absurd_time.ts', 'times jump at 0.800 s and 1 times more; they go on without a gap'),
    ],
)
def test_jumps_are_told(name, damage):
    assert read_frames(VIDEOS / name).damage == damage


@pytest.mark.parametrize(
    'suffix, gap, filled',
    [('ts', 9, True), ('ts', 11, False), ('mp4', 50, True), ('mp4', 70, False)],
)
def test_gaps_within_the_bound_are_filled(tmp_path, suffix, gap, filled):
    path = tmp_path / f'v.{suffix}'
    times = [40 * k + (1000 * gap if k >= 20 else 0) for k in range(40)]
    write_numbered(path, 40, times=times)
    own = read_frames(path)
    assert numbers_of(own.frames) == list(range(40))
    picked = read_frames(path, frame_rate=RATE)
    if filled:
        np.testing.assert_allclose(own.timestamps, np.array(times) / 1000, atol=1e-3)
        assert own.damage == '' and len(picked.frames) == 40 + gap * RATE
    else:
        np.testing.assert_allclose(own.timestamps, np.arange(40) / RATE, atol=1e-3)
        assert 'times jump at 0.800 s' in own.damage and own.frame_rate == pytest.approx(RATE)
        assert numbers_of(picked.frames) == list(range(40))


def test_a_picture_that_comes_too_late_is_not_filled_up(monkeypatch):
    monkeypatch.setattr(demuxer, '_MAX_GAP', 0.5)
    decoded = read_frames(VIDEOS / 'late.mkv', start=0, end=1, frame_rate=RATE)
    assert numbers_of(decoded.frames) == list(range(10))
    assert decoded.damage == 'no picture from 0.000 s to 0.600 s'


# Reasons.


@pytest.mark.parametrize(
    'name, segment, reason',
    [
        (
            'b_frames.avi',
            dict(start=1.01, end=1.03),
            'no frame appears between 1.01 s and 1.03 s; the next one does at 1.040 s',
        ),
        (
            'b_frames.avi',
            dict(start=0.01, max_seconds=0.02),
            'no frame appears between 0.01 s and 0.03 s; the next one does at 0.040 s',
        ),
        (
            'late.mkv',
            dict(start=0, end=0.3),
            'no frame between 0 s and 0.3 s: the first appears at 0.600 s',
        ),
        (
            'late.mkv',
            dict(start=0, end=0.3, frame_rate=10),
            'no frame between 0 s and 0.3 s: the first appears at 0.600 s',
        ),
        ('b_frames.avi', dict(start=3), 'no frame at or after 3 s (the video ends at 1.600 s)'),
        (
            'joined.mpg',
            dict(start=3, end=4),
            'no frame at or after 3 s (reading ended at 1.600 s: times jump at 0.800 s; they go on '
            'without a gap)',
        ),
        ('b_frames.avi', dict(start=1, end=1), 'the clip ends (1 s) before it starts (1 s)'),
        ('b_frames.avi', dict(end=0.0), 'the clip ends (0.0 s) before it starts (0.0 s)'),
        ('b_frames.avi', dict(end=-1.0), 'the clip ends (-1.0 s) before it starts (0.0 s)'),
    ],
)
def test_reasons(name, segment, reason):
    with pytest.raises(VideoError) as error:
        read_frames(VIDEOS / name, **segment)
    assert error.value.reason == reason


def test_reading_that_stopped_at_damage_is_not_called_the_end():
    with pytest.raises(
        VideoError, match=r'after 3 s \(reading ended at 1\.\d* s: .*damaged packets'
    ):
        read_frames(shared_path('videos/bad/truncated_faststart.mp4'), start=3)


# Those who count frames.


def test_views_and_moments_show_the_frames_of_the_order():
    path = VIDEOS / 'b_frames.avi'
    sizes = dict(num_frames=4, crop_size=64, short_side=64, spatial_views=1)
    whole = read_frames(path).frames[:, :, 8:72].astype(int)  # as the crops show it

    def numbers(clip):
        return [int(abs(whole - frame).mean((1, 2, 3)).argmin()) for frame in clip]

    views, _ = video_views(
        path, sampling='uniform', stride=1, target_frame_rate=None, temporal_views=1, **sizes
    )
    assert numbers(views[0]) == [5, 15, 24, 34]
    times = video_moments.video_times(path)
    (moment,) = video_moments.video_moments(
        path, times, [1.0], stride=2, target_frame_rate=float(RATE), **sizes
    )
    assert numbers(moment.clips[0]) == [21, 23, 25, 27]
