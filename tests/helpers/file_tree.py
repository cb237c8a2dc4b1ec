"""Directories of files, for tests of annotation readers."""

import pathlib


def make_files(root: pathlib.Path, *paths: str) -> pathlib.Path:
    """Makes files (videos that nobody will read) and folders for them; returns `root`."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b'a video')
    return root


def summary(annotations, split, root):
    """(key, path relative to `root`, class name, start, end) of each clip."""
    return [
        (
            clip.key,
            str(pathlib.Path(clip.path).relative_to(root)),
            *(annotations.classes[label] for label in clip.labels),
            clip.start,
            clip.end,
        )
        for clip in annotations.splits[split]
    ]
