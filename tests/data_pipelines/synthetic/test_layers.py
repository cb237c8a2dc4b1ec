"""Scenes: what the pixels show, and that a single frame does not tell the motion."""

import dataclasses
import hashlib

import numpy as np
import pytest

from data_pipelines.synthetic import classification, rendering
from data_pipelines.synthetic.layers import PATHS, SceneConfig, draw_scene, render

# Nothing but the actor: a plain dark background, no camera shake, no noise.
PLAIN = SceneConfig(
    background_texture=(0, 0),
    tint=0,
    texture=0,
    background_drift=(0, 0),
    shake=(0, 0),
    shake_degrees=(0, 0),
    uneven=(0, 0),
    centre_jitter=(0, 0),
    off_square=(0, 0),
)
TINY = dataclasses.replace(PLAIN, short_side=(16, 16))


def scene_of(seed, variable, path, config=PLAIN, shape='disc', distractor_shapes=()):
    return draw_scene(
        np.random.default_rng(seed),
        shapes=(shape,),
        variable=variable,
        path=path,
        distractor_shapes=distractor_shapes,
        config=config,
    )


def brightness_above_background(frames):
    """f64[T, H, W]: 0 where there is no actor."""
    grey = frames.astype(np.float64).mean(axis=-1)
    return np.clip(grey - np.median(grey, axis=(1, 2), keepdims=True), 0, None)


def centres(weight):
    """Weighted mean of x and y in each frame, f64[T, 2]."""
    ys, xs = np.mgrid[: weight.shape[1], : weight.shape[2]]
    total = weight.sum(axis=(1, 2))
    return np.stack([(weight * along).sum(axis=(1, 2)) / total for along in (xs, ys)], axis=1)


@pytest.mark.parametrize(
    'variable, path, axis, sign',
    [
        ('x', 'forward', 0, 1),
        ('x', 'backward', 0, -1),
        ('y', 'forward', 1, 1),
        ('y', 'backward', 1, -1),
    ],
)
def test_moving_shape_moves_in_the_pixels(variable, path, axis, sign):
    small = dataclasses.replace(PLAIN, diameter=(0.15, 0.15), travel=(0.4, 0.4))
    for seed in range(4):
        scene = scene_of(seed, variable, path, small)
        frames = render(scene)
        mask = (brightness_above_background(frames) > 30).astype(np.float64)
        way = np.diff(centres(mask), axis=0)  # [T - 1, 2], pixels
        assert np.all(sign * way[:, axis] > 0)
        assert np.all(np.abs(way[:, 1 - axis]) < 0.35)
        assert sign * way[:, axis].sum() == pytest.approx(0.4 * min(frames.shape[1:3]), abs=0.7)


def test_there_and_back():
    small = dataclasses.replace(PLAIN, diameter=(0.15, 0.15))
    for path, sign in (('forward then backward', 1), ('backward then forward', -1)):
        frames = render(scene_of(0, 'x', path, small))
        x = centres((brightness_above_background(frames) > 30).astype(np.float64))[:, 0]
        turn = np.argmax(sign * x)
        assert 0.35 * len(x) < turn < 0.65 * len(x)
        assert np.all(sign * np.diff(x[:turn]) > 0) and np.all(sign * np.diff(x[turn + 1 :]) < 0)
        assert x[0] == pytest.approx(x[-1], abs=0.5)


@pytest.mark.parametrize('path, sign', [('forward', 1), ('backward', -1)])
def test_growing_shape_covers_more_pixels(path, sign):
    small = dataclasses.replace(PLAIN, diameter=(0.25, 0.25), growth=(2.5, 2.5), travel=(0.1, 0.1))
    for shape, share in (('disc', np.pi / 4 * 0.9**2), ('square', 0.72**2)):
        scene = scene_of(1, 'size', path, small, shape)
        area = (brightness_above_background(render(scene)) > 45).sum(axis=(1, 2))
        assert np.all(sign * np.diff(area) >= -3)
        short = min(scene.height, scene.width)
        least, greatest = sorted((area[0], area[-1]))
        for area_of, ratio in ((least, 1 / 2.5), (greatest, 2.5)):
            assert area_of == pytest.approx(share * 0.25**2 * ratio * short**2, rel=0.12)


