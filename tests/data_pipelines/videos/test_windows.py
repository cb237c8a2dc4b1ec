"""Windows of a video whose frames carry their number:
each gives the clips of a video of its own.
"""

import contextlib
import gc
import itertools
import threading
import time

import numpy as np
import pytest

from data_pipelines.clip.frame_sampling import Sampling
from data_pipelines.videos import video_views, windows
from data_pipelines.videos.video_file import VideoError
from data_pipelines.videos.windows import Length, Windows
from tests.helpers.video_writer import number_image, numbers_of, write_video

RATE, COUNT = 10, 47
RULES = video_views.ViewRules(
    (Sampling('strided', 2, 10.0), Sampling('uniform'), Sampling('strided', 3)),
    num_frames=4,
    crop_size=64,
    short_side=64,
    temporal_views=2,
    spatial_views=3,
)


def _write(path, numbers, **arguments):
    write_video(path, [number_image(n) for n in numbers], options={'crf': '8'}, **arguments)
    return path


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    return _write(tmp_path_factory.mktemp('windows') / 'video.mp4', range(COUNT), rate=RATE)


def _shown(views):
    """Of each sampling the frame numbers of the temporal views, by the left crop."""
    return [[numbers_of(clip) for clip in own.clips[::3]] for own in views]


@pytest.mark.parametrize(
    ('length', 'stride', 'parts'),
    [
        ('1.5', None, [(0, 15), (15, 30), (30, 45), (45, 47)]),
        ('2', '1', [(0, 20), (10, 30), (20, 40), (30, 47)]),
        ('1.2s', '2s', [(0, 12), (20, 32), (40, 47)]),
        ('16f', '10f', [(0, 16), (10, 26), (20, 36), (30, 46), (40, 47)]),
        ('9', None, [(0, 47)]),
        ('47f', '1f', [(0, 47)]),
    ],
)
def test_each_window_is_a_video_of_its_own(video, tmp_path, length, stride, parts):
    found = Windows(video, RULES, Length.parse(length), stride and Length.parse(stride))
    made = list(found)
    assert [round(window.start * RATE) for window in made] == [first for first, _ in parts]
    assert round(made[-1].end * RATE) == parts[-1][1] and found.damage == ''
    for window, (first, last) in zip(made, parts, strict=True):
        part = _write(tmp_path / f'{first}.mp4', range(first, last), rate=RATE)
        whole = video_views.whole_video(part, RULES)
        assert _shown(window.views) == _shown(whole.views)
        for own, expected in zip(window.views, whole.views, strict=True):
            assert own.clips.shape == expected.clips.shape
            np.testing.assert_allclose(own.times, expected.times + first / RATE, atol=1e-3)


def test_windows_of_seconds_go_by_presentation_time(tmp_path):
    """Frames come at 10/s, then stop for 3 seconds, then come at 5/s."""
    times = [*range(0, 1000, 100), *range(4000, 6000, 200)]
    path = _write(tmp_path / 'gap.mkv', range(20), times=times)
    made = list(Windows(path, RULES, Length(seconds=1.0)))
    assert [round(window.start, 3) for window in made] == [0, 4, 5]
    assert [round(window.end, 3) for window in made[:2]] == [1, 5] and 5.8 < made[2].end <= 6
    # Stride 2 at 10 frames/s: one frame of the slower part at a time, four span 1.6 s of 1.
    assert _shown(made[1].views)[0][0] == [10, 11, 12, 13]
    assert _shown(made[0].views)[1] == [[1, 3, 5, 8]]


def test_whole_videos_too_long_to_be_held_give_the_same(video, monkeypatch):
    once = video_views.whole_video(video, RULES)
    monkeypatch.setattr(video_views, '_MOST_HELD', 10_000)
    twice = video_views.whole_video(video, RULES)
    for own, other in zip(once.views, twice.views, strict=True):
        np.testing.assert_array_equal(own.clips, other.clips)
        np.testing.assert_array_equal(own.times, other.times)
    assert (once.start, once.end, once.damage) == (twice.start, twice.end, twice.damage)
    assert once.end == pytest.approx(COUNT / RATE)


def test_frames_that_are_not_held_decoded_give_the_same(video, monkeypatch):
    length = Length(seconds=2.0)
    expected = [window.views for window in Windows(video, RULES, length)]
    monkeypatch.setattr(windows, '_MOST_DECODED', 0)
    for window, views in zip(Windows(video, RULES, length), expected, strict=True):
        for own, other in zip(window.views, views, strict=True):
            np.testing.assert_array_equal(own.clips, other.clips)


def test_a_window_without_end_is_refused(video, monkeypatch):
    monkeypatch.setattr(windows, '_MOST_HELD', 100_000)
    with pytest.raises(VideoError, match='window of 9s has frames of more than .* shorter one'):
        list(Windows(video, RULES, Length(seconds=9.0)))


@pytest.mark.parametrize('text', ['', '0', '-1', '2m', '1.5f', 'inf', '1e3'])
def test_what_is_no_length(text):
    with pytest.raises(ValueError, match='seconds|frames'):
        Length.parse(text)


def test_units_are_not_mixed(video):
    with pytest.raises(ValueError, match='both in seconds, or in frames'):
        Windows(video, RULES, Length.parse('2'), Length.parse('10f'))


def test_memory_does_not_grow_with_the_length():
    """A generator of FFmpeg's, which never ends."""
    stream = iter(Windows('lavfi:testsrc=size=128x96:rate=25', RULES, Length(seconds=1.0)))
    for _ in itertools.islice(stream, 5, 41, 12):
        frames = sum(type(thing) is video_views.ShownFrame for thing in gc.get_objects())
        assert frames <= 25
    stream.close()


def test_a_growing_file_is_followed(tmp_path):
    whole = _write(tmp_path / 'whole.ts', range(COUNT), rate=RATE, codec='mpeg2video')
    data = whole.read_bytes()
    growing = tmp_path / 'growing.ts'
    growing.write_bytes(data[: len(data) // 2])
    seen, in_time, one = [], [], threading.Event()

    def shown(path, **options):
        for window in Windows(path, RULES, Length(frames=10), **options):
            yield _shown(window.views)[1][0]

    def write():
        in_time.append(one.wait(60))  # a window comes before the file is whole
        time.sleep(0.2)  # the reader comes to the file's end
        with open(growing, 'ab') as file:
            file.write(data[len(data) // 2 :])

    writer = threading.Thread(target=write)
    writer.start()
    with contextlib.closing(shown(growing, silence=20.0)) as windows:  # so long nobody waits
        for window in itertools.islice(windows, 4):
            seen.append(window)
            one.set()
    writer.join()
    expected = list(shown(whole))
    assert in_time == [True] and seen == expected[:4] and len(expected) == 5
    assert list(shown(growing, silence=1.0)) == expected
