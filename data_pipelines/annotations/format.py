"""A format of annotations as a subcommand of `python -m data_pipelines.convert`,
and what these share.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses

from data_pipelines.annotations import Annotations


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of annotations.

    Attributes:
      name: of the subcommand.
      help: what is converted; one line, a part of a sentence.
      example: arguments of a typical call.
      add_arguments: adds the arguments of this format to a parser.
      read: parsed arguments -> annotations.
    """

    name: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    read: Callable[[argparse.Namespace], Annotations]


def add_videos(parser: argparse.ArgumentParser) -> None:
    """Adds `--videos`, for readers that look their files up with `locate.VideoFiles`."""
    parser.add_argument(
        '--videos',
        required=True,
        metavar='DIR',
        help='where the video files are, in folders of any kind',
    )


def add_files_by_split(parser: argparse.ArgumentParser, option: str, help: str) -> None:
    """Adds an option `SPLIT=FILE` that may be repeated; `files_by_split` reads it."""
    parser.add_argument(
        option,
        action='append',
        required=True,
        metavar='SPLIT=FILE',
        help=f'{help}; may be repeated',
    )


def files_by_split(option: str, values: Sequence[str]) -> dict[str, str]:
    """The values `SPLIT=FILE` of a repeated option as split name -> file.

    Raises:
      ValueError: a value has another form, or a split is given twice.
    """
    files = {}
    for value in values:
        split, path = split_and_file(option, value)
        if split in files:
            raise ValueError(f'{option}={value}: the split {split!r} is given twice')
        files[split] = path
    return files


def split_and_file(option: str, value: str) -> tuple[str, str]:
    """The two parts of a value `SPLIT=FILE` of an option.

    Raises:
      ValueError: it has another form.
    """
    split, separator, path = value.partition('=')
    if not separator or not split or not path:
        raise ValueError(f'{option}={value}: wanted SPLIT=FILE, for example {option} train=FILE')
    return split, path
