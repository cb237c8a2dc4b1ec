"""Encoded frames -> uint8 clips: only the frames and the pixels that a clip shows.

Decoding by libjpeg-turbo through `simplejpeg`, resizing by OpenCV; both release Python's global
lock. The accurate integer DCT costs 5 % more than the fast one (which TensorFlow uses), which errs
by up to 8 levels at JPEG quality 100. Subsampled colour is interpolated in test clips ("fancy", as
TensorFlow does) and repeated in training clips ("box", as FFmpeg's fast conversion does): a tenth
of decoding saved for a mean difference of 0.4 levels, at edges of colour. Resizing is bilinear with
half-pixel centres and no antialiasing, as in PySlowFast and DMVR, rounded to the nearest level: by
Intel's IPP where OpenCV has it (x86), which is a quarter faster than OpenCV's own code and at most
0.51 levels off instead of 0.76; OpenCV calls it "not exact" because it is not equal to its own. PNG
frames, which other writers store, are decoded by OpenCV; a gray frame gives three equal channels.

Of frames with restart markers, which our conversion writes, training clips decode only the part
that covers their window (`jpeg_cut`): the same pixels, in two thirds of the time.

`reduced=True` lets libjpeg-turbo decode straight to a half, quarter or eighth of the stored size
(in the DCT) where that still holds at least as many pixels as the result needs. It is faster, but
not equal to the reference: unlike plain bilinear shrinking it is antialiased, and edges move by up
to half a pixel of the reduced frame.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
import struct
import threading

import cv2
import numpy as np
import simplejpeg

from data_pipelines.clip import jpeg_cut
from data_pipelines.clip.crops import Window
from data_pipelines.workers import scratch

_thread = threading.local()
# 8192 x 8192: a header that promises more is damaged, or meant to exhaust memory.
MAX_PIXELS = 1 << 26
_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'


class FrameError(ValueError):
    """A frame of a record cannot be decoded, or differs in size from the others."""


class VideoFrames(abc.ABC):
    """Frames of a record that depend on one another: a decoder gives them in order of time.

    Attributes:
        size: (height, width) of every frame in pixels.
    """

    def __init__(self, size: tuple[int, int]):
        if not 0 < size[0] * size[1] <= MAX_PIXELS:
            raise FrameError(f'{size[1]} x {size[0]} px: too large to be true')
        self.size = size

    @abc.abstractmethod
    def decode(self, numbers: Sequence[int], window: Window) -> Iterator[np.ndarray]:
        """Pixels, RGB u8[h, w, 3], of a window in some frames; an array is valid until the next.

        Args:
            numbers: of the frames, rising.
            window: in pixels, inside the frames.

        Raises:
            FrameError: a frame cannot be decoded.
        """


# What is stored of the frames of a record, by number: JPEG or PNG, or what a decoder takes.
Frames = Sequence[bytes | memoryview] | Mapping[int, bytes | memoryview] | VideoFrames


class _naming:
    """Makes a decoder's complaint name the frame (`contextlib` would take 3 % of making a clip)."""

    __slots__ = ('_number',)

    def __init__(self, number: int):
        self._number = number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if (
            isinstance(error, (ValueError, RuntimeError, MemoryError, cv2.error))
            and kind is not FrameError
        ):
            raise FrameError(
                f'frame {self._number} cannot be decoded as JPEG or PNG ({error})'
            ) from error


def _is_png(frame: bytes | memoryview) -> bool:
    return frame[:8] == _PNG_SIGNATURE


def frame_size(frames: Frames, number: int = 0) -> tuple[int, int]:
    """(height, width) of a stored frame in pixels, from its header.

    Raises:
        FrameError: neither JPEG nor PNG.
    """
    if isinstance(frames, VideoFrames):
        return frames.size
    with _naming(number):
        frame = frames[number]
        if _is_png(frame):
            if len(frame) < 24:
                raise ValueError('cut short inside the header')
            width, height = struct.unpack('>II', frame[16:24])
        else:
            height, width, _, _ = simplejpeg.decode_jpeg_header(frame)
        if not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f'{width} x {height} px: too large to be true')
    return height, width


def _reduction(available: tuple[int, int], needed: tuple[int, int]) -> int:
    """The largest of 8, 4, 2, 1 that divides (height, width) without falling below `needed`."""
    for factor in (8, 4, 2):
        if all(size >= factor * wanted for size, wanted in zip(available, needed)):
            return factor
    return 1


