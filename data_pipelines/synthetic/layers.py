"""Scenes of a moving shape: random numbers -> positions, sizes and angles -> frames.

One shape (the *actor*) is described at every moment by four variables: where it is (`x`, `y`),
how large it is (`size`) and how it is turned (`angle`). Every video draws a range for each of
them, from the same distributions. A *motion* leads one variable over its whole range, from one end
to the other or there and back; the other variables rest at a random point of their own ranges.
Hence a frame taken at a random moment is distributed equally for all motions: what moves, and which
way, can be learned from several frames only. Around the actor, a textured background drifts at its
own pace, the camera shakes, and smaller shapes (*distractors*) stand still or tremble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from fractions import Fraction
import math

import numpy as np

from data_pipelines.synthetic import pixels

Range = tuple[float, float]
_WIDE = ((5, 4), (4, 3), (3, 2))  # width : height

VARIABLES = ('x', 'y', 'size', 'angle')
# The signs of a movement in order of time; where there are two alternatives, one is drawn.
# Forward is rightwards for x, downwards for y, growing for size, clockwise for angle.
PATHS = {
    'forward': ((1,),),
    'backward': ((-1,),),
    'either': ((1,), (-1,)),
    'forward then backward': ((1, -1),),
    'backward then forward': ((-1, 1),),
}


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """How hard the videos are. Ranges are (least, greatest) of a uniform distribution.

    Unless said otherwise lengths are in units of the frame's short side, so that a motion survives
    a square crop, and brightness is in grey levels (0..255).
    """

    short_side: tuple[int, int] = (72, 112)  # pixels; sizes are even, as H.264 halves colour
    # Width : height, and frames per second; each of them equally frequent.
    aspect_ratios: tuple[tuple[int, int], ...] = ((1, 1), *_WIDE, *((b, a) for a, b in _WIDE))
    frame_rates: tuple[str, ...] = ('12', '15', '20', '24', '25', '30000/1001', '30')
    seconds: Range = (1.0, 2.5)  # length of a video
    min_frames: int = 16  # lengthens videos of low frame rate

    travel: Range = (0.45, 0.65)  # range of x and of y during one video
    centre_jitter: Range = (-0.06, 0.06)  # of the middle of that range about the frame's middle
    off_square: Range = (-0.25, 0.25)  # more of it along the long side, per (long - short)
    diameter: Range = (0.29, 0.37)  # geometric middle of the range of sizes
    growth: Range = (2.0, 2.6)  # greatest / least diameter
    turn: Range = (120.0, 200.0)  # range of the angle, degrees
    uneven: Range = (-0.35, 0.35)  # pace goes from 1 + this to 1 - this
    turning_point: Range = (0.4, 0.6)  # where "then" lies, per length of the video

    contrast: Range = (95.0, 120.0)  # the actor is brighter than the background by this
    two_tone: Range = (50.0, 80.0)  # between the actor's halves, which show its angle
    tint: float = 38.0  # greatest departure of a colour channel from grey
    texture: float = 20.0  # half the range of the noise on a shape
    background_grey: Range = (50.0, 100.0)
    background_texture: Range = (10.0, 18.0)
    background_cell: Range = (0.15, 0.40)  # size of its largest blotches
    background_drift: Range = (0.0, 0.20)  # way during one video

    distractors: tuple[int, int] = (0, 2)  # how many, both ends included
    distractor_diameter: Range = (0.12, 0.20)
    distractor_contrast: Range = (25.0, 60.0)
    tremble: Range = (0.0, 0.03)  # amplitude; half of the distractors stand still

    shake: Range = (0.0, 0.02)  # amplitude of the camera's movement
    shake_degrees: Range = (0.0, 1.5)  # amplitude of the camera's turning
    shake_hertz: Range = (0.5, 2.0)  # frequencies of both, and of trembling


@dataclasses.dataclass(frozen=True)
class Layer:
    """One shape over time.

    Attributes:
        shape: name of its outline, one of `pixels.SHAPES`.
        sprite: u8[S, S, 4], its picture: red, green, blue, opacity.
        centre: f64[T, 2], x and y from the frame's middle in short sides, y downwards.
        diameter: f64[T], of the circle around it, in short sides.
        angle: f64[T], degrees, clockwise.
    """

    shape: str
    sprite: np.ndarray
    centre: np.ndarray
    diameter: np.ndarray
    angle: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scene:
    """Everything that is needed to render a video.

    Attributes:
        height, width: of the frames, pixels, even.
        frame_rate: frames per second.
        background: u8[S, S, 3], the texture behind everything.
        drift: f64[T, 2], where the background is, in short sides.
        layers: distractors first, the actor last.
        shake: f64[T, 2], the camera's movement in short sides.
        shake_angle: f64[T], the camera's turning in degrees.
    """

    height: int
    width: int
    frame_rate: Fraction
    background: np.ndarray
    drift: np.ndarray
    layers: tuple[Layer, ...]
    shake: np.ndarray
    shake_angle: np.ndarray

    @property
    def num_frames(self) -> int:
        return len(self.drift)

    @property
    def actor(self) -> Layer:
        return self.layers[-1]


def draw_scene(
    rng: np.random.Generator,
    *,
    shapes: tuple[str, ...],
    variable: str,
    path: str,
    distractor_shapes: tuple[str, ...] = (),
    config: SceneConfig = SceneConfig(),
) -> Scene:
    """Draws one random scene.

    Args:
        rng: where all randomness comes from.
        shapes: the actor is one of them, all equally probable.
        variable: what moves, one of `VARIABLES`.
        path: how it moves, one of `PATHS`.
        distractor_shapes: outlines of the distractors; empty: there are none.
        config: the distributions.

    Raises:
        ValueError: unknown variable or path.
    """
    if variable not in VARIABLES or path not in PATHS:
        raise ValueError(
            f'unknown motion {variable!r}, {path!r}: variables are {VARIABLES}, '
            f'paths are {tuple(PATHS)}'
        )
    size, frame_rate, seconds = draw_format(rng, config)
    margin = (np.array(size[::-1]) - min(size)) / min(size)
    middle = rng.uniform(*config.centre_jitter, size=2) + margin * rng.uniform(*config.off_square)
    motion = draw_motion(rng, middle, {variable: path}, len(seconds), config)
    background_grey = rng.uniform(*config.background_grey)
    actor = draw_actor(rng, shapes, background_grey, motion, config)

    distractors = []
    if distractor_shapes:
        for _ in range(rng.integers(*config.distractors, endpoint=True)):
            distractors.append(
                draw_distractor(rng, distractor_shapes, background_grey, margin, seconds, config)
            )

    return set_stage(rng, size, frame_rate, seconds, (*distractors, actor), background_grey, config)


def set_stage(
    rng: np.random.Generator,
    size: tuple[int, int],
    frame_rate: Fraction,
    seconds: np.ndarray,
    layers: tuple[Layer, ...],
    background_grey: float,
    config: SceneConfig,
) -> Scene:
    """Puts a drifting background behind the layers and a shaking camera before them.

    Args:
        rng: where all randomness comes from.
        size: height and width, pixels.
        frame_rate: frames per second.
        seconds: f64[T], time of each frame.
        layers: back to front.
        background_grey: mean brightness of the background, grey levels.
        config: the distributions.
    """
    direction, way = rng.uniform(0, 2 * math.pi), rng.uniform(*config.background_drift)
    drift = way * np.array([math.cos(direction), math.sin(direction)])
    return Scene(
        height=size[0],
        width=size[1],
        frame_rate=frame_rate,
        background=pixels.draw_background(
            rng,
            round(1.3 * max(size)),
            grey=background_grey,
            tint=config.tint,
            cell=round(rng.uniform(*config.background_cell) * min(size)),
            texture=rng.uniform(*config.background_texture),
        ),
        drift=np.linspace(0, 1, len(seconds))[:, None] * drift,
        layers=layers,
        shake=_wobble(rng, seconds, config.shake, config, axes=2),
        shake_angle=_wobble(rng, seconds, config.shake_degrees, config, axes=1)[:, 0],
    )


def movements(variable: str | None, path: str | None) -> frozenset[tuple[str, int]]:
    """All (variable, sign) that are seen at some moment of a motion; none of None."""
    return frozenset((variable, sign) for signs in PATHS.get(path, ()) for sign in signs)


def render(scene: Scene) -> np.ndarray:
    """The frames of a scene, u8[T, H, W, 3], red, green, blue."""
    short = min(scene.height, scene.width)
    middle = np.array([scene.width - 1, scene.height - 1]) / 2
    pyramids = [pixels.pyramid(layer.sprite) for layer in scene.layers]
    frames = np.empty((scene.num_frames, scene.height, scene.width, 3), np.uint8)
    for t, frame in enumerate(frames):
        pixels.paste_background(
            frame,
            scene.background,
            middle + short * scene.shake[t],
            short * scene.drift[t],
            scene.shake_angle[t],
        )
        for layer, levels in zip(scene.layers, pyramids):
            pixels.paste_sprite(frame, levels, *in_frame(scene, layer, t))
    return frames


def in_frame(scene: Scene, layer: Layer, t: int) -> tuple[np.ndarray, float, float]:
    """Where a layer is seen in frame t: centre x and y, diameter (pixels), degrees clockwise."""
    short = min(scene.height, scene.width)
    middle = np.array([scene.width - 1, scene.height - 1]) / 2
    # The camera turns and moves everything: x, y of the scene -> pixels.
    tilt = math.radians(scene.shake_angle[t])
    rotation = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
    camera = middle + short * scene.shake[t]
    return (
        camera + rotation @ (short * layer.centre[t]),
        short * layer.diameter[t],
        scene.shake_angle[t] + layer.angle[t],
    )


def draw_format(
    rng: np.random.Generator, config: SceneConfig
) -> tuple[tuple[int, int], Fraction, np.ndarray]:
    """Height and width, even; frames per second; f64[T], time of each frame."""
    short = 2 * round(rng.uniform(*config.short_side) / 2)
    across, down = config.aspect_ratios[rng.integers(len(config.aspect_ratios))]
    height, width = (2 * round(short * part / min(across, down) / 2) for part in (down, across))
    frame_rate = Fraction(config.frame_rates[rng.integers(len(config.frame_rates))])
    num_frames = max(config.min_frames, round(rng.uniform(*config.seconds) * frame_rate))
    return (height, width), frame_rate, np.arange(num_frames) / float(frame_rate)


def draw_motion(
    rng: np.random.Generator,
    middle: np.ndarray,
    paths: Mapping[str, str],
    num_frames: int,
    config: SceneConfig,
) -> dict[str, np.ndarray]:
    """`centre`, `diameter` and `angle` of a `Layer`.

    The four ranges are drawn for every video, whatever moves in it.

    Args:
        rng: where all randomness comes from.
        middle: of the ranges of x and y, f64[2].
        paths: variable that moves -> how, one of `PATHS`; the others rest.
        num_frames: T.
        config: the distributions.
    """
    travel = rng.uniform(*config.travel, size=2)
    diameter, growth = rng.uniform(*config.diameter), rng.uniform(*config.growth)
    first_angle, turn = rng.uniform(0, 360), rng.uniform(*config.turn)
    phase = {name: _rest(rng, num_frames, config) for name in VARIABLES}
    for variable, path in paths.items():
        phase[variable] = _move(rng, path, num_frames, config)
    return {
        'centre': middle + travel * (np.stack([phase['x'], phase['y']], axis=1) - 0.5),
        'diameter': diameter * growth ** (phase['size'] - 0.5),
        'angle': first_angle + turn * phase['angle'],
    }


def draw_actor(
    rng: np.random.Generator,
    shapes: Sequence[str],
    background_grey: float,
    motion: dict[str, np.ndarray],
    config: SceneConfig,
) -> Layer:
    """One of the shapes before a background of this brightness; `motion`: see `draw_motion`."""
    shape = shapes[rng.integers(len(shapes))]
    grey = background_grey + rng.uniform(*config.contrast)
    return Layer(shape, _draw_sprite(rng, shape, grey, config), **motion)


def _draw_pace(rng: np.random.Generator, time: np.ndarray, config: SceneConfig) -> np.ndarray:
    """Maps time 0..1 to phase 0..1, sooner or later. Backwards it is another map of this family,
    equally probable, so that a video played backwards is a video of the opposite class."""
    return time + rng.uniform(*config.uneven) * np.sin(np.pi * time) / np.pi


def _rest(rng: np.random.Generator, num_frames: int, config: SceneConfig) -> np.ndarray:
    """A phase that stays where a moving one would be at a random moment, f64[T]."""
    return np.repeat(_draw_pace(rng, rng.uniform(size=1), config), num_frames)


def _move(rng: np.random.Generator, path: str, num_frames: int, config: SceneConfig) -> np.ndarray:
    """A phase that covers 0..1, f64[T]."""
    alternatives = PATHS[path]
    signs = alternatives[rng.integers(len(alternatives))]
    time = np.linspace(0, 1, num_frames)
    if len(signs) == 2:
        turn = rng.uniform(*config.turning_point)
        time = np.where(time < turn, time / turn, (1 - time) / (1 - turn))
    return _draw_pace(rng, time if signs[0] > 0 else 1 - time, config)


def _wobble(
    rng: np.random.Generator,
    seconds: np.ndarray,
    amplitude: Range,
    config: SceneConfig,
    *,
    axes: int,
) -> np.ndarray:
    """A smooth tremor about 0, f64[T, axes]: two sine waves each."""
    hertz = rng.uniform(*config.shake_hertz, size=(2, axes))
    start = rng.uniform(0, 2 * math.pi, size=(2, axes))
    waves = np.sin(2 * math.pi * hertz * seconds[:, None, None] + start)  # [T, 2, axes]
    return rng.uniform(*amplitude, size=axes) * waves.mean(axis=1)


def draw_distractor(
    rng: np.random.Generator,
    shapes: tuple[str, ...],
    background_grey: float,
    margin: np.ndarray,
    seconds: np.ndarray,
    config: SceneConfig,
) -> Layer:
    shape = shapes[rng.integers(len(shapes))]
    grey = background_grey + rng.choice([-1, 1]) * rng.uniform(*config.distractor_contrast)
    place = rng.uniform(-0.5, 0.5, size=2) * (1 + margin)
    tremor = rng.integers(2) * _wobble(rng, seconds, config.tremble, config, axes=2)
    return Layer(
        shape=shape,
        sprite=_draw_sprite(rng, shape, grey, config),
        centre=place + tremor,
        diameter=np.full(len(seconds), rng.uniform(*config.distractor_diameter)),
        angle=np.full(len(seconds), rng.uniform(0, 360)),
    )


def _draw_sprite(
    rng: np.random.Generator, shape: str, grey: float, config: SceneConfig
) -> np.ndarray:
    return pixels.draw_sprite(
        rng,
        shape,
        grey=grey,
        tint=config.tint,
        two_tone=rng.uniform(*config.two_tone),
        texture=config.texture,
    )
