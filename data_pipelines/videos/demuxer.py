"""Packets of a video file, their timestamps made to go on where the file lets them jump.

Nothing is decoded here. What is decided, for everybody who reads a video file:

* Of several video streams the one of the largest resolution is read, as the ffmpeg program does
  (cover art last).
* Containers that state no presentation times (AVI, some of ASF, raw streams) get none invented:
  FFmpeg's `genpts` numbers packets in the order of decoding, which is wrong for B-frames.
* Timestamps that begin anew (joined recordings), jump far ahead, or are absurd for a single packet
  go on where the last packet ended, as in the ffmpeg program. Each such place is kept in `jumps`.
"""

from collections.abc import Iterator
import os
import sys

import av

from data_pipelines.videos.sources import VideoError, open_source

# As in the ffmpeg program (its `dts_delta_threshold`) for containers that are recorded or cut
# anywhere, such as MPEG-TS; a gap in the others is likelier to be meant: a slide, a still scene.
_MAX_GAP_OF_RECORDINGS = 10.0  # seconds
_MAX_GAP = 60.0  # seconds
_MAX_STEP_BACK_OF_RECORDINGS = 0.1  # seconds
_MAX_STEP_BACK = 1.0  # seconds; between neighbours in the order of decoding
_MAX_DELAY = 10.0  # seconds between the times of decoding and of presentation
MAX_FRAME_PIXELS = 1 << 26  # 8192 x 8192: beyond that a damaged header is likelier than a video


def unreadable(path: str | os.PathLike, error: Exception) -> VideoError:
    """FFmpeg's complaint about a file in our form."""
    reason = getattr(error, 'strerror', None) or type(error).__name__
    return VideoError(path, f'empty or unreadable ({reason})')


