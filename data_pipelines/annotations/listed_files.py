"""The files that lists name by their paths, relative to a prefix."""

from collections.abc import Iterable, Sequence
import functools
import itertools
import os

from data_pipelines.annotations.files import check_relative
from data_pipelines.annotations.locate import VideoFiles, normal
from data_pipelines.probe import VIDEO_SUFFIXES, suffix_of

_SAMPLE = 32  # paths that are looked for, to see whether the prefix is right
_MOST_FOLDERS = 256  # below a directory that is searched for the right prefix


class ListedFiles:
    """Finds what a list names: videos, or folders of images, with or without a suffix."""

    def __init__(self, prefix: str):
        """
        Args:
          prefix: directory that the paths are relative to and must not leave; '': they may be
            absolute, or relative to the current directory.
        """
        self._prefix = prefix
        self._beside = functools.lru_cache(maxsize=4096)(_files_by_name)

    def is_video_name(self, path: str) -> bool:
        """Whether a listed path names a file: by its suffix, or because it is there."""
        return suffix_of(path) in VIDEO_SUFFIXES or os.path.isfile(self._join(path))

    def find(self, path: str, where: str) -> str:
        """Where a listed path is; where it would be, if it is not there.

        Raises:
          ValueError: it leads out of the prefix.
        """
        if self._prefix:
            check_relative(path, where)
        full = self._join(path)
        # Usual names cost no file access.
        if (suffix_of(path) in VIDEO_SUFFIXES and path.isascii()) or os.path.exists(full):
            return full
        folder, name = os.path.split(full)
        beside = self._beside(folder)
        if normal(name) in beside:
            return beside[normal(name)]
        if suffix_of(path) not in VIDEO_SUFFIXES and self._below is not None:
            found = self._below.find(path, where=where)
            return found if os.path.exists(found) else full
        return full

    def notes(self) -> tuple[str, ...]:
        """What is to be told of the names that were looked up."""
        return self._below.notes() if '_below' in vars(self) and self._below else ()

    @functools.cached_property
    def _below(self) -> VideoFiles | None:
        """Whatever is below the prefix; it is walked for lists of bare names only."""
        try:
            return VideoFiles(self._prefix) if self._prefix else None
        except ValueError:
            return None

    def _join(self, path: str) -> str:
        return os.path.join(self._prefix, path)

    def check_prefix(
        self, listed: Sequence[str], found: Sequence[str], list_file: str | os.PathLike
    ) -> tuple[str, ...]:
        """Looks whether files are where a list says.

        Args:
          listed: paths of the list.
          found: what `find` says of each.
          list_file: the list.

        Returns:
          Notes: what to try, where none of a sample of them is there.

        Raises:
          ValueError: none is there, but they are under another prefix, which the error names.
        """
        chosen = range(0, len(listed), -(-len(listed) // _SAMPLE))
        if any(os.path.exists(found[number]) for number in chosen):
            return ()
        sample = [listed[number] for number in chosen]
        missing = f'{os.fspath(list_file)}: its files are not where it says, such as {found[0]}'
        for base in _places(list_file, self._prefix):
            there = sum(os.path.exists(os.path.join(base, path)) for path in sample)
            if 2 * there > len(sample) and not os.path.isabs(sample[0]):
                raise ValueError(f'{missing}; they are there with --path_prefix={base}')
        return (f'{missing}; --path_prefix=DIR says what its paths are relative to',)


def _files_by_name(folder: str) -> dict[str, str]:
    """Paths of what is in a folder, by name, and of videos by name without suffix, too."""
    try:
        names = sorted(os.listdir(folder or '.'))
    except OSError:
        return {}
    found = {}
    for name in names:
        if suffix_of(name) in VIDEO_SUFFIXES:
            found.setdefault(normal(os.path.splitext(name)[0]), os.path.join(folder, name))
    return found | {normal(name): os.path.join(folder, name) for name in names}


def _places(list_file: str | os.PathLike, prefix: str) -> Iterable[str]:
    """Directories that paths may be relative to: around the list, the prefix, and here."""
    near = [os.path.dirname(os.path.abspath(list_file)), os.path.abspath(prefix or '.')]
    yield from dict.fromkeys(near)
    for base in dict.fromkeys(near):
        try:
            with os.scandir(base) as entries:
                folders = sorted(
                    e.path for e in entries if not e.name.startswith('.') and e.is_dir()
                )
        except OSError:
            continue
        yield from itertools.islice(folders, _MOST_FOLDERS)
    for base in dict.fromkeys(near):
        while base != os.path.dirname(base):
            base = os.path.dirname(base)
            yield base
