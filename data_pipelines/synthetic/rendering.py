"""Synthetic videos as files: encoded, on several processes, complete or known to be incomplete."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
import concurrent.futures
import hashlib
import itertools
import json
import multiprocessing
import pathlib
from typing import Protocol

import cv2
import tqdm

from data_pipelines import files
from data_pipelines.cores import available_cores
from data_pipelines.synthetic import layers
from data_pipelines.videos.mp4 import write_video

# Goes up when the same scene gets other pixels than before.
RENDERER_VERSION = 2
STAMP = 'synthetic.json'
SPLITS = ('train', 'validation')


class RenderedVideo(Protocol):
    """A video to be; everything about it follows from it. Hence no number of workers, and no number
    of videos, changes it."""

    @property
    def path(self) -> str:
        """Where it goes, relative to the root."""

    def scene(self) -> layers.Scene:
        """What it shows."""


def make_dataset(
    root: pathlib.Path,
    videos: Sequence[RenderedVideo],
    annotate: Callable[[], None],
    *,
    constants: object,
    contents: Collection[str],
    sizes: Mapping[str, int],
    seed: int,
    workers: int | None,
    progress: bool,
) -> None:
    """Renders those of `videos` that are missing under `root`, then annotates.

    Args:
        root: made when it is not there.
        videos: all of them.
        annotate: writes the annotations, whatever is there already.
        constants: what decides about the videos, besides sizes and seed; its `repr` counts.
        contents: names of directories in `root` that only this dataset makes.
        sizes: videos by split.
        seed: of the videos.
        workers: processes; None: one per processor.
        progress: whether to show a progress bar.

    Raises:
        ValueError: an argument makes no sense, or `root` holds something else.
    """
    least = {
        **{f'{split}_videos': (size, 1) for split, size in sizes.items()},
        'seed': (seed, 0),
        'workers': (1 if workers is None else workers, 1),
    }
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise ValueError(f'{name} is {value}, must be at least {smallest}')
    digest = hashlib.sha256(repr(constants).encode()).hexdigest()[:8]
    stamp = {
        'renderer': f'{RENDERER_VERSION}-{digest}',
        'seed': seed,
        **{f'{split}_videos': size for split, size in sizes.items()},
    }
    _check_stamp(root, stamp, contents)

    missing = [video for video in videos if not (root / video.path).exists()]
    if missing:
        root.mkdir(parents=True, exist_ok=True)
        write_text(root / STAMP, to_json({**stamp, 'complete': False}))
        _render_all(root, missing, workers or available_cores(), progress)
    annotate()
    write_text(root / STAMP, to_json({**stamp, 'complete': True}))


def _check_stamp(
    root: pathlib.Path, stamp: dict[str, int | str], contents: Collection[str]
) -> None:
    """Raises when `root` holds videos that are not those of `stamp`."""
    if root.exists() and not root.is_dir():
        raise ValueError(f'{root} is a file; choose a directory for the synthetic videos')
    try:
        found = json.loads((root / STAMP).read_text())
    except FileNotFoundError:
        taken = [name for name in contents if (root / name).exists()]
        if taken:
            raise ValueError(
                f'{root / taken[0]} exists but was not rendered here ({root / STAMP} '
                'is missing); choose another directory'
            ) from None
        return
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        found = {}
    different = [
        f'{name}={found.get(name)}, not {value}'
        for name, value in stamp.items()
        if found.get(name) != value
    ]
    if different:
        raise ValueError(
            f'{root} holds synthetic videos of {"; ".join(different)}: '
            'choose another directory, or delete this one'
        )


def _render_all(
    root: pathlib.Path, videos: Sequence[RenderedVideo], workers: int, progress: bool
) -> None:
    bar = tqdm.tqdm(
        total=len(videos), desc='Rendering', unit='video', disable=not progress, mininterval=0.5
    )
    with bar:
        if workers == 1:
            for video in videos:
                _render_one(root, video)
                bar.update()
            return
        # Not forked: the parent may hold threads (JAX does). Few videos are not worth a process.
        workers = min(workers, -(-len(videos) // 8))
        pool = concurrent.futures.ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context('spawn'),
            initializer=cv2.setNumThreads,
            initargs=(1,),
        )
        with pool:
            try:
                for _ in pool.map(_render_one, itertools.repeat(root), videos, chunksize=4):
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _render_one(root: pathlib.Path, video: RenderedVideo) -> None:
    scene = video.scene()
    write_video(root / video.path, layers.render(scene), scene.frame_rate)


def to_json(value) -> str:
    return json.dumps(value, indent=2) + '\n'


def write_text(path: pathlib.Path, text: str) -> None:
    """Atomic, and leaves a file that already says so untouched."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, text.encode())
