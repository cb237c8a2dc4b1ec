import io

import numpy as np
import PIL.Image
import pytest

from data_pipelines.clip import jpeg_cut
from data_pipelines.clip.crops import Window
from data_pipelines.conversion.jpeg import encode_jpeg
from tests.helpers.tiny_records import smooth_image


@pytest.mark.parametrize('quality', [50, 90, 100])
@pytest.mark.parametrize('height, width', [(64, 96), (61, 77), (1, 1)])
def test_frames_are_what_libjpeg_makes_of_them(height, width, quality):
    image = smooth_image(height, width)
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, 'JPEG', quality=quality, subsampling='4:2:0')
    expected, found = (
        np.asarray(PIL.Image.open(data)) for data in (file, io.BytesIO(encode_jpeg(image, quality)))
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('width, interval', [(342, 2), (426, 3), (568, 4), (456, 1), (16, 1)])
def test_restart_markers_divide_rows(width, interval):
    frame = encode_jpeg(smooth_image(64, width), 90)
    at = frame.index(b'\xff\xdd\x00\x04')
    assert int.from_bytes(frame[at + 4 : at + 6]) == interval
    markers = sum(frame.count(bytes([0xFF, code])) for code in range(0xD0, 0xD8))
    assert markers == 4 * -(-width // 16) // interval - 1


def test_frames_can_be_cut():
    frames = [encode_jpeg(smooth_image(120, 160, phase), 90) for phase in range(3)]
    assert jpeg_cut.cut(frames, (120, 160), Window(20, 30, 90, 90)) is not None
