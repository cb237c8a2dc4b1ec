"""Data that a config makes by itself: synthetic videos, converted like anybody's own."""

import os
import pathlib

from data_pipelines.annotations import ava, folder, pyslowfast
from data_pipelines.conversion.dataset import convert
from data_pipelines.conversion.options import Options
from data_pipelines.synthetic import classification, localisation, rendering


def prepare_synthetic(
    root: str | os.PathLike, *, train_videos: int, validation_videos: int, seed: int
) -> dict[str, pathlib.Path]:
    """Makes `ROOT/videos` (MP4 files) and the records `ROOT/motions` and `ROOT/directions`.

    What is there already is kept; what an interruption left unfinished is finished.

    Args:
        root: made if missing.
        train_videos: of each of the two datasets.
        validation_videos: of each.
        seed: of the videos.

    Returns:
        Record directory by dataset name.

    Raises:
        ValueError: `root` holds other data.
    """
    root = pathlib.Path(root)
    videos = classification.render_datasets(
        root / 'videos', train_videos=train_videos, validation_videos=validation_videos, seed=seed
    )
    directions = videos['directions']
    annotations = {
        'motions': folder.read_folder(videos['motions']['train'].parent),
        'directions': pyslowfast.read_pyslowfast(
            {split: directions[split] for split in ('train', 'validation')},
            classes_file=directions['classes'],
            path_prefix=directions['classes'].parent,
        ),
    }
    for name, clips in annotations.items():
        convert(clips, root / name, Options(name=name))
    return {name: root / name for name in annotations}


def prepare_scenes(
    root: str | os.PathLike, *, train_videos: int, validation_videos: int, seed: int
) -> pathlib.Path:
    """Makes `ROOT/scene_videos` (MP4 files, annotations in AVA's form) and the records
    `ROOT/scenes`.

    Arguments, errors and what is kept: as for `prepare_synthetic`.

    Returns:
        Record directory.
    """
    root = pathlib.Path(root)
    made = localisation.render_scenes(
        root / 'scene_videos',
        train_videos=train_videos,
        validation_videos=validation_videos,
        seed=seed,
    )
    annotations = ava.read_ava(
        {split: [made[split]] for split in rendering.SPLITS},
        made['action_list'],
        made['videos'],
        proposals=[made[f'{split}_proposals'] for split in rendering.SPLITS],
    )
    convert(annotations, root / 'scenes', Options(name='scenes'))
    return root / 'scenes'
