"""Records that hold no frames: they name a video file and when its frames appear; it is decoded at
reading.

Frame k of such a record is the frame of the file that appears at the k-th of its times: by number
the same as in the other storages. Context features, besides those of every record::

    clip/data_path              bytes, the file, relative to a root that is given at reading
    link/size                   int64, bytes of the file
    link/mtime                  int64, ns: when it was changed last
    link/frame/timestamp        int64, microseconds since the video's beginning, of each frame
    link/key_frame/timestamp    int64, likewise, of the frames from which decoding may begin

A file of another size or time is another file: whose frames these are, nobody knows.

The video may be a folder of images. Then size and time are lists, of the image of each frame, there
are no key frames, and besides there is ::

    link/image/name             bytes, names in the folder, of the image of each frame
"""

from collections.abc import Iterator, Sequence
import os

import av
import numpy as np

from data_pipelines.clip.crops import Window
from data_pipelines.clip.decode import FrameError, VideoFrames
from data_pipelines.clip.upright_rgb import upright_rgb, upright_size
from data_pipelines.storage.sequence_example import (
    DATA_PATH,
    FRAME_TIMES,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    KEY_FRAME_TIMES,
    LINK_IMAGES,
    LINK_MTIME,
    LINK_SIZE,
    Example,
    RecordError,
    int_feature,
    int_list_feature,
)
from data_pipelines.videos.decoder import TIME_TOLERANCE, Decoder
from data_pipelines.videos.demuxer import VideoError
from data_pipelines.videos.image_folder import read_image
from data_pipelines.videos.video_file import resized

_SECOND = 10**9  # ns


class LinkedFrames(VideoFrames):
    """Frames of a video file, by the times at which they appear."""

    def __init__(
        self, path: str, times: Sequence[float], key_times: Sequence[float], size: tuple[int, int]
    ):
        """
        Args:
            path: the file.
            times: seconds since the video's beginning, of all frames, not falling.
            key_times: of frames from which decoding may begin.
            size: (height, width) of the frames in pixels; others are resized.
        """
        super().__init__(size)
        self._path, self._times, self._key_times = path, times, key_times

    def decode(self, numbers: Sequence[int], window: Window) -> Iterator[np.ndarray]:
        wanted = [self._times[number] for number in numbers]
        given = 0
        try:
            # One thread: clips are decoded side by side, as many as there are cores.
            with Decoder(self._path) as decoder:
                for time, frame in decoder.on_screen(wanted, self._key_times):
                    if abs(time - wanted[given]) > TIME_TOLERANCE:
                        break
                    yield self._window(frame, window)
                    given += 1
        except (VideoError, av.error.FFmpegError, EOFError) as error:
            raise FrameError(f'{self._path}: cannot be decoded ({error})') from error
        if given < len(numbers):
            raise FrameError(
                f'{self._path}: frame {numbers[given]}, at {wanted[given]:.3f} s, cannot be decoded'
            )

    def _window(self, frame: av.VideoFrame, window: Window) -> np.ndarray:
        if upright_size(frame) == self.size:
            return upright_rgb(frame, window)
        # Its size changes midway: as the converter does.
        image = resized(upright_rgb(frame), self.size)
        return image[window.top :, window.left :][: window.height, : window.width]


class LinkedImages(VideoFrames):
    """Frames that are images in a folder."""

    def __init__(self, folder: str, images: Sequence[tuple[str, int, int]], size: tuple[int, int]):
        """
        Args:
            folder: its path.
            images: of each frame the name of its image, and the size and time that it had.
            size: (height, width) of the frames in pixels; others are resized.
        """
        super().__init__(size)
        self._folder, self._images = folder, images

    def decode(self, numbers: Sequence[int], window: Window) -> Iterator[np.ndarray]:
        for number in numbers:
            name, *status = self._images[number]
            path = os.path.join(self._folder, name)
            if complaint := _complaint(path, *status):
                raise FrameError(f'the linked image {complaint}')
            try:
                image = read_image(path)
            except OSError as error:
                raise FrameError(f'the linked image {path}: {error.strerror}') from error
            if image is None:
                raise FrameError(f'the linked image {path} cannot be decoded')
            image = resized(image, self.size)
            yield image[window.top :, window.left :][: window.height, : window.width]


