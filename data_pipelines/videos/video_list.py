"""Videos as a command line names them: files, folders, patterns, lists, URLs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import glob
import os
import re
import sys
from typing import NamedTuple

from data_pipelines.annotations.files import read_csv, read_lines
from data_pipelines.annotations.table import VIDEO_COLUMNS
from data_pipelines.probe import is_video, suffix_of
from data_pipelines.videos.sources import STANDARD_INPUT, is_file

LIST_SUFFIXES = ('.csv', '.tsv', '.txt', '.lst', '.list')


class Video(NamedTuple):
    """A video to be read.

    Attributes:
      path: of the file, or what else `sources.open_source` opens.
      name: below the folder or in the list that it is of, with its suffix; no other video has it.
        Of a file that was named itself, that of the file; where two of those are called the same,
        their paths below the folder that holds all of them.
    """

    path: str
    name: str


def list_videos(arguments: Sequence[str], lines: Iterable[str] | None = None) -> list[Video]:
    """The videos that arguments stand for, in their order, those of a folder sorted.

    Args:
      arguments: each a video; a folder, of which all videos are taken, at any depth; a pattern such
        as `videos/**/*.mp4`; a list (`.csv`, `.txt`, ...): a line for each video, which begins with
        its path, or has it in a column that the first line names; or `-`, such lines of `lines`.
      lines: what `-` stands for; None: standard input.

    Raises:
      ValueError: a folder, pattern or list holds no video, a list cannot be read, or two videos are
        of one name.
    """
    found: list[Video] = []
    named: dict[str, Video] = {}
    names = _names_of_files([argument for argument in arguments if os.path.isfile(argument)])
    for argument in arguments:
        own = list(_videos(argument, lines, names))
        if not own:
            raise ValueError(f'{argument}: no video in it')
        for video in own:
            other = named.setdefault(video.name, video)
            if os.path.realpath(other.path) != os.path.realpath(video.path):
                raise ValueError(
                    f'{other.path} and {video.path} would both be called {video.name}; give the '
                    'folder that holds both, or a list with their paths'
                )
        found += own
    return found


def _names_of_files(paths: Sequence[str]) -> dict[str, str]:
    places = {path: os.path.abspath(path) for path in paths if suffix_of(path) not in LIST_SUFFIXES}
    if len({os.path.basename(path) for path in places}) == len(set(places.values())):
        return {path: os.path.basename(path) for path in places}
    folder = os.path.commonpath([os.path.dirname(place) for place in places.values()])
    return {path: _plain(os.path.relpath(place, folder)) for path, place in places.items()}


def _videos(
    argument: str, lines: Iterable[str] | None, names: Mapping[str, str]
) -> Iterator[Video]:
    if argument == STANDARD_INPUT:
        text = sys.stdin if lines is None else lines
        yield from (_listed(line.strip(), '') for line in text if line.strip())
    elif not is_file(argument):
        yield Video(argument, _plain(argument))
    elif os.path.isdir(argument):
        yield from _in_folder(argument)
    elif not os.path.exists(argument) and glob.has_magic(argument):
        fixed = os.path.dirname(argument[: re.search(r'[*?[]', argument).start()])
        for path in sorted(glob.glob(argument, recursive=True)):
            if os.path.isfile(path) and is_video(path):
                yield Video(path, _plain(os.path.relpath(path, fixed or '.')))
    elif suffix_of(argument) in LIST_SUFFIXES:
        folder = os.path.dirname(argument)
        own = [_listed(path, folder) for path in _paths_in(argument, folder)]
        if own and not any(os.path.exists(v.path) or not is_file(v.path) for v in own):
            raise ValueError(f'{argument}: a list of videos, none of which exists: {own[0].path!r}')
        yield from own
    else:
        yield Video(argument, names.get(argument, os.path.basename(argument)))


def _in_folder(folder: str) -> Iterator[Video]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            if is_video(path):
                yield Video(path, _plain(os.path.relpath(path, folder)))


def _paths_in(path: str, folder: str) -> Iterator[str]:
    """Paths as a list has them."""
    (_, first), *_ = list(read_lines(path)) or [('', '')]
    delimiter = max(',;\t ', key=first.count)
    header = [cell.strip().lower() for cell in first.split(delimiter)]
    column = next((header.index(name) for name in VIDEO_COLUMNS if name in header), None)
    if column is not None:
        for _, cells in list(read_csv(path, delimiter))[1:]:
            if len(cells) > column and cells[column]:
                yield cells[column]
        return
    for _, line in read_lines(path):
        if not _exists(line, folder):  # a name may hold the sign that ends it in other lists
            line = next(
                (
                    part
                    for part in (*(line.split(sign)[0] for sign in ',;\t'), line.rpartition(' ')[0])
                    if part != line and _exists(part, folder)
                ),
                re.split(r'[,;\t]', line)[0],
            ).strip()
        yield line


def _exists(path: str, folder: str) -> bool:
    return bool(path) and (os.path.exists(path) or os.path.exists(os.path.join(folder, path)))


def _listed(path: str, folder: str) -> Video:
    """A video of a list: its path is relative to the working directory, or to the list's folder."""
    if not is_file(path) and not path.startswith(('http://', 'https://')):
        path = os.path.join('.', path)  # lists come from outside: no devices, no other protocols
    beside = os.path.join(folder, path)
    if is_file(path) and not os.path.exists(path) and os.path.exists(beside):
        return Video(beside, _plain(path))
    return Video(path, _plain(path))


def _plain(name: str) -> str:
    """A relative path that cannot leave the folder where it is put."""
    parts = re.sub(r'[a-z]+://', '', name).replace('\\', '/').split('/')
    return '/'.join(part for part in parts if part not in ('', '.', '..'))
