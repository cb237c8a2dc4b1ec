"""Renders "scenes", a synthetic dataset for action localisation in the form of AVA.

One to three shapes in a video, side by side, each with actions of its own for as long as the video
lasts. The key frame is at second 1. Every shape has one action of how it moves ("move left",
"grow", "stand still", ...), and some turn as well: like AVA's persons, several labels for each box.
The actions of the training videos are long-tailed (a fourth of the boxes "stand still", one in a
hundred "grow then shrink"); those of validation are equally frequent, so that the average precision
of a rare action rests on more than a handful of boxes. Detections (proposals) are the boxes, shaken
and sometimes missed, and wrong ones.

    ROOT/videos/{train,validation}/NAME.mp4
    ROOT/annotations/{train,validation}.csv
    video_id,timestamp,x1,y1,x2,y2,action_id,person_id
    ROOT/annotations/{train,validation}_proposals.csv   video_id,timestamp,x1,y1,x2,y2,,score
    ROOT/annotations/action_list.pbtxt
    ROOT/relations.json                                 {dataset: {action: [related classes]}}
    ROOT/synthetic.json                                 what was asked for, and whether it is
    complete
"""

from __future__ import annotations

from collections.abc import Iterator
import csv
import dataclasses
import io
import math
import os
import pathlib

import numpy as np

from data_pipelines.synthetic import classification, layers, pixels, rendering
from data_pipelines.synthetic.layers import Layer, Scene, SceneConfig
from data_pipelines.synthetic.rendering import SPLITS, to_json, write_text

KEY_FRAME_SECONDS = 1
_SHAPES = tuple(pixels.SHAPES)
# A shape of which less than this part of its box is in the key frame is not annotated.
_VISIBLE = 0.3


@dataclasses.dataclass(frozen=True)
class Action:
    """A variable of `layers.VARIABLES` and one of its `PATHS`; None: nothing moves.

    `weight`: how often, in training, relative to the others of its kind.
    """

    variable: str | None
    path: str | None
    weight: float

    @property
    def movements(self) -> frozenset[tuple[str, int]]:
        """All (variable, sign) that are seen at some moment."""
        return layers.movements(self.variable, self.path)


# Each shape has one of these ...
MOVEMENTS = {
    'stand still': Action(None, None, 25.0),
    'move left': Action('x', 'backward', 18.0),
    'move right': Action('x', 'forward', 14.0),
    'move up': Action('y', 'backward', 10.0),
    'grow': Action('size', 'forward', 7.0),
    'move left then right': Action('x', 'backward then forward', 5.0),
    'move down': Action('y', 'forward', 3.5),
    'shrink': Action('size', 'backward', 2.5),
    'move right then left': Action('x', 'forward then backward', 1.7),
    'grow then shrink': Action('size', 'forward then backward', 1.0),
}
# ... and may have one of these besides; the weight is the probability.
TURNS = {
    'turn clockwise': Action('angle', 'forward', 0.15),
    'turn counter-clockwise': Action('angle', 'backward', 0.02),
}
_TURN_IN_VALIDATION = 0.1  # of either kind

ACTIONS = {**MOVEMENTS, **TURNS}  # numbered from 1, as AVA's are

CONFIG = SceneConfig(
    short_side=(80, 112),
    aspect_ratios=((4, 3), (3, 2), (16, 9)),
    frame_rates=('15', '20', '24', '25', '30000/1001'),
    seconds=(2.0, 2.4),
    travel=(0.28, 0.40),
    diameter=(0.22, 0.28),
    centre_jitter=(-0.04, 0.04),
)
_NUM_ACTORS = (0.35, 0.40, 0.25)  # probabilities of 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Box:
    """A shape in the key frame.

    Attributes:
        corners: x1, y1, x2, y2, 0..1 of the frame, within it.
        actions: names.
    """

    corners: tuple[float, float, float, float]
    actions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Crowd:
    """A scene with several actors: its last layers, in the order of `actions`."""

    scene: Scene
    actions: tuple[tuple[str, ...], ...]

    def boxes(self) -> list[Box]:
        """What is to be annotated at the key frame."""
        t = min(round(KEY_FRAME_SECONDS * self.scene.frame_rate), self.scene.num_frames - 1)
        layers = self.scene.layers[-len(self.actions) :]
        boxes = []
        for layer, actions in zip(layers, self.actions):
            whole = _outline_box(self.scene, layer, t)
            inside = np.clip(whole, 0, 1)
            area, visible = (float(np.prod(box[2:] - box[:2])) for box in (whole, inside))
            if visible >= _VISIBLE * area:
                boxes.append(Box(tuple(float(x) for x in inside), actions))
        return boxes


