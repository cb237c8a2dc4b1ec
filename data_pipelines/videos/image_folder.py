"""Folders of images as videos: Jester, Something-Something V1, MMAction's rawframes."""

from collections.abc import Callable, Iterator
import itertools
import math
import os
import re
from typing import TypeVar

import cv2
import numpy as np

from data_pipelines.probe import IMAGE_SUFFIXES, suffix_of
from data_pipelines.videos.decoder import TIME_TOLERANCE
from data_pipelines.videos.demuxer import VideoError
from data_pipelines.videos.video_file import output_size, resized

_T = TypeVar('_T')
_NUMBER = re.compile(r'(?P<kind>.*?)(?P<number>\d+)(?P<suffix>\.\w+)')
_FLOW = ('flow', 'x_', 'y_', 'u_', 'v_')  # optical flow, which lies beside the images of a video


class ImageFolderStream:
    """The frames of a folder of numbered images: as `video_file.FrameStream`, whose stand-in it is.

    Attributes, valid once the iteration has ended:
      frame_rate: frames per second.
      end: seconds at which the last frame leaves the screen.
      damage: empty, or one line: images that are missing among the numbers, or do not decode.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        images_per_second: float | None,
        images: int | None = None,
        frame_rate: float | None = None,
        start: float | None = None,
        end: float | None = None,
        short_side: int | None = None,
        upscale: bool = True,
        max_seconds: float | None = None,
    ):
        """
        Args:
          path: the folder.
          images_per_second: how many images are a second of video.
          images: how many there should be: those after are left out, those that lack are damage.
          frame_rate, start, end, short_side, upscale, max_seconds: as for `FrameStream`.

        Raises:
          VideoError: nobody says how many images are a second, or the clip has no length.
        """
        if images_per_second is None:
            raise VideoError(
                path,
                'a folder of images does not say how fast they follow each other; give '
                '--images_per_second',
            )
        self._start = start or 0.0
        if end is not None and end <= self._start:
            raise VideoError(path, f'the clip ends ({end} s) before it starts ({self._start} s)')
        self._path = os.fspath(path)
        self._own_rate, self._rate = images_per_second, frame_rate
        self._stop = min(end or math.inf, self._start + (max_seconds or math.inf))
        self._images = images
        self._short_side, self._upscale = short_side, upscale
        self._size: tuple[int, int] | None = None
        self.frame_rate = self._rate or self._own_rate
        self.end = math.nan
        self.damage = ''

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        return self._shown(self._read)

    def names(self) -> Iterator[tuple[float, str]]:
        """Of every frame its time and the name of its image, of which none is read."""
        return self._shown(lambda name: name)

    def _shown(self, read: Callable[[str], _T | None]) -> Iterator[tuple[float, _T]]:
        """Of every frame its time and what `read` gives for its image; None: it is damaged."""
        names = _frame_names(self._path)
        total = max(names) + 1 if self._images is None else self._images
        missing, undecoded = total - sum(number < total for number in names), 0
        image, read_to, first, count = None, -1, None, 0
        for time, number in self._picks(total):
            # What does not decode shows what was before.
            for candidate in range(number, read_to, -1):
                if candidate not in names:
                    continue
                found = read(names[candidate])
                if found is not None:
                    image = found
                    break
                undecoded += 1
            read_to = number
            if image is not None:
                first = time if first is None else first
                yield time, image
                count += 1
        if not count:
            reason = f'no frame at or after {self._start:g} s (the {total} images last '
            reason += f'{total / self._own_rate:.3f} s)'
            raise VideoError(self._path, 'no image can be decoded' if undecoded else reason)
        self.end = min(self._stop, first + count / self.frame_rate)
        self.damage = ', '.join(
            f'{number} {what} images'
            for number, what in ((missing, 'missing'), (undecoded, 'damaged'))
            if number
        )

    def _picks(self, total: int) -> Iterator[tuple[float, int]]:
        """(seconds, number of the image that is on screen then) of every frame of the clip."""
        finish = min(self._stop, total / self._own_rate) - TIME_TOLERANCE
        first = 0
        if self._rate is None:  # the images themselves
            first = math.ceil((self._start - TIME_TOLERANCE) * self._own_rate)
        for k in itertools.count(first):
            time = k / self._own_rate if self._rate is None else self._start + k / self._rate
            if time >= finish:
                return
            yield time, math.floor((time + TIME_TOLERANCE) * self._own_rate)

    def _read(self, name: str) -> np.ndarray | None:
        """An image, RGB u8[H, W, 3] of the output size; None: it does not decode."""
        image = read_image(os.path.join(self._path, name))
        if image is None:
            return None
        if self._size is None:
            self._size = output_size(*image.shape[:2], self._short_side, self._upscale)
        return resized(image, self._size)


def read_image(path: str) -> np.ndarray | None:
    """An image, RGB u8[H, W, 3]; None: it does not decode. Raises OSError."""
    with open(path, 'rb') as file:
        data = np.frombuffer(file.read(), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None


def _frame_names(folder: str) -> dict[int, str]:
    """Names of the images of a folder by their place, from 0; places of images that lack are free.

    Raises:
      VideoError: there are none, or not those of one video.
    """
    try:
        names = [name for name in os.listdir(folder) if suffix_of(name) in IMAGE_SUFFIXES]
    except OSError as error:
        raise VideoError(folder, f'cannot be listed ({error.strerror})') from error
    kinds: dict[str, dict[int, str]] = {}
    for name in names:
        match = _NUMBER.fullmatch(name)
        if match is not None and not match['kind'].lower().startswith(_FLOW):
            kinds.setdefault(match['kind'], {})[int(match['number'])] = name
    if not kinds:
        raise VideoError(folder, 'no numbered images in it, such as 00001.jpg')
    if len(kinds) > 1:
        shown = ', '.join(sorted(f'{kind}*' for kind in kinds)[:3])
        raise VideoError(folder, f'images of {len(kinds)} kinds in it: {shown}')
    (numbered,) = kinds.values()
    first = min(numbered)
    step = math.gcd(*(number - first for number in numbered)) or 1  # every fifth image, say
    placed = {(number - first) // step: name for number, name in numbered.items()}
    if max(placed) >= 2 * len(placed):
        raise VideoError(
            folder, f'{len(placed)} images, numbered {first} to {max(numbered)}: most are missing'
        )
    return placed
