"""Converting the videos of one shard; run as a module, a worker process of
``data_pipelines.convert``.

A worker is an ordinary process that reads jobs, one JSON object per line, from its standard input
and answers with events, one JSON object per line, on its standard output: see ``main``. It is not a
``multiprocessing`` child on purpose: that would either fork a parent that may be running JAX, or
import the parent's main module anew; and a decoder that crashes takes down this process only.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
import sys

import cv2
import simplejpeg

from data_pipelines import records
from data_pipelines.annotations import Clip
from data_pipelines.video_file import FrameStream
from data_pipelines.video_file import VideoError

_MAX_RECORD_BYTES = 3 << 29  # 1.5 GiB: a serialised record must stay below 2 GiB


@dataclasses.dataclass(frozen=True)
class Options:
    """How clips are stored.

    Attributes:
      frame_rate: frames per second; None keeps each video's own.
      short_side: pixels of the shorter side; None keeps each video's own.
      quality: JPEG quality, 1 to 100.
      max_seconds: only so much of each clip is stored; None stores all.
      damaged: 'keep' stores what can be decoded of a damaged video, 'skip' refuses such videos.
    """

    frame_rate: float | None = None
    short_side: int | None = None
    quality: int = 90
    max_seconds: float | None = None
    damaged: str = 'keep'

    def __post_init__(self):
        for name in ('frame_rate', 'short_side', 'max_seconds'):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f'{name}={value}: must be positive')
        if not 1 <= self.quality <= 100:
            raise ValueError(f'quality={self.quality}: must be 1 to 100')
        if self.damaged not in ('keep', 'skip'):
            raise ValueError(f'damaged={self.damaged!r}: must be keep or skip')


def encode_clip(clip: Clip, classes: Mapping[int, str], options: Options) -> tuple[bytes, str]:
    """One clip as a serialised SequenceExample.

    Args:
      clip: what to convert.
      classes: class number -> name, at least of the clip's labels.
      options: how to store it.

    Returns:
      The record, and what of the video was damaged (empty if nothing).

    Raises:
      VideoError: the video cannot be used.
    """
    stream = FrameStream(
        clip.path,
        frame_rate=options.frame_rate,
        start=clip.start,
        end=clip.end,
        short_side=options.short_side,
        max_seconds=options.max_seconds,
    )
    try:
        key = clip.key.encode()
    except UnicodeEncodeError as error:
        raise VideoError(clip.path, 'the name of the file is not UTF-8') from error
    images, previous, size = [], None, 0
    for timestamp, frame in stream:
        if frame is not previous:
            image = simplejpeg.encode_jpeg(
                frame, options.quality, colorspace='RGB', colorsubsampling='420', fastdct=False
            )
        if previous is None:
            start = timestamp
        previous = frame
        images.append(image)
        size += len(image)
        if size > _MAX_RECORD_BYTES:
            raise VideoError(
                clip.path,
                f'more than {_MAX_RECORD_BYTES / 2**30:g} GiB of frames in '
                f'{timestamp - start:.0f} s; '
                'lower max_seconds, short_side or the frame rate',
            )
    if stream.damage and options.damaged == 'skip':
        raise VideoError(clip.path, f'damaged: {stream.damage}')
    height, width = previous.shape[:2]
    context = {
        records.LABEL_INDEX: list(clip.labels),
        records.LABEL_TEXT: [classes[label] for label in clip.labels],
        records.VIDEO_FILENAME: [key],
        records.CLIP_START: [round(start * 1e6)],
        records.CLIP_END: [round(stream.end * 1e6)],
        records.IMAGE_FRAME_RATE: [float(stream.frame_rate)],
        records.IMAGE_HEIGHT: [height],
        records.IMAGE_WIDTH: [width],
    }
    return records.encode_sequence_example(context, {records.IMAGE_ENCODED: images}), stream.damage


def convert_shard(
    path: str | os.PathLike,
    clips: list[Clip],
    classes: Mapping[int, str],
    options: Options,
    *,
    known_failures: Mapping[int, str] | None = None,
    before_clip: Callable[[int], None] = lambda number: None,
    after_clip: Callable[[bool], None] = lambda good: None,
) -> dict:
    """Writes one shard, complete or not at all.

    Args:
      path: the shard.
      clips: its clips, in the order of the records.
      classes: class number -> name.
      options: how to store clips.
      known_failures: clip number -> reason: clips not to be tried.
      before_clip: called with the number of each clip that is tried.
      after_clip: called after each, with whether it was stored.

    Returns:
      ``class_counts`` {class number: clips}, ``failures`` and ``damaged`` [[key, reason], ...].

    Raises:
      OSError: the shard cannot be written.
    """
    class_counts, failures, damaged = {}, [], []
    with records.RecordWriter(path) as writer:
        for number, clip in enumerate(clips):
            before_clip(number)
            reason = (known_failures or {}).get(number)
            if reason is None:
                try:
                    record, damage = encode_clip(clip, classes, options)
                except VideoError as error:
                    reason = error.reason
                except Exception as error:  # whatever one video provokes must not cost the others
                    reason = f'{type(error).__name__}: {" ".join(str(error).split())}'
            if reason is None:
                writer.write(record)
                for label in clip.labels:
                    class_counts[label] = class_counts.get(label, 0) + 1
                if damage:
                    damaged.append([clip.key, damage])
            else:
                failures.append([clip.key, reason])
            after_clip(reason is None)
    return {'class_counts': class_counts, 'failures': failures, 'damaged': damaged}


def main() -> None:
    """Serves jobs until the standard input ends.

    A job has the arguments of ``convert_shard``: path, clips, classes, options, known_failures. The
    events of a job are {"clip": number} and {"stored": bool} around each clip, then {"result": ...}
    or {"error": text}.
    """
    # What a library prints must not get between the events.
    events = os.fdopen(os.dup(1), 'w', encoding='ascii')
    os.dup2(2, 1)

    def report(**event) -> None:
        events.write(json.dumps(event) + '\n')
        events.flush()

    cv2.setNumThreads(1)  # the workers themselves are the parallelism
    for line in sys.stdin:
        job = json.loads(line)
        try:
            result = convert_shard(
                job['path'],
                [Clip(**clip) for clip in job['clips']],
                {int(number): name for number, name in job['classes'].items()},
                Options(**job['options']),
                known_failures={
                    int(number): text for number, text in job['known_failures'].items()
                },
                before_clip=lambda number: report(clip=number),
                after_clip=lambda good: report(stored=good),
            )
        except BrokenPipeError:
            os._exit(1)  # the converter has gone; nobody is left to tell
        except OSError as error:
            report(error=f'{job["path"]}: cannot be written ({error.strerror or error})')
        else:
            report(result=result)


if __name__ == '__main__':
    main()
