"""How much of a model's heat lies on the moving shape of synthetic videos, whose place is known."""

import jax
import numpy as np

from data_pipelines.clip import decode
from data_pipelines.clip.crops import crop_corners
from data_pipelines.synthetic import classification, layers
from multitrain_jax.inference.model import Model


def clips_with_places(model: Model, dataset: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips u8[N, T, H, W, 3] of new videos,
    and whether a pixel is in the circle around the shape.
    """
    frames, size, _, _ = model.clip_shape
    clips, places = [], []
    for index in range(count):
        scene = classification.Video(dataset, 'validation', index, seed=7).scene()
        short = min(scene.height, scene.width)
        ((top, left),) = crop_corners(scene.height, scene.width, short, 1)
        numbers = np.linspace(0, scene.num_frames - 1, frames).round().astype(int)
        images = layers.render(scene)[numbers, top : top + short, left : left + short]
        clips.append([decode.resize(np.ascontiguousarray(own), (size, size)) for own in images])
        row, column = np.mgrid[:size, :size] + 0.5
        for number in numbers:
            (x, y), diameter, _ = layers.in_frame(scene, scene.actor, number)
            x, y, radius = (
                value * size / short for value in (x + 0.5 - left, y + 0.5 - top, diameter / 2)
            )
            places.append((column - x) ** 2 + (row - y) ** 2 <= radius**2)
    shape = count, frames, size, size
    return np.array(clips), np.array(places).reshape(shape)


def shares(model: Model, dataset: str, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Of each clip the share of the heat that lies on the shape, and the share of the pixels."""
    clips, places = clips_with_places(model, dataset, count)
    heat = np.asarray(jax.image.resize(model.heat(clips, dataset), places.shape, 'linear'))
    return (heat * places).sum((1, 2, 3)) / heat.sum((1, 2, 3)), places.mean((1, 2, 3))
