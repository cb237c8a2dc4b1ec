"""Clips -> the records of one shard."""

import bisect
from collections.abc import Callable, Mapping
import math
import os
import pathlib
import time
from typing import NamedTuple

import numpy as np

from data_pipelines.annotations import Clip
from data_pipelines.conversion.frames import store_frames
from data_pipelines.conversion.link import store_image_links, store_link
from data_pipelines.conversion.options import Storage
from data_pipelines.storage import regions
from data_pipelines.storage.frame_index import find_places, save_frame_index
from data_pipelines.storage.record_index import index_files
from data_pipelines.storage.sequence_example import (
    CLIP_END,
    CLIP_START,
    IMAGE_FRAME_RATE,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    LABEL_INDEX,
    LABEL_TEXT,
    VIDEO_FILENAME,
    encode_sequence_example,
)
from data_pipelines.storage.tfrecord import RecordWriter
from data_pipelines.videos.decoder import TIME_TOLERANCE
from data_pipelines.videos.demuxer import VideoError
from data_pipelines.videos.image_folder import ImageFolderStream
from data_pipelines.videos.sources import is_file
from data_pipelines.videos.video_file import FrameStream


class EncodedClip(NamedTuple):
    """A serialised SequenceExample.

    Attributes:
      record: its bytes.
      damage: what of the video was damaged; empty if nothing.
      small: whether the video is smaller than the short side that was asked for.
    """

    record: bytes
    damage: str
    small: bool


def encode_clip(clip: Clip, classes: Mapping[int, str], options: Storage) -> EncodedClip:
    """Reads a clip and makes its record.

    Args:
      clip: what to convert.
      classes: class number -> name, at least of the clip's labels.
      options: how to store it.

    Raises:
      VideoError: the video cannot be used.
    """
    pipe = os.path.exists(clip.path) and not (os.path.isfile(clip.path) or os.path.isdir(clip.path))
    if pipe or not is_file(clip.path):  # lists come from outside
        raise VideoError(clip.path, 'not a file')
    try:
        key = clip.key.encode()
    except UnicodeEncodeError as error:
        raise VideoError(clip.path, 'the name of the file is not UTF-8') from error
    if options.storage != 'link':
        stored = store_frames(_open(clip, options), clip.path, options)
    elif os.path.isdir(clip.path):
        stored = store_image_links(_open(clip, options), clip.path, options.video_root)
    else:
        stored = store_link(clip.path, _part(clip, options), options.video_root)
    if stored.damage and options.damaged == 'skip':
        raise VideoError(clip.path, f'damaged: {stored.damage}')
    height, width = stored.size
    context = {
        LABEL_INDEX: np.array(clip.labels, np.int64),
        VIDEO_FILENAME: [key],
        CLIP_START: [round(stored.timestamps[0] * 1e6)],
        CLIP_END: [round(stored.end * 1e6)],
        IMAGE_FRAME_RATE: [float(stored.frame_rate)],
        IMAGE_HEIGHT: [height],
        IMAGE_WIDTH: [width],
        **stored.context,
    }
    if clip.labels:
        context[LABEL_TEXT] = [classes[label] for label in clip.labels]
    if clip.key_frame is not None:
        index = _key_frame_index(clip, stored.timestamps, stored.end)
        context.update(regions.region_features(clip.key_frame, index))
    return EncodedClip(
        encode_sequence_example(context, stored.feature_lists),
        stored.damage,
        small=min(height, width) < (options.short_side or 0),
    )


def _open(clip: Clip, options: Storage) -> FrameStream | ImageFolderStream:
    """The frames of a clip."""
    size = {'short_side': options.short_side, 'upscale': options.upscale}
    arguments = {**_part(clip, options), **size}
    if not os.path.isdir(clip.path):
        return FrameStream(clip.path, **arguments)
    return ImageFolderStream(
        clip.path, images_per_second=options.images_per_second, images=clip.images, **arguments
    )


def _part(clip: Clip, options: Storage) -> dict[str, float | None]:
    """Which part of the video, and which of its frames."""
    return {
        'frame_rate': options.frame_rate,
        'start': _start(clip, options.frame_rate),
        'end': clip.end,
        'max_seconds': options.max_seconds,
    }


def _start(clip: Clip, frame_rate: float | None) -> float | None:
    """Where reading starts: at a given frame rate so that one of the picks is the key frame."""
    if clip.key_frame is None or frame_rate is None or clip.start is None:
        return clip.start
    picks_before = math.floor((clip.key_frame.time - clip.start) * frame_rate + 1e-6)
    return max(0.0, clip.key_frame.time - picks_before / frame_rate)


def _key_frame_index(clip: Clip, timestamps: list[float], end: float) -> int:
    """Number of the stored frame that is on screen at the key frame's time.

    Raises:
      VideoError: no stored frame is.
    """
    time = clip.key_frame.time
    if time >= end + TIME_TOLERANCE:
        raise VideoError(clip.path, f'the key frame, at {time:g} s, lies past its end, {end:.3f} s')
    index = bisect.bisect_right(timestamps, time + TIME_TOLERANCE) - 1
    if index < 0 and clip.start:
        raise VideoError(
            clip.path,
            f'no frame between {clip.start:g} s and the key frame at {time:g} s; more context '
            'would hold the one that is on screen',
        )
    return max(index, 0)  # before a video's first frame, that one serves


def convert_shard(
    path: str | os.PathLike,
    clips: list[Clip],
    classes: Mapping[int, str],
    options: Storage,
    *,
    frames_path: str | os.PathLike | None = None,
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
      frames_path: gets the shard's frame index; None: it has none.
      known_failures: clip number -> reason: clips not to be tried.
      before_clip: called with the number of each clip that is tried.
      after_clip: called after each, with whether it was stored.

    Returns:
      `class_counts` {class number: clips}, `box_counts` {class number: boxes}, `failures` and
      `damaged` [[key, reason], ...], `small`: clips of videos smaller than the short side asked
      for, `seconds` that the clips took.

    Raises:
      OSError: the shard cannot be written.
    """
    seconds, small = 0.0, 0
    class_counts, box_counts, failures, damaged, places = {}, {}, [], [], []
    if frames_path is not None:  # that of an earlier shard must not outlive it
        pathlib.Path(frames_path).unlink(missing_ok=True)
    with RecordWriter(path) as writer:
        for number, clip in enumerate(clips):
            before_clip(number)
            began = time.perf_counter()
            reason = (known_failures or {}).get(number)
            if reason is None:
                try:
                    encoded = encode_clip(clip, classes, options)
                except VideoError as error:
                    reason = error.reason
                except Exception as error:  # whatever one video provokes must not cost the others
                    reason = f'{type(error).__name__}: {" ".join(str(error).split())}'
            if reason is None:
                writer.write(encoded.record)
                places.append(find_places(memoryview(encoded.record)))
                small += encoded.small
                for label in clip.labels:
                    class_counts[label] = class_counts.get(label, 0) + 1
                for label in clip.key_frame.actions if clip.key_frame else ():
                    box_counts[label] = box_counts.get(label, 0) + 1
                if encoded.damage:
                    damaged.append([clip.key, encoded.damage])
            else:
                failures.append([clip.key, reason])
            seconds += time.perf_counter() - began
            after_clip(reason is None)
    if frames_path is not None:
        directory, name = os.path.split(path)
        save_frame_index(frames_path, index_files(directory, [name]), places)
    return {
        'class_counts': class_counts,
        'box_counts': box_counts,
        'failures': failures,
        'damaged': damaged,
        'small': small,
        'seconds': seconds,
    }
