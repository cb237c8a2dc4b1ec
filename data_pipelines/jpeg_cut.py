"""Smaller JPEGs cut out of JPEGs without decoding them: only what covers a window is left to decode.

Where a JPEG has restart markers (ITU-T T.81, B.2.4.4 and F.1.1.5.1), every run of ``interval`` MCUs (squares of 8 or 16
pixels) is coded for itself. Where runs do not cross from one row of MCUs into the next, those that cover a window, behind
the same header with another height and width, are a JPEG again, whose pixels are exactly those of the whole one. Our
conversion writes such JPEGs; of others nothing is cut, and they are decoded as they are.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from data_pipelines.array_pool import scratch
from data_pipelines.frames import Window

_BASELINE, _SCAN, _INTERVAL = 0xC0, 0xDA, 0xDD  # markers SOF0, SOS, DRI
_OTHER_FRAMES = {*range(0xC1, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF1 to SOF15
_END = b'\xff\xd9'
_RESTARTS = bytes(range(0xD0, 0xD8))  # RST0 to RST7
_MAX_PIXELS = 1 << 18  # of a JPEG: what it becomes shall fit into the processor's cache
_MAX_KEPT = 0.9  # of a frame, above which cutting costs more than it saves


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What the header of a JPEG says, as far as it matters here.

    Attributes:
        header: the bytes before the coded pixels.
        size_at: where in them height and width are, two bytes each.
        size: (height, width) in pixels.
        mcu: (height, width) of an MCU in pixels.
        interval: MCUs between restart markers.
    """

    header: bytes
    size_at: int
    size: tuple[int, int]
    mcu: tuple[int, int]
    interval: int


def _read_layout(frame: bytes | memoryview) -> _Layout | None:
    """None: not a baseline JPEG of one scan with restart markers."""
    position, interval, size_at, mcu, num_components = 2, 0, None, None, None
    while position + 4 <= len(frame) and frame[position] == 0xFF:
        marker, end = frame[position + 1], position + 2 + (frame[position + 2] << 8 | frame[position + 3])
        content = bytes(frame[position + 4 : end])
        if marker == _BASELINE and size_at is None and len(content) >= 9:
            size_at, num_components = position + 5, content[5]
            mcu = _mcu_size(content[6:], num_components)
        elif marker in _OTHER_FRAMES or marker == _BASELINE:
            return None
        elif marker == _INTERVAL and len(content) == 2:
            interval = int.from_bytes(content)
        elif marker == _SCAN:
            if mcu is None or not interval or content[:1] != bytes([num_components]):
                return None
            header = bytes(frame[:end])
            height, width = (int.from_bytes(header[at : at + 2]) for at in (size_at, size_at + 2))
            return _Layout(header, size_at, (height, width), mcu, interval)
        position = end
    return None


def _mcu_size(components: bytes, count: int) -> tuple[int, int] | None:
    """(height, width) in pixels from the frame header's components, three bytes each; None: unusual."""
    if count == 1:
        return 8, 8  # Whatever its sampling factors: A.2.2.
    across, down = zip(*((factors >> 4, factors & 15) for factors in components[1::3]))
    if count != 3 or len(components) != 9 or not 1 <= min(across + down):
        return None
    return 8 * max(down), 8 * max(across)


@dataclasses.dataclass(frozen=True)
class Cut:
    """What is left of some frames.

    Attributes:
        jpegs: each with how many frames it shows, one below the other.
        part: what is left of each frame, in pixels of the whole one; corners are multiples of 8.
        height: of a frame in ``jpegs``, a multiple of 8: that of ``part``, and what fills its last MCUs.
    """

    jpegs: list[tuple[bytes, int]]
    part: Window
    height: int