class Demuxer:
    """Gives the packets of a video's largest stream, in the order of decoding.

    Close it, or use it in a `with`.

    Attributes:
      stream: of PyAV; decodes the packets.
      time_base: seconds of a tick of the packets' timestamps.
      beginning: seconds on the file's clock at which the video begins.
      stated_rate: frames per second by the header, 25 where it has none.
      has_clock: False of raw streams, whose packets are only counted.
      joinable: whether recordings in this container may be joined byte by byte, so that its clock
        cannot be trusted for seeking.
      max_gap: seconds without a frame that are believed.
      jumps: seconds since the beginning at which timestamps jumped.
      damaged: packets that could not be read, or are marked as damaged.
      stated_seconds: how long the video is by the header; None where it does not say.
    """

    def __init__(self, path: str, silence: float | None = None):
        """
        Args:
          path, silence: as for `sources.open_source`.

        Raises:
          VideoError: the file is missing, empty, or has no video.
          av.error.FFmpegError: it is unreadable.
        """
        self._container = open_source(path, silence)
        try:
            self.stream = _largest_stream(self._container, path)
        except VideoError:
            self.close()
            raise
        file_format = self._container.format
        recorded = bool(file_format.flags & av.format.Flags.ts_discont.value)
        self.joinable = recorded or file_format.name == 'flv'
        self.has_clock = not file_format.flags & av.format.Flags.no_timestamps.value
        self.max_gap = _MAX_GAP_OF_RECORDINGS if recorded else _MAX_GAP
        self._max_step_back = _MAX_STEP_BACK_OF_RECORDINGS if recorded else _MAX_STEP_BACK
        self.time_base = float(self.stream.time_base)
        self.beginning = (self._container.start_time or 0) / av.time_base
        self.stated_rate = float(self.stream.average_rate or self.stream.guessed_rate or 25)
        self._usual_duration = 1 / self.stated_rate
        duration = self._container.duration
        self.stated_seconds = duration / av.time_base if duration and duration > 0 else None
        self._begin_clock()
        self.jumps: list[float] = []
        self.damaged = 0

    def __enter__(self) -> 'Demuxer':
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def seek(self, seconds: float) -> None:
        """Goes to a key frame before `seconds` since the beginning, or as near as the file allows.

        Raises:
          av.error.FFmpegError: the file cannot be sought in.
        """
        target = int((seconds + self.beginning) / self.time_base)
        self._container.seek(target, stream=self.stream)
        self._begin_clock()

    def _begin_clock(self) -> None:
        self._shift = 0  # ticks by which the file's timestamps are moved
        self._expected: int | None = None  # ticks at which the next packet is to be decoded
        # Ticks at which the last frame so far leaves the screen; None: no longer known.
        self._end: int | None = -sys.maxsize

    def __iter__(self) -> Iterator[av.Packet]:
        """Packets; where the file is damaged they may end early."""
        packets = self._container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.ExitError:  # nothing came for too long: the end of what is being made
                return
            except av.error.FFmpegError:
                self.damaged += 1
                return
            if packet is None:
                return
            if packet.size:  # an empty one would end the decoder
                self.damaged += packet.is_corrupt
                self._continue(packet)
                yield packet

    def duration(self, ticks: int | None) -> float:
        """Seconds of a packet or frame of this duration; of an unlikely one the last likely."""
        seconds = (ticks or 0) * self.time_base
        if 0 < seconds <= self.max_gap:
            self._usual_duration = seconds
        return self._usual_duration

    def seconds(self, ticks: int) -> float:
        """Seconds since the beginning of a timestamp."""
        return ticks * self.time_base - self.beginning

    def told_jumps(self) -> list[str]:
        """The jumps so far as a line; none if there is none."""
        if not self.jumps:
            return []
        more = f' and {len(self.jumps) - 1} times more' if self.jumps[1:] else ''
        return [f'times jump at {self.jumps[0]:.3f} s{more}; they go on without a gap']

    def _continue(self, packet: av.Packet) -> None:
        """Moves a packet's timestamps so that they go on from those of the last ones."""
        stated = packet.pts if packet.dts is None else packet.dts
        if stated is None:
            return
        step = round(self.duration(packet.duration) / self.time_base)
        # An absurd time of presentation beside a likely one of decoding.
        jumps = packet.pts is not None and abs(packet.pts - stated) * self.time_base > _MAX_DELAY
        if jumps:
            packet.pts = None
        if self._expected is not None:
            ahead = (stated + self._shift - self._expected) * self.time_base
            # Times of presentation fall within a group of B-frames.
            step_back = _MAX_DELAY if packet.dts is None else self._max_step_back
            if not -step_back <= ahead <= self.max_gap:
                jumps = True
                if packet.is_keyframe and packet.pts is not None and self._end is not None:
                    self._shift = self._end - packet.pts  # all that follows appears after it
                else:
                    self._shift = self._expected - stated
        self._expected = stated + self._shift + step
        if packet.dts is not None:
            packet.dts += self._shift
        if packet.pts is None:
            self._end = None
        else:
            packet.pts += self._shift
            if self._end is not None:
                self._end = max(self._end, packet.pts + step)
        if jumps:
            shown = packet.dts if packet.pts is None else packet.pts
            self.jumps.append(max(0.0, self.seconds(shown)))


def _largest_stream(container: av.container.InputContainer, path: str) -> av.VideoStream:
    streams = container.streams.video
    if not streams:
        raise VideoError(path, 'no video stream')
    cover = av.stream.Disposition.attached_pic

    def preference(stream):
        # Without a decoder a stream has no size.
        pixels = 0 if stream.codec_context is None else (stream.width or 0) * (stream.height or 0)
        return not stream.disposition & cover, pixels, -stream.index

    stream = max(streams, key=preference)
    if stream.codec_context is None:
        raise VideoError(path, 'no decoder for this kind of video')
    if (stream.width or 0) * (stream.height or 0) > MAX_FRAME_PIXELS:
        raise VideoError(path, f'frames of {stream.width}x{stream.height}: too large to be true')
    return stream
