"""Frames stored as H.264: packet k is frame k,
and any can be decoded from the key frame before it.
"""

import av
import numpy as np
import pytest

from data_pipelines.clip import decode, packets
from data_pipelines.clip.crops import Window
from data_pipelines.clip.decode import FrameError
from data_pipelines.clip.upright_rgb import upright_rgb
from data_pipelines.conversion.h264 import H264Encoder
from tests.helpers import tiny_records
from tests.helpers.video_writer import number_image, numbers_of

COUNT = 21


def _encode(frames, **options):
    encoder = H264Encoder(*frames[0].shape[:2], **{'crf': 20, 'gop': 1, **options})
    return [packet for frame in frames for packet in encoder.encode(frame)] + encoder.finish()


@pytest.fixture(scope='module', params=[1, 8])
def numbered(request):
    """Frames whose pixels tell their numbers."""
    gop = request.param
    encoded = _encode([number_image(number) for number in range(COUNT)], gop=gop)
    assert len(encoded) == COUNT
    return packets.PacketFrames(encoded, gop, (64, 80))


def _key_frames(encoded):
    """By PyAV's own reading of the stream, which every player can open."""
    parser = av.CodecContext.create('h264', 'r')
    return [packet.is_keyframe for packet in parser.parse(b''.join(encoded)) + parser.parse(b'')]


@pytest.mark.parametrize('gop', [1, 8, 250])
def test_key_frames_come_at_their_interval_and_no_frame_waits_for_a_later_one(gop):
    encoded = _encode([number_image(number) for number in range(COUNT)], gop=gop)
    assert _key_frames(encoded) == [number % gop == 0 for number in range(COUNT)]
    decoder = av.CodecContext.create('h264', 'r')
    assert [len(decoder.decode(av.Packet(packet))) for packet in encoded] == [1] * COUNT


@pytest.mark.parametrize(
    'numbers', [[0], [20], [3, 4, 5], [0, 7, 8, 15, 16], [2, 19], list(range(COUNT))]
)
def test_frames_by_number(numbered, numbers):
    window = Window(0, 0, 64, 80)
    frames = np.stack([frame.copy() for frame in numbered.decode(numbers, window)])
    assert numbers_of(frames) == numbers


def test_only_needed_packets_are_asked_for():
    assert packets.needed([3, 4], 1) == [3, 4]
    assert packets.needed([3, 6, 17], 8) == [0, 1, 2, 3, 4, 5, 6, 16, 17]
    assert packets.needed([12, 9, 12], 8) == [8, 9, 10, 11, 12]
    encoded = dict(enumerate(_encode([number_image(n) for n in range(COUNT)], gop=8)))
    few = packets.PacketFrames({n: encoded[n] for n in packets.needed([10], 8)}, 8, (64, 80))
    (frame,) = few.decode([10], Window(0, 0, 64, 80))
    assert numbers_of(frame[None]) == [10]


@pytest.mark.parametrize('size', [(48, 64), (47, 64), (48, 63), (47, 63)])
@pytest.mark.parametrize('gop', [1, 8])
def test_pixels(size, gop):
    """As JPEGs of the same frames, within what either loses; odd sizes keep their last row."""
    frames = [tiny_records.smooth_image(*size, phase=k / 9) for k in range(10)]
    stored = packets.PacketFrames(_encode(frames, gop=gop, crf=4), gop, size)
    assert decode.frame_size(stored) == size
    numbers = np.array([1, 4, 4, 9])
    window = Window(5, 3, size[0] - 5, size[1] - 3)
    out = np.empty((4, 32, 40, 3), np.uint8)
    decode.decode_window(stored, numbers, window, out, flip=True)
    want = [
        decode.resize(np.ascontiguousarray(frames[n][5:, 3:]), (32, 40))[:, ::-1]
        for n in numbers.tolist()
    ]
    difference = out.astype(int) - np.stack(want)
    assert abs(difference).mean() < 3 and abs(difference.mean()) < 1.5
    whole = decode.decode_frame(stored, 9)
    assert whole.shape == (*size, 3) and abs(whole.astype(int) - frames[9])[-1].mean() < 8
    assert decode.decode_frame(stored, 9, factor=8).shape == (6, 8, 3)


