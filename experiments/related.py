"""Eight small datasets that show related movements differently, and a large one to pre-train on.

As public datasets do, they overlap without agreeing: each has its own renderer and camera
(`SceneConfig`), names its classes in its own way, and cuts them finer or coarser (one says "axes:
horizontal" where another has "moving left" and a third "disc going left"). Which classes are
related is known, so that experiments can tell what a method that learns such relations could gain,
and whether it finds them.

"pretraining" stands for the large dataset that a model is trained on beforehand: it has all
outlines, but neither sidewards movements nor turns.

Videos are rendered straight to arrays; for files, and datasets in the official formats, see
`classification`.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib

import cv2
import numpy as np

from data_pipelines.clip.frame_sampling import uniform_frames
from data_pipelines.synthetic import classification, layers, pixels, rendering
from data_pipelines.synthetic.classification import Action, Dataset
from data_pipelines.synthetic.layers import PATHS, Scene, SceneConfig

_ANY = tuple(pixels.SHAPES)
_DARK = dict(background_grey=(150.0, 200.0), contrast=(-120.0, -95.0))
_HANDHELD = dict(shake=(0.04, 0.08), shake_degrees=(2.0, 6.0), background_drift=(0.2, 0.5))
_FAINT = dict(contrast=(40.0, 60.0), background_texture=(12.0, 24.0), two_tone=(20.0, 40.0))

RELATED: dict[str, Dataset] = {
    'directions': classification.DATASETS['directions'],
    'motions': classification.DATASETS['motions'],
    'silhouettes': Dataset(  # the vocabulary of "directions" but for returns; in the negative
        actions={
            'going left': Action(_ANY, 'x', 'backward'),
            'going right': Action(_ANY, 'x', 'forward'),
            'climbing': Action(_ANY, 'y', 'backward'),
            'sinking': Action(_ANY, 'y', 'forward'),
            'coming closer': Action(_ANY, 'size', 'forward'),
            'going away': Action(_ANY, 'size', 'backward'),
            'rolling right': Action(_ANY, 'angle', 'forward'),
            'rolling left': Action(_ANY, 'angle', 'backward'),
        },
        distractor_shapes=_ANY,
        config=SceneConfig(**_DARK),
    ),
    'handheld': Dataset(  # a shaking camera before a drifting background
        actions={
            'crossing': Action(_ANY, 'x', 'either'),
            'crossing and coming back': Action(_ANY, 'x', 'forward then backward'),
            'lifting': Action(_ANY, 'y', 'backward'),
            'dropping': Action(_ANY, 'y', 'forward'),
            'swelling': Action(_ANY, 'size', 'forward'),
            'dwindling': Action(_ANY, 'size', 'backward'),
            'spinning': Action(_ANY, 'angle', 'either'),
        },
        distractor_shapes=_ANY,
        config=SceneConfig(**_HANDHELD),
    ),
    'axes': Dataset(  # coarse, and crowded
        actions={
            'horizontal': Action(_ANY, 'x', 'either'),
            'vertical': Action(_ANY, 'y', 'either'),
            'depth': Action(_ANY, 'size', 'either'),
            'rotation': Action(_ANY, 'angle', 'either'),
        },
        distractor_shapes=_ANY,
        config=SceneConfig(distractors=(2, 4), diameter=(0.25, 0.32)),
    ),
    'figures': Dataset(  # fine: outline and movement
        actions={
            f'{shape} {name}': Action((shape,), variable, path)
            for shape in ('cross', 'disc', 'triangle')
            for name, variable, path in (
                ('going left', 'x', 'backward'),
                ('going right', 'x', 'forward'),
                ('growing', 'size', 'forward'),
                ('shrinking', 'size', 'backward'),
            )
        },
        distractor_shapes=('ring', 'star', 'square'),
        config=SceneConfig(diameter=(0.34, 0.42)),
    ),
    'returns': Dataset(  # one way, or there and back; in the negative and shaking
        actions={
            'left': Action(_ANY, 'x', 'backward'),
            'right': Action(_ANY, 'x', 'forward'),
            'left and back': Action(_ANY, 'x', 'backward then forward'),
            'right and back': Action(_ANY, 'x', 'forward then backward'),
            'up': Action(_ANY, 'y', 'backward'),
            'up and back': Action(_ANY, 'y', 'backward then forward'),
            'larger': Action(_ANY, 'size', 'forward'),
            'larger and back': Action(_ANY, 'size', 'forward then backward'),
        },
        distractor_shapes=_ANY,
        config=SceneConfig(**_DARK, shake=(0.02, 0.05)),
    ),
    'faint': Dataset(  # little contrast
        actions={
            f'{shape} {name}': Action((shape,), variable, path)
            for shape in ('ring', 'square', 'star')
            for name, variable, path in (
                ('falling', 'y', 'forward'),
                ('rising', 'y', 'backward'),
                ('turning', 'angle', 'either'),
            )
        },
        distractor_shapes=(),
        config=SceneConfig(**_FAINT, diameter=(0.36, 0.46)),
    ),
}

PRETRAINING = Dataset(
    actions={
        f'{shape} {name}': Action((shape,), variable, path)
        for shape in sorted(_ANY)
        for name, variable, path in (
            ('falling', 'y', 'forward'),
            ('growing', 'size', 'forward'),
            ('rising', 'y', 'backward'),
            ('shrinking', 'size', 'backward'),
        )
    },
    distractor_shapes=_ANY,
    config=SceneConfig(),
)

DATASETS: dict[str, Dataset] = {**RELATED, 'pretraining': PRETRAINING}

Relations = dict[str, dict[str, dict[str, list[str]]]]


def relations(names: Sequence[str] = tuple(RELATED)) -> Relations:
    """Classes that have a movement in common: `relations()[dataset][other][class name]`."""
    return classification.relations({name: DATASETS[name] for name in names})


def label_maps(names: Sequence[str] = tuple(RELATED)) -> dict[str, dict[str, dict[str, str]]]:
    """What a class implies: `label_maps()[dataset][other][class] -> class of other`.

    Only what holds for every video: "disc going left" of "figures" is "horizontal" of "axes", but
    not the other way round. A class that implies none is left out.
    """
    return {
        name: {
            other: {
                first: second
                for first, action in DATASETS[name].actions.items()
                for second, wider in DATASETS[other].actions.items()
                if _implies(action, wider)
            }
            for other in names
            if other != name
        }
        for name in names
    }


def _implies(action: Action, wider: Action) -> bool:
    return (
        set(action.shapes) <= set(wider.shapes)
        and action.variable == wider.variable
        and set(PATHS[action.path]) <= set(PATHS[wider.path])
    )


@dataclasses.dataclass(frozen=True)
class Clips:
    """Videos of one dataset as clips of equal size.

    Attributes:
        video: u8[n, T, S, S, 3], the middle square of every frame.
        label: i32[n].
        classes: names, by number.
    """

    video: np.ndarray
    label: np.ndarray
    classes: tuple[str, ...]


def draw(dataset: str, split: str, index: int, seed: int) -> Scene:
    """The scene of one video; its class is `index` modulo the number of classes.

    All follows from the arguments, so that neither the number of videos nor other datasets change
    it.
    """
    own = int.from_bytes(hashlib.sha256(dataset.encode()).digest()[:4], 'big')
    rng = np.random.default_rng([own, seed, rendering.SPLITS.index(split), index])
    return DATASETS[dataset].scene(index, rng)


def render_clips(
    dataset: str, split: str, count: int, seed: int, *, num_frames: int, side: int
) -> Clips:
    """Clips of `count` videos, classes in turn.

    Args:
        dataset: a name in `DATASETS`.
        split: 'train' or 'validation'.
        count: n.
        seed: another seed, other videos.
        num_frames: T, spread over the whole video.
        side: S, pixels.
    """
    classes = tuple(DATASETS[dataset].actions)
    video = np.empty((count, num_frames, side, side, 3), np.uint8)
    for index in range(count):
        scene = draw(dataset, split, index, seed)
        frames = layers.render(at_frames(scene, uniform_frames(scene.num_frames, num_frames)))
        video[index] = [into_square(frame, side) for frame in frames]
    return Clips(video, np.arange(count, dtype=np.int32) % len(classes), classes)


def at_frames(scene: Scene, frames: np.ndarray) -> Scene:
    """The scene at these frames i64[T] only."""
    return dataclasses.replace(
        scene,
        drift=scene.drift[frames],
        shake=scene.shake[frames],
        shake_angle=scene.shake_angle[frames],
        layers=tuple(
            dataclasses.replace(
                layer,
                centre=layer.centre[frames],
                diameter=layer.diameter[frames],
                angle=layer.angle[frames],
            )
            for layer in scene.layers
        ),
    )


def into_square(frame: np.ndarray, side: int) -> np.ndarray:
    """The middle square of a frame u8[H, W, 3], as u8[side, side, 3]."""
    height, width = frame.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = frame[top : top + short, left : left + short]
    return cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
