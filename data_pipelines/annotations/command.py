"""What the readers' subcommands of `python -m data_pipelines.convert` share."""

import argparse
from collections.abc import Callable, Sequence

from data_pipelines.annotations import Annotations


def add_format(
    formats: argparse._SubParsersAction,
    common: argparse.ArgumentParser,
    name: str,
    read: Callable[[argparse.Namespace], Annotations],
    *,
    help: str,
    example: str,
) -> argparse.ArgumentParser:
    """Adds a subcommand; its own arguments are added to the parser that is returned.

    Args:
      formats: the subcommands so far.
      common: the arguments that every subcommand has.
      name: of the subcommand.
      read: parsed arguments -> annotations.
      help: one line.
      example: arguments of a typical call.
    """
    parser = formats.add_parser(
        name,
        parents=[common],
        help=help,
        description=f'Converts {help}.',
        # Not wrapped, so that it can be copied.
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f'example: python -m data_pipelines.convert {name} {example}',
    )
    parser.set_defaults(read=read)
    return parser


def add_videos(parser: argparse.ArgumentParser) -> None:
    """Adds `--videos`, for readers that look their files up with `locate.VideoFiles`."""
    parser.add_argument(
        '--videos',
        required=True,
        metavar='DIR',
        help='where the video files are, in folders of any kind',
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
