"""Real videos: what our model sees after an import, and what transformers' processor would give.

Both decode with FFmpeg and resize bilinearly, OpenCV here, Pillow there, which averages when it
makes pictures smaller. Where a crop cannot lie exactly in the middle, ours is one pixel further
right or down, as PySlowFast's. The kept arrays are means over 8 x 8 pixels of
VideoMAEImageProcessorPil's output (transformers 5.24.0, Pillow 13.0.0), written by

    python -m tests.pytorch.test_preprocessing
"""

import numpy as np
import pytest

from data_pipelines.clip import frame_sampling
from data_pipelines.videos import video_file
from multitrain_jax.augment.pipeline import prepare_eval
from multitrain_jax.pytorch.huggingface import Directory, settings_of
from tests.helpers.golden import shared_path
from tests.helpers.transformers_golden import FOLDER
from tests.helpers.video_views import video_views

VIDEOS = {'portrait.mp4': 224, 'demo.mp4': 252}  # short side: crops lie exactly in the middle
FRAMES = 4
DESCRIPTION = {
    'image_mean': [0.485, 0.456, 0.406],
    'image_std': [0.229, 0.224, 0.225],
    'rescale_factor': 1 / 255,
    'do_rescale': True,
    'do_normalize': True,
    'do_resize': True,
    'do_center_crop': True,
    'crop_size': {'height': 224, 'width': 224},
}


def ours(name: str) -> np.ndarray:
    """f32[FRAMES, 224, 224, 3]."""
    form = DESCRIPTION | {'size': {'shortest_edge': VIDEOS[name]}}
    settings = settings_of(Directory({}, {'model_type': 'videomae'}, form))
    assert settings.short_side == VIDEOS[name]
    clips, damage = video_views(
        shared_path(f'videos/{name}'),
        sampling='uniform',
        stride=1,
        target_frame_rate=None,
        num_frames=FRAMES,
        crop_size=224,
        short_side=settings.short_side,
        temporal_views=1,
        spatial_views=1,
    )
    assert not damage
    return np.asarray(prepare_eval(clips, mean=settings.mean, std=settings.std))[0]


def theirs(name: str) -> np.ndarray:
    module = pytest.importorskip('transformers.models.videomae.image_processing_pil_videomae')
    form = DESCRIPTION | {'size': {'shortest_edge': VIDEOS[name]}}
    processor = module.VideoMAEImageProcessorPil(**form)
    frames = [frame for _, frame in video_file.FrameStream(shared_path(f'videos/{name}'))]
    numbers = frame_sampling.uniform_frames(len(frames), FRAMES)
    pixels = processor([frames[n] for n in numbers], return_tensors='np')['pixel_values']
    return np.asarray(pixels)[0].transpose(0, 2, 3, 1)


def coarse(clip: np.ndarray) -> np.ndarray:
    return clip.reshape(len(clip), 28, 8, 28, 8, 3).mean((2, 4)).astype(np.float32)


@pytest.mark.parametrize('name', VIDEOS)
def test_what_the_model_sees_is_what_the_processor_gives(name):
    golden = np.load(FOLDER / 'preprocessing.npz')[name]
    np.testing.assert_allclose(coarse(ours(name)), golden, atol=0.06)  # 3.4 grey levels
    assert np.abs(coarse(ours(name)) - golden).mean() < 0.004  # 0.2


@pytest.mark.parametrize('name', VIDEOS)
def test_pixels_differ_by_less_than_a_grey_level(name):
    difference = np.abs(ours(name) - theirs(name)) * 0.225 * 255
    assert difference.mean() < 1


if __name__ == '__main__':
    np.savez(FOLDER / 'preprocessing.npz', **{name: coarse(theirs(name)) for name in VIDEOS})