@pytest.mark.parametrize('size', [(98, 200), (200, 98), (129, 143)])
def test_windows_of_frames_that_are_cut(size):
    """Pixels of the whole frame, from the slices that a window meets."""
    frames = [tiny_records.smooth_image(*size, phase=k) for k in range(2)]
    encoded = _encode(frames, crf=4)
    stored = packets.PacketFrames(encoded, 1, size)
    (whole,) = (frame.copy() for frame in stored.decode([1], Window(0, 0, *size)))
    assert abs(whole.astype(int) - frames[1]).mean() < 6  # of colour, which is halved
    rng, given = np.random.default_rng(0), set()
    for _ in range(30):
        top, left = (int(rng.integers(side - 20)) for side in size)
        height = int(rng.integers(4, size[0] - top + 1))
        window = Window(top, left, height, int(rng.integers(4, size[1] - left + 1)))
        (part,) = stored.decode([1], window)
        np.testing.assert_array_equal(part, whole[top:, left:][:height, : window.width])
        given.add(stored._part(1, window).count(packets.START + b'\x65'))
    assert given == set(range(1, -(-max(size) // 64) + 1))


@pytest.mark.parametrize('size', [(98, 200), (200, 98)])
def test_what_lacks_of_frames_that_are_cut_is_damage(size):
    """Never pixels of the frame before, whatever the window."""
    whole, other = _encode([tiny_records.smooth_image(*size, phase=k) for k in range(2)])
    units = other.split(packets.START)
    slices = [n for n, unit in enumerate(units) if unit[:1] == b'\x65']
    assert len(slices) == 4
    damaged = [packets.START.join(units[:number] + units[number + 1 :]) for number in (*slices, -1)]
    damaged += [other[:length] for length in range(len(other) - 200, len(other))]
    for packet in damaged:
        stored = packets.PacketFrames([whole, packet], 1, size)
        assert len(list(stored.decode([0], Window(0, 0, *size)))) == 1
        for window in (Window(0, 0, *size), Window(70, 70, 20, 20)):
            with pytest.raises(FrameError, match='frame 1 cannot be decoded.* cut short'):
                list(stored.decode([1], window))


@pytest.mark.parametrize('number', [3, 8])
def test_packets_cut_short_anywhere_are_damage(number):
    """Also where a macroblock ends: what lacks then is no error to the decoder."""
    encoded = _encode([tiny_records.smooth_image(48, 64, phase=k / 9) for k in range(9)], gop=8)
    for length in range(1, len(encoded[number])):
        stored = packets.PacketFrames([*encoded[:number], encoded[number][:length]], 8, (48, 64))
        with pytest.raises(FrameError, match=f'frame {number} cannot be decoded'):
            list(stored.decode([number], Window(0, 0, 48, 64)))


@pytest.mark.parametrize('side', [2, 17, 63, 64, 65, 130, 193])
def test_slices_of_all_sizes(side):
    for size in ((side, side), (side, 40), (40, side)):
        frames = packets.PacketFrames(_encode([np.zeros((*size, 3), np.uint8)]), 1, size)
        assert len(list(frames.decode([0], Window(0, 0, *size)))) == 1


def test_frames_that_are_cut_are_shown_upright_by_others():
    """By what FFmpeg makes of the stream's own word."""
    for size in ((48, 80), (80, 48)):
        frame = tiny_records.smooth_image(*size)
        frame[:16, :16] = 255  # one corner
        decoder = av.CodecContext.create('h264', 'r')
        shown = decoder.decode(av.Packet(b''.join(_encode([frame])))) + decoder.decode(None)
        want = packets.PacketFrames(_encode([frame]), 1, size).decode([0], Window(0, 0, *size))
        np.testing.assert_array_equal(upright_rgb(shown[0]), next(want))


def test_key_frames_that_are_not_cut():
    """As they were stored before, and as others may."""
    encoded = _encode([tiny_records.smooth_image(48, 200, phase=k) for k in range(9)], gop=8)
    stored = packets.PacketFrames({0: encoded[0], 1: encoded[8]}, 1, (48, 200))
    window = Window(5, 3, 40, 60)
    others = packets.PacketFrames(encoded, 8, (48, 200))
    want, found = (
        [frame.copy() for frame in frames.decode(numbers, window)]
        for frames, numbers in ((others, [0, 8]), (stored, [0, 1]))
    )
    np.testing.assert_array_equal(found, want)


def test_views_and_windows_show_the_same_frames(numbered):
    numbers = np.array([[0, 4, 9], [9, 12, 20]])
    views = [np.empty((3, 64, 64, 3), np.uint8) for _ in range(4)]
    decode.decode_views(numbered, numbers, (64, 80), [(0, 0), (0, 16)], views)
    clip = np.empty((3, 64, 80, 3), np.uint8)
    for row in range(2):
        decode.decode_window(numbered, numbers[row], Window(0, 0, 64, 80), clip)
        np.testing.assert_array_equal(views[2 * row], clip[:, :, :64])
        np.testing.assert_array_equal(views[2 * row + 1], clip[:, :, 16:])


def test_equal_bytes_every_time():
    frames = [tiny_records.smooth_image(48, 64, phase=k / 9) for k in range(6)]
    assert _encode(frames, gop=4) == _encode(frames, gop=4)


def test_a_clip_does_not_depend_on_the_one_before(numbered):
    """Each thread keeps its decoder, also after a clip that was given up or cannot be decoded."""
    window = Window(0, 0, 64, 80)
    (want,) = (frame.copy() for frame in numbered.decode([13], window))
    next(numbered.decode([2, 20], window))
    other = packets.PacketFrames([b'\0\0\0\1\x65no packet'] * 3, 1, (64, 80))
    with pytest.raises(FrameError):
        list(other.decode([1], window))
    (found,) = numbered.decode([13], window)
    np.testing.assert_array_equal(found, want)


def _damaged(encoded, number):
    broken = encoded[number][: len(encoded[number]) * 2 // 3]
    return [*encoded[:number], broken, *encoded[number + 1 :]]


@pytest.mark.parametrize('gop', [1, 8])
def test_damage_names_the_frame(gop):
    frames = [tiny_records.smooth_image(48, 64, phase=k) for k in range(10)]
    encoded = _encode(frames, gop=gop)
    window = Window(0, 0, 48, 64)
    for number in (3, 9):
        stored = packets.PacketFrames(_damaged(encoded, number), gop, (48, 64))
        with pytest.raises(FrameError, match=f'frame {number} cannot be decoded'):
            list(stored.decode([number], window))
    with pytest.raises(FrameError, match='frame 2 cannot be decoded'):
        list(
            packets.PacketFrames([*encoded[:2], b'', *encoded[3:]], gop, (48, 64)).decode(
                [2], window
            )
        )


def test_another_size_than_the_record_says():
    encoded = _encode([tiny_records.smooth_image(48, 64)] * 2)
    with pytest.raises(FrameError, match='frame 1 is 48 x 64 px, the record says 32 x 64 px'):
        list(packets.PacketFrames(encoded, 1, (32, 64)).decode([1], Window(0, 0, 32, 64)))
    with pytest.raises(FrameError, match='too large'):
        packets.PacketFrames(encoded, 1, (1 << 14, 1 << 14))
