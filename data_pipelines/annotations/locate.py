"""Finding the file of a video by its name, wherever a download has put it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import os
import unicodedata

from data_pipelines.annotations.files import check_relative
from data_pipelines.probe import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    holds_video,
    is_video,
    may_be_video,
    suffix_of,
)

_SUFFIXES = sorted(VIDEO_SUFFIXES, key=lambda suffix: (suffix != '.mp4', suffix))  # by preference
_MOST_PROBED = 32  # files, to tell a directory of videos from another one


class VideoFiles:
    """The videos under a directory, by name without suffix.

    The directory is walked once, through symbolic links too; looking one up costs no file access.
    Downloads differ in folders (per class, per split, none; blanks or underscores), containers and
    in how letters with accents are written, so that none of these takes part in a name; where
    several files of one name exist, the one whose folders agree best is taken, of several such that
    with the suffix of the list. A file without a video's suffix is taken if there is no other, and
    FFmpeg opens it as a video; a folder of that name that holds images, if there is no file.
    """

    def __init__(self, root: str | os.PathLike, classes: Iterable[str] = ()):
        """Walks `root`.

        Args:
          root: the directory.
          classes: of formats whose lists name a video's folder, the class: a file in the folder of
            another class is another video.

        Raises:
          ValueError: no such directory, or no video in it.
        """
        self.root = os.fspath(root)
        if not os.path.isdir(self.root):
            raise ValueError(f'{self.root}: no such directory of videos')
        self._classes = {_alike(name) for name in classes}
        self._paths: dict[str, list[str]] = {}  # name without suffix -> paths relative to the root
        self._no_videos: dict[str, str] = {}  # names that have only files that are none -> one
        found = False
        self._image_folders: dict[str, set[str]] = {}  # likewise
        for path in _walk(self.root):
            folder = os.path.dirname(path)
            if folder and suffix_of(path) in IMAGE_SUFFIXES:
                self._image_folders.setdefault(normal(os.path.basename(folder)), set()).add(folder)
            if not may_be_video(path):
                continue
            found = found or suffix_of(path) in VIDEO_SUFFIXES
            stem = os.path.splitext(os.path.basename(path))[0]
            self._paths.setdefault(normal(stem), []).append(path)
        others = (path for paths in self._paths.values() for path in paths)
        probed = (os.path.join(self.root, path) for path, _ in zip(others, range(_MOST_PROBED)))
        if not (found or self._image_folders or any(map(holds_video, probed))):
            raise ValueError(f'{self.root}: no videos in it')

    def names(self) -> Iterator[str]:
        """All names, without suffix and folders."""
        return iter(self._paths)

    def __contains__(self, name: str) -> bool:
        return normal(name) in self._paths

    def split(self, listed: str) -> tuple[str, str]:
        """A listed name without its suffix, and that; '' where a dot is only part of the name."""
        stem, suffix = os.path.splitext(listed)
        paths = self._paths.get(normal(stem), ())
        if suffix.lower() in VIDEO_SUFFIXES or any(
            normal(os.path.basename(path)) == normal(listed) for path in paths
        ):
            return stem, suffix
        return listed, ''

    def find(self, *names: str, suffix: str = '', where: str = 'annotations') -> str:
        """The file of the first of these names that has one.

        Args:
          names: names without suffix, the official one first. Folders in front of a name only
            choose among files of the same name.
          suffix: that the annotations give the file, if any; it chooses, too.
          where: place in the annotations, for the error.

        Returns:
          Its path. Where there is none, that which the official name would have: converting it
          fails with "no such file".

        Raises:
          ValueError: a name leads out of the directory.
        """
        no_video = None
        for name in names:
            check_relative(name, where)
            for path in self._candidates(self._paths, name, suffix.lower()):
                if is_video(path):
                    return path
                no_video = no_video or path
            for path in self._candidates(self._image_folders, name):
                return path
        if no_video is not None:  # converting it tells what is wrong with it
            self._no_videos[names[0]] = no_video
            return no_video
        return os.path.join(self.root, f'{names[0]}.mp4')

    def notes(self) -> tuple[str, ...]:
        """What is to be told of the names that were looked up."""
        if not self._no_videos:
            return ()
        first = next(iter(self._no_videos.values()))
        return (
            f'{len(self._no_videos)} of the listed videos have a file in which FFmpeg finds no '
            f'video, such as {first}',
        )

    def _candidates(
        self, paths: Mapping[str, Iterable[str]], name: str, suffix: str = ''
    ) -> list[str]:
        """The paths of a name, the likeliest first."""
        found = [
            path
            for path in paths.get(normal(os.path.basename(name)), ())
            if not self._is_of_another_class(path, name)
        ]
        if len(found) > 1:
            found.sort(key=lambda path: _rank(path, name, suffix))
        return [os.path.join(self.root, path) for path in found]

    def _is_of_another_class(self, path: str, name: str) -> bool:
        folder = _folders(path)[0]
        return folder in self._classes and folder != _folders(name)[0]


def normal(name: str) -> str:
    """A name in the one form in which names are compared: file systems differ in theirs (NFC)."""
    return unicodedata.normalize('NFC', name)


def _walk(root: str) -> Iterator[str]:
    """Files below a directory, relative to it, but for hidden ones."""
    folders, seen = [''], set()
    while folders:
        folder = folders.pop()
        path = os.path.join(root, folder)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link to where we have been
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                found = [
                    (entry.name, entry.is_dir())
                    for entry in entries
                    if not entry.name.startswith('.')
                ]
        except OSError as error:
            raise ValueError(f'{path}: cannot be listed ({error.strerror})') from error
        for name, is_folder in found:
            name = os.path.join(folder, name)
            if is_folder:
                folders.append(name)
            else:
                yield name


def _rank(path: str, name: str, wanted: str) -> tuple:
    """Sorts files of a name: videos' suffixes or the one that is wanted, agreeing folders, that
    suffix, containers, then by path.
    """
    agreeing = 0
    for have, want in zip(_folders(path), _folders(name)):
        if have != want:
            break
        agreeing += 1
    suffix = suffix_of(path)
    known, listed = suffix in VIDEO_SUFFIXES, bool(wanted) and suffix == wanted
    container = _SUFFIXES.index(suffix) if known else 0
    return not (known or listed), -agreeing, not listed, container, path


def _folders(path: str) -> Sequence[str]:
    """The folders of a path, innermost first, written alike."""
    return _alike(os.path.dirname(path)).split('/')[::-1]


def _alike(folder: str) -> str:
    return normal(folder).replace(' ', '_')
