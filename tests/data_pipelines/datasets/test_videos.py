"""Records that link to video files: equal to decoding them,
sparing, and safe against what records may say.
"""

import errno
import os
import shutil

import cv2
import numpy as np
import pytest

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.clip.crops import Window
from data_pipelines.clip.decode import FrameError, decode_frame
from data_pipelines.conversion.dataset import convert
from data_pipelines.conversion.options import Options
from data_pipelines.datasets import videos as videos_on_disk
from data_pipelines.datasets.dataset_info import load_dataset_info
from data_pipelines.datasets.stored import frames_of
from data_pipelines.inspection.checks import inspect_directory
from data_pipelines.options import Source
from data_pipelines.storage.reader import RecordReader
from data_pipelines.storage.sequence_example import Example, RecordError
from data_pipelines.videos import decoder
from data_pipelines.videos.image_folder import ImageFolderStream
from data_pipelines.videos.video_file import read_frames
from tests.helpers.batches import train_batches
from tests.helpers.golden import shared_path
from tests.helpers.video_writer import number_image, numbers_of, write_images, write_numbered

WHOLE = Window(0, 0, 64, 80)
SPEC = dict(num_frames=4, crop_size=32, short_side=(32, 40), batch_size=2)


@pytest.fixture
def videos(tmp_path):
    """100 frames of 25 per second, a key frame each 10; B-frames in one of them."""
    (tmp_path / 'videos' / 'deep').mkdir(parents=True)
    write_numbered(tmp_path / 'videos' / 'a.mp4', 100, options={'g': '10'})
    write_numbered(tmp_path / 'videos' / 'deep' / 'b.mkv', 100, options={'g': '10', 'bf': '2'})
    return tmp_path / 'videos'


def _convert(paths, output, parts=({},), **options):
    clips = tuple(
        Clip(str(path), f'{path.name} {number}', (0,), **part)
        for path in paths
        for number, part in enumerate(parts)
    )
    convert(
        Annotations(('one',), {'train': clips}),
        output,
        Options(**{'storage': 'link', 'workers': 1, 'shards': 1, 'progress': False, **options}),
    )
    return output


def _records(directory):
    reader = RecordReader(directory, 'train')
    return [reader.read_clip(number) for number in range(len(reader))]


def _source(directory, **fields):
    root = load_dataset_info(directory).arguments['video_root']
    return Source(directory, 'linked', 'train', **{'video_root': root, **fields})


@pytest.fixture
def decoded(monkeypatch):
    """How many frames were decoded."""
    count, decode = [], decoder.Decoder._decode

    def counting(self, source):
        for frame in decode(self, source):
            count.append(frame)
            yield frame

    monkeypatch.setattr(decoder.Decoder, '_decode', counting)
    return count