def _outline_box(scene: Scene, layer: Layer, t: int) -> np.ndarray:
    """The box around a shape, f64[4] in 0..1, also beyond the frame."""
    centre, diameter, degrees = layers.in_frame(scene, layer, t)
    corners = np.concatenate([np.array(polygon) for polygon in pixels.SHAPES[layer.shape]])
    turn = math.radians(degrees)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    seen = centre + 0.5 + corners @ rotation.T * diameter / 2  # pixel centres lie at halves
    size = np.array([scene.width, scene.height])
    return np.concatenate([seen.min(0) / size, seen.max(0) / size])


@dataclasses.dataclass(frozen=True)
class Video:
    """One video to be; everything about it follows from these."""

    split: str
    index: int
    seed: int

    @property
    def name(self) -> str:
        return f'scene_{self.split}_{self.index:05d}'

    @property
    def path(self) -> str:
        """Relative to the root."""
        return f'videos/{self.split}/{self.name}.mp4'

    def generator(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, SPLITS.index(self.split), self.index, purpose])

    def crowd(self) -> Crowd:
        return draw_crowd(self.generator(0), long_tailed=self.split == 'train')

    def scene(self) -> Scene:
        return self.crowd().scene


def draw_crowd(
    rng: np.random.Generator, *, long_tailed: bool, config: SceneConfig = CONFIG
) -> Crowd:
    """Draws one random scene of one to three actors.

    Args:
        rng: where all randomness comes from.
        long_tailed: actions by their weights, else all equally frequent.
        config: the distributions.
    """
    size, frame_rate, seconds = layers.draw_format(rng, config)
    background_grey = rng.uniform(*config.background_grey)

    count = 1 + rng.choice(len(_NUM_ACTORS), p=_NUM_ACTORS)
    actions = tuple(_draw_actions(rng, long_tailed) for _ in range(count))
    long = size[1] / min(size)
    places = (np.arange(count) + 0.5) / count * long - long / 2  # side by side
    actors = []
    for own, place in zip(actions, places):
        middle = np.array([place, 0.0]) + rng.uniform(*config.centre_jitter, size=2)
        paths = {ACTIONS[name].variable: ACTIONS[name].path for name in own if ACTIONS[name].path}
        motion = layers.draw_motion(rng, middle, paths, len(seconds), config)
        actors.append(layers.draw_actor(rng, _SHAPES, background_grey, motion, config))
    distractors = tuple(
        layers.draw_distractor(
            rng, _SHAPES, background_grey, np.array([long - 1, 0.0]), seconds, config
        )
        for _ in range(rng.integers(*config.distractors, endpoint=True))
    )
    scene = layers.set_stage(
        rng, size, frame_rate, seconds, (*distractors, *actors), background_grey, config
    )
    return Crowd(scene, actions)


def _draw_actions(rng: np.random.Generator, long_tailed: bool) -> tuple[str, ...]:
    weights = np.array([action.weight if long_tailed else 1.0 for action in MOVEMENTS.values()])
    names = [list(MOVEMENTS)[rng.choice(len(MOVEMENTS), p=weights / weights.sum())]]
    chance = rng.uniform()
    for name, action in TURNS.items():
        probability = action.weight if long_tailed else _TURN_IN_VALIDATION
        if 0 <= chance < probability:
            names.append(name)
        chance -= probability
    return tuple(names)


