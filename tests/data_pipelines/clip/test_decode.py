import shutil

import cv2
import numpy as np
import pytest
import simplejpeg

from data_pipelines.clip import crops, decode
from data_pipelines.clip.crops import Window
from data_pipelines.storage.reader import RecordReader
from data_pipelines.storage.record_index import shard_name
from data_pipelines.storage.sequence_example import decode_sequence_example, encoded_frames
from tests.helpers.golden import shared_path
from tests.helpers.tiny_records import jpeg, smooth_image


def _bilinear(image, window, height, width):
    """float64[height, width, 3]: the window resized with half-pixel centres, edges clamped."""
    pixels = image[
        window.top : window.top + window.height, window.left : window.left + window.width
    ]

    def weights(size, target):
        centres = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        matrix = np.zeros((target, size))
        low = np.floor(centres).astype(int)
        high = np.minimum(low + 1, size - 1)
        np.add.at(matrix, (np.arange(target), low), 1 - (centres - low))
        np.add.at(matrix, (np.arange(target), high), centres - low)
        return matrix

    rows, columns = weights(pixels.shape[0], height), weights(pixels.shape[1], width)
    return np.einsum('ij,jkc,lk->ilc', rows, pixels.astype(np.float64), columns)


def _count_decoding(monkeypatch):
    calls = []
    original = simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg,
        'decode_jpeg',
        lambda *args, **kw: (calls.append(args[0]), original(*args, **kw))[1],
    )
    return calls


