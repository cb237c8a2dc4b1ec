"""Renders two labelled action datasets as MP4 files, so that everything runs without a download.

"motions" (appearance and motion): a star or a ring that grows, shrinks, rises, falls or slides,
either way. A folder per class; a mirrored video keeps its class, and any part of one shows it.

"directions" (direction-sensitive, like Something-Something): any shape that moves left, right, up
or down, approaches, recedes, turns, or moves to one side and back. Listed in csv files as
PySlowFast reads them. Mirroring would change classes; a clip must span the whole video.

No frame gives the motion away, see `layers`. The classes of the two are related in a known
way ("star growing" and "approaching"), which is written next to them.

    ROOT/motions/{train,validation}/CLASS NAME/*.mp4
    ROOT/directions/{train,validation}.csv          lines `relative/path.mp4 class_number`
    ROOT/directions/classes.txt                     line n: the name of class number n
    ROOT/directions/videos/{train,validation}/*.mp4
    ROOT/relations.json                             {dataset: {other: {class: [related classes]}}}
    ROOT/synthetic.json                             what was asked for, and whether it is complete
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
import pathlib

import cv2
import numpy as np

from data_pipelines.inspection.drawing import draw_text
from data_pipelines.synthetic import layers, pixels, rendering
from data_pipelines.synthetic.layers import Scene, SceneConfig


@dataclasses.dataclass(frozen=True)
class Action:
    """A class: shapes, a variable of `layers.VARIABLES`, one of its `PATHS`."""

    shapes: tuple[str, ...]
    variable: str
    path: str

    @property
    def movements(self) -> frozenset[tuple[str, int]]:
        """All (variable, sign) that are seen at some moment of some video."""
        return layers.movements(self.variable, self.path)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Classes by name, in the order of their numbers; outlines of distractors; distributions."""

    actions: dict[str, Action]
    distractor_shapes: tuple[str, ...]
    config: SceneConfig

    def scene(self, index: int, rng: np.random.Generator) -> Scene:
        """The scene of a video; its class is `index` modulo the number of classes."""
        action = list(self.actions.values())[index % len(self.actions)]
        return layers.draw_scene(
            rng,
            shapes=action.shapes,
            variable=action.variable,
            path=action.path,
            distractor_shapes=self.distractor_shapes,
            config=self.config,
        )


_MOVES = {
    'growing': ('size', 'forward'),
    'shrinking': ('size', 'backward'),
    'rising': ('y', 'backward'),
    'falling': ('y', 'forward'),
    'sliding': ('x', 'either'),
}
_ANY = tuple(pixels.SHAPES)

DATASETS = {
    'motions': Dataset(
        # Sorted, as readers of a folder-per-class tree number them.
        actions={
            f'{shape} {move}': Action((shape,), *_MOVES[move])
            for shape in ('ring', 'star')
            for move in sorted(_MOVES)
        },
        distractor_shapes=tuple(name for name in _ANY if name not in ('ring', 'star')),
        # Shorter than the others: clips are drawn from anywhere in a video, and must show enough.
        # Larger and nearly of one tone: here the outline matters, and no class turns.
        config=SceneConfig(seconds=(1.0, 1.8), diameter=(0.34, 0.42), two_tone=(0.0, 25.0)),
    ),
    'directions': Dataset(
        actions={
            'moving left': Action(_ANY, 'x', 'backward'),
            'moving right': Action(_ANY, 'x', 'forward'),
            'moving up': Action(_ANY, 'y', 'backward'),
            'moving down': Action(_ANY, 'y', 'forward'),
            'approaching': Action(_ANY, 'size', 'forward'),
            'receding': Action(_ANY, 'size', 'backward'),
            'turning clockwise': Action(_ANY, 'angle', 'forward'),
            'turning counter-clockwise': Action(_ANY, 'angle', 'backward'),
            'left then right': Action(_ANY, 'x', 'backward then forward'),
            'right then left': Action(_ANY, 'x', 'forward then backward'),
        },
        distractor_shapes=_ANY,
        config=SceneConfig(),
    ),
}


def relations(
    datasets: Mapping[str, Dataset] = DATASETS,
) -> dict[str, dict[str, dict[str, list[str]]]]:
    """The related classes of each other dataset: `relations()[dataset][other][class name]`.

    Two classes are related when they have a movement in common: "star growing" with "approaching",
    "star sliding" with all that go left or right, "turning clockwise" with nothing.
    """
    return {
        name: {
            other: {
                first: [
                    second
                    for second, its in datasets[other].actions.items()
                    if action.movements & its.movements
                ]
                for first, action in datasets[name].actions.items()
            }
            for other in datasets
            if other != name
        }
        for name in datasets
    }


