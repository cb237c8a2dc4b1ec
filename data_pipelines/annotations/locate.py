"""Finding the file of a video by its name, wherever a download has put it."""

from collections.abc import Iterable, Iterator, Sequence
import os

from data_pipelines.annotations.files import check_relative
from data_pipelines.annotations.folder import VIDEO_SUFFIXES

_SUFFIXES = sorted(VIDEO_SUFFIXES, key=lambda suffix: (suffix != '.mp4', suffix))  # by preference


class VideoFiles:
    """The videos under a directory, by name without suffix.

    The directory is walked once, through symbolic links too; looking one up costs no file access.
    Downloads differ in folders (per class, per split, none; blanks or underscores) and containers,
    so that neither takes part in a name; where several files of one name exist, the one whose
    folders agree best is taken.
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
        self._walk()
        if not self._paths:
            raise ValueError(f'{self.root}: no videos in it')

    def _walk(self) -> None:
        folders, seen = [''], set()
        while folders:
            folder = folders.pop()
            path = os.path.join(self.root, folder)
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
                if is_folder:
                    folders.append(os.path.join(folder, name))
                    continue
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in VIDEO_SUFFIXES:
                    self._paths.setdefault(stem, []).append(os.path.join(folder, name))

    def names(self) -> Iterator[str]:
        """All names, without suffix and folders."""
        return iter(self._paths)

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def find(self, *names: str, where: str = 'annotations') -> str:
        """The file of the first of these names that has one.

        Args:
          names: names without suffix, the official one first. Folders in front of a name only
            choose among files of the same name.
          where: place in the annotations, for the error.

        Returns:
          Its path. Where there is none, that which the official name would have: converting it
          fails with "no such file".

        Raises:
          ValueError: a name leads out of the directory.
        """
        for name in names:
            check_relative(name, where)
            paths = [
                path
                for path in self._paths.get(os.path.basename(name), ())
                if not self._is_of_another_class(path, name)
            ]
            if paths:
                best = paths[0] if len(paths) == 1 else min(paths, key=lambda p: _rank(p, name))
                return os.path.join(self.root, best)
        return os.path.join(self.root, f'{names[0]}.mp4')

    def _is_of_another_class(self, path: str, name: str) -> bool:
        folder = _folders(path)[0]
        return folder in self._classes and folder != _folders(name)[0]


def _rank(path: str, name: str) -> tuple:
    """Sorts files of the same name: agreeing folders first, then by container, then by path."""
    agreeing = 0
    for have, want in zip(_folders(path), _folders(name)):
        if have != want:
            break
        agreeing += 1
    suffix = os.path.splitext(path)[1].lower()
    return -agreeing, _SUFFIXES.index(suffix), path


def _folders(path: str) -> Sequence[str]:
    """The folders of a path, innermost first, written alike."""
    return _alike(os.path.dirname(path)).split('/')[::-1]


def _alike(folder: str) -> str:
    return folder.replace(' ', '_')
