"""Real videos: what our model sees in a test, and what PySlowFast's test loader would give.

The loader written down step by step in float64: frames, to 0..1, normalised, resized bilinearly
with half-pixel centres, cropped. Ours resizes in whole grey levels before it normalises, so it may
be half a level off.
"""

import numpy as np
import pytest

from data_pipelines.videos import video_file
from multitrain_jax.augment.pipeline import prepare_eval
from tests.helpers.golden import shared_path
from tests.helpers.video_views import video_views

MEAN, STD = 0.45, 0.225
# frames, rate, crop, short side, temporal and spatial views: MViTv2-S 16x4, B 32x3, L 40x3.
PROTOCOLS = {
    's_16x4': (16, 4, 224, 256, 5, 1),
    'b_32x3': (32, 3, 224, 256, 5, 1),
    'l_40x3': (40, 3, 312, 312, 5, 3),
}
VIDEOS = ('demo.mp4', 'test.avi', 'portrait.mp4', 'part_0.mp4')
HALF_A_LEVEL = 0.52 / 255 / STD


def decoded(name: str) -> tuple[np.ndarray, float]:
    stream = video_file.FrameStream(shared_path(f'videos/{name}'))
    frames = np.stack([frame for _, frame in stream])
    return frames, float(stream.frame_rate)


def their_frames(count: int, fps: float, frames: int, rate: int, view: int, views: int):
    """Numbers of a view's frames (decoder.py, offset sampling)."""
    length = frames * rate / 30 * fps
    start = view * np.floor(max(count - length, 0) / (views - 1))
    numbers = np.linspace(start, start + length - 1, frames, dtype=np.float32)
    return np.clip(numbers, 0, count - 1).astype(int)


def resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, half-pixel centres, no antialiasing: `interpolate(..., align_corners=False)`."""
    for axis, size in ((1, height), (2, width)):
        old = frames.shape[axis]
        place = np.maximum((np.arange(size) + 0.5) * old / size - 0.5, 0)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (place - low).reshape([-1 if a == axis else 1 for a in range(4)])
        frames = np.take(frames, low, axis) * (1 - share) + np.take(frames, high, axis) * share
    return frames


def their_crops(clip: np.ndarray, short: int, crop: int, views: int) -> list[np.ndarray]:
    height, width = clip.shape[1:3]
    if width < height:
        size = int(np.floor(height / width * short)), short
    else:
        size = short, int(np.floor(width / height * short))
    clip = resized(clip, *size)
    found = []
    for place in (1,) if views == 1 else (0, 1, 2):
        top, left = (int(np.ceil((side - crop) / 2)) for side in size)
        if size[0] > size[1]:
            top = {0: 0, 1: top, 2: size[0] - crop}[place]
        else:
            left = {0: 0, 1: left, 2: size[1] - crop}[place]
        found.append(clip[:, top : top + crop, left : left + crop])
    return found


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize('name', VIDEOS)
def test_views_are_those_of_the_test_loader(name, protocol):
    if protocol == 'l_40x3' and name != 'demo.mp4':
        pytest.skip('one video is enough for the largest')
    frames, rate, crop, short, temporal, spatial = PROTOCOLS[protocol]
    clips, damage = video_views(
        shared_path(f'videos/{name}'),
        sampling='strided',
        stride=rate,
        target_frame_rate=30.0,
        num_frames=frames,
        crop_size=crop,
        short_side=short,
        temporal_views=temporal,
        spatial_views=spatial,
    )
    assert not damage and clips.shape == (temporal * spatial, frames, crop, crop, 3)
    stored, fps = decoded(name)
    theirs = []
    for view in range(temporal):
        numbers = their_frames(len(stored), fps, frames, rate, view, temporal)
        clip = (stored[numbers].astype(np.float64) / 255 - MEAN) / STD
        theirs += their_crops(clip, short, crop, spatial)
    for ours, expected in zip(clips, theirs, strict=True):
        seen = np.asarray(prepare_eval(ours[None], mean=(MEAN,) * 3, std=(STD,) * 3))[0]
        np.testing.assert_allclose(seen, expected, atol=HALF_A_LEVEL)