def _fetch(frames: Frames, number: int) -> bytes | memoryview:
    with _naming(number):
        return frames[number]


def _decode(
    frame: bytes | memoryview, number: int, size: tuple[int, int], factor: int, *, box: bool = False
) -> np.ndarray:
    """A frame that is to be of `size` = (H, W), as RGB u8[ceil(H/factor), ceil(W/factor), 3].

    `number`: what messages call it. `box`: repeat subsampled colour instead of interpolating it.
    """
    height, width = -(-size[0] // factor), -(-size[1] // factor)
    if (found := frame_size({number: frame}, number)) != size:  # Before memory is asked for.
        _refuse_size(number, found, size)
    with _naming(number):
        if _is_png(frame):
            image = _decode_png(frame)
            if factor > 1:
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        else:
            image = _decode_jpeg(frame, size, factor, box)
    if image.shape[:2] != (height, width):
        _refuse_size(number, image.shape[:2], size)
    return image


def _decode_jpeg(
    jpeg: bytes | memoryview,
    size: tuple[int, int],
    factor: int,
    box: bool,
    buffer: np.ndarray | None = None,
) -> np.ndarray:
    """As `_decode`, unchecked. `buffer`: u8, to hold the result."""
    scale = {}
    if factor > 1:
        scale = dict(
            min_height=-(-size[0] // factor), min_width=-(-size[1] // factor), min_factor=factor
        )
    return simplejpeg.decode_jpeg(jpeg, fastupsample=box, buffer=buffer, **scale)


def _decode_cut(
    cut: jpeg_cut.Cut, frames: Mapping[int, bytes | memoryview], size: tuple[int, int], factor: int
) -> Iterator[np.ndarray]:
    """What is left of each frame, u8[h, w, 3], until the next is asked for.

    `frames`, `size`: the whole ones.
    """
    width = cut.part.width
    for jpeg, count in cut.jpegs:
        height = count * cut.height
        try:
            stack = _decode_jpeg(
                jpeg, (height, width), factor, True, scratch('pixels', height * width * 3)
            )
        except (ValueError, RuntimeError, MemoryError) as error:
            for number, frame in frames.items():  # To name the one that is damaged.
                _decode(frame, number, size, factor)
            raise FrameError(f'frames cannot be decoded ({error})') from error
        yield from stack.reshape(count, cut.height // factor, -(-width // factor), 3)


def _decode_png(frame: bytes | memoryview) -> np.ndarray:
    image = cv2.imdecode(
        np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if image is None:
        raise ValueError('damaged PNG')
    return image


def _refuse_size(number: int, found: tuple[int, int], wanted: tuple[int, int]):
    raise FrameError(
        f'frame {number} is {found[0]} x {found[1]} px, other frames of the record are '
        f'{wanted[0]} x {wanted[1]} px'
    )


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """u8[H, W, 3] at `size` = (height, width), bilinear: see the module's text."""
    _use_ipp()
    return _resize(image, size)


def _use_ipp() -> None:
    """Holds for the thread that calls it, from then on."""
    if not getattr(_thread, 'uses_ipp', False):  # OpenCV would wait for the global lock every time.
        cv2.ipp.setUseIPP_NotExact(True)
        _thread.uses_ipp = True


def _resize(image: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
    return cv2.resize(image, size[::-1], dst=out, interpolation=cv2.INTER_LINEAR)


def decode_frame(frames: Frames, number: int, factor: int = 1) -> np.ndarray:
    """One whole frame, RGB u8[ceil(H/factor), ceil(W/factor), 3]; factor 1, 2, 4 or 8.

    Raises:
        FrameError: neither JPEG nor PNG, or damaged.
    """
    if not isinstance(frames, VideoFrames):
        return _decode(_fetch(frames, number), number, frame_size(frames, number), factor)
    height, width = frames.size
    (image,) = frames.decode([number], Window(0, 0, height, width))
    if factor == 1:
        return image.copy()
    size = -(-width // factor), -(-height // factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def decode_window(
    frames: Frames,
    numbers: np.ndarray,
    window: Window,
    out: np.ndarray,
    *,
    flip: bool = False,
    reduced: bool = False,
) -> None:
    """Decodes a training clip: of each frame the pixels in `window`, resized to `out`.

    Args:
        frames: encoded, at least those of `numbers`.
        numbers: i64[T], which frames; a frame that occurs again is decoded once.
        window: in pixels of the stored frame, inside it.
        out: u8[T, h, w, 3], contiguous; receives the clip.
        flip: mirror left and right.
        reduced: see the module's text.

    Raises:
        FrameError: a frame is neither JPEG nor PNG, is damaged in or near the window, or differs in
            size from the first one asked for.
    """
    _use_ipp()
    target = out.shape[1:3]
    first_place = {}  # of each frame in the clip
    for place, number in enumerate(numbers.tolist()):
        first_place.setdefault(number, place)
    if isinstance(frames, VideoFrames):
        images = frames.decode(sorted(first_place), window)
    else:
        images = _windows(frames, sorted(first_place), window, target if reduced else None)
    for number, pixels in zip(sorted(first_place), images, strict=True):
        if pixels.shape[:2] == target:
            out[first_place[number]] = pixels
        else:
            _resize(pixels, target, out[first_place[number]])
    for place, number in enumerate(numbers.tolist()):
        if place != first_place[number]:
            out[place] = out[first_place[number]]
    if flip:
        rows = out.reshape(-1, *out.shape[2:])
        cv2.flip(rows, 1, dst=rows)


def _windows(
    frames: Sequence[bytes | memoryview] | Mapping[int, bytes | memoryview],
    numbers: Sequence[int],
    window: Window,
    reduced_to: tuple[int, int] | None,
) -> Iterator[np.ndarray]:
    """Pixels of a window in each of some JPEGs or PNGs, u8[h, w, 3], until the next is asked for.

    `reduced_to`: (height, width) of which as many pixels suffice; None: as stored.
    """
    size = frame_size(frames, numbers[0])
    factor = 1 if reduced_to is None else _reduction((window.height, window.width), reduced_to)
    encoded = {number: _fetch(frames, number) for number in numbers}
    cut = jpeg_cut.cut(list(encoded.values()), size, window)
    if cut is None:
        above, before = 0, 0
        images = (
            _decode(frame, number, size, factor, box=True) for number, frame in encoded.items()
        )
    else:
        above, before = cut.part.top // factor, cut.part.left // factor  # Without remainder.
        images = _decode_cut(cut, encoded, size, factor)
    top, bottom = (
        round(edge / factor) - above for edge in (window.top, window.top + window.height)
    )
    left, right = (
        round(edge / factor) - before for edge in (window.left, window.left + window.width)
    )
    for image in images:
        yield image[top:bottom, left:right]


def decode_views(
    frames: Frames,
    numbers: np.ndarray,
    scaled: tuple[int, int],
    corners: Sequence[tuple[int, int]],
    out: Sequence[np.ndarray],
    *,
    reduced: bool = False,
) -> None:
    """Decodes the test views of a record: V clips of S crops each; each frame is decoded once.

    Args:
        frames: encoded, at least those of `numbers`.
        numbers: i64[V, T], which frames make each temporal clip.
        scaled: (height, width) to which whole frames are resized.
        corners: S times (top, left) of a crop in the resized frame; its size is that of `out`.
        out: V * S arrays u8[T, h, w, 3], the crops of a clip one after another; receive the views.
        reduced: see the module's text.

    Raises:
        FrameError: a frame is neither JPEG nor PNG, is damaged, or differs in size from the first
            one asked for.
    """
    _use_ipp()
    crop_height, crop_width = out[0].shape[1:3]
    for number, image in _whole_frames(frames, np.unique(numbers).tolist(), scaled, reduced):
        if image.shape[:2] != scaled:
            image = _resize(image, scaled)
        for view, place in np.argwhere(numbers == number).tolist():
            for crop, (top, left) in enumerate(corners):
                cropped = image[top : top + crop_height, left : left + crop_width]
                out[view * len(corners) + crop][place] = cropped


def _whole_frames(
    frames: Frames, numbers: list[int], scaled: tuple[int, int], reduced: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Each of some frames, where `reduced` at a smaller size that is not below `scaled`."""
    size = frame_size(frames, numbers[0])
    if isinstance(frames, VideoFrames):
        yield from zip(numbers, frames.decode(numbers, Window(0, 0, *size)), strict=True)
        return
    factor = _reduction(size, scaled) if reduced else 1
    for number in numbers:
        image = _decode(_fetch(frames, number), number, size, factor)
        # No half-filled pixels.
        yield number, image[: round(size[0] / factor), : round(size[1] / factor)]
