"""The README's moving picture: scenes that a model has not seen, with what it says is done in their
boxes.

    python -m tools.readme_picture --model=runs/quickstart_cofinetune/export \\
        --scenes=data/quickstart_cofinetune/scene_videos --output=docs/scenes.gif

Takes the first validation videos with two labelled shapes, enlarges them, and has `multitrain
predict --overlay` draw on them.
"""

import argparse
from collections.abc import Iterator
import csv
from fractions import Fraction
from pathlib import Path
import tempfile

import cv2
import numpy as np
from PIL import Image

from data_pipelines.videos import mp4, video_file
from multitrain_jax.errors import run_command
from multitrain_jax.inference.model import Model, load
from multitrain_jax.inference.overlay import write_overlay

_HEIGHT = 180  # pixels of one video
_FRAME_RATE = 10.0  # of the picture
_FLICKER = 16  # levels of 256


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='python -m tools.readme_picture',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--model', required=True, help='an export')
    parser.add_argument('--scenes', required=True, type=Path, help='DATA_ROOT/scene_videos')
    parser.add_argument('--output', required=True, help='the GIF')
    parser.add_argument('--videos', type=int, default=3, help='side by side (default: 3)')
    args = parser.parse_args()
    model = load(args.model)
    boxes = args.scenes / 'annotations' / 'validation.csv'
    with tempfile.TemporaryDirectory() as folder:
        drawn = [
            _drawn(
                model, args.scenes / 'videos' / 'validation' / f'{name}.mp4', boxes, Path(folder)
            )
            for name in _with_two_boxes(boxes)[: args.videos]
        ]
    write_gif(args.output, drawn)
    return 0


def _with_two_boxes(path: Path) -> list[str]:
    """Names of the videos, in the order of the file."""
    found: dict[str, set[tuple[str, ...]]] = {}
    with open(path, newline='') as file:
        for name, _, *sides in csv.reader(file):
            found.setdefault(name, set()).add(tuple(sides[:4]))
    return [name for name, boxes in found.items() if len(boxes) == 2]


def _drawn(model: Model, video: Path, boxes: Path, folder: Path) -> np.ndarray:
    """u8[T, H, W, 3]."""
    large, overlay = folder / 'large' / video.name, folder / video.name
    large.parent.mkdir(exist_ok=True)
    decoded = video_file.read_frames(video)
    frames = decoded.frames

    def enlarged() -> Iterator[np.ndarray]:
        width = 2 * round(_HEIGHT * frames.shape[2] / frames.shape[1] / 2)
        for frame in frames:
            yield cv2.resize(frame, (width, _HEIGHT), interpolation=cv2.INTER_CUBIC)

    mp4.write_video(large, enlarged(), Fraction(decoded.frame_rate).limit_denominator(1001))
    write_overlay(model, large, overlay, boxes_csv=boxes, captions=[])
    return video_file.read_frames(overlay, frame_rate=_FRAME_RATE).frames


def write_gif(path: str, videos: list[np.ndarray]) -> None:
    """Videos u8[T, H, W, 3] of one height, side by side, as a GIF that runs for ever."""
    length = min(map(len, videos))
    gap = np.full((length, videos[0].shape[1], 6, 3), 255, np.uint8)
    parts = [part for video in videos for part in (video[:length], gap)][:-1]
    rows = np.concatenate(parts, axis=2)
    for before, row in zip(rows, rows[1:]):  # what only flickers stays: half the bytes
        still = np.abs(row.astype(int) - before).max(-1) < _FLICKER
        row[still] = before[still]
    palette = Image.fromarray(rows[length // 2]).quantize(128)
    images = [
        Image.fromarray(row).quantize(palette=palette, dither=Image.Dither.NONE) for row in rows
    ]
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=round(1000 / _FRAME_RATE),
        loop=0,
        optimize=True,
    )


if __name__ == '__main__':
    run_command(main)
