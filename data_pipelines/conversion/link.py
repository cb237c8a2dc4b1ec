"""Storing where the frames of a clip are to be found, instead of the frames."""

import bisect
import dataclasses
import os
import pathlib

from data_pipelines.annotations import Annotations
from data_pipelines.conversion.frames import StoredClip
from data_pipelines.conversion.options import Options
from data_pipelines.datasets.dataset_info import FILE_NAME, load_dataset_info
from data_pipelines.storage.sequence_example import (
    DATA_PATH,
    FORMAT_LINK,
    FRAME_TIMES,
    IMAGE_FORMAT,
    KEY_FRAME_TIMES,
    LINK_IMAGES,
    LINK_MTIME,
    LINK_SIZE,
)
from data_pipelines.videos.decoder import TIME_TOLERANCE
from data_pipelines.videos.demuxer import VideoError
from data_pipelines.videos.image_folder import ImageFolderStream, read_image
from data_pipelines.videos.picking import Picking
from data_pipelines.videos.timeline import timeline


def store_link(path: str, part: dict[str, float | None], video_root: str) -> StoredClip:
    """Finds the frames of a part of a video; none is decoded but the first.

    Args:
      path: the video file.
      part: start, end, max_seconds and frame_rate, as `picking.Picking` takes them.
      video_root: the directory that the file is in.

    Raises:
      VideoError: the video cannot be used.
    """
    place = _place(path, video_root)
    found, picking = timeline(path), Picking(path, **part)
    picked = list(picking.frames_of(found, lambda time: time))
    times = [time for _, time in picked]
    # From the key frame that the first is decoded from.
    first = max(0, bisect.bisect_right(found.key_times, times[0] + TIME_TOLERANCE) - 1)
    keys = [time for time in found.key_times[first:] if time <= times[-1] + TIME_TOLERANCE]
    status = os.stat(path)
    return StoredClip(
        [shown for shown, _ in picked],
        picking.end,
        picking.frame_rate,
        found.size,
        found.damage(),
        {
            **place,
            LINK_SIZE: [status.st_size],
            LINK_MTIME: [status.st_mtime_ns],
            FRAME_TIMES: [round(time * 1e6) for time in times],
            **({KEY_FRAME_TIMES: [round(time * 1e6) for time in keys]} if keys else {}),
        },
        {},
    )


def store_image_links(stream: ImageFolderStream, path: str, video_root: str) -> StoredClip:
    """Finds the images that are the frames of a part of a video; only the first is decoded.

    Args:
      stream: of the folder.
      path: of the folder.
      video_root: the directory that it is in.

    Raises:
      VideoError: the images cannot be used.
    """
    place, frames = _place(path, video_root), list(stream.names())
    paths = [os.path.join(path, name) for _, name in frames]
    first = read_image(paths[0])
    if first is None:
        raise VideoError(path, f'its image {frames[0][1]} cannot be decoded')
    statuses = {path: os.stat(path) for path in set(paths)}
    return StoredClip(
        [time for time, _ in frames],
        stream.end,
        stream.frame_rate,
        first.shape[:2],
        stream.damage,
        {
            **place,
            LINK_IMAGES: [os.fsencode(name) for _, name in frames],
            LINK_SIZE: [statuses[path].st_size for path in paths],
            LINK_MTIME: [statuses[path].st_mtime_ns for path in paths],
            FRAME_TIMES: [round(time * 1e6) for time, _ in frames],
        },
        {},
    )


def _place(path: str, video_root: str) -> dict[str, list]:
    """What a record says of where its video is.

    Raises:
      VideoError: it is not within the root.
    """
    name = os.path.relpath(os.path.abspath(path), os.path.abspath(video_root))
    if name.split(os.sep)[0] == os.pardir:
        raise VideoError(path, f'not under --video_root={video_root}')
    return {IMAGE_FORMAT: [FORMAT_LINK], DATA_PATH: [os.fsencode(name)]}


def with_video_root(annotations: Annotations, output: pathlib.Path, options: Options) -> Options:
    """The options, with the directory that all videos are in where links need it.

    That of an earlier conversion to the same directory, else the deepest that holds all videos.

    Raises:
      ValueError: splits that are there link to videos of another directory.
    """
    if options.storage != 'link':
        return options
    stated = None
    if (output / FILE_NAME).exists():
        info = load_dataset_info(output)
        if any(split not in annotations.splits for split in info.splits):
            stated = info.arguments.get('video_root')
    paths = [os.path.abspath(clip.path) for clips in annotations.splits.values() for clip in clips]
    root = options.video_root
    if root is None:
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        if stated is not None and os.path.commonpath([stated, root]) == stated:
            root = stated
    root = os.path.abspath(root)
    if stated not in (None, root):
        raise ValueError(
            f'{output}: its other splits link to videos under {stated}, not {root}; give '
            '--video_root, a directory that holds all, and convert all splits together'
        )
    return dataclasses.replace(options, video_root=root)
