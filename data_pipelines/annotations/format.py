"""A format of annotations as a subcommand of `python -m data_pipelines.convert`; its options."""

import argparse
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from data_pipelines.annotations import Annotations


class Option:
    """An option of a format, whose value the format's reader takes as a keyword."""

    def __init__(
        self,
        flag: str,
        help: str,
        *,
        to: str = '',
        parse: Callable[[str, Any], Any] = lambda flag, value: value,
        **how: Any,
    ):
        """
        Args:
          flag: such as `--csv`.
          help: what it says, as in `ArgumentParser.add_argument`, like `how`.
          to: keyword of the reader; '': called as the flag is.
          parse: flag and value -> what the reader gets; raises ValueError.
        """
        self.flag, self.parse, self.how = flag, parse, {'help': help, **how}
        self.name = flag.removeprefix('--')
        self.keyword = to or self.name


class FileOption(Option):
    """A file, which must be given."""

    def __init__(self, flag: str, help: str, *, to: str = ''):
        super().__init__(flag, help, to=to, required=True, metavar='FILE')


class SplitFiles(Option):
    """`SPLIT=FILE`, to be repeated; the reader gets split name -> file."""

    def __init__(self, flag: str, help: str, *, to: str):
        how = {'action': 'append', 'required': True, 'metavar': 'SPLIT=FILE'}
        super().__init__(flag, f'{help}; may be repeated', to=to, parse=_files_by_split, **how)


# Of readers that look their files up with `locate.VideoFiles`.
VIDEOS = Option(
    '--videos', 'where the video files are, in folders of any kind', required=True, metavar='DIR'
)


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of annotations.

    Attributes:
      name: of the subcommand.
      help: what is converted; one line, a part of a sentence.
      example: arguments of a typical call.
      reader: keywords, as the options name them -> annotations.
      options: of the subcommand.
      defaults: of options that are not among these.
      check: raises ValueError for arguments that this format does not go with.
    """

    name: str
    help: str
    example: str
    reader: Callable[..., Annotations]
    options: Sequence[Option]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    check: Callable[[argparse.Namespace], None] = lambda args: None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options to a parser."""
        for option in self.options:
            parser.add_argument(option.flag, **option.how)
        parser.set_defaults(**self.defaults)

    def read(self, args: argparse.Namespace) -> Annotations:
        """The annotations that parsed arguments name; raises what the reader raises."""
        self.check(args)
        given = {o.keyword: o.parse(o.flag, getattr(args, o.name)) for o in self.options}
        return self.reader(**given)


def _files_by_split(flag: str, values: Sequence[str]) -> dict[str, str]:
    files = {}
    for value in values:
        split, path = split_and_file(flag, value)
        if split in files:
            raise ValueError(f'{flag}={value}: the split {split!r} is given twice')
        files[split] = path
    return files


def split_and_file(flag: str, value: str) -> tuple[str, str]:
    """The two parts of a value `SPLIT=FILE` of an option.

    Raises:
      ValueError: it has another form.
    """
    split, separator, path = value.partition('=')
    if not separator or not split or not path:
        raise ValueError(f'{flag}={value}: wanted SPLIT=FILE, for example {flag} train=FILE')
    return split, path