@dataclasses.dataclass(frozen=True)
class Video:
    """One video to be: everything about it follows from these. Hence no number of workers,
    and no number of videos, changes it."""

    dataset: str
    split: str
    index: int
    seed: int

    @property
    def label(self) -> int:
        return self.index % len(DATASETS[self.dataset].actions)

    @property
    def path(self) -> str:
        """Relative to the root."""
        if self.dataset == 'motions':
            name = list(DATASETS['motions'].actions)[self.label]
            return f'motions/{self.split}/{name}/{name.replace(" ", "_")}_{self.index:05d}.mp4'
        return f'{self.dataset}/videos/{self.split}/{self.index:05d}.mp4'

    def scene(self) -> Scene:
        places = list(DATASETS).index(self.dataset), rendering.SPLITS.index(self.split)
        rng = np.random.default_rng([self.seed, *places, self.index])
        return DATASETS[self.dataset].scene(self.index, rng)


def render_datasets(
    root: str | os.PathLike[str],
    *,
    train_videos: int = 400,
    validation_videos: int = 100,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, dict[str, pathlib.Path]]:
    """Renders both datasets under `root`, or what is missing of them.

    Args:
        root: made when it is not there.
        train_videos: in each dataset, classes in turn.
        validation_videos: the same.
        seed: same seed, same videos.
        workers: processes; by default one per processor. The result does not depend on it.
            With more than one, a script that calls this needs `if __name__ == '__main__':`.
        progress: whether to show a progress bar.

    Returns:
        ``{'motions': {'train': folder, 'validation': folder},
        'directions': {'train': csv, 'validation': csv, 'classes': text file},
        'relations': json file}``.

    Raises:
        ValueError: an argument makes no sense, or `root` holds something else.
    """
    root = pathlib.Path(root)
    sizes = {'train': train_videos, 'validation': validation_videos}
    videos = [
        Video(dataset, split, index, seed)
        for dataset in DATASETS
        for split in rendering.SPLITS
        for index in range(sizes[split])
    ]
    rendering.make_dataset(
        root,
        videos,
        lambda: _write_annotations(root, videos),
        constants=DATASETS,
        contents=DATASETS,
        sizes=sizes,
        seed=seed,
        workers=workers,
        progress=progress,
    )
    directions = root / 'directions'
    return {
        'motions': {split: root / 'motions' / split for split in rendering.SPLITS},
        'directions': {
            **{split: directions / f'{split}.csv' for split in rendering.SPLITS},
            'classes': directions / 'classes.txt',
        },
        'relations': root / 'relations.json',
    }


def _write_annotations(root: pathlib.Path, videos: list[Video]) -> None:
    folder = root / 'directions'
    for split in rendering.SPLITS:
        lines = [
            f'{pathlib.PurePosixPath(video.path).relative_to("directions")} {video.label}\n'
            for video in videos
            if (video.dataset, video.split) == ('directions', split)
        ]
        rendering.write_text(folder / f'{split}.csv', ''.join(lines))
    rendering.write_text(
        folder / 'classes.txt', ''.join(f'{name}\n' for name in DATASETS['directions'].actions)
    )
    rendering.write_text(root / 'relations.json', rendering.to_json(relations()))


def contact_sheet(*, seed: int = 0, frames: int = 8, side: int = 96) -> np.ndarray:
    """One video of every class in a row, time going right, u8[rows * side, W, 3]."""
    rows = []
    for name, dataset in DATASETS.items():
        for index, title in enumerate(dataset.actions):
            clip = layers.render(Video(name, 'train', index, seed).scene())
            label = np.full((side, 2 * side, 3), 255, np.uint8)
            for line, text in enumerate((name, title)):
                draw_text(label, text, 4, side // 3 + 20 * line, (0, 0, 0), 0.4)
            cells = [label]
            for t in np.linspace(0, len(clip) - 1, frames).round().astype(int):
                cells.append(_into_square(clip[t], side))
            rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows)


def _into_square(frame: np.ndarray, side: int) -> np.ndarray:
    """The whole frame in the middle of a white square."""
    scale = (side - 2) / max(frame.shape[:2])
    height, width = (round(scale * length) for length in frame.shape[:2])
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = cv2.resize(frame, (width, height))
    return square
