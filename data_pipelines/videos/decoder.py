"""Decoding one stream of a video file: frames and when they appear, going on after damage."""

import bisect
from collections.abc import Iterable, Iterator, Sequence
import itertools
import math

import av

from data_pipelines.videos.demuxer import Demuxer

# Matroska and WebM round times to milliseconds: a frame up to half of one late still counts as
# being on screen.
TIME_TOLERANCE = 0.0005  # seconds
_WORTH_SEEKING = 0.5  # seconds ahead: less is decoded as fast as it is sought


class Decoder:
    """Decodes a video. Close it, or use it in a `with`.

    Attributes:
      packets: where the packets come from.
      first_time: seconds at which the first frame appears since decoding began; NaN if none was
        decoded.
      last_time, last_duration: of the last decoded frame, seconds.
      stopped_early: to be set by who leaves frames.
      notes: what else is to be told as damage.
    """

    def __init__(self, path: str, threads: int = 1, silence: float | None = None):
        """
        Args:
          path, silence: as for `sources.open_source`.
          threads: of the decoder; 0 leaves the number to FFmpeg.

        Raises:
          VideoError, av.error.FFmpegError: see `Demuxer`.
        """
        self._path, self._threads, self._silence = path, threads, silence
        self.packets: Demuxer | None = None
        self.stopped_early = False
        self.notes: list[str] = []
        self._wanted: Sequence[float] | None = None  # of frames; None: all
        self._open()

    def __enter__(self) -> 'Decoder':
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        if self.packets is not None:
            self.packets.close()

    @property
    def stated_rate(self) -> float:
        """Frames per second by the header."""
        return self.packets.stated_rate

    @property
    def max_gap(self) -> float:
        """Seconds without a frame that are believed."""
        return self.packets.max_gap

    def frames(self, start: float | None = None) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yields (seconds since the video's beginning, frame); the times never fall.

        Args:
          start: the first frame is one that appears until then, near to it where the file allows.
        """
        source = self._from(start) if start is not None and start > 1 else None
        if source is not None:
            found = self._timed(source, start, sought=True)
            first = next(found, None)
            # Later than the start: the file's index is wrong.
            if first is not None and first[0] <= start + TIME_TOLERANCE:
                yield first
                yield from found
                return
        if not self._fresh:
            self._open()
        self._fresh, self._expected = False, self.packets.stream.frames
        yield from self._timed(self.packets, start, sought=False)

    def on_screen(
        self, times: Sequence[float], key_times: Sequence[float]
    ) -> Iterator[tuple[float, av.VideoFrame]]:
        """The frame that is on screen at each of some times, and when it appeared.

        What lies between is decoded only where others need it: it is left out up to a key frame
        that is well ahead, and of what remains the frames (B-frames) that no other refers to. Ends
        early where the video does.

        Args:
          times: seconds since the video's beginning at which frames appear, not falling.
          key_times: seconds at which key frames appear, rising.
        """
        self._wanted = times if key_times else None
        source, shown, ahead = None, None, None
        for time in times:
            latest = time + TIME_TOLERANCE
            key = bisect.bisect_right(key_times, latest) - 1
            reached = ahead or shown
            if reached is None or (key >= 0 and key_times[key] > reached[0] + _WORTH_SEEKING):
                source, shown, ahead = self.frames(time), None, None
            while shown is None or shown[0] < time - TIME_TOLERANCE:
                ahead = ahead or next(source, None)
                if ahead is None or ahead[0] > latest:
                    break
                shown, ahead = ahead, None
            if shown is None:
                return
            yield shown

    def _open(self) -> None:
        self.close()
        self.packets = Demuxer(self._path, self._silence)
        self.packets.stream.codec_context.thread_count = self._threads
        self.packets.stream.thread_type = 'NONE' if self._threads == 1 else 'AUTO'
        self._decoded = self._corrupt = self._refused = self._expected = 0
        self._fresh = True  # nothing was read yet
        self._delay: int | None = None  # see `_delay_of`; None: not known yet
        self._first_key: int | None = None  # ticks

    def _from(self, start: float) -> Iterable[av.Packet] | None:
        """Packets from near the start on; None where the file does not let it be found."""
        packets = self.packets
        if self._delay is None:
            self._fresh = False
            first = next(iter(packets), None)
            if first is None or (first.pts is None and first.dts is None):
                return None
            if not packets.has_clock:
                return None  # nothing would say where one arrives
            if first.pts is not None:
                self._delay = 0
            elif not packets.joinable:
                source = itertools.chain([first], packets)
                self._delay = self._delay_of(next(self._decode(source), None))
                self._decoded = self._refused = 0
        if packets.joinable:
            known = self._delay is not None
            self._open()
            if not known:
                return None
            self._fresh, self._delay = False, 0
            return self._from_key_frame(start)
        try:
            packets.seek(start + self._delay * packets.time_base)
        except av.error.FFmpegError:
            return None
        return packets

    def _from_key_frame(self, start: float) -> Iterator[av.Packet]:
        """Leaves out what comes before the last key frame that appears until the start.

        Reads all that comes before it: a seek would believe the file's clock.
        """
        kept, source = [], iter(self.packets)
        for packet in source:
            if packet.is_keyframe and packet.pts is not None:
                if self.packets.seconds(packet.pts) <= start + TIME_TOLERANCE:
                    kept = []
            kept.append(packet)
            if packet.dts is not None and self.packets.seconds(packet.dts) > start:
                break
        yield from kept
        yield from source

    def _timed(
        self, source: Iterable[av.Packet], start: float | None, *, sought: bool
    ) -> Iterator[tuple[float, av.VideoFrame]]:
        packets, best = self.packets, _BestTimestamp()
        self.first_time = self.last_time = self.last_duration = math.nan
        for frame in self._decode(source):
            if self._delay is None:
                self._delay = self._delay_of(frame)
            ticks = best(frame)
            duration = packets.duration(frame.duration)
            if ticks is not None:
                timestamp = packets.seconds(ticks - self._delay)
            elif not math.isnan(self.last_time):
                timestamp = self.last_time + self.last_duration
            elif sought:
                return  # nothing says where this is
            else:
                timestamp = 0.0
            if math.isnan(self.last_time):
                self.first_time = self.last_time = timestamp
            timestamp = max(timestamp, self.last_time)
            if not frame.duration:
                duration = timestamp - self.last_time or duration
            self.last_time, self.last_duration = timestamp, duration
            if start is None or timestamp + duration > start:
                self._corrupt += frame.is_corrupt
            yield timestamp, frame

    def _delay_of(self, first: av.VideoFrame | None) -> int:
        """How much later, in ticks, the first frame is stated than the key frame that it is.

        Where no time of presentation is stated, a frame has the time of the packet that made it
        come out of the decoder: for B-frames a later one than its own.
        """
        if None in (first, self._first_key) or first.pts is not None or first.dts is None:
            return 0
        return first.dts - self._first_key

    def _decode(self, source: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
        codec, skips = self.packets.stream.codec_context, False
        for packet in itertools.chain(source, [None]):  # None: what the decoder still holds
            if packet is not None:
                self._expected -= packet.is_discard  # an edit list hides it
                if packet.is_keyframe and self._first_key is None:
                    self._first_key = packet.dts
                unwanted = self._is_unwanted(packet)
                if unwanted != skips:
                    codec.skip_frame, skips = 'NONREF' if unwanted else 'DEFAULT', unwanted
            try:
                frames = self.packets.stream.decode(packet)
            except av.error.FFmpegError:
                self._refused += packet is None or not packet.is_corrupt  # else it is counted
                continue
            for frame in frames:
                self._decoded += 1
                yield frame

    def _is_unwanted(self, packet: av.Packet) -> bool:
        """Whether its frame need not be decoded, unless others refer to it."""
        # Where times are not stated, they follow from what comes out of the decoder.
        if self._wanted is None or packet.pts is None or self._delay:
            return False
        time = self.packets.seconds(packet.pts)
        place = bisect.bisect_left(self._wanted, time - TIME_TOLERANCE)
        return place == len(self._wanted) or self._wanted[place] > time + TIME_TOLERANCE

    @property
    def is_damaged(self) -> bool:
        """Whether anything was met so far that could not be decoded as it should."""
        return bool(self._damaged_packets or self._corrupt)

    @property
    def _damaged_packets(self) -> int:
        return self.packets.damaged + self._refused

    def damage(self) -> str:
        """What was lost, as one line; empty if nothing: what FFmpeg calls damaged.

        A header's number of frames is told beside that, but is no damage: headers also count
        frames that are skipped, or that were taken out when the file was made.
        """
        notes = []
        if damaged := self._damaged_packets:
            notes.append(f'{damaged} damaged packets')
        if self._corrupt:
            notes.append(f'{self._corrupt} damaged frames')
        if notes and not self.stopped_early and self._decoded < self._expected:
            notes.insert(0, f'{self._decoded} of {self._expected} frames')
        return ', '.join([*self.notes, *notes, *self.packets.told_jumps()])


class _BestTimestamp:
    """Timestamp of each frame, by FFmpeg's rule (its `best_effort_timestamp`).

    That of presentation, but where those fail to rise more often than those of decoding, the
    latter: some programs write invented times.
    """

    def __init__(self):
        self._last_pts = self._last_dts = -math.inf
        self._faulty_pts = self._faulty_dts = 0

    def __call__(self, frame: av.VideoFrame) -> int | None:
        pts, dts = frame.pts, frame.dts
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        if pts is not None and (dts is None or self._faulty_pts <= self._faulty_dts):
            return pts
        return dts
