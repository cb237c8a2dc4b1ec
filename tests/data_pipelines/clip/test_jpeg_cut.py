import io

import cv2
import numpy as np
import PIL.Image
import pytest
import simplejpeg

from data_pipelines.clip import decode, jpeg_cut
from data_pipelines.clip.crops import Window
from tests.helpers.tiny_records import smooth_image

SAMPLINGS = {
    name: getattr(cv2, f'IMWRITE_JPEG_SAMPLING_FACTOR_{name}')
    for name in ('411', '420', '422', '440', '444')
}
MCUS = {
    '411': (8, 32),
    '420': (16, 16),
    '422': (8, 16),
    '440': (16, 8),
    '444': (8, 8),
    'gray': (8, 8),
}


def noisy_image(height, width, phase):
    """Different at every place, and hard to code:
    its JPEGs are full of bytes that look like markers' first.
    """
    noise = np.random.default_rng(int(phase)).integers(-40, 40, (height, width, 3))
    return np.clip(smooth_image(height, width, phase) + noise, 0, 255).astype(np.uint8)


def encode(image, interval, sampling='420', *options):
    if sampling == 'gray':
        image = image[..., :1]
    else:
        options = (*options, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling])
    return cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_RST_INTERVAL, interval, *options])[
        1
    ].tobytes()


def clip_of(height, width, interval, sampling='420', count=3):
    return [encode(noisy_image(height, width, phase), interval, sampling) for phase in range(count)]


def intervals(columns):
    return [interval for interval in range(1, columns + 1) if columns % interval == 0]


