"""Which videos a command works on and how they are cut, said in the same way to all of them."""

import argparse
from collections.abc import Sequence
import os
import typing
from typing import Any

from multitrain_jax.errors import ArgumentParser

if typing.TYPE_CHECKING:  # commands answer mistakes and --help before they import JAX
    from data_pipelines.videos.video_list import Video


def add_video_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --window, --stride, --temporal_views, --spatial_views and --batch_size."""
    add = parser.add_argument
    add(
        '--window',
        metavar='LENGTH',
        help='cut videos into windows: 2.5 or 2.5s (seconds), or 64f (frames)',
    )
    add('--stride', metavar='LENGTH', help='from one window to the next (default: a window)')
    add(
        '--temporal_views',
        type=int,
        metavar='N',
        help="clips along a video or window (default: the model's; of a window 1)",
    )
    add('--spatial_views', type=int, choices=(1, 3), help='crops of each (default: likewise)')
    add('--batch_size', type=int, help='clips at a time, over all devices (default: by the model)')


def check_videos(parser: ArgumentParser, videos: Sequence[str]) -> None:
    if not videos:
        parser.error('a VIDEO is missing: any file that PyAV (FFmpeg) decodes')


def cut(parser: ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `stream.see` that `add_video_arguments` has asked for."""
    from data_pipelines.videos.windows import Length, check_units

    if args.stride and not args.window:
        parser.error(f'--stride={args.stride} needs --window')
    if args.temporal_views is not None and args.temporal_views < 1:
        parser.error(f'--temporal_views={args.temporal_views} must be at least 1')
    try:
        window, stride = (
            None if text is None else Length.parse(text) for text in (args.window, args.stride)
        )
        if window is not None:
            check_units(window, stride or window)
    except ValueError as error:
        parser.error(str(error))
    return dict(
        window=window,
        stride=stride,
        temporal_views=args.temporal_views,
        spatial_views=args.spatial_views,
    )


def list_videos(arguments: Sequence[str]) -> 'list[Video]':
    """As `data_pipelines.videos.video_list.list_videos`."""
    from data_pipelines.videos import video_list

    return video_list.list_videos(arguments)


def refuse_to_overwrite(
    parser: ArgumentParser, option: str, path: str, videos: Sequence[str]
) -> None:
    if os.path.realpath(path) in map(os.path.realpath, videos):
        parser.error(f'--{option}={path} is the video itself, which would be overwritten')