def propose(
    rng: np.random.Generator, boxes: list[Box]
) -> list[tuple[tuple[float, float, float, float], float]]:
    """What a person detector might find: (corners, score) pairs, scores falling."""
    found = []
    for box in boxes:
        if rng.uniform() < 0.95:
            corners = np.array(box.corners)
            size = np.tile(corners[2:] - corners[:2], 2)
            found.append((corners + 0.05 * size * rng.standard_normal(4), rng.uniform(0.75, 1.0)))
    for _ in range(rng.integers(0, 3)):
        corner, size = rng.uniform(0, 0.7, 2), rng.uniform(0.1, 0.3, 2)
        found.append((np.concatenate([corner, corner + size]), rng.uniform(0.05, 0.8)))
    found.sort(key=lambda pair: -pair[1])
    return [
        (tuple(float(x) for x in np.clip(corners, 0, 1)), float(score)) for corners, score in found
    ]


def relations() -> dict[str, dict[str, list[str]]]:
    """The related classes of the other synthetic datasets: `relations()[dataset][action]`."""
    return {
        name: {
            mine: [
                theirs
                for theirs, other in dataset.actions.items()
                if action.movements & other.movements
            ]
            for mine, action in ACTIONS.items()
        }
        for name, dataset in classification.DATASETS.items()
    }


def render_scenes(
    root: str | os.PathLike,
    *,
    train_videos: int = 400,
    validation_videos: int = 100,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, pathlib.Path]:
    """Renders the dataset under `root`, or what is missing of it.

    Args:
        root: made when it is not there.
        train_videos, validation_videos: how many; each has one key frame.
        seed: same seed, same videos and annotations.
        workers: processes; by default one per processor. The result does not depend on it.
        progress: whether to show a progress bar.

    Returns:
        `videos` (directory), `action_list`, and for both splits the csv files `SPLIT` and
        `SPLIT_proposals`.

    Raises:
        ValueError: an argument makes no sense, or `root` holds something else.
    """
    root = pathlib.Path(root)
    sizes = {'train': train_videos, 'validation': validation_videos}
    videos = [Video(split, index, seed) for split in SPLITS for index in range(sizes[split])]
    rendering.make_dataset(
        root,
        videos,
        lambda: _write_annotations(root, videos),
        constants=(ACTIONS, CONFIG, _NUM_ACTORS, _TURN_IN_VALIDATION, _VISIBLE),
        contents=('videos', 'annotations'),
        sizes=sizes,
        seed=seed,
        workers=workers,
        progress=progress,
    )
    annotations = root / 'annotations'
    return {
        'videos': root / 'videos',
        'action_list': annotations / 'action_list.pbtxt',
        **{
            f'{split}{kind}': annotations / f'{split}{kind}.csv'
            for split in SPLITS
            for kind in ('', '_proposals')
        },
    }


def _write_annotations(root: pathlib.Path, videos: list[Video]) -> None:
    numbers = {name: number for number, name in enumerate(ACTIONS, 1)}
    write_text(
        root / 'annotations' / 'action_list.pbtxt',
        ''.join(
            f'label {{\n  name: "{name}"\n  label_id: {number}\n  label_type: PERSON_MOVEMENT\n}}\n'
            for name, number in numbers.items()
        ),
    )
    for split in SPLITS:
        truth, proposals = [], []
        for video in videos:
            if video.split != split:
                continue
            boxes = video.crowd().boxes()
            where = (video.name, f'{KEY_FRAME_SECONDS:04d}')
            truth += [
                (*where, *_rounded(box.corners), numbers[action], person)
                for person, box in enumerate(boxes)
                for action in box.actions
            ]
            proposals += [
                (*where, *_rounded(corners), '', f'{score:.6f}')
                for corners, score in propose(video.generator(1), boxes)
            ]
        write_text(root / 'annotations' / f'{split}.csv', _csv(truth))
        write_text(root / 'annotations' / f'{split}_proposals.csv', _csv(proposals))
    write_text(root / 'relations.json', to_json(relations()))


def _rounded(corners: tuple[float, ...]) -> Iterator[str]:
    return (f'{x:.3f}' for x in corners)


def _csv(rows: list[tuple]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()