def windows(height, width):
    """At every border and corner, in the middle, of single pixels, and some at random."""
    half = height // 2, width // 2
    for top in (0, half[0] // 2, height - half[0]):
        for left in (0, half[1] // 2, width - half[1]):
            yield Window(top, left, *half)
    yield Window(height - 1, width - 1, 1, 1)
    yield Window(15, 16, 1, 1)
    rng = np.random.default_rng(0)
    for _ in range(6):
        corners = np.sort(rng.integers(0, (height, width), (2, 2)), axis=0)
        yield Window(*corners[0].tolist(), *(corners[1] - corners[0] + 1).tolist())


def stacked(cut):
    """u8[N, h, w, 3], what is left of each frame."""
    images = [simplejpeg.decode_jpeg(jpeg, fastupsample=True) for jpeg, _ in cut.jpegs]
    assert [len(image) for image in images] == [count * cut.height for _, count in cut.jpegs]
    return np.concatenate(images).reshape(-1, cut.height, cut.part.width, 3)[:, : cut.part.height]


@pytest.mark.parametrize('sampling', MCUS)
@pytest.mark.parametrize('height, width', [(96, 160), (93, 157), (97, 97)])
def test_a_cut_has_the_pixels_of_the_whole_frame(sampling, height, width, monkeypatch):
    mcu_height, mcu_width = MCUS[sampling]
    cuts = 0
    for interval in intervals(-(-width // mcu_width)):
        frames = clip_of(height, width, interval, sampling)
        whole = np.stack([simplejpeg.decode_jpeg(frame, fastupsample=True) for frame in frames])
        for number, window in enumerate(windows(height, width)):
            monkeypatch.setattr(
                jpeg_cut, '_MAX_PIXELS', (0, 1 << 18, 2 * height * width)[number % 3]
            )
            cut = jpeg_cut.cut(frames, (height, width), window)
            if cut is None:
                continue
            top, left, part_height, part_width = cut.part
            assert (
                0 <= window.top - top < mcu_height
                and 0 <= window.left - left < interval * mcu_width
            )
            below = top + part_height - window.top - window.height
            behind = left + part_width - window.left - window.width
            assert 0 <= below < mcu_height and 0 <= behind < interval * mcu_width
            expected = whole[:, top : top + part_height, left : left + part_width]
            np.testing.assert_array_equal(stacked(cut), expected)
            cuts += 1
    assert cuts > 15


def test_another_decoder_reads_a_cut_alike():
    frame, window = encode(noisy_image(93, 157, 0), 4, '444'), Window(30, 70, 31, 40)
    ((cut, count),) = jpeg_cut.cut([frame], (93, 157), window).jpegs
    image, whole = (np.asarray(PIL.Image.open(io.BytesIO(jpeg))) for jpeg in (cut, frame))
    assert count == 1 and len(cut) < 0.4 * len(frame)
    np.testing.assert_array_equal(image, whole[24:64, 64:128])


def test_gray_frames_with_factors_of_colour_are_cut_too():
    """A single component is coded block by block whatever its factors (T.81, A.2.2)."""
    frames = [
        frame.replace(b'\x01\x01\x11\x00', b'\x01\x01\x22\x00')
        for frame in clip_of(61, 77, 2, 'gray')
    ]
    whole = np.stack([simplejpeg.decode_jpeg(frame) for frame in frames])
    cut = jpeg_cut.cut(frames, (61, 77), Window(10, 20, 30, 30))
    np.testing.assert_array_equal(stacked(cut), whole[:, 8:40, 16:64])


@pytest.mark.parametrize('reduced', [False, True])
@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('sampling', ['420', '444'])
def test_clips_are_the_same_with_and_without_cutting(sampling, flip, reduced, monkeypatch):
    height, width = 155, 189
    frames = clip_of(height, width, 4 if sampling == '420' else 3, sampling, count=5)
    numbers = np.array([0, 3, 3, 1, 4])
    cut = jpeg_cut.cut
    for window in windows(height, width):
        for size in (20, 31):
            clips = np.zeros((2, 5, size, size, 3), np.uint8)
            for clip, function in zip(clips, (cut, lambda *args: None)):
                monkeypatch.setattr(jpeg_cut, 'cut', function)
                decode.decode_window(frames, numbers, window, clip, flip=flip, reduced=reduced)
            np.testing.assert_array_equal(clips[0], clips[1])


def test_only_the_window_is_decoded(monkeypatch):
    frames, shapes, original = clip_of(256, 342, 2, count=8), [], simplejpeg.decode_jpeg

    def spy(*args, **kwargs):
        image = original(*args, **kwargs)
        shapes.append(image.shape[:2])
        return image

    monkeypatch.setattr(simplejpeg, 'decode_jpeg', spy)
    out = np.empty((8, 100, 100, 3), np.uint8)
    decode.decode_window(frames, np.arange(8), Window(20, 40, 200, 200), out)
    assert shapes == [(5 * 208, 224), (3 * 208, 224)]
    shapes.clear()
    decode.decode_window(frames, np.arange(8), Window(20, 40, 200, 200), out, reduced=True)
    assert shapes == [(5 * 104, 112), (3 * 104, 112)]


def _uncut():
    good = clip_of(96, 160, 2)
    markers = [
        place
        for place in range(len(good[1]))
        if good[1][place] == 0xFF and 0xD0 <= good[1][place + 1] < 0xD8
    ]
    swapped, missing, foreign = bytearray(good[1]), bytearray(good[1]), bytearray(good[1])
    swapped[markers[3] + 1], swapped[markers[4] + 1] = (
        swapped[markers[4] + 1],
        swapped[markers[3] + 1],
    )
    del missing[markers[5] : markers[5] + 2]
    foreign[markers[6] + 1] = 0xFE
    other = encode(noisy_image(96, 160, 0), 2, '420', cv2.IMWRITE_JPEG_QUALITY, 50)
    return {
        'no markers': clip_of(96, 160, 0),
        'runs over the ends of rows': clip_of(96, 160, 3),
        'runs of several rows': clip_of(96, 160, 20),
        'progressive': [encode(noisy_image(96, 160, 0), 2, '420', cv2.IMWRITE_JPEG_PROGRESSIVE, 1)],
        'png': [cv2.imencode('.png', noisy_image(96, 160, 0))[1].tobytes()],
        'empty': [b''],
        'header only': [good[0][:200]],
        'another header': [good[0], other],
        'one without markers': [good[0], encode(noisy_image(96, 160, 0), 0)],
        'another size': clip_of(96, 176, 1),
        'markers in a wrong order': [good[0], bytes(swapped)],
        'a marker too few': [good[0], bytes(missing)],
        'a foreign marker': [good[0], bytes(foreign)],
        'cut off': [good[0], good[1][:-500]],
        'without an end': [good[0], good[1][:-2], good[2]],
        'something behind the end': [good[0], good[1] + b'\0', good[2]],
        'half a marker at the end': [good[0], good[1][:-1], good[2]],
    }


@pytest.mark.parametrize('kind', _uncut())
def test_what_cannot_be_cut_is_left_whole(kind):
    assert jpeg_cut.cut(_uncut()[kind], (96, 160), Window(20, 30, 40, 40)) is None


def test_nothing_is_cut_where_nothing_is_saved():
    assert jpeg_cut.cut(clip_of(96, 160, 2), (96, 160), Window(3, 5, 90, 150)) is None


@pytest.mark.parametrize('reduced', [False, True])
def test_damage_in_the_window_names_the_frame(reduced):
    frames = clip_of(96, 160, 2)
    damaged = bytearray(frames[1])
    middle = damaged.index(b'\xff\xd3', len(damaged) // 2)
    damaged[middle + 2 : middle + 60] = bytes(58)
    frames[1] = bytes(damaged)
    out = np.empty((3, 16, 16, 3), np.uint8)
    assert jpeg_cut.cut(frames, (96, 160), Window(30, 30, 64, 64)) is not None
    with pytest.raises(decode.FrameError, match='frame 1 cannot be decoded'):
        decode.decode_window(frames, np.arange(3), Window(30, 30, 64, 100), out, reduced=reduced)
