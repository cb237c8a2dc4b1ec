"""A window's pixels are those of the whole frame's conversion,
whatever the format and the rotation.
"""

import av
import numpy as np
import pytest

from data_pipelines.clip.crops import Window
from data_pipelines.clip.upright_rgb import upright_rgb, upright_size
from tests.helpers.golden import shared_path


def _frame(name, number=5):
    with av.open(str(shared_path(f'videos/{name}'))) as container:
        for frame in container.decode(video=0):
            if not number:
                return frame
            number -= 1


def _windows(height, width, count=60):
    rng = np.random.default_rng(0)
    for _ in range(count):
        top, bottom = sorted(rng.choice(height + 1, 2, replace=False).tolist())
        left, right = sorted(rng.choice(width + 1, 2, replace=False).tolist())
        yield Window(top, left, bottom - top, right - left)


@pytest.mark.parametrize(
    'name',
    [
        'demo.mp4',
        'bad/rotated_90.mp4',
        'bad/odd_size_175x143.avi',
        'bad/odd_size_175x143_yuv444.mp4',
        'bad/gray.mp4',  # full range
        'bad/yuv444_10bit.mp4',
        'bad/rgba_png.mov',
    ],
)
def test_windows_equal_the_whole(name):
    frame = _frame(name)
    whole = upright_rgb(frame).copy()
    assert whole.shape == (*upright_size(frame), 3)
    for window in _windows(*whole.shape[:2]):
        part = whole[window.top :, window.left :][: window.height, : window.width]
        np.testing.assert_array_equal(upright_rgb(frame, window), part)


@pytest.mark.parametrize('colorspace', [1, 5, 9], ids=['bt709', 'bt601', 'bt2020'])
@pytest.mark.parametrize('color_range', [1, 2], ids=['limited', 'full'])
def test_colours_of_a_window(colorspace, color_range):
    """Against the formulas of ITU-R BT.601, BT.709 and BT.2020, in float64."""
    rng = np.random.default_rng(1)
    frame = av.VideoFrame(64, 32, 'yuv420p')
    frame.colorspace, frame.color_range = colorspace, color_range
    colours = rng.integers((60, 100, 100), (180, 156, 156), (4, 8, 3))  # of 8 x 8 pixels
    for plane, values, block in zip(frame.planes, np.moveaxis(colours, -1, 0), (8, 4, 4)):
        target = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        target[: plane.height, : plane.width] = np.kron(values, np.ones((block, block)))
    y, cb, cr = np.moveaxis(colours.astype(np.float64), -1, 0)
    offset, luma, chroma = (16, 219, 224) if color_range == 1 else (0, 255, 255)
    y, cb, cr = (y - offset) / luma, (cb - 128) / chroma, (cr - 128) / chroma
    red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[colorspace]
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    want = 255 * np.clip(np.stack([r, g, b], -1), 0, 1)
    found = upright_rgb(frame, Window(8, 16, 16, 40))[4::8, 4::8]  # the middle of each block
    np.testing.assert_allclose(found, want[1:3, 2:7], atol=2.5)
