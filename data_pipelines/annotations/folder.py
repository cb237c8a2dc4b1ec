"""A folder per class: `ROOT/SPLIT/CLASS/*.mp4`, or `ROOT/CLASS/*.mp4` for a single split."""

from collections.abc import Sequence
import functools
import hashlib
import os

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.format import Format, Option
from data_pipelines.annotations.locate import normal
from data_pipelines.probe import IMAGE_SUFFIXES, is_video, suffix_of

_WANTED = 'ROOT/SPLIT/CLASS/*.mp4 or ROOT/CLASS/*.mp4'
_NAMED = 5  # files that a message names


def read_folder(
    root: str | os.PathLike, splits: Sequence[str] | None = None, *, validation_share: float = 0.0
) -> Annotations:
    """Lists the videos of a folder-per-class tree.

    Classes are the folder names, sorted, and the same for every split. Hidden files are left alone;
    other files that are no videos, and those that lie outside the tree, are counted in the notes.

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
        raise ValueError(f'{root}: no such directory (wanted {_WANTED})')
    tree = _Folder(root)
    with_videos = [folder for folder in tree.folders if folder.videos]
    with_folders = [folder for folder in tree.folders if folder.folders]
    if with_videos and with_folders:
        raise ValueError(
            f'{root}: {with_videos[0].name!r} holds videos, {with_folders[0].name!r} holds '
            f'folders; wanted {_WANTED}, not both'
        )
    if not 0 <= validation_share < 1:
        raise ValueError(f'--validation_share={validation_share}: must be from 0 to below 1')
    if validation_share and (with_folders or splits):
        named = splits or [folder.name for folder in with_folders]
        raise ValueError(
            f'{root}: --validation_share={validation_share} is for ROOT/CLASS/*.mp4 without '
            f'splits, but there {"are" if with_folders else "is"} {", ".join(named)}'
        )
    if not with_videos and not any(f.videos for split in with_folders for f in split.folders):
        raise ValueError(f'{root}: {_why_no_tree(tree)}')
    if with_folders:
        return _read_splits(tree, with_folders, splits)
    if splits is not None and len(splits) != 1:
        raise ValueError(
            f'{root}: its folders hold videos, so they are classes of one split, but '
            f'{len(splits)} splits were asked for: {", ".join(splits)}'
        )
    classes = tuple(folder.name for folder in tree.folders)
    notes = _left_out([tree], tree.folders)
    clips = _clips(tree.folders)
    if not validation_share:
        return Annotations(classes, {splits[0] if splits else 'train': clips}, notes=notes)
    held_out = _held_out(clips, validation_share)
    return Annotations(
        classes,
        {
            'train': tuple(clip for clip in clips if clip.key not in held_out),
            'validation': tuple(clip for clip in clips if clip.key in held_out),
        },
        notes=notes,
    )


def _held_out(clips: Sequence[Clip], share: float) -> set[str]:
    """Keys of that part of every class, of the files whose names have the smallest digests."""
    held_out: set[str] = set()
    for label in {clip.labels for clip in clips}:
        keys = [clip.key for clip in clips if clip.labels == label]
        keys.sort(key=lambda key: hashlib.sha256(key.encode(errors='surrogateescape')).digest())
        held_out.update(keys[: max(round(share * len(keys)), int(len(keys) > 1))])
    return held_out


class _Folder:
    """A folder of the tree.

    Attributes:
      path: of it.
      name: its own, in the form in which names are compared.
      files: name -> path of the files in it, sorted.
    """

    def __init__(self, path: str):
        self.path, self.name = path, normal(os.path.basename(path))
        with os.scandir(path) as entries:
            found = sorted((e.name, e.path, e.is_dir()) for e in entries)
        found = [entry for entry in found if not entry[0].startswith('.')]
        self.files = {name: path for name, path, is_folder in found if not is_folder}
        self._below = [path for _, path, is_folder in found if is_folder]

    @functools.cached_property
    def folders(self) -> list['_Folder']:
        """The folders in it, sorted by name."""
        return sorted(map(_Folder, self._below), key=lambda folder: folder.name)

    @functools.cached_property
    def videos(self) -> list[str]:
        """Names of the videos in it, sorted."""
        return [name for name, path in self.files.items() if is_video(path)]

    def others(self) -> list[str]:
        """Paths of what is in it besides videos."""
        videos = set(self.videos)
        return [path for name, path in self.files.items() if name not in videos] + self._below


def _read_splits(
    tree: _Folder, present: list[_Folder], wanted: Sequence[str] | None
) -> Annotations:
    first = present[0]
    classes = [folder.name for folder in first.folders]
    for split in present[1:]:
        different = sorted(set(classes).symmetric_difference(f.name for f in split.folders))
        if different:
            raise ValueError(
                f'{tree.path}: the splits {first.name!r} and {split.name!r} do not have the same '
                f'classes: {different[0]!r} is in only one of them ({len(different)} such); '
                'add the missing folders (they may be empty) or remove the others'
            )
    by_name = {split.name: split for split in present}
    for split in wanted or ():
        if split not in by_name:
            raise ValueError(f'{tree.path}: no split {split!r} in it (it has {", ".join(by_name)})')
    chosen = [by_name[split] for split in wanted or by_name]
    clips = {split.name: _clips(split.folders) for split in chosen}
    notes = _left_out([tree, *chosen], [folder for split in chosen for folder in split.folders])
    return Annotations(tuple(classes), clips, notes=notes)


def _clips(classes: Sequence[_Folder]) -> tuple[Clip, ...]:
    return tuple(
        Clip(os.path.join(folder.path, video), f'{folder.name}/{normal(video)}', (number,))
        for number, folder in enumerate(classes)
        for video in folder.videos
    )


def _left_out(above: Sequence[_Folder], classes: Sequence[_Folder]) -> tuple[str, ...]:
    """A note of what lies above the folders of classes, or is no video in them."""
    paths = [path for folder in above for path in folder.files.values()]
    paths += [path for folder in classes for path in folder.others()]
    if not paths:
        return ()
    shown = ', '.join(sorted(paths)[:_NAMED]) + (', ...' if len(paths) > _NAMED else '')
    return (f'left out, as no videos of a class: {len(paths)} files or folders: {shown}',)


def _why_no_tree(tree: _Folder) -> str:
    """What is there instead of a tree of videos."""
    if tree.videos:
        return (
            f'its {len(tree.videos)} videos ({tree.videos[0]}, ...) lie in no folder of a class; '
            f'wanted {_WANTED}, for example {os.path.join(tree.path, "running", tree.videos[0])}'
        )
    folders = [tree, *tree.folders, *(below for f in tree.folders for below in f.folders)]
    if any(suffix_of(path) in IMAGE_SUFFIXES for folder in folders for path in folder.files):
        return f'images, but no videos in it (wanted {_WANTED}; lists name folders of images)'
    return f'no videos in it (wanted {_WANTED})'


FORMAT = Format(
    'folder',
    help='one folder per class: VIDEOS/SPLIT/CLASS/*.mp4 or VIDEOS/CLASS/*.mp4',
    example='--videos=my_videos --output=data/mine',
    reader=read_folder,
    options=(
        Option('--videos', 'the tree', to='root', required=True, metavar='DIR'),
        Option(
            '--split',
            'split to convert, may be repeated (default: all); for VIDEOS/CLASS/*.mp4 the name '
            'to give it (default: train)',
            to='splits',
            action='append',
            metavar='NAME',
        ),
        Option(
            '--validation_share',
            'of VIDEOS/CLASS/*.mp4: this part of the videos of each class, chosen by their names, '
            'becomes the split validation (for example 0.2)',
            type=float,
            default=0.0,
            metavar='PART',
        ),
    ),
)