def test_views_equal_what_dmvr_reads(tmp_path):
    """Every value of DMVR's own evaluation clips, within its README's tolerances."""
    golden = np.load(shared_path('dmvr/golden_eval.npz'))
    for shard in range(3):
        name = shard_name('shared', shard, 3)
        shutil.copy(shared_path(f'dmvr/{name}'), tmp_path / name)
    reader = RecordReader(tmp_path, 'shared')
    clips = []
    for record in range(len(reader)):
        jpegs = encoded_frames(decode_sequence_example(reader[record]))
        # DMVR's rules: 8 frames, stride 2, short side 128, centre crop 112.
        offset = max(0, (len(jpegs) - 16) // 2)
        numbers = (offset + 2 * np.arange(8)) % len(jpegs)
        np.testing.assert_array_equal(numbers, golden['frame_index_1clip'][record])
        height, width = decode.frame_size(jpegs)
        scaled = (max(128, height * 128 // width), max(128, width * 128 // height))
        corner = ((scaled[0] - 112) // 2, (scaled[1] - 112) // 2)
        clip = np.zeros((8, 112, 112, 3), np.uint8)
        decode.decode_views(jpegs, numbers[np.newaxis], scaled, [corner], [clip])
        clips.append(clip)
    difference = np.abs(np.stack(clips).astype(int) - golden['frames_1clip_uint8'])
    assert difference.mean() <= 1
    assert difference.max() <= 8


@pytest.mark.parametrize(
    'window', [Window(5, 17, 40, 41), Window(0, 0, 64, 90), Window(9, 30, 24, 24)]
)
def test_window_equals_float64_bilinear(window):
    image = smooth_image(64, 90)
    stored = simplejpeg.decode_jpeg(jpeg(image))
    out = np.zeros((1, 24, 32, 3), np.uint8)
    decode.decode_window([jpeg(image)], np.array([0]), window, out)
    assert np.abs(out[0] - _bilinear(stored, window, 24, 32)).max() <= 1.5


@pytest.mark.parametrize('height, width', [(128, 170), (170, 128), (96, 96)])
def test_window_equals_resizing_first_and_cropping_then(height, width):
    """Within half a stored pixel, which a smooth image shows as a few levels."""
    image = smooth_image(height, width)
    data = [jpeg(image)]
    rng = np.random.default_rng(0)
    for short_side in (64, 80, 96):
        window = crops.random_window(rng, height, width, (short_side, short_side), 64)
        out = np.zeros((1, 64, 64, 3), np.uint8)
        decode.decode_window(data, np.array([0]), window, out)
        scaled = crops.scaled_size(height, width, short_side)
        resized = cv2.resize(simplejpeg.decode_jpeg(data[0]), scaled[::-1])
        top = round(window.top * scaled[0] / height)
        left = round(window.left * scaled[1] / width)
        expected = resized[top : top + 64, left : left + 64]
        # One pixel of shift costs 12 levels on average here, half a resized pixel less than 7.
        assert (
            np.abs(out[0, : expected.shape[0], : expected.shape[1]].astype(int) - expected).mean()
            < 7
        )


def test_colour_is_repeated_in_training_and_interpolated_in_testing():
    """Two colours that meet where a pair of pixels that share their colour ends (4:2:0)."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :8], image[:, 8:] = (200, 60, 60), (60, 60, 200)
    stored = [simplejpeg.encode_jpeg(image, quality=100, colorsubsampling='420')]
    window, view = np.empty((2, 1, 32, 32, 3), np.uint8)
    decode.decode_window(stored, np.array([0]), Window(0, 0, 32, 32), window)
    decode.decode_views(stored, np.array([[0]]), (32, 32), [(0, 0)], [view])
    edge = np.abs(np.stack([window, view])[:, 0, :, 6:10].astype(int) - image[:, 6:10]).max(
        axis=(1, 2, 3)
    )
    assert edge[0] <= 12 and edge[1] >= 25, edge


def test_flip_mirrors_the_clip():
    data = [jpeg(smooth_image(40, 60, phase)) for phase in (0.0, 1.0)]
    numbers, window = np.array([0, 1]), Window(3, 4, 30, 30)
    plain, mirrored = np.zeros((2, 2, 20, 20, 3), np.uint8)
    decode.decode_window(data, numbers, window, plain)
    decode.decode_window(data, numbers, window, mirrored, flip=True)
    assert np.abs(plain[:, :, ::-1].astype(int) - mirrored).max() <= 1
    assert np.abs(plain.astype(int) - mirrored).max() > 50


def test_only_the_asked_frames_are_decoded_and_each_once(monkeypatch):
    data = [jpeg(smooth_image(30, 40, phase)) for phase in range(6)]
    calls = _count_decoding(monkeypatch)
    out = np.zeros((5, 30, 30, 3), np.uint8)
    decode.decode_window(data, np.array([1, 1, 4, 1, 4]), Window(0, 0, 30, 30), out)
    assert calls == [data[1], data[4]]
    for place, number in enumerate([1, 1, 4, 1, 4]):
        expected = smooth_image(30, 40, number)[:, :30]
        assert np.abs(out[place].astype(int) - expected).max() < 8
    calls.clear()
    views = [np.zeros((2, 30, 30, 3), np.uint8) for _ in range(6)]
    decode.decode_views(
        data, np.array([[0, 3], [3, 5]]), (30, 40), [(0, 0), (0, 5), (0, 10)], views
    )
    assert calls == [data[0], data[3], data[5]]
    for view, numbers in enumerate([[0, 3], [3, 5]]):
        for crop, left in enumerate([0, 5, 10]):
            for place, number in enumerate(numbers):
                expected = smooth_image(30, 40, number)[:, left : left + 30]
                got = views[3 * view + crop][place]
                assert np.abs(got.astype(int) - expected).max() < 8


def test_gray_frames_become_three_equal_channels():
    gray = smooth_image(32, 32)[..., :1]
    out = np.zeros((1, 32, 32, 3), np.uint8)
    decode.decode_window([jpeg(gray)], np.array([0]), Window(0, 0, 32, 32), out)
    assert np.abs(out[0].astype(int) - gray).max() < 5
    assert (out[..., 0] == out[..., 1]).all() and (out[..., 0] == out[..., 2]).all()


@pytest.mark.parametrize('height, width', [(128, 171), (129, 165)])
def test_reduced_decoding_keeps_the_geometry(height, width):
    data = [jpeg(smooth_image(height, width))]
    # Corners on the reduced grids (halves, quarters), so that nothing moves.
    for short_side, window in [(48, Window(12, 20, 96, 96)), (30, Window(0, 4, 128, 128))]:
        full, reduced = np.zeros((2, 1, short_side, short_side, 3), np.uint8)
        decode.decode_window(data, np.array([0]), window, full)
        decode.decode_window(data, np.array([0]), window, reduced, reduced=True)
        assert np.abs(full.astype(int) - reduced).mean() < 4
        scaled = crops.scaled_size(height, width, short_side)
        views, reduced_views = np.zeros((2, 1, 1, *scaled, 3), np.uint8)
        decode.decode_views(data, np.array([[0]]), scaled, [(0, 0)], views)
        decode.decode_views(data, np.array([[0]]), scaled, [(0, 0)], reduced_views, reduced=True)
        # 129 rows do not divide by 4: half a reduced pixel at the far edge; two would give 16.
        assert np.abs(views.astype(int) - reduced_views).mean() < 8


@pytest.mark.parametrize(
    'target, decoded',
    [(65, (256, 512)), (64, (128, 256)), (33, (128, 256)), (32, (64, 128)), (4, (32, 64))],
)
def test_reduced_decoding_never_falls_below_the_target(target, decoded, monkeypatch):
    data = [jpeg(smooth_image(256, 512))]
    shapes = []
    original = simplejpeg.decode_jpeg

    def spy(*args, **kwargs):
        image = original(*args, **kwargs)
        shapes.append(image.shape[:2])
        return image

    monkeypatch.setattr(simplejpeg, 'decode_jpeg', spy)
    out = np.zeros((1, target, target, 3), np.uint8)
    decode.decode_window(data, np.array([0]), Window(100, 100, 128, 128), out, reduced=True)
    assert shapes == [decoded]


def _bad_frames():
    good, other = jpeg(smooth_image(32, 40)), jpeg(smooth_image(32, 44))
    png = cv2.imencode('.png', smooth_image(32, 40))[1].tobytes()
    return {
        'garbage': ([good, b'no image'], 'frame 1 cannot be decoded as JPEG'),
        'empty': ([b'', good], 'frame 0 cannot be decoded as JPEG'),
        'cut png': ([good, png[: len(png) // 2]], 'frame 1 cannot be decoded as JPEG or PNG'),
        'png without a size': ([png[:20], good], 'frame 0 cannot be decoded as JPEG or PNG'),
        'png of another size': ([other, png], 'frame 1 is 32 x 40 px, other frames .* 32 x 44'),
        'cut': ([good, good[: len(good) // 2]], 'frame 1 cannot be decoded as JPEG'),
        'mixed sizes': ([good, other], 'frame 1 is 32 x 44 px, other frames .* 32 x 40'),
    }


def test_png_frames_are_decoded_too():
    image = smooth_image(32, 40)
    colour = cv2.imencode('.png', image[..., ::-1])[1].tobytes()
    gray = cv2.imencode('.png', image[..., 0])[1].tobytes()
    out = np.zeros((3, 32, 32, 3), np.uint8)
    window = Window(0, 4, 32, 32)
    decode.decode_window([colour, memoryview(gray)], np.array([0, 1, 0]), window, out)
    np.testing.assert_array_equal(out[0], image[:, 4:36])
    np.testing.assert_array_equal(out[1], image[:, 4:36, :1].repeat(3, -1))
    small = np.zeros((1, 16, 16, 3), np.uint8)
    decode.decode_window([colour], np.array([0]), window, small, reduced=True)
    blocks = image[:, 4:36].reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(small[0] - blocks).max() <= 0.75


@pytest.mark.parametrize('kind', _bad_frames())
@pytest.mark.parametrize('reduced', [False, True])
def test_bad_frames_are_named(kind, reduced):
    data, message = _bad_frames()[kind]
    out = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(decode.FrameError, match=message):
        decode.decode_window(data, np.array([0, 1]), Window(0, 0, 32, 32), out, reduced=reduced)
    with pytest.raises(decode.FrameError, match=message):
        decode.decode_views(data, np.array([[0, 1]]), (8, 10), [(0, 0)], [out], reduced=reduced)
