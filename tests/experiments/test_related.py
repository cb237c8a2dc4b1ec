"""The related datasets: what is said to be related is, and a clip shows the frames of its video."""

import numpy as np
import pytest

from data_pipelines.clip.frame_sampling import uniform_frames
from data_pipelines.synthetic import layers
from experiments import related


def paths(dataset: str, name: str) -> set[tuple]:
    """All (shape, variable, signs) that a video of the class may show."""
    action = related.DATASETS[dataset].actions[name]
    return {
        (shape, action.variable, signs)
        for shape in action.shapes
        for signs in layers.PATHS[action.path]
    }


def test_label_maps_hold_for_every_video():
    """Where every video of a class is one of the other class, the map says so; and nowhere else."""
    maps = related.label_maps()
    assert maps['figures']['axes']['disc going left'] == 'horizontal'
    for first, dataset in related.RELATED.items():
        for second, other in related.RELATED.items():
            if first == second:
                continue
            for name in dataset.actions:
                implied = [
                    wider for wider in other.actions if paths(first, name) <= paths(second, wider)
                ]
                assert (
                    [maps[first][second][name]] == implied
                    if implied
                    else name not in (maps[first][second])
                )


def test_what_a_label_map_says_is_related():
    known = related.relations()
    for first, others in related.label_maps().items():
        for second, of in others.items():
            for name, implied in of.items():
                assert implied in known[first][second][name]


def test_mirroring_changes_no_class_that_label_maps_lead_to():
    """Datasets that may be mirrored have no class that says left or right."""
    for name in ('axes', 'faint', 'motions', 'pretraining'):
        for action in related.DATASETS[name].actions.values():
            assert action.path == 'either' or action.variable in ('y', 'size')


@pytest.mark.parametrize('dataset', related.DATASETS)
def test_clips_are_frames_of_the_video(dataset):
    classes = list(related.DATASETS[dataset].actions)
    clips = related.render_clips(dataset, 'train', 3, seed=5, num_frames=4, side=20)
    assert clips.video.shape == (3, 4, 20, 20, 3) and clips.video.dtype == np.uint8
    assert clips.classes == tuple(classes) and clips.label.tolist() == [0, 1, 2]
    scene = related.draw(dataset, 'train', 2, seed=5)
    frames = layers.render(scene)[uniform_frames(scene.num_frames, 4)]
    np.testing.assert_array_equal(
        clips.video[2], [related.into_square(frame, 20) for frame in frames]
    )


def test_videos_do_not_depend_on_how_many_there_are_and_differ():
    one = related.render_clips('axes', 'train', 2, seed=1, num_frames=2, side=16).video
    more = related.render_clips('axes', 'train', 5, seed=1, num_frames=2, side=16).video
    np.testing.assert_array_equal(one, more[:2])
    others = [
        related.render_clips('axes', 'validation', 2, seed=1, num_frames=2, side=16).video,
        related.render_clips('axes', 'train', 2, seed=2, num_frames=2, side=16).video,
        more[2:4],
    ]
    assert not any((one == other).all(axis=(1, 2, 3, 4)).any() for other in others)
