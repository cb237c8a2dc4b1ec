"""Frames stored as H.264 packets: decoded from the key frame before the first that is wanted.

Packet k is frame k, because there are no B-frames, and every `key_interval`-th is a key frame,
which needs no other. So frames are found by number, as JPEGs are; what lies between two wanted
frames is decoded only from the last key frame before the second.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
import threading

import av
import numpy as np

from data_pipelines.clip import pixels
from data_pipelines.clip.crops import Window
from data_pipelines.clip.decode import MAX_PIXELS, FrameError, VideoFrames

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
        for number, frame in self._frames(needed(numbers, self._key_interval)):
            if number in wanted:
                if (frame.height, frame.width) != stored:
                    raise FrameError(
                        f'frame {number} is {frame.height} x {frame.width} px, the record says '
                        f'{self.size[0]} x {self.size[1]} px'
                    )
                yield pixels.rgb(frame, window)

    def _frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        decoder, waiting = _decoder(), deque()
        for number in [*numbers, None]:  # None: what the decoder still holds
            if number is not None:
                waiting.append(number)
            try:
                packet = None if number is None else av.Packet(self._packets[number])
                frames = decoder.decode(packet)
            except (av.error.FFmpegError, ValueError) as error:
                raise FrameError(
                    f'frame {waiting[0] if waiting else number} cannot be decoded ({error})'
                ) from error
            for frame in frames:
                if not waiting:
                    raise FrameError('more frames than packets')
                yield waiting.popleft(), frame
        if waiting:
            raise FrameError(f'frame {waiting[0]} cannot be decoded (its packet gives none)')


def _decoder() -> av.CodecContext:
    """The calling thread's, ready for a key frame:
    opening one anew takes longer than many frames.
    """
    decoder = getattr(_thread, 'decoder', None)
    if decoder is None:
        decoder = _thread.decoder = av.CodecContext.create('h264', 'r')
        # Clips are decoded side by side, which makes better use of cores than threads inside one.
        decoder.thread_count = 1
        decoder.options = {'err_detect': 'explode', 'max_pixels': str(MAX_PIXELS)}
        decoder.open()
    decoder.flush_buffers()
    return decoder
