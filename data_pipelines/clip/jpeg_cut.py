"""Smaller JPEGs cut out of JPEGs without decoding them: what covers a window is left to decode.

Where a JPEG has restart markers (ITU-T T.81, B.2.4.4 and F.1.1.5.1), every run of `interval` MCUs
(rectangles of 8 to 32 pixels) is coded for itself. Where no run goes on in the next row of MCUs,
those that cover a window, behind the same header with another height and width, are a JPEG again.
Its pixels are exactly those of the whole one where colour is repeated; interpolated, it would miss
its neighbours. The runs of several frames, one below the other, are a JPEG, too: fewer, larger ones
take less time. Our conversion writes such markers; frames of others are decoded as they are.

Damage to what is cut away goes unnoticed, as damage to a frame that no clip shows does: records
have checksums.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from data_pipelines.clip.crops import Window
from data_pipelines.workers import scratch

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

    def header_of(self, height: int, width: int) -> bytes:
        """The same of another size."""
        size = height.to_bytes(2) + width.to_bytes(2)
        return self.header[: self.size_at] + size + self.header[self.size_at + len(size) :]


def _read_layout(frame: bytes | memoryview) -> _Layout | None:
    """None: not a baseline JPEG of one scan with restart markers."""
    position, interval, size_at, mcu, num_components = 2, 0, None, None, None
    while position + 4 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        end = position + 2 + (frame[position + 2] << 8 | frame[position + 3])
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
    """(height, width) in pixels from the frame header's components of 3 bytes; None: unusual."""
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
        height: of a frame in `jpegs`, a multiple of 8: that of `part`, and what fills its last
            MCUs.
    """

    jpegs: list[tuple[bytes, int]]
    part: Window
    height: int


def cut(frames: Sequence[bytes | memoryview], size: tuple[int, int], window: Window) -> Cut | None:
    """JPEGs of no more of `frames` than it takes to cover `window`.

    Args:
        frames: JPEGs, or whatever was stored.
        size: (height, width) of the frames in pixels.
        window: in pixels, inside the frames.

    Returns:
        None where nothing is to be gained, or where frames are not JPEGs of one size and header
        with restart markers in places that suit; damaged ones may be among those.
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
    begin = len(layout.header)
    # Views would be compared byte by byte.
    if any(bytes(frame[:begin]) != layout.header for frame in frames):
        return None
    coded = _joined([frame[begin:] for frame in frames])
    found = _runs(coded, np.array([len(frame) - begin for frame in frames]), rows * runs)
    if found is None:
        return None
    shape = -1, rows, runs
    starts, ends = (places.reshape(shape)[:, top:bottom, left:right] for places in found)
    height_left = (bottom - top) * mcu_height
    width_left = min(right * run_width, width) - left * run_width
    together = max(1, _MAX_PIXELS // (height_left * (right - left) * run_width))  # frames in a JPEG
    jpegs = []
    for first in range(0, len(frames), together):
        own = slice(first, first + together)
        count = len(starts[own])
        resized = layout.header_of(count * height_left, width_left)
        jpegs.append((_assemble(resized, coded, starts[own], ends[own]), count))
    part = Window(
        top * mcu_height,
        left * run_width,
        min(bottom * mcu_height, height) - top * mcu_height,
        width_left,
    )
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
    """Where the runs of MCUs begin and end, i64[N, count] each, in the coded pixels of N frames.

    The markers behind them are not part of them. None: some frame is not `count` runs, each with
    the right marker.
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
    """i64[found], where `values`, u8[8 n], are `wanted`; if rarely, faster than `flatnonzero`."""
    hits = np.equal(values, wanted, out=scratch('hits', len(values)).view(bool)).view(np.uint64)
    eights = np.flatnonzero(hits != 0)
    inside = np.flatnonzero(hits[eights].view(bool))
    return 8 * eights[inside >> 3] + (inside & 7)


def _assemble(header: bytes, coded: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> bytes:
    """A JPEG of runs of MCUs, i64[N, rows, runs]; changes the markers before them in `coded`."""
    second_bytes = starts.ravel()[1:] - 1
    coded[second_bytes] = _restart_codes(len(second_bytes))
    # Of rows, with the marker before each but the first.
    starts, ends = starts[:, :, 0].ravel() - 2, ends[:, :, -1].ravel()
    starts[0] += 2
    view = memoryview(coded)
    return b''.join(
        [header, *(view[start:end] for start, end in zip(starts.tolist(), ends.tolist())), _END]
    )


def _restart_codes(count: int) -> np.ndarray:
    """u8[count], the second bytes of restart markers, which count modulo 8."""
    return np.frombuffer(_RESTARTS * (count // 8 + 1), np.uint8, count)
