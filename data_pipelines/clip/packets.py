"""Frames stored as H.264 packets: decoded from the key frame before the first that is wanted.

Packet k is frame k, because there are no B-frames, and every `key_interval`-th is a key frame,
which needs no other. So frames are found by number, as JPEGs are; what lies between two wanted
frames is decoded only from the last key frame before the second.

Where all are key frames, our conversion cuts them into slices, each some rows of macroblocks, of
which a clip decodes only those that its window meets. Of a frame that is wider than high the window
leaves out columns rather than rows, so such frames are stored transposed. A packet says so in its
beginning, by supplemental information that makes players show it upright (ITU-T H.264, annex D).
The decoder cannot tell a slice that was left out from one that was lost: a packet's number of
slices follows from its size, and it ends as the last of a sequence, so that one cut short is seen.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
import threading

import av
import numpy as np

from data_pipelines.clip.crops import Window
from data_pipelines.clip.decode import MAX_PIXELS, FrameError, VideoFrames
from data_pipelines.clip.upright_rgb import upright_rgb

START = b'\0\0\1'  # of every unit of a packet
SLICE = 64  # pixels of a frame's height
END = b'\x0a'  # unit: end of a sequence
_KEY_SLICE, _TYPE = 5, 0x1F
_MACROBLOCK = 16  # pixels
# What cut frames begin with: display orientation of this frame, as it is or mirrored and then
# turned by 90 degrees, which makes rows of columns. By it one knows that no filter works across
# slices, too.
UPRIGHT = b'\0' + START + bytes.fromhex('06 2f 03 00 00 14 80')
TRANSPOSED = b'\0' + START + bytes.fromhex('06 2f 03 48 00 14 80')
_thread = threading.local()


def needed(numbers: Iterable[int], key_interval: int) -> list[int]:
    """The packets, rising, that the frames of these numbers take."""
    found: list[int] = []
    for number in sorted(set(numbers)):
        begin = number // key_interval * key_interval
        if found:
            begin = max(begin, found[-1] + 1)
        found += range(begin, number + 1)
    return found


class PacketFrames(VideoFrames):
    """Frames of one record."""

    def __init__(
        self,
        packets: Sequence[bytes | memoryview] | Mapping[int, bytes | memoryview],
        key_interval: int,
        size: tuple[int, int],
    ):
        """
        Args:
            packets: by number, at least those that the wanted frames take.
            key_interval: frames from one key frame to the next.
            size: (height, width) of the frames in pixels. Packets hold even sizes: a row or column
                more where one is odd.
        """
        super().__init__(size)
        self._packets, self._key_interval = packets, key_interval

    def decode(self, numbers: Sequence[int], window: Window) -> Iterator[np.ndarray]:
        wanted = set(numbers)
        stored = tuple(side + side % 2 for side in self.size)
        for number, frame in self._frames(needed(numbers, self._key_interval), window):
            if number in wanted:
                transposed = self._packets[number][: len(TRANSPOSED)] == TRANSPOSED
                size = (frame.height, frame.width)[:: -1 if transposed else 1]
                if size != stored:
                    raise FrameError(
                        f'frame {number} is {size[0]} x {size[1]} px, the record says '
                        f'{self.size[0]} x {self.size[1]} px'
                    )
                yield upright_rgb(frame, window, transposed)

    def _part(self, number: int, window: Window) -> bytes | memoryview:
        """What of a packet it takes to decode a window."""
        packet = self._packets[number]
        begins = bytes(packet[: len(UPRIGHT)])
        if begins == TRANSPOSED:
            return _slices(packet, window.left, window.left + window.width, self.size[::-1])
        if begins == UPRIGHT:
            return _slices(packet, window.top, window.top + window.height, self.size)
        return packet

    def _frames(
        self, numbers: Sequence[int], window: Window
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        decoder, waiting = None, deque()
        for number in [*numbers, None]:  # None: what the decoder still holds
            if number is not None:
                waiting.append(number)
            try:
                part = None if number is None else self._part(number, window)
                if decoder is None:
                    cut = len(part) < len(self._packets[number])
                    decoder = _decoder(cut)
                frames = decoder.decode(part if part is None else av.Packet(part))
            except (av.error.FFmpegError, ValueError) as error:
                raise FrameError(
                    f'frame {waiting[0] if waiting else number} cannot be decoded ({error})'
                ) from error
            for frame in frames:
                if not waiting:
                    raise FrameError('more frames than packets')
                if frame.is_corrupt and not cut:
                    raise FrameError(f'frame {waiting[0]} cannot be decoded (a part of it lacks)')
                yield waiting.popleft(), frame
        if waiting:
            raise FrameError(f'frame {waiting[0]} cannot be decoded (its packet gives none)')


def _slices(
    packet: bytes | memoryview, top: int, bottom: int, size: tuple[int, int]
) -> bytes | memoryview:
    """A packet of one frame that is cut without the slices that have none of these rows of pixels.

    Args:
        packet: with the parts that are no slices first.
        top, bottom: the rows from one to before the other.
        size: (height, width) of the frame as it is stored.

    Raises:
        ValueError: something of it lacks.
    """
    *units, end = bytes(packet).split(START)
    slices = [unit for unit in units if unit[:1] and unit[0] & _TYPE == _KEY_SLICE]
    count = -(-size[0] // SLICE)
    if end != END or len(slices) != count:
        raise ValueError(f'it has {len(slices)} of {count} slices, or is cut short')
    in_row = -(-size[1] // _MACROBLOCK)
    first, last = top // _MACROBLOCK * in_row, -(-bottom // _MACROBLOCK) * in_row  # macroblocks
    begins = [*map(_first_macroblock, slices), last]
    kept = [
        unit
        for unit, begin, next_begin in zip(slices, begins, begins[1:])
        if begin < last and next_begin > first
    ]
    return packet if len(kept) == count else START.join([*units[: len(units) - count], *kept])


def _first_macroblock(unit: bytes) -> int:
    """Of a slice: in Exp-Golomb code, one more, after as many zeros as it has bits but one."""
    bits = int.from_bytes(unit[1:6].ljust(5, b'\0'))
    return (bits >> max(0, 2 * bits.bit_length() - 41)) - 1


def _decoder(cut: bool) -> av.CodecContext:
    """The calling thread's, ready for a key frame:
    opening one anew takes longer than many frames.

    `cut`: parts that lack are left as they are; else they are guessed, and the frame is corrupt.
    """
    decoders = _thread.__dict__.setdefault('decoders', {})
    if cut not in decoders:
        decoder = decoders[cut] = av.CodecContext.create('h264', 'r')
        # Clips are decoded side by side, which makes better use of cores than threads inside one.
        decoder.thread_count = 1
        decoder.options = {'err_detect': 'explode', 'max_pixels': str(MAX_PIXELS)}
        decoder.options |= {'ec': '0'} if cut else {}
        decoder.open()
    decoders[cut].flush_buffers()
    return decoders[cut]