class Link:
    """What a record says of its file; `len()` tells how many frames it has."""

    def __init__(self, example: Example, where: str):
        """
        Raises:
            RecordError: a feature is missing or makes no sense, or the path leads elsewhere.
        """
        self._where = where
        self._name = _safe_path(example, where)
        self._size = tuple(
            int_feature(example, name, where) for name in (IMAGE_HEIGHT, IMAGE_WIDTH)
        )
        times, keys = (
            int_list_feature(example, name, where) for name in (FRAME_TIMES, KEY_FRAME_TIMES)
        )
        if not len(times) or any(np.any(np.diff(found) < 0) for found in (times, keys)):
            raise RecordError(f'{where}: times of frames that fall, or none')
        self._times, self._key_times = times / 1e6, (keys / 1e6).tolist()
        self._images = example.context.get(LINK_IMAGES)
        counts = [1 if self._images is None else len(times)] * 2
        status = [int_list_feature(example, name, where) for name in (LINK_SIZE, LINK_MTIME)]
        if list(map(len, status)) != counts:
            raise RecordError(f'{where}: not the size and time of every linked file')
        self._status = list(zip(*(values.tolist() for values in status)))
        if self._images is not None:
            self._images = _safe_names(self._images, len(times), where)

    def __len__(self) -> int:
        return len(self._times)

    def open(self, root: str) -> VideoFrames:
        """The frames, from the file under `root`, or the folder of images.

        Raises:
            RecordError: it is not there, or is not the one that was converted.
        """
        path = os.path.join(os.path.abspath(root), self._name)  # so that it is no URL
        if self._images is not None:  # Of these a clip looks at few.
            images = [(name, *status) for name, status in zip(self._images, self._status)]
            return LinkedImages(path, images, self._size)
        if complaint := _complaint(path, *self._status[0]):
            raise RecordError(f'{self._where}: the linked video {complaint}')
        return LinkedFrames(path, self._times.tolist(), self._key_times, self._size)


def _complaint(path: str, size: int, mtime: int) -> str:
    """What is wrong with a linked file that had this size and time; empty: nothing."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return f'{path}: no such file'
    except OSError as error:
        return f'{path}: {error.strerror}'
    # Not every file system keeps fractions of a second.
    if status.st_size == size and status.st_mtime_ns // _SECOND == mtime // _SECOND:
        return ''
    how = f'{status.st_size} bytes, were {size}'
    if status.st_size == size:
        how = 'by its time; copies must keep times, as cp -p does'
    return f'{path} has changed since its conversion ({how})'


def _safe_names(names: Sequence, count: int, where: str) -> list[str]:
    """Names of so many images, likewise within their folder."""
    if not isinstance(names, list) or len(names) != count:
        raise RecordError(f'{where}: no context feature {LINK_IMAGES!r} of {count} names')
    found = list(map(os.fsdecode, names))
    for name in found:
        if name in ('', '.', '..') or os.path.basename(name) != name or '\0' in name:
            raise RecordError(f'{where}: the linked image {name!r} is not within its folder')
    return found


def _safe_path(example: Example, where: str) -> str:
    """The path of a record; it comes from outside, and must not leave the root."""
    values = example.context.get(DATA_PATH)
    if not isinstance(values, list) or len(values) != 1 or not values[0]:
        raise RecordError(f'{where}: no context feature {DATA_PATH!r} of one path')
    path = os.fsdecode(values[0])
    parts = path.replace(os.sep, '/').split('/')
    if os.path.isabs(path) or '..' in parts or '\0' in path:
        raise RecordError(f'{where}: the linked video {path!r} is not within a directory')
    return path