@pytest.mark.parametrize('frame_rate', [None, 10.0, 60.0])
def test_pixels_equal_those_of_decoding(videos, tmp_path, frame_rate):
    parts = [{}, dict(start=1.2, end=3.0), dict(start=2.02, end=2.5)]
    paths = [videos / 'a.mp4', videos / 'deep' / 'b.mkv', shared_path('videos/test.avi')]
    for path in paths:
        output = _convert([path], tmp_path / path.name, parts, frame_rate=frame_rate)
        for part, example in zip(parts, _records(output), strict=True):
            want = read_frames(path, frame_rate=frame_rate, **part)
            frames = frames_of(example, video_root=path.parent)
            assert len(frames) == len(want.frames)
            np.testing.assert_allclose(
                example.context['clip/start/timestamp'] / 1e6, want.timestamps[0], atol=1e-6
            )
            numbers = list(range(0, len(frames), 1 + len(frames) // 7))
            stored, window = frames.fetch(numbers), Window(3, 5, 40, 66)
            for number, found in zip(numbers, stored.decode(numbers, window), strict=True):
                np.testing.assert_array_equal(found, want.frames[number, 3:43, 5:71])


def test_conversion_decodes_the_first_frame_only(videos, tmp_path, decoded):
    from data_pipelines.conversion import shard
    from data_pipelines.conversion.options import Storage

    clip = Clip(str(videos / 'deep' / 'b.mkv'), 'b', (0,))
    storage = Storage(storage='link', video_root=str(videos))
    assert len(shard.encode_clip(clip, {0: 'one'}, storage).record) < 2000
    assert len(decoded) == 1


@pytest.mark.parametrize(
    'numbers, most', [([5], 7), ([95], 7), ([2, 95], 12), ([0, 30, 60, 90], 12), ([50, 55], 8)]
)
def test_only_what_is_needed_is_decoded(videos, tmp_path, decoded, numbers, most):
    for path in (videos / 'a.mp4', videos / 'deep' / 'b.mkv'):
        (example,) = _records(_convert([path], tmp_path / path.name))
        stored = frames_of(example, video_root=path.parent).fetch(numbers)
        decoded.clear()
        assert numbers_of(np.stack(list(stored.decode(numbers, WHOLE)))) == numbers
        assert len(decoded) <= most


def test_paths_are_relative_to_a_root_that_may_move(videos, tmp_path):
    output = _convert([videos / 'a.mp4', videos / 'deep' / 'b.mkv'], tmp_path / 'd')
    assert load_dataset_info(output).arguments['video_root'] == str(videos)
    assert [example.context['clip/data_path'] for example in _records(output)] == [
        [b'a.mp4'],
        [b'deep/b.mkv'],
    ]
    moved = tmp_path / 'moved'
    videos.rename(moved)
    batches = list(train_batches([_source(output, video_root=moved)], **SPEC, num_steps=2))
    assert len(batches) == 2
    above = _convert([moved / 'a.mp4'], tmp_path / 'e', video_root=str(tmp_path))
    assert _records(above)[0].context['clip/data_path'] == [b'moved/a.mp4']
    with pytest.raises(ValueError, match='not under --video_root='):
        _convert([moved / 'a.mp4'], tmp_path / 'f', video_root=str(moved / 'deep'))


def test_splits_converted_one_after_the_other_have_one_root(videos, tmp_path):
    output = _convert([videos / 'a.mp4'], tmp_path / 'd', video_root=str(videos))
    other = Annotations(
        ('one',), {'validation': (Clip(str(videos / 'deep' / 'b.mkv'), 'b', (0,)),)}
    )
    options = Options(storage='link', workers=1, progress=False)
    convert(other, output, options)
    assert load_dataset_info(output).arguments['video_root'] == str(videos)
    outside = tmp_path / 'elsewhere.mp4'
    shutil.copy(videos / 'a.mp4', outside)
    third = Annotations(('one',), {'test': (Clip(str(outside), 'c', (0,)),)})
    with pytest.raises(ValueError, match='its other splits link to videos under'):
        convert(third, output, options)


@pytest.mark.parametrize('path', ['../a.mp4', '/a.mp4', 'deep/../../a.mp4', '', 'a\0.mp4'])
def test_paths_cannot_leave_the_root(videos, tmp_path, path):
    (example,) = _records(_convert([videos / 'a.mp4'], tmp_path / 'd'))
    shutil.copy2(videos / 'a.mp4', tmp_path)
    context = {**example.context, 'clip/data_path': [path.encode()]}
    with pytest.raises(RecordError, match='not within a directory|of one path'):
        frames_of(Example(context, {}), video_root=videos).fetch([0])


def test_only_files_are_opened(videos, tmp_path):
    """FFmpeg would also open addresses, and lists of other files."""
    (example,) = _records(_convert([videos / 'a.mp4'], tmp_path / 'd'))
    for path in ('http://localhost/a.mp4', 'concat:a.mp4|b.mp4', 'deep'):
        context = {**example.context, 'clip/data_path': [path.encode()]}
        with pytest.raises((RecordError, FrameError)):
            stored = frames_of(Example(context, {}), video_root=videos).fetch([0])
            list(stored.decode([0], WHOLE))


def _grow(path):
    path.write_bytes(path.read_bytes() + b'x')


def _touch(path):
    os.utime(path, (1, 1))


@pytest.mark.parametrize(
    'change, reason',
    [
        (os.remove, 'a.mp4: no such file'),
        (_grow, 'a.mp4 has changed since its conversion'),
        (_touch, 'a.mp4 has changed since its conversion'),
    ],
)
def test_a_file_that_changed_or_vanished_is_damage_and_named(
    videos, tmp_path, caplog, change, reason
):
    output = _convert([videos / 'a.mp4', videos / 'deep' / 'b.mkv'], tmp_path / 'd')
    change(videos / 'a.mp4')
    with train_batches([_source(output)], **SPEC, num_steps=3, max_bad_records=1) as batches:
        assert len(list(batches)) == 3 and batches.bad_records == 1
    assert reason in caplog.text
    with pytest.raises(RecordError, match=f'{reason}.*max_bad_records=0'):
        list(train_batches([_source(output)], **SPEC, num_steps=3))
    (problem,) = inspect_directory(output, video_root=videos).all_problems()
    assert reason in str(problem)


def test_times_to_the_second_are_enough(videos, tmp_path):
    output = _convert([videos / 'a.mp4'], tmp_path / 'd')
    seconds = os.stat(videos / 'a.mp4').st_mtime_ns // 10**9
    os.utime(videos / 'a.mp4', ns=(seconds * 10**9, seconds * 10**9))
    assert len(list(train_batches([_source(output)], **SPEC, num_steps=1))) == 1


def test_frames_that_do_not_decode_are_damage(tmp_path):
    path = shared_path('videos/bad/corrupt_middle.mp4')  # demuxing sees nothing of it
    (example,) = _records(_convert([path], tmp_path / 'd'))
    frames = frames_of(example, video_root=path.parent)
    window, early = Window(0, 0, 180, 240), [0, 20, 40]
    assert len(list(frames.fetch(early).decode(early, window))) == 3
    with pytest.raises(FrameError, match=r'corrupt_middle\.mp4: frame 46, at .* cannot be decoded'):
        list(frames.fetch(range(46, 60)).decode(range(46, 60), window))


def test_of_videos_cut_short_the_frames_that_decode_are_linked(tmp_path):
    path = shared_path('videos/bad/truncated_faststart.mp4')
    output = _convert([path], tmp_path / 'd')
    (example,) = _records(output)
    assert len(frames_of(example)) == len(read_frames(path).frames)
    assert 'truncated_faststart' in (output / 'damaged.csv').read_text()
    assert not inspect_directory(output, video_root=path.parent).all_problems()


def test_nobody_said_where_the_videos_are(videos, tmp_path):
    output = _convert([videos / 'a.mp4'], tmp_path / 'd')
    ways = r'config\.datasets\.linked\.video_root in training, --video_root for commands'
    with pytest.raises(ValueError, match=f'{ways} .converted from {videos}'):
        train_batches([_source(output, video_root=None)], **SPEC)
    with pytest.raises(ValueError, match='give --video_root'):
        inspect_directory(output)
    with pytest.raises(ValueError, match='give video_root'):
        frames_of(_records(output)[0]).fetch([0])


@pytest.fixture
def images(tmp_path):
    """A folder of 20 images, of which two lack and one has another size."""
    numbers = [number for number in range(20) if number not in (7, 8)]
    folder = write_images(tmp_path / 'images' / 'v', numbers, '{:03d}.png')
    cv2.imwrite(str(folder / '004.png'), number_image(3, 96, 120)[..., ::-1])
    return folder


@pytest.mark.parametrize(
    'options', [{}, dict(frame_rate=25.0), dict(max_seconds=0.85)], ids=['all', 'rate', 'part']
)
def test_a_folder_of_images(images, tmp_path, options):
    """The frames and times of storing them."""
    options |= dict(images_per_second=10.0)
    example, stored = (
        _records(_convert([images], tmp_path / storage, **options, storage=storage))[0]
        for storage in ('link', 'jpeg')
    )
    for name in ('clip/start/timestamp', 'clip/end/timestamp', 'image/frame_rate', 'image/width'):
        np.testing.assert_array_equal(example.context[name], stored.context[name])
    assert 'missing images' in (tmp_path / 'link' / 'damaged.csv').read_text()
    want = [image for _, image in ImageFolderStream(images, **options)]
    frames = frames_of(example, video_root=images.parent)
    numbers = range(len(frames))
    found = [image.copy() for image in frames.fetch(numbers).decode(numbers, WHOLE)]
    np.testing.assert_array_equal(found, want)
    jpegs = frames_of(stored).fetch(numbers)
    assert numbers_of(found) == numbers_of([decode_frame(jpegs, number) for number in numbers])
    window = Window(3, 5, 40, 60)
    (part,) = frames.fetch([3]).decode([3], window)
    np.testing.assert_array_equal(part, want[3][3:43, 5:65])
    assert not inspect_directory(tmp_path / 'link', video_root=images.parent).all_problems()


def _empty(path):
    """Of the same size and time."""
    status = os.stat(path)
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    'change, reason',
    [
        (os.remove, '003.png: no such file'),
        (_grow, '003.png has changed since its conversion'),
        (_empty, '003.png cannot be decoded'),
    ],
)
def test_images_that_changed_or_vanished_are_damage_and_named(images, tmp_path, change, reason):
    output = _convert([images], tmp_path / 'd', images_per_second=10.0)
    change(images / '003.png')
    (example,) = _records(output)
    frames = frames_of(example, video_root=images.parent)
    assert len(list(frames.fetch([1, 3]).decode([1, 3], WHOLE))) == 2  # the others
    with pytest.raises(FrameError, match=reason):
        list(frames.fetch([2]).decode([2], WHOLE))
    (problem,) = inspect_directory(output, video_root=images.parent).all_problems()
    assert reason in str(problem)


def test_images_that_may_not_be_read_are_damage_and_named(images, tmp_path, monkeypatch):
    (example,) = _records(_convert([images], tmp_path / 'd', images_per_second=10.0))
    frames = frames_of(example, video_root=images.parent)

    def refused(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(videos_on_disk, 'read_image', refused)
    with pytest.raises(FrameError, match=r'003\.png: Permission denied'):
        list(frames.fetch([2]).decode([2], WHOLE))


@pytest.mark.parametrize('name', [b'../v/003.png', b'..', b'/etc/passwd', b'', b'a\0b', b'x/y.png'])
def test_images_stay_in_their_folder(images, tmp_path, name):
    (example,) = _records(_convert([images], tmp_path / 'd', images_per_second=10.0))
    names = [name, *example.context['link/image/name'][1:]]
    for wrong in (names, names[1:], np.arange(20)):
        context = {**example.context, 'link/image/name': wrong}
        with pytest.raises(RecordError):
            frames_of(Example(context, {}), video_root=images.parent)