@pytest.mark.parametrize('shape', ['disc', 'ring', 'star', 'square', 'triangle', 'cross'])
@pytest.mark.parametrize('path, sign', [('forward', 1), ('backward', -1)])
def test_turning_shape_turns_in_the_pixels(shape, path, sign):
    """From the middle of the shape, its bright half lies in a direction that is followed."""
    large = dataclasses.replace(
        PLAIN, diameter=(0.6, 0.6), growth=(1, 1), travel=(0.05, 0.05), turn=(150, 150)
    )
    scene = scene_of(2, 'angle', path, large, shape)
    weight = brightness_above_background(render(scene))
    arm = centres(weight) - centres((weight > 30).astype(np.float64))
    angle = np.unwrap(np.arctan2(arm[:, 1], arm[:, 0]))  # y points down: clockwise is positive
    assert np.all(sign * (angle[3:] - angle[:-3]) > 0)
    assert np.degrees(angle[-1] - angle[0]) == pytest.approx(sign * 150, abs=6)


@pytest.mark.parametrize('variable', ['x', 'y', 'size', 'angle'])
def test_opposite_motion_is_the_same_motion_played_backwards(variable):
    """Hence opposite motions share the distribution of every frame that is as far from its end as
    from its start, and of a frame at a random moment."""
    config = dataclasses.replace(SceneConfig(), short_side=(16, 16))
    for seed in range(20):
        one = scene_of(seed, variable, 'forward', config).actor
        other = scene_of(seed, variable, 'backward', config).actor
        for name in ('centre', 'diameter', 'angle'):
            np.testing.assert_allclose(getattr(other, name), getattr(one, name)[::-1], atol=1e-12)


def test_a_frame_at_a_random_moment_is_distributed_equally_for_all_motions():
    """Two-sample Kolmogorov-Smirnov distance of x, y and size between every two motions."""
    config = dataclasses.replace(
        TINY, uneven=SceneConfig().uneven, centre_jitter=SceneConfig().centre_jitter
    )
    states = {}
    for number, motion in enumerate(
        [
            ('x', 'forward'),
            ('x', 'backward then forward'),
            ('y', 'backward'),
            ('size', 'forward'),
            ('angle', 'forward'),
        ]
    ):
        rng = np.random.default_rng(number)
        rows = []
        for seed in range(200):
            actor = scene_of(10_000 * number + seed, *motion, config).actor
            t = rng.integers(len(actor.diameter))
            rows.append([*actor.centre[t], actor.diameter[t], actor.angle[t] % 360])
        states[motion] = np.array(rows)
    limit = 1.95 * np.sqrt(2 / 200)  # probability 0.001 for one comparison
    for one in states:
        for other in states:
            for column in range(4):
                a, b = np.sort(states[one][:, column]), np.sort(states[other][:, column])
                values = np.concatenate([a, b])
                distance = np.abs(
                    np.searchsorted(a, values, 'right') / len(a)
                    - np.searchsorted(b, values, 'right') / len(b)
                ).max()
                assert distance < limit, (one, other, column)


def fit_and_test(features, labels):
    """Accuracy of ridge regression on the second half, trained on the first."""
    features = (features - features.mean(0)).reshape(len(features), -1)
    half = len(features) // 2
    kernel = features @ features.T
    target = np.eye(labels.max() + 1)[labels]
    weight = np.linalg.solve(
        kernel[:half, :half] + 0.1 * np.trace(kernel) / half * np.eye(half),
        target[:half] - target[:half].mean(0),
    )
    return np.mean((kernel[half:, :half] @ weight).argmax(1) == labels[half:])


@pytest.mark.parametrize('pair', [('rising', 'falling'), ('growing', 'shrinking')])
def test_a_frame_does_not_tell_the_motion_but_a_difference_does(pair):
    """On the shipped scenes: background, shake and distractors are on."""
    actions = classification.DATASETS['motions'].actions
    small = dataclasses.replace(
        classification.DATASETS['motions'].config,
        short_side=(32, 32),
        seconds=(1.0, 1.0),
        frame_rates=('12',),
        aspect_ratios=((1, 1),),
    )
    frames, differences, labels = [], [], []
    for index in range(320):
        label = index % 2
        action = actions[f'star {pair[label]}']
        scene = draw_scene(
            np.random.default_rng([5, index]),
            shapes=action.shapes,
            variable=action.variable,
            path=action.path,
            config=small,
            distractor_shapes=classification.DATASETS['motions'].distractor_shapes,
        )
        t = np.random.default_rng([6, index]).integers(scene.num_frames)
        some = dataclasses.replace(
            scene,
            drift=scene.drift[[0, t, -1]],
            shake=scene.shake[[0, t, -1]],
            shake_angle=scene.shake_angle[[0, t, -1]],
            layers=tuple(
                dataclasses.replace(
                    layer,
                    centre=layer.centre[[0, t, -1]],
                    diameter=layer.diameter[[0, t, -1]],
                    angle=layer.angle[[0, t, -1]],
                )
                for layer in scene.layers
            ),
        )
        blocks = brightness_above_background(render(some)).reshape(3, 8, 4, 8, 4).mean(axis=(2, 4))
        frames.append(blocks[1])
        differences.append(blocks[2] - blocks[0])
        labels.append(label)
    labels = np.array(labels)
    # 160 tests: chance is 50 %, its standard deviation 4 %.
    assert fit_and_test(np.array(frames), labels) < 0.62
    assert fit_and_test(np.array(differences), labels) > 0.85


