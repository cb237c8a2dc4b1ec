"""Test views straight from a video file, by the rules that test views of records follow."""

import os
from typing import Literal

import numpy as np

from data_pipelines.clip import decode, frame_sampling
from data_pipelines.clip.crops import crop_corners, scaled_size
from data_pipelines.videos import video_file


def video_views(
    path: str | os.PathLike,
    *,
    sampling: Literal['strided', 'uniform'],
    stride: int,
    target_frame_rate: float | None,
    num_frames: int,
    crop_size: int,
    short_side: int,
    temporal_views: int,
    spatial_views: int,
) -> tuple[np.ndarray, str]:
    """Clips of a video: T evenly spaced ones (one if 'uniform') times S crops.

    The video is decoded twice, first to learn how many frames it has, then to keep only those that are
    needed: headers are not to be trusted, and memory must not grow with its length.

    Args:
        path: the video.
        sampling, stride, target_frame_rate: as in `clips.Source`.
        num_frames: T of a clip.
        crop_size: pixels of a clip's sides.
        short_side: pixels that the frame's short side is resized to before cropping.
        temporal_views: clips along the video; 'uniform' sampling has one.
        spatial_views: 1 (centre) or 3 crops.

    Returns:
        clips: u8[V, T, H, W, 3], V = temporal times spatial views.
        damage: empty, or one line saying what of the video could not be decoded.

    Raises:
        VideoError: the video cannot be read.
    """
    stream = video_file.FrameStream(path)
    num_stored = sum(1 for _ in stream)
    if sampling == 'uniform':
        numbers = frame_sampling.uniform_frames(num_stored, num_frames)[None]  # [1, T]
    else:
        span = frame_sampling.clip_span(num_frames, stride, stream.frame_rate, target_frame_rate)
        numbers = frame_sampling.strided_views(
            num_stored, num_frames, span, temporal_views
        )  # [V, T]

    needed = set(np.unique(numbers).tolist())
    kept: dict[int, np.ndarray] = {}
    for number, (_, frame) in enumerate(video_file.FrameStream(path)):
        if number in needed:
            scaled = scaled_size(*frame.shape[:2], short_side)
            corners = crop_corners(*scaled, crop_size, spatial_views)
            resized = decode.resize(frame, scaled)
            crops = [
                resized[top : top + crop_size, left : left + crop_size] for top, left in corners
            ]
            kept[number] = np.stack(crops)  # [S, H, W, 3]
    clips = np.stack(
        [[kept[number] for number in view] for view in numbers.tolist()]
    )  # [V, T, S, H, W, 3]
    clips = np.moveaxis(clips, 2, 1).reshape(
        -1, num_frames, crop_size, crop_size, 3
    )  # [V * S, T, H, W, 3]
    return clips, stream.damage
