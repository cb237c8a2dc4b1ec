"""Views straight from a video are those that the same video gets once it is converted."""

import numpy as np
import pytest

from data_pipelines.annotations import folder
from data_pipelines.conversion.dataset import convert
from data_pipelines.conversion.options import Options
from data_pipelines.options import Source
from data_pipelines.videos.video_file import VideoError
from tests.helpers import golden, tiny_records, video_writer
from tests.helpers.batches import evaluation_batches
from tests.helpers.video_views import video_views

FRAMES, RATE = 23, 10


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """A pattern that wanders; 56 x 80 pixels, nearly lossless."""
    path = tmp_path_factory.mktemp('videos') / 'train' / 'moving' / 'video.mp4'
    path.parent.mkdir(parents=True)
    images = [tiny_records.smooth_image(56, 80, phase=number / 5) for number in range(FRAMES)]
    video_writer.write_video(path, images, rate=RATE, options={'crf': '1'})
    return path


@pytest.fixture(scope='module')
def records(video, tmp_path_factory):
    directory = tmp_path_factory.mktemp('records')
    convert(
        folder.read_folder(video.parent.parent.parent),
        directory,
        Options(quality=100, workers=1, progress=False),
    )
    return directory


@pytest.mark.parametrize(
    ('sampling', 'stride', 'rate', 'temporal', 'spatial'),
    [
        ('strided', 2, None, 3, 3),
        ('strided', 1, 5.0, 2, 1),
        ('uniform', 1, None, 4, 3),
        ('strided', 30, None, 2, 1),
    ],
)
@pytest.mark.parametrize('short_side', [32, 70])
def test_equal_to_the_views_of_the_records(
    video, records, sampling, stride, rate, temporal, spatial, short_side
):
    sizes = dict(
        num_frames=4,
        crop_size=32,
        short_side=short_side,
        temporal_views=temporal,
        spatial_views=spatial,
    )
    views, damage = video_views(
        video, sampling=sampling, stride=stride, target_frame_rate=rate, **sizes
    )
    source = Source(
        records, 'moving', 'train', sampling=sampling, stride=stride, target_frame_rate=rate
    )
    batches = list(evaluation_batches(source, batch_size=16, **sizes))
    count = spatial * (temporal if sampling == 'strided' else 1)
    (batch,) = batches
    assert damage == ''
    assert views.shape == (count, 4, 32, 32, 3) and views.dtype == np.uint8
    difference = np.abs(views.astype(int) - batch['video'][:count].astype(int))
    assert difference.mean() < 3 and np.percentile(difference, 99) < 12
    # Far less than from one view to the next, so that the order of the views is seen too.
    if count > 1 and stride < 30:
        others = np.abs(views.astype(int) - np.roll(batch['video'][:count], 1, axis=0).astype(int))
        assert others.mean() > 3 * difference.mean()


def test_damage_is_told_and_unreadable_files_are_errors():
    sizes = dict(
        sampling='uniform',
        stride=1,
        target_frame_rate=None,
        num_frames=4,
        crop_size=32,
        short_side=32,
        temporal_views=1,
        spatial_views=1,
    )
    views, damage = video_views(golden.shared_path('videos/bad/truncated_faststart.mp4'), **sizes)
    assert damage and '\n' not in damage and views.shape == (1, 4, 32, 32, 3)
    with pytest.raises(VideoError):
        video_views(golden.shared_path('videos/bad/empty.mp4'), **sizes)
