"""When the frames of a video appear, found without decoding them: by one pass over its packets.

Where the packets do not tell for certain (no or doubtful times of presentation, damage, packets
that show nothing), the video is decoded instead. Either way the times are those of `Decoder`.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math
import operator
import os
from typing import NamedTuple

import av

from data_pipelines.clip.upright_rgb import upright_size
from data_pipelines.videos.decoder import Decoder
from data_pipelines.videos.demuxer import Demuxer, VideoError, unreadable

_CACHED = 4  # videos: clips of one are converted one after the other
_WITH_HIDDEN_FRAMES = ('vp8',)  # codecs whose packets may show nothing


class Frame(NamedTuple):
    """When a frame appears, and how long it is shown: seconds."""

    time: float
    duration: float


@dataclasses.dataclass
class Timeline:
    """The frames of a video, as a `picking.Source` of their times.

    Attributes:
      listed: all frames, in the order of display.
      key_times: seconds from which decoding may begin; none where only the beginning is certain.
      size: (height, width) of the first frame, upright.
      lost: what was lost, as one line.
      others: see `picking.Source`.
    """

    listed: list[Frame]
    key_times: list[float]
    size: tuple[int, int]
    lost: str
    stated_rate: float
    max_gap: float
    first_time: float = math.nan
    last_time: float = math.nan
    last_duration: float = math.nan
    stopped_early: bool = False
    notes: list[str] = dataclasses.field(default_factory=list)

    def frames(self, start: float | None) -> Iterator[tuple[float, float]]:
        """(seconds, seconds) of every frame."""
        self.first_time = self.listed[0].time
        for frame in self.listed:
            self.last_time, self.last_duration = frame
            yield frame.time, frame.time

    def damage(self) -> str:
        return ', '.join(filter(None, [*self.notes, self.lost]))


def timeline(path: str) -> Timeline:
    """The timeline of a video.

    Raises:
      VideoError: the file is missing, empty, unreadable, has no video, or none that decodes.
    """
    try:
        status = os.stat(path)
    except OSError:
        return _read(path, 0, 0)  # says why not
    found = _read(path, status.st_size, status.st_mtime_ns)
    return dataclasses.replace(found, notes=[])


@functools.lru_cache(_CACHED)
def _read(path: str, size: int, mtime: int) -> Timeline:
    """`size`, `mtime`: of the file, so that another one of the same name is read anew."""
    try:
        with Decoder(path) as decoder:
            _, first = next(decoder.frames(), (None, None))
            if first is None:
                raise VideoError(path, 'no frame can be decoded')
            upright, header = upright_size(first), (decoder.stated_rate, decoder.max_gap)
        listed, key_times, lost = _from_packets(path) or _by_decoding(path)
        return Timeline(listed, key_times, upright, lost, *header)
    except (av.error.FFmpegError, EOFError) as error:
        raise unreadable(path, error) from error


def _from_packets(path: str) -> tuple[list[Frame], list[float], str] | None:
    """Frames, key times, what was lost; None where the packets do not tell for certain."""
    with Demuxer(path) as packets:
        if not packets.has_clock or packets.stream.codec_context.name in _WITH_HIDDEN_FRAMES:
            return None
        shown = [
            (packet.pts, packet.dts, packet.duration, packet.is_keyframe)
            for packet in packets
            if not packet.is_discard  # else an edit list hides it
        ]
        if packets.damaged or packets.jumps or not shown or not shown[0][3]:
            return None
        stamps = [pts for pts, *_ in shown]
        if stamps[0] is None:
            # Those of decoding do where they are equally far apart.
            stamps = [dts for _, dts, *_ in shown]
            if None in stamps or len(set(map(operator.sub, stamps[1:], stamps))) > 1:
                return None
        if None in stamps or len(set(stamps)) < len(stamps) or min(stamps) < stamps[0]:
            return None
        codec = packets.stream.codec_context
        if codec.name == 'mpeg4' and codec.has_b_frames and shown[0][0] is not None:
            if stamps == sorted(stamps):
                return None  # two frames in one packet, as DivX has them, written by who knows not
        listed, last = [], None
        for stamp, duration in sorted(zip(stamps, (duration for _, _, duration, _ in shown))):
            time, seconds = packets.seconds(stamp), packets.duration(duration)
            if not duration and last is not None:
                seconds = time - last
            listed.append(Frame(time, seconds))
            last = time
        keys = [stamp for stamp, (*_, is_key) in zip(stamps, shown) if is_key]
        key_times = [] if packets.joinable else [packets.seconds(key) for key in sorted(keys)]
        return listed, key_times, ''


def _by_decoding(path: str) -> tuple[list[Frame], list[float], str]:
    with Decoder(path) as decoder:
        listed = [Frame(time, decoder.last_duration) for time, _ in decoder.frames()]
        return listed, [], decoder.damage()
