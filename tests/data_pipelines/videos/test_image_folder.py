"""Folders of images as videos: every image at its time, what lacks is told."""

import numpy as np
import pytest

from data_pipelines.videos.image_folder import ImageFolderStream
from data_pipelines.videos.video_file import VideoError
from tests.helpers.video_writer import numbers_of, write_images


def read(folder, **options):
    """(times, numbers of the images, rate, end, damage)"""
    stream = ImageFolderStream(folder, **{'images_per_second': 10, **options})
    found = list(stream)
    times = [round(time, 6) for time, _ in found]
    return (
        times,
        numbers_of([image for _, image in found]),
        stream.frame_rate,
        round(stream.end, 6),
        stream.damage,
    )


def test_every_image(tmp_path):
    folder = write_images(tmp_path / 'v', range(12), 'img_{:d}.png')  # img_10 comes after img_9
    write_images(folder, range(12), 'flow_x_{:05d}.png')
    (folder / 'readme.txt').write_text('')
    times = [k / 10 for k in range(12)]
    assert read(folder) == (times, list(range(12)), 10, 1.2, '')
    assert read(folder, images=5) == (times[:5], list(range(5)), 10, 0.5, '')
    assert read(folder, images=14)[-1] == '2 missing images'


@pytest.mark.parametrize('first', [0, 1, 7])
def test_missing_and_damaged_images_leave_the_one_before_on_screen(tmp_path, first):
    folder = write_images(tmp_path / 'v', [0, 1, 4, 5, 6, 7], first=first)
    (folder / f'{5 + first:05d}.png').write_bytes(b'no image')
    times, numbers, _, end, damage = read(folder)
    assert times == [k / 10 for k in range(8)] and end == 0.8
    assert numbers == [0, 1, 1, 1, 4, 4, 6, 7]
    assert damage == '2 missing images, 1 damaged images'


def test_every_fifth_image(tmp_path):
    folder = write_images(tmp_path / 'v', range(0, 50, 5))
    assert read(folder)[1] == list(range(0, 50, 5)) and read(folder)[-1] == ''


@pytest.mark.parametrize('rate', [5.0, 7.0, 10.0, 25.0])
def test_at_another_rate_as_a_video_of_the_same_frames(tmp_path, rate):
    """What FFmpeg's `fps` filter would pick: the image that is on screen at k / rate."""
    folder = write_images(tmp_path / 'v', range(20))
    for start, end in ((None, None), (0.35, 1.1), (0.4, 9.0)):
        times, numbers, found_rate, _, _ = read(folder, frame_rate=rate, start=start, end=end)
        begin, finish = start or 0, min(end or 9, 2.0)
        expected = [begin + k / rate for k in range(200) if begin + k / rate < finish - 1e-9]
        np.testing.assert_allclose(times, expected, atol=1e-6)
        assert numbers == [int(time * 10 + 1e-6) for time in expected] and found_rate == rate


def test_parts(tmp_path):
    folder = write_images(tmp_path / 'v', range(20))
    assert read(folder, start=0.31, end=0.65)[:2] == ([0.4, 0.5, 0.6], [4, 5, 6])
    assert read(folder, start=1.0, max_seconds=0.2)[1] == [10, 11]
    with pytest.raises(VideoError, match=r'no frame at or after 2 s \(the 20 images last 2.000 s'):
        read(folder, start=2.0)
    with pytest.raises(VideoError, match='the clip ends'):
        read(folder, start=1.0, end=1.0)


def test_sizes(tmp_path):
    folder = write_images(tmp_path / 'v', range(3))  # 64 x 80

    def shape(**options):
        stream = ImageFolderStream(folder, images_per_second=12, **options)
        return {image.shape for _, image in stream}

    assert shape() == {(64, 80, 3)} and shape(short_side=32) == {(32, 40, 3)}
    assert shape(short_side=128) == {(128, 160, 3)}
    assert shape(short_side=128, upscale=False) == {(64, 80, 3)}


def test_mistakes(tmp_path):
    folder = write_images(tmp_path / 'v', range(3))
    with pytest.raises(VideoError, match='give --images_per_second'):
        ImageFolderStream(folder, images_per_second=None)
    write_images(folder, [0], 'left_{}.png')
    with pytest.raises(VideoError, match=r'images of 2 kinds in it: \*, left_\*'):
        read(folder)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(VideoError, match='no numbered images in it'):
        read(tmp_path / 'empty')
    with pytest.raises(VideoError, match='numbered 1 to 100: most are missing'):
        read(write_images(tmp_path / 'w', [0, 2, 99]))
    (tmp_path / 'bad').mkdir()
    (tmp_path / 'bad' / '1.jpg').write_bytes(b'no image')
    with pytest.raises(VideoError, match='no image can be decoded'):
        read(tmp_path / 'bad')
