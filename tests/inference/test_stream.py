"""Videos through a model, window by window: against clips that are cut and shown by hand."""

import contextlib
import itertools
import threading

import numpy as np
import pytest

from data_pipelines.videos.windows import Length
import multitrain_jax as mt
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.inference import predictions, stream
from multitrain_jax.inference.model import Model
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.video_writer import write_numbered, write_video

RATE = 10


@pytest.fixture(scope='module')
def model(finished_run):
    return Model(open_trained(finished_run[2]), batch_size=8)


def _noise(path, seed, count):
    """A video of slowly changing noise: every frame differs from all others."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 24, 32, 3))
    shares = np.linspace(0, 1, count)[:, None, None, None]
    images = (corners[0] * (1 - shares) + corners[1] * shares).astype(np.uint8)
    write_video(path, images, rate=RATE, options={'qp': '0'})
    return str(path), images


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('videos')
    counts = (23, 8, 31)
    return [_noise(folder / f'{n}.mp4', n, count) for n, count in enumerate(counts)]


@pytest.mark.parametrize('threads', [1, 3])
def test_each_window_is_seen_as_a_video_of_its_own(model, videos, tmp_path, threads):
    paths = [path for path, _ in videos]
    events = list(stream.see(model, paths, window=Length(seconds=1.0), threads=threads))
    for number, (_, images) in enumerate(videos):
        own = [event for event in events if event.video == number]
        assert isinstance(own[-1], stream.End) and own[-1].error is None and own[-1].damage == ''
        assert own[-1].seconds == pytest.approx(len(images) / RATE)
        starts = [event.start for event in own[:-1]]
        np.testing.assert_allclose(starts, np.arange(-(-len(images) // RATE)), atol=1e-6)
        for event in own[:-1]:
            first = round(event.start * RATE)
            part = tmp_path / 'part.mp4'
            write_video(part, images[first : first + RATE], rate=RATE, options={'qp': '0'})
            for name, logits in event.logits.items():
                clips = mt.read_clips(part, model, dataset=name, temporal_views=1, spatial_views=1)
                np.testing.assert_allclose(logits, model.logits(clips)[name], atol=1e-4)
            clips = mt.read_clips(part, model, temporal_views=1, spatial_views=1)
            np.testing.assert_allclose(event.embedding, model.embed(clips), atol=1e-4)
            assert 0 < event.progress <= 1


def test_whole_videos_have_the_views_that_the_model_is_tested_with(model, videos):
    paths = [path for path, _ in videos]
    seen = {
        event.video: event for event in stream.see(model, paths) if isinstance(event, stream.Seen)
    }
    for number, path in enumerate(paths):
        clips = mt.read_clips(path, model)
        assert seen[number].embedding.shape[0] == len(clips) == 6  # 2 x 3
        np.testing.assert_allclose(seen[number].embedding, model.embed(clips), atol=1e-4)
        np.testing.assert_allclose(model.embed(path), model.embed(clips).mean(0), atol=1e-4)
        uniform = mt.read_clips(path, model, dataset='shades')  # which has one temporal view
        assert len(uniform) == 3
        np.testing.assert_allclose(
            seen[number].logits['shades'], model.logits(uniform)['shades'], atol=1e-4
        )


def test_what_cannot_be_read_does_not_keep_the_others_back(model, videos, tmp_path):
    (tmp_path / 'text.mp4').write_text('no video')
    paths = [videos[0][0], str(tmp_path / 'text.mp4'), str(tmp_path / 'none.mp4'), videos[1][0]]
    events = list(stream.see(model, paths, window=Length(frames=10)))
    ends = {event.video: event for event in events if isinstance(event, stream.End)}
    assert sorted(ends) == [0, 1, 2, 3]
    assert [ends[n].error is None for n in range(4)] == [True, False, False, True]
    assert 'text.mp4' in str(ends[1].error) and 'no such file' in str(ends[2].error)
    assert sum(isinstance(event, stream.Seen) for event in events) == 3 + 1


class _Listing:
    def __init__(self):
        self.windows, self.videos = [], []

    def window(self, video, answer):
        self.windows.append((video, answer))

    def video(self, video, told):
        self.videos.append((video, told, len(self.windows)))


def test_what_is_told_comes_in_the_order_of_videos_with_the_mean_of_windows(model, videos):
    paths, output = [path for path, _ in videos], _Listing()
    seen = stream.see(model, paths, window=Length(seconds=1.0), threads=3)
    assert predictions.tell(model, paths, seen, [output]) == 0
    assert [(video, count) for video, _, count in output.videos] == [
        (paths[0], 3),
        (paths[1], 4),
        (paths[2], 8),
    ]
    for video, told, _ in output.videos:
        own = [answer for name, answer in output.windows if name == video]
        assert [answer.start for answer in own] == sorted(answer.start for answer in own)
        for name, mean in told.mean.items():
            scores = np.stack([answer.scores[name] for answer in own])
            np.testing.assert_allclose(mean, scores.mean(0), atol=1e-6)
            np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)


def test_a_video_that_is_being_made_is_answered_meanwhile(model, tmp_path):
    """Its second half is written only once the first half's windows have been answered."""
    make = tmp_path / 'make.ts'
    write_numbered(make, 47, rate=RATE, codec='mpeg2video')
    data, path, answered = make.read_bytes(), tmp_path / 'grow.ts', threading.Event()
    half = len(data) // 2
    path.write_bytes(data[:half])
    in_time, window = [], Length(frames=10)
    expected = list(stream.see(model, [str(make)], window=window))

    def go_on():
        in_time.append(answered.wait(60))  # FFmpeg 8.0 looks at a short file for 20 s
        with open(path, 'ab') as file:
            file.write(data[half:])

    writer = threading.Thread(target=go_on)
    writer.start()
    seen = []
    # So long nobody waits: the fifth window would come only with the end.
    with contextlib.closing(stream.see(model, [str(path)], window=window, silence=20.0)) as events:
        for event in itertools.islice(events, 4):
            seen.append(event)
            answered.set()
    writer.join()
    whole = list(stream.see(model, [str(path)], window=window, silence=2.0))
    assert in_time == [True] and len(whole) == len(expected) == 6
    for event, other in zip([*seen, *whole[:-1]], [*expected[:4], *expected[:-1]], strict=True):
        assert event.start == other.start
        np.testing.assert_allclose(event.embedding, other.embedding, atol=1e-5)


def test_streams_are_opened_once_the_program_is_compiled(model, videos, monkeypatch):
    order, step, decoded = [], model._step, stream._decoded
    monkeypatch.setattr(model, '_step', lambda *args: order.append('ran') or step(*args))
    monkeypatch.setattr(stream, '_decoded', lambda *args: order.append('opened') or decoded(*args))
    seen = stream.see(model, [videos[0][0]], window=Length(frames=10), silence=2.0)
    next(seen)
    seen.close()
    assert order[:2] == ['ran', 'opened']


def test_a_reader_that_stops_early_stops_the_threads(model, videos):
    before = threading.active_count()
    seen = stream.see(model, [path for path, _ in videos], window=Length(frames=1))
    next(seen)
    seen.close()
    assert threading.active_count() <= before + 1


def test_clip_lengths(model, finished_run):
    """The strided dataset's 4 frames; both of its datasets uniform: four seconds."""
    assert stream.clip_length(model) == Length(frames=4)
