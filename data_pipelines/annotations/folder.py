"""A folder per class: `ROOT/SPLIT/CLASS/*.mp4`, or `ROOT/CLASS/*.mp4` for a single split."""

import argparse
from collections.abc import Sequence
import hashlib
import os

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.format import Format

VIDEO_SUFFIXES = frozenset(
    '.mp4 .avi .mkv .webm .mov .m4v .mpg .mpeg .wmv .flv .3gp .ts .mts .ogv .asf .vob'.split()
)


def read_folder(
    root: str | os.PathLike,
    splits: Sequence[str] | None = None,
    *,
    validation_share: float = 0.0,
) -> Annotations:
    """Lists the videos of a folder-per-class tree.

    Classes are the folder names, sorted, and the same for every split. Hidden files, and files that
    do not have a video's suffix, are left alone.

    Args:
      root: the tree. Where its folders hold folders, they are splits; where they hold videos,
        classes.
      splits: the splits to take, all if None; for `ROOT/CLASS/*.mp4` the one name to give the
        split, `train` if None.
      validation_share: of each class's videos in `ROOT/CLASS/*.mp4`, this part becomes a split
        `validation`, at least one of two. Which they are follows from their names.

    Raises:
      ValueError: no such directory, no video, splits with different classes, an unknown split, or a
        share of a tree that has splits.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise ValueError(
            f'{root}: no such directory (wanted ROOT/SPLIT/CLASS/*.mp4 or ROOT/CLASS/*.mp4)'
        )
    folders = _folders(root)
    with_videos = [name for name in folders if _videos(os.path.join(root, name))]
    with_folders = [name for name in folders if _folders(os.path.join(root, name))]
    if with_videos and with_folders:
        raise ValueError(
            f'{root}: {with_videos[0]!r} holds videos, {with_folders[0]!r} holds folders; '
            'wanted ROOT/SPLIT/CLASS/*.mp4 or ROOT/CLASS/*.mp4, not both'
        )
    if not 0 <= validation_share < 1:
        raise ValueError(f'--validation_share={validation_share}: must be from 0 to below 1')
    if validation_share and (with_folders or splits):
        raise ValueError(
            f'{root}: --validation_share={validation_share} is for ROOT/CLASS/*.mp4 without splits, '
            f'but there {"are" if with_folders else "is"} {", ".join(splits or with_folders)}'
        )
    if with_folders:
        return _read_splits(root, with_folders, splits)
    if not with_videos:
        raise ValueError(
            f'{root}: no videos in it (wanted ROOT/SPLIT/CLASS/*.mp4 or ROOT/CLASS/*.mp4)'
        )
    if splits is not None and len(splits) != 1:
        raise ValueError(
            f'{root}: its folders hold videos, so they are classes of one split, but '
            f'{len(splits)} splits were asked for: {", ".join(splits)}'
        )
    clips = _clips(root, '', folders)
    if validation_share:
        held_out = _held_out(clips, validation_share)
        kept = tuple(clip for clip in clips if clip.key not in held_out)
        tested = tuple(clip for clip in clips if clip.key in held_out)
        return Annotations(tuple(folders), {'train': kept, 'validation': tested})
    return Annotations(tuple(folders), {splits[0] if splits else 'train': clips})


def _held_out(clips: Sequence[Clip], share: float) -> set[str]:
    """Keys of that part of every class, of the files whose names have the smallest digests."""
    held_out: set[str] = set()
    for label in {clip.labels for clip in clips}:
        keys = [clip.key for clip in clips if clip.labels == label]
        keys.sort(key=lambda key: hashlib.sha256(key.encode()).digest())
        held_out.update(keys[: max(round(share * len(keys)), int(len(keys) > 1))])
    return held_out


def _read_splits(root: str, present: list[str], wanted: Sequence[str] | None) -> Annotations:
    first = present[0]
    classes = _folders(os.path.join(root, first))
    for split in present[1:]:
        different = sorted(set(classes).symmetric_difference(_folders(os.path.join(root, split))))
        if different:
            raise ValueError(
                f'{root}: the splits {first!r} and {split!r} do not have the same classes: '
                f'{different[0]!r} is in only one of them ({len(different)} such); '
                'add the missing folders (they may be empty) or remove the others'
            )
    for split in wanted or ():
        if split not in present:
            raise ValueError(f'{root}: no split {split!r} in it (it has {", ".join(present)})')
    return Annotations(
        tuple(classes), {split: _clips(root, split, classes) for split in wanted or present}
    )


def _clips(root: str, split: str, classes: Sequence[str]) -> tuple[Clip, ...]:
    return tuple(
        Clip(path=os.path.join(root, split, name, video), key=f'{name}/{video}', labels=(number,))
        for number, name in enumerate(classes)
        for video in _videos(os.path.join(root, split, name))
    )


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith('.'))


def _videos(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(
            e.name
            for e in entries
            if not e.name.startswith('.')
            and os.path.splitext(e.name)[1].lower() in VIDEO_SUFFIXES
            and not e.is_dir()
        )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--videos', required=True, metavar='DIR', help='the tree')
    parser.add_argument(
        '--split',
        action='append',
        metavar='NAME',
        help='split to convert, may be repeated (default: all); for VIDEOS/CLASS/*.mp4 the name '
        'to give it (default: train)',
    )
    parser.add_argument(
        '--validation_share',
        type=float,
        default=0.0,
        metavar='PART',
        help='of VIDEOS/CLASS/*.mp4: this part of the videos of each class, chosen by their names, '
        'becomes the split validation (for example 0.2)',
    )


FORMAT = Format(
    'folder',
    help='one folder per class: VIDEOS/SPLIT/CLASS/*.mp4 or VIDEOS/CLASS/*.mp4',
    example='--videos=my_videos --output=data/mine',
    add_arguments=_add_arguments,
    read=lambda args: read_folder(args.videos, args.split, validation_share=args.validation_share),
)
