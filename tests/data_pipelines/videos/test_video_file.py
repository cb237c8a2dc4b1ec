import os
import re
import struct

import av
import numpy as np
import pytest

from data_pipelines.videos import video_file
from data_pipelines.videos.video_file import VideoError, read_frames
from tests.helpers.golden import shared_path
from tests.helpers.video_writer import number_image, numbers_of, write_numbered, write_video


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """50 frames at 25 per second, a key frame each 10."""
    path = tmp_path_factory.mktemp('video') / 'fifty.mp4'
    write_numbered(path, 50, options={'g': '10'})
    return path


# Which frames.


def test_own_frames(video):
    decoded = read_frames(video)
    assert decoded.frames.shape == (50, 64, 80, 3) and decoded.frames.dtype == np.uint8
    assert numbers_of(decoded.frames) == list(range(50))
    assert decoded.frame_rate == 25
    np.testing.assert_allclose(decoded.timestamps, np.arange(50) / 25)
    assert decoded.damage == ''


@pytest.mark.parametrize(
    'rate, want',
    [
        (25, list(range(50))),
        (5, list(range(0, 50, 5))),
        # 10 per second: 0, 0.1, 0.2 ... is frame 2.5, so frame 2 is still on screen.
        (10, [int(2.5 * k) for k in range(20)]),
        (50, [k // 2 for k in range(100)]),
        (30, [k * 25 // 30 for k in range(60)]),
        (0.4, [0]),
    ],
)
def test_frame_rate(video, rate, want):
    decoded = read_frames(video, frame_rate=rate)
    assert numbers_of(decoded.frames) == want
    assert decoded.frame_rate == rate
    np.testing.assert_allclose(decoded.timestamps, np.arange(len(want)) / rate)


@pytest.mark.parametrize('start', [0, 0.4, 0.41, 1.2, 1.5, 1.96])
@pytest.mark.parametrize('frame_rate', [None, 10])
def test_start_and_end(video, start, frame_rate):
    decoded = read_frames(
        video, start=start, end=1.8 if start < 1.8 else None, frame_rate=frame_rate
    )
    end = 1.8 if start < 1.8 else 2
    if frame_rate is None:  # the frames that appear in [start, end)
        want = [k for k in range(50) if start - 1e-6 <= k / 25 < end - 1e-6]
    else:  # what is on screen at start, start + 0.1, ...
        times = np.arange(start, end - 1e-6, 0.1)
        want = [min(int(t * 25 + 1e-6), 49) for t in times]
        np.testing.assert_allclose(decoded.timestamps, times)
    assert numbers_of(decoded.frames) == want


def test_max_seconds(video):
    assert numbers_of(read_frames(video, max_seconds=0.4).frames) == list(range(10))
    assert numbers_of(read_frames(video, max_seconds=0.4, start=1.2).frames) == list(range(30, 40))
    assert numbers_of(read_frames(video, max_seconds=0.4, start=1.2, frame_rate=5).frames) == [
        30,
        35,
    ]
    # Stopping on purpose is no damage.
    assert read_frames(video, max_seconds=0.4).damage == ''


def test_variable_frame_rate(tmp_path):
    times = [0, 100, 120, 600, 610, 990]  # milliseconds
    write_numbered(tmp_path / 'v.mp4', 6, times=times)
    decoded = read_frames(tmp_path / 'v.mp4', frame_rate=10)
    on_screen = [max(i for i, t in enumerate(times) if t <= 100 * k) for k in range(10)]
    assert numbers_of(decoded.frames)[:10] == on_screen
    own = read_frames(tmp_path / 'v.mp4')
    np.testing.assert_allclose(own.timestamps, np.array(times) / 1000, atol=1e-4)
    np.testing.assert_allclose(own.frame_rate, 5 / 0.99, rtol=1e-3)


def test_rounded_times(tmp_path):
    # Matroska keeps milliseconds: frame 2 of 30 per second appears at 0.067, a little after 2 / 30.
    write_numbered(tmp_path / 'v.mkv', 30, rate=30)
    decoded = read_frames(tmp_path / 'v.mkv', frame_rate=30)
    assert numbers_of(decoded.frames) == list(range(30))
    assert read_frames(tmp_path / 'v.mkv').frame_rate == 30


def test_late_beginning(tmp_path):
    # A cut out of a broadcast: the container's clock starts at 5 s, and seconds count from there.
    write_numbered(tmp_path / 'v.ts', 20, times=[5000 + 40 * k for k in range(20)])
    decoded = read_frames(tmp_path / 'v.ts')
    np.testing.assert_allclose(decoded.timestamps, np.arange(20) / 25, atol=1e-4)
    assert numbers_of(read_frames(tmp_path / 'v.ts', start=0.4).frames) == list(range(10, 20))


def test_wrong_seek_is_noticed(video, monkeypatch):
    # A seek that ends up too far must lead to decoding from the beginning, not to missing frames.
    class Container:
        def __init__(self, container):
            self._container = container

        def __getattr__(self, name):
            return getattr(self._container, name)

        def seek(self, offset, stream):
            self._container.seek(int(1.6 / stream.time_base), stream=stream)

    opened = video_file.av.open
    monkeypatch.setattr(
        video_file.av, 'open', lambda path, **options: Container(opened(path, **options))
    )
    assert numbers_of(read_frames(video, start=1.2, end=1.4).frames) == list(range(30, 35))


def test_threads_do_not_matter(video):
    np.testing.assert_array_equal(read_frames(video).frames, read_frames(video, threads=0).frames)


@pytest.mark.parametrize('place', [0.4, 0.5, 0.6, 0.7])
def test_threads_do_not_matter_where_a_video_is_damaged(tmp_path, place):
    path = tmp_path / 'v.mp4'
    write_numbered(path, 80)
    data = bytearray(path.read_bytes())
    first = int(place * len(data))
    data[first : first + 30 : 7] = bytes(byte ^ 0x55 for byte in data[first : first + 30 : 7])
    path.write_bytes(data)
    alone = read_frames(path)
    assert alone.damage
    for threads in (2, 4, 0):
        beside = read_frames(path, threads=threads)
        np.testing.assert_array_equal(beside.timestamps, alone.timestamps)
        np.testing.assert_array_equal(beside.frames, alone.frames)
        assert beside.damage == alone.damage


# What they look like.


@pytest.mark.parametrize(
    'size, short_side, want',
    [
        ((64, 80), 32, (32, 40)),
        ((80, 64), 32, (40, 32)),
        ((64, 80), 96, (96, 120)),
        ((48, 64), 256, (256, 341)),
    ],
)
def test_short_side(tmp_path, size, short_side, want):
    image = np.zeros((*size, 3), np.uint8)
    image[:, size[1] // 2 :] = 255
    write_video(tmp_path / 'v.mp4', [image] * 3)
    frames = read_frames(tmp_path / 'v.mp4', short_side=short_side).frames
    assert frames.shape == (3, *want, 3)
    middle = want[1] // 2
    assert frames[:, :, : middle - 4].max() < 20 and frames[:, :, middle + 4 :].min() > 235


def test_shrinking_averages(tmp_path):
    # A quarter of the size: the mean of 4 x 4 pixels. Bilinear would be the mean of the middle 2 x
    # 2.
    noise = np.random.default_rng(0).integers(40, 216, (64, 64, 1), np.uint8).repeat(3, axis=2)
    write_video(tmp_path / 'v.mp4', [noise] * 2, options={'qp': '0'})
    frames = read_frames(tmp_path / 'v.mp4', short_side=16).frames
    want = noise.reshape(16, 4, 16, 4, 3).mean((1, 3))
    assert abs(frames - want).max() < 5


def _luma_weights(colorspace):
    return (0.2126, 0.0722) if colorspace == 1 else (0.299, 0.114)


@pytest.mark.parametrize('colorspace', [1, 5], ids=['bt709', 'bt601'])
@pytest.mark.parametrize('color_range', [1, 2], ids=['limited', 'full'])
def test_colours(tmp_path, colorspace, color_range):
    y, cb, cr = 110, 90, 180
    path = tmp_path / 'v.mp4'
    with av.open(str(path), 'w') as output:
        stream = output.add_stream('libx264', rate=10, options={'qp': '0'})
        stream.width = stream.height = 64
        stream.pix_fmt = 'yuv420p'
        stream.codec_context.colorspace = colorspace
        stream.codec_context.color_range = color_range
        frame = av.VideoFrame(64, 64, 'yuv420p')
        frame.colorspace, frame.color_range = colorspace, color_range
        for plane, value in zip(frame.planes, (y, cb, cr)):
            plane.update(bytes([value]) * plane.buffer_size)
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    # ITU-R BT.601 / BT.709, section on digital coding.
    offset, luma_scale, chroma_scale = (16, 219, 224) if color_range == 1 else (0, 255, 255)
    red_weight, blue_weight = _luma_weights(colorspace)
    luma, blue, red = (
        (y - offset) / luma_scale,
        (cb - 128) / chroma_scale,
        (cr - 128) / chroma_scale,
    )
    r = luma + 2 * (1 - red_weight) * red
    b = luma + 2 * (1 - blue_weight) * blue
    g = (luma - red_weight * r - blue_weight * b) / (1 - red_weight - blue_weight)
    np.testing.assert_allclose(
        read_frames(path).frames[0, 30, 30], 255 * np.array([r, g, b]), atol=2.5
    )


def _display_matrix(path):
    """(a, b, c, d) of an MP4 file's first track: point (x, y) is shown at (ax + cy, bx + dy)."""
    content = path.read_bytes()
    start = content.index(b'tkhd') + 4
    a, b, _, c, d = struct.unpack('>5i', content[start + 40 : start + 60])
    return a / 65536, b / 65536, c / 65536, d / 65536


def test_rotation():
    path = shared_path('videos/bad/rotated_90.mp4')
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format='rgb24')
    a, b, c, d = _display_matrix(path)
    shown = read_frames(path, max_seconds=0.1).frames[0]
    assert shown.shape == (240, 180, 3)
    ys, xs = np.mgrid[: stored.shape[0], : stored.shape[1]]
    to_x, to_y = (a * xs + c * ys).astype(int), (b * xs + d * ys).astype(int)
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    want = np.zeros_like(shown)
    want[to_y, to_x] = stored
    assert abs(shown.astype(int) - want).max() <= 2


@pytest.mark.parametrize(
    'matrix',
    [
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (-1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, 1, 0),
        (0, 1, -1, 0),
        (0, -1, -1, 0),
    ],
)
def test_turned_and_mirrored(tmp_path, matrix):
    image = np.full((64, 80, 3), 40, np.uint8)
    image[:32, :40], image[:32, 40:], image[32:, :40] = 220, 160, 100
    path = tmp_path / 'v.mp4'
    write_video(path, [image] * 3)
    a, b, c, d = (int(65536 * value) for value in matrix)
    content = bytearray(path.read_bytes())
    at = content.index(b'tkhd') + 44
    content[at : at + 36] = struct.pack('>9i', a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    shown = read_frames(path).frames
    a, b, c, d = matrix
    ys, xs = np.mgrid[:64, :80]
    to_x, to_y = a * xs + c * ys, b * xs + d * ys
    want = np.zeros((80, 64, 3) if b else (64, 80, 3))
    want[to_y - to_y.min(), to_x - to_x.min()] = image
    assert shown.shape == (3, *want.shape)
    assert abs(shown - want).mean() < 4


def test_size_that_changes_midway(tmp_path):
    # Two MPEG-TS recordings joined: the frames of the second follow, resized to the first one's
    # size.
    write_video(tmp_path / 'a.ts', [np.full((64, 80, 3), 50, np.uint8)] * 5)
    write_video(tmp_path / 'b.ts', [np.full((48, 64, 3), 200, np.uint8)] * 5)
    joined = tmp_path / 'c.ts'
    joined.write_bytes((tmp_path / 'a.ts').read_bytes() + (tmp_path / 'b.ts').read_bytes())
    frames = read_frames(joined).frames
    assert frames.shape[1:] == (64, 80, 3)
    assert abs(int(frames[0].mean()) - 50) < 4 and abs(int(frames[-1].mean()) - 200) < 4


# The shared videos, good and bad. Frame counts from ../shared/videos/README.md: counted by
# decoding.


@pytest.mark.parametrize(
    'name, shape, frame_rate',
    [
        ('part_0.mp4', (32, 256, 340, 3), 29.06),
        ('test.avi', (164, 240, 320, 3), 25),
        ('bad/one_frame.mp4', (1, 180, 240, 3), 28),
        ('bad/very_short_0.2s.mp4', (6, 180, 240, 3), 30),
        ('bad/variable_frame_rate.mp4', (66, 180, 240, 3), 16.4),
        ('bad/odd_size_175x143.avi', (60, 143, 175, 3), 30),
        ('bad/odd_size_175x143_yuv444.mp4', (60, 143, 175, 3), 30),
        ('bad/gray.mp4', (60, 180, 240, 3), 30),
        ('bad/yuv444_10bit.mp4', (60, 180, 240, 3), 30),
        ('bad/alpha_vp9.webm', (30, 120, 160, 3), 30),
        ('bad/rgba_png.mov', (12, 60, 80, 3), 30),
        ('bad/no_duration_stream.webm', (56, 180, 240, 3), 28),
        ('bad/vidéo de tëst – 動画 (1).mp4', (28, 180, 240, 3), 28),
    ],
)
def test_shared_videos(name, shape, frame_rate):
    decoded = read_frames(shared_path(f'videos/{name}'))
    assert decoded.frames.shape == shape
    assert decoded.frame_rate == pytest.approx(frame_rate, abs=0.02)
    assert decoded.damage == ''


@pytest.mark.parametrize(
    'name, count',  # frames at 10 per second: seconds * 10, rounded up
    [
        ('part_0.mp4', 11),
        ('demo_spatiotemporal_det.mp4', 95),
        ('test.avi', 66),
        ('bad/variable_frame_rate.mp4', 40),
        ('bad/one_frame.mp4', 1),
        ('bad/very_short_0.2s.mp4', 2),
        ('bad/corrupt_middle.mp4', 40),
        ('bad/no_duration_stream.webm', 20),
    ],
)
def test_shared_videos_at_ten_per_second(name, count):
    frames = read_frames(shared_path(f'videos/{name}'), frame_rate=10, short_side=32).frames
    assert len(frames) == count and min(frames.shape[1:3]) == 32


def test_largest_stream():
    decoded = read_frames(shared_path('videos/nasa_13013.mp4'), max_seconds=0.5)
    assert decoded.frames.shape[1:] == (270, 480, 3)
    assert decoded.frame_rate == pytest.approx(29.97, abs=0.01)


def test_gray_keeps_its_range():
    frames = read_frames(shared_path('videos/bad/gray.mp4'), max_seconds=0.2).frames
    assert frames.min() == 0 and frames.max() > 250
    assert np.array_equal(frames[..., 0], frames[..., 1]) and np.array_equal(
        frames[..., 0], frames[..., 2]
    )


def test_ten_bits_are_scaled():
    ten = read_frames(shared_path('videos/bad/yuv444_10bit.mp4'), max_seconds=0.2).frames[0]
    with av.open(str(shared_path('videos/bad/yuv444_10bit.mp4'))) as container:
        plane = next(container.decode(video=0)).planes[0]
    luma = np.frombuffer(plane, '<u2').reshape(plane.height, -1)[:, : plane.width]
    expected_mean = (luma.mean() / 4 - 16) / 219 * 255
    weights = np.array([0.299, 0.587, 0.114])
    assert (ten @ weights).mean() == pytest.approx(expected_mean, abs=4)


@pytest.mark.parametrize(
    'name, damage',
    [
        ('truncated_faststart.mp4', r'\d\d of 112 frames, 1 damaged packets'),
        ('corrupt_middle.mp4', r'91 of 112 frames, 10 damaged packets, 1 damaged frames'),
    ],
)
def test_damage_is_told(name, damage):
    decoded = read_frames(shared_path(f'videos/bad/{name}'))
    assert re.fullmatch(damage, decoded.damage)


def test_goes_on_after_damage():
    decoded = read_frames(shared_path('videos/bad/corrupt_middle.mp4'))
    assert len(decoded.frames) > 80  # a reader that stops at the first error gets 46
    assert decoded.timestamps[-1] > 3.9
    assert np.all(np.diff(decoded.timestamps) >= 0)


@pytest.mark.parametrize(
    'name, reason',
    [
        ('empty.mp4', 'empty or unreadable'),
        ('text_file.mp4', 'empty or unreadable'),
        ('truncated_no_index.mp4', 'empty or unreadable'),
        ('audio_only.mp4', 'no video stream'),
    ],
)
def test_unreadable(name, reason):
    path = shared_path(f'videos/bad/{name}')
    with pytest.raises(VideoError) as error:
        read_frames(path)
    assert str(error.value).startswith(f'{path}: {reason}')
    assert error.value.reason.startswith(reason)
    assert '\n' not in str(error.value)


def test_missing_and_directory(tmp_path):
    with pytest.raises(VideoError, match='no such file'):
        read_frames(tmp_path / 'none.mp4')
    with pytest.raises(VideoError, match='a directory'):
        read_frames(tmp_path)


@pytest.mark.parametrize('frame_rate', [None, 10])
def test_start_past_the_end(video, frame_rate):
    with pytest.raises(VideoError, match=r'no frame at or after 5 s \(the video ends at 2.000 s\)'):
        read_frames(video, start=5, frame_rate=frame_rate)
    with pytest.raises(VideoError, match='ends .* before it starts'):
        read_frames(video, start=1, end=0.5, frame_rate=frame_rate)


@pytest.mark.parametrize(
    'arguments',
    [{'frame_rate': 0}, {'short_side': -1}, {'start': -1}, {'max_seconds': float('nan')}],
)
def test_bad_arguments(video, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        read_frames(video, **arguments)


def test_memory_is_bounded(video, monkeypatch):
    monkeypatch.setattr(video_file, '_MAX_BYTES', 100_000)
    with pytest.raises(VideoError, match='lower max_seconds, short_side or frame_rate'):
        read_frames(video)
    monkeypatch.setattr(video_file, 'MAX_FRAME_PIXELS', 1000)
    with pytest.raises(VideoError, match='frames of 80x64: too large'):
        read_frames(video)


def test_name_with_a_colon(video, tmp_path):
    os.link(video, tmp_path / '12:30 %d.mp4')
    assert len(read_frames(tmp_path / '12:30 %d.mp4').frames) == 50


def test_number_images_are_told_apart():
    frames = np.stack([number_image(number) for number in range(256)])
    assert numbers_of(frames) == list(range(256))


def test_a_title_that_is_no_utf8(tmp_path):
    """As old cameras and programs write them."""
    path = tmp_path / 'x.mp4'
    write_numbered(path, 3)
    content = path.read_bytes()
    assert content.count(b'Lavf') == 1  # the name of the muxer is one of the file's texts
    path.write_bytes(content.replace(b'Lavf', b'L\xffvf'))
    assert numbers_of(read_frames(path).frames) == [0, 1, 2]