def test_frames_obey_the_config():
    config = SceneConfig()
    sizes = set()
    for seed in range(60):
        scene = scene_of(seed, 'x', 'either', dataclasses.replace(config, distractors=(0, 0)))
        short, long = sorted((scene.height, scene.width))
        sizes.add((scene.height > scene.width, scene.height == scene.width))
        assert config.short_side[0] <= short <= config.short_side[1]
        assert short % 2 == long % 2 == 0 and long <= 1.5 * short + 1
        assert scene.num_frames >= config.min_frames
        seconds = scene.num_frames / scene.frame_rate
        assert 0.95 * config.seconds[0] <= seconds <= 1.05 * config.seconds[1]
        assert np.ptp(scene.actor.centre[:, 0]) <= config.travel[1] + 1e-9
        assert np.ptp(scene.actor.centre[:, 0]) >= config.travel[0] - 1e-9
    assert len(sizes) == 3  # landscape, portrait, square
    frames = render(scene)
    assert frames.dtype == np.uint8
    assert frames.shape == (scene.num_frames, scene.height, scene.width, 3)


def test_camera_shakes_smoothly_and_background_is_slower_than_the_motion():
    for seed in range(30):
        scene = scene_of(seed, 'x', 'forward', SceneConfig())
        way = np.linalg.norm(scene.drift[-1] - scene.drift[0])
        assert way <= 0.2 < 0.45 <= np.ptp(scene.actor.centre[:, 0]) + 1e-9
        # Amplitude 0.02 at 2 Hz has a speed of at most 0.25 short sides per second.
        speed = np.abs(np.diff(scene.shake, axis=0)).max() * float(scene.frame_rate)
        assert speed <= 0.02 * 2 * np.pi * 2 + 1e-9
        assert np.ptp(scene.shake) > 0


def test_either_goes_both_ways():
    ways = [
        np.sign(np.diff(scene_of(seed, 'x', 'either', TINY).actor.centre[:, 0]).sum())
        for seed in range(40)
    ]
    assert 8 < ways.count(1) < 32 and ways.count(1) + ways.count(-1) == 40


def test_shape_partly_outside_is_cut_off():
    far = dataclasses.replace(PLAIN, centre_jitter=(0.5, 0.5), travel=(0, 0))
    scene = scene_of(0, 'angle', 'forward', far)
    weight = brightness_above_background(render(scene))[0]
    ys, xs = np.nonzero(weight > 30)
    assert ys.max() == scene.height - 1 and xs.min() > scene.width / 2
    gone = dataclasses.replace(PLAIN, centre_jitter=(3, 3), travel=(0, 0))
    assert np.ptp(render(scene_of(0, 'angle', 'forward', gone))) == 0


def test_unknown_motion_is_an_error():
    with pytest.raises(ValueError, match="unknown motion 'colour', 'forward'.*'x', 'y', 'size'"):
        scene_of(0, 'colour', 'forward')
    with pytest.raises(ValueError, match="'sideways'"):
        scene_of(0, 'x', 'sideways')


def test_pixels_are_those_of_this_renderer_version():
    """If you changed the pictures on purpose: raise `rendering.RENDERER_VERSION`, so that nobody's
    finished directory is taken for the new videos, then put the new digest here. If you did not,
    or if this fails on one machine only, it is a bug: the same seed must give the same pixels."""
    digest = hashlib.sha256()
    for dataset in classification.DATASETS:
        for index in range(10):
            scene = classification.Video(dataset, 'train', index, seed=0).scene()
            digest.update(render(scene))
    assert (rendering.RENDERER_VERSION, digest.hexdigest()[:16]) == (2, '80b166618bddbe64')


def test_every_path_is_used():
    used = {
        action.path for data in classification.DATASETS.values() for action in data.actions.values()
    }
    assert used == set(PATHS)