def cut(frames: Sequence[bytes | memoryview], size: tuple[int, int], window: Window) -> Cut | None:
    """JPEGs of no more of ``frames`` than it takes to cover ``window``.

    Args:
        frames: JPEGs, or whatever was stored.
        size: (height, width) of the frames in pixels.
        window: in pixels, inside the frames.

    Returns:
        None where nothing is to be gained, or where frames are not JPEGs of one size and header with restart markers in
        places that suit; damaged ones may be among those.
    """
    layout = _read_layout(frames[0])
    if layout is None or layout.size != size:
        return None
    (height, width), (mcu_height, mcu_width) = size, layout.mcu
    run_width = layout.interval * mcu_width
    rows, runs = -(-height // mcu_height), -(-width // run_width)
    top, bottom = window.top // mcu_height, -(-(window.top + window.height) // mcu_height)
    left, right = window.left // run_width, -(-(window.left + window.width) // run_width)
    kept = (bottom - top) * (right - left) / (rows * runs)
    if kept > _MAX_KEPT or -(-width // mcu_width) % layout.interval:
        return None
    header, begin = layout.header, len(layout.header)
    if any(bytes(frame[:begin]) != header for frame in frames):  # Views are compared byte by byte.
        return None
    coded = _joined([frame[begin:] for frame in frames])
    found = _runs(coded, np.array([len(frame) - begin for frame in frames]), rows * runs)
    if found is None:
        return None
    starts, ends = (places.reshape(-1, rows, runs)[:, top:bottom, left:right] for places in found)  # [N, rows, runs]
    height_left, width_left = (bottom - top) * mcu_height, min(right * run_width, width) - left * run_width
    together = max(1, _MAX_PIXELS // (height_left * (right - left) * run_width))  # frames in a JPEG
    jpegs = []
    for first in range(0, len(frames), together):
        own = slice(first, first + together)
        count = len(starts[own])
        size = (count * height_left).to_bytes(2) + width_left.to_bytes(2)
        resized = header[: layout.size_at] + size + header[layout.size_at + 4 :]
        jpegs.append((_assemble(resized, coded, starts[own], ends[own]), count))
    part = Window(top * mcu_height, left * run_width, min(bottom * mcu_height, height) - top * mcu_height, width_left)
    return Cut(jpegs, part, height_left)


def _joined(parts: list[bytes | memoryview]) -> np.ndarray:
    """u8[8 n], the parts and zeros behind them, until the next call."""
    size = sum(map(len, parts))
    joined = scratch('joined', (size + 8) & -8)
    view, position = memoryview(joined), 0
    for part in parts:
        view[position : position + len(part)] = part
        position += len(part)
    joined[size:] = 0
    return joined


def _runs(coded: np.ndarray, sizes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Where the runs of MCUs begin and end, without the markers behind them, i64[N, count] each, in the coded pixels of N frames.

    None: not all of them are ``count`` runs with the right markers behind them, and nothing else.
    """
    places = _find(coded, 0xFF)
    codes = coded[places + 1]
    are_markers = codes != 0
    codes, ends = codes[are_markers], places[are_markers]
    if len(ends) != len(sizes) * count:
        return None
    codes, ends = codes.reshape(-1, count), ends.reshape(-1, count)
    if (
        (codes[:, :-1] != _restart_codes(count - 1)).any()
        or (codes[:, -1] != _END[1]).any()
        or (ends[:, -1] + 2 != np.cumsum(sizes)).any()
    ):
        return None
    return np.concatenate([[0], ends.ravel()[:-1] + 2]).reshape(ends.shape), ends


def _find(values: np.ndarray, wanted: int) -> np.ndarray:
    """i64[found], where ``values``, u8[8 n], are ``wanted``; where that is rare, four times as fast as ``flatnonzero``."""
    hits = np.equal(values, wanted, out=scratch('hits', len(values)).view(bool)).view(np.uint64)
    eights = np.flatnonzero(hits != 0)
    inside = np.flatnonzero(hits[eights].view(bool))
    return 8 * eights[inside >> 3] + (inside & 7)


def _assemble(header: bytes, coded: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> bytes:
    """A JPEG of runs of MCUs, i64[N, rows, runs]; changes the markers before them in ``coded``."""
    inner = starts.ravel()[1:] - 1  # Of the code of the marker between a run and that before.
    coded[inner] = _restart_codes(len(inner))
    starts, ends = (starts[:, :, 0] - 2).ravel().tolist(), ends[:, :, -1].ravel().tolist()  # Rows, with the marker before,
    starts[0] += 2  # except the first.
    view = memoryview(coded)
    return b''.join([header, *(view[start:end] for start, end in zip(starts, ends)), _END])


def _restart_codes(count: int) -> np.ndarray:
    """u8[count], the second bytes of restart markers, which count modulo 8."""
    return np.frombuffer(_RESTARTS * (count // 8 + 1), np.uint8, count)
