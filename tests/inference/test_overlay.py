"""Answers drawn on a video: which boxes, when, and where."""

import types

import numpy as np
import pytest

from data_pipelines.videos import mp4, video_file, video_moments
from multitrain_jax.errors import UserError
from multitrain_jax.inference import boxes as of_videos
from multitrain_jax.inference import overlay
from multitrain_jax.inference.overlay import Caption

RATE, COUNT, HEIGHT, WIDTH = 10, 35, 64, 96


class StubModel:
    """Tells more of boxes whose right end is further right, and remembers what it was shown."""

    def __init__(self, localisation=True):
        scenes = types.SimpleNamespace(
            classes=('left', 'right'),
            localisation=localisation,
            stride=2,
            target_frame_rate=float(RATE),
        )
        backbone = types.SimpleNamespace(num_frames=4, image_size=32)
        self.info = types.SimpleNamespace(
            datasets={'scenes': scenes},
            model=types.SimpleNamespace(backbone=backbone),
            short_side=32,
            spatial_views=3,
        )
        self.shown = []

    def localise(self, clips, boxes):
        assert clips.shape[1:] == (4, 32, 32, 3) and boxes.shape[::2] == (len(clips), 4)
        self.shown.append((clips, boxes))
        return {
            'scenes': np.stack([boxes[..., 2] / 2, boxes[..., 2] / 2 + 0.5], -1)
        }  # by the right end of a box


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp('overlay') / 'walk.mp4'
    mp4.write_video(
        path, (np.full((HEIGHT, WIDTH, 3), 40 + 4 * i, np.uint8) for i in range(COUNT)), RATE
    )
    return path


def _csv(tmp_path, text):
    path = tmp_path / 'boxes.csv'
    path.write_text(text)
    return path


def test_boxes_of_the_video_once_each(tmp_path, video):
    path = _csv(
        tmp_path,
        'walk,1,0.1,0.2,0.3,0.4,5,0\nwalk,0001,0.1,0.2,0.3,0.4,7,0\nother,1,0,0,1,1\nwalk.mp4,2.0,0.5,0.5,0.9,1\n',
    )
    found = of_videos.read_boxes(path, video)
    assert list(found) == [1.0, 2.0]
    np.testing.assert_allclose(found[1.0], [[0.1, 0.2, 0.3, 0.4]])
    with pytest.raises(UserError, match="no box of 'walk'"):
        of_videos.read_boxes(_csv(tmp_path, 'other,1,0,0,1,1\n'), video)
    with pytest.raises(ValueError, match='line 1: the box 10,20,30,40 lies outside the frame'):
        of_videos.read_boxes(_csv(tmp_path, 'walk,1,10,20,30,40\n'), video)


def test_scores_are_means_over_the_views_that_show_a_box(video):
    model = StubModel()
    boxes = {
        1.0: np.array([[0.0, 0.1, 0.2, 0.9], [0.4, 0.1, 0.6, 0.9]], np.float32),
        9.0: np.zeros((1, 4), np.float32),
    }
    times = video_moments.video_times(video)
    judged = of_videos.judge(model, video, times, boxes)
    assert [entry.seconds for entry in judged] == [1.0]  # the other moment is after the end
    # The second box ends at 28.8 of 48 pixels: in the three crops (from 0, 8 and 16) at 28.8,
    # 20.8 and 12.8 of 32.
    ends = np.array([9.6 / 32, (28.8 + 20.8 + 12.8) / 3 / 32])
    np.testing.assert_allclose(
        judged[0].scores['scenes'], np.stack([ends / 2, ends / 2 + 0.5], 1), atol=1e-5
    )
    ((clips, seen),) = model.shown
    assert len(clips) == 3  # crops
    for clip in clips:
        np.testing.assert_allclose(
            clip.mean((1, 2, 3)), [40 + 4 * i for i in (6, 8, 10, 12)], atol=2
        )
    # The left crop shows 32 of 48 pixels: the box's right end, 0.2 of the frame, is 0.3 of it.
    np.testing.assert_allclose(seen[0, 0], [0.0, 0.1, 0.3, 0.9], atol=1e-6)
    with pytest.raises(UserError, match='3.5 s long'):
        of_videos.judge(model, video, times, {9.0: np.zeros((1, 4), np.float32)})


def test_the_whole_frame_every_second_where_no_boxes_are_given(video):
    judged = of_videos.judge(StubModel(), video, video_moments.video_times(video))
    assert len(judged) == 4 and {tuple(entry.boxes[0]) for entry in judged} == {(0, 0, 1, 1)}
    np.testing.assert_allclose(np.diff([entry.seconds for entry in judged]), 3.5 / 4)


def test_boxes_are_drawn_around_their_moment_only(tmp_path, video):
    model, output = StubModel(), tmp_path / 'out' / 'overlay.mp4'
    boxes = _csv(tmp_path, 'walk,1,0.5,0.25,0.75,0.75\n')
    overlay.write_overlay(
        model, video, output, boxes_csv=boxes, captions=[Caption({'clips': [('running', 0.9)]})]
    )
    made = video_file.read_frames(output)
    assert made.frames.shape == (COUNT, HEIGHT, WIDTH, 3)
    original = video_file.read_frames(video).frames
    # The box's lower edge, away from all texts.
    rows, columns = slice(46, 50), slice(52, 68)
    changed = [
        np.abs(made.frames[i, rows, columns].astype(int) - original[i, rows, columns]).mean()
        for i in range(COUNT)
    ]
    inside = [abs(i / RATE - 1.0) <= 0.5 + 1e-9 for i in range(COUNT)]
    assert (
        min(c for c, drawn in zip(changed, inside) if drawn)
        > 20
        > 6
        > max(c for c, drawn in zip(changed, inside) if not drawn)
    )
    # The corner is written on throughout.
    assert (
        np.abs(made.frames[:, 2:8, 2:30].astype(int) - original[:, 2:8, 2:30]).mean((1, 2, 3)).min()
        > 20
    )


def test_a_model_without_boxes_refuses_them(tmp_path, video):
    with pytest.raises(UserError, match='was not trained on boxes'):
        overlay.write_overlay(
            StubModel(localisation=False),
            video,
            tmp_path / 'x.mp4',
            boxes_csv=_csv(tmp_path, 'walk,1,0,0,1,1\n'),
            captions=[],
        )


def test_captions_change_with_time(tmp_path, video):
    """Windows of 2 s every second: each has the second around its middle, the first 1.5."""
    captions = [
        Caption({'clips': [(label, 1.0)]}, start, start + 2.0)
        for start, label in enumerate(('walking', 'MMMMMMMM'))
    ]
    output = tmp_path / 'overlay.mp4'
    overlay.draw(video, output, [], {}, captions, frame_rate=RATE)
    corner = video_file.read_frames(output).frames[:, 3:11, 4:60].astype(int)
    base = video_file.read_frames(video).frames[:, 3:11, 4:60]
    assert (np.abs(corner - base).mean((1, 2, 3)) > 20)[:30].all()
    assert np.abs(corner[30:] - base[30:]).mean() < 8  # after the last window
    kinds = np.abs(corner[:30] - corner[7]).mean((1, 2, 3)) < 6
    assert kinds[:15].all() and not kinds[15:].any()
