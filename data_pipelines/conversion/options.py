"""How videos are converted: every option once, with its default, its range and what `--help` says."""

import argparse
from collections.abc import Callable
import dataclasses
import math
import shlex
import threading
from typing import Any, NamedTuple


class _Flag(NamedTuple):
    """How the command line gives a field, and which values it may have.

    Attributes:
      help: one line, without the default.
      kind: type of a value.
      name: of the flag, where it is not the field's.
      metavar: what stands for the value.
      positive: whether it must be more than 0.
      least, most: the range.
      choices: all values there are.
      unset: what None means.
    """

    help: str
    kind: Callable[[str], Any] = int
    name: str | None = None
    metavar: str | None = None
    positive: bool = False
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] | None = None
    unset: str | None = None

    def refusal(self, value: Any) -> str | None:
        """What a value must be that is not so."""
        if self.choices is not None:
            return None if value in self.choices else ' or '.join(self.choices)
        if self.kind in (str, bool):
            return None
        if self.positive and not value > 0:
            return 'positive'
        if not self.least <= value <= self.most:
            if math.isinf(self.most):
                return f'at least {self.least}'
            return f'at most {self.most}' if self.positive else f'{self.least} to {self.most}'
        return None

    def parse(self, text: str) -> Any:
        """A value from the command line.

        Raises:
          argparse.ArgumentTypeError: it is none.
        """
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        # Whole numbers out of range, and rates too high to be meant, are for `Options` to refuse.
        if self.kind is not float and value == value:
            return value
        if 0 < value < math.inf if self.positive else self.refusal(value) is None:
            return value
        number = 'a positive number' if self.positive else 'a share, 0 to 1'
        wanted = number if self.kind is float else 'a whole number'
        raise argparse.ArgumentTypeError(f'{text!r}: wanted {wanted}')


def _option(default: Any, help: str, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={'flag': _Flag(help, **more)})


# Options that datasets of earlier versions do not name, and how these were stored.
LATER = {'upscale': True}


@dataclasses.dataclass(frozen=True)
class Storage:
    """How clips are stored: with the clips themselves, all that decides the records.

    Attributes:
      frame_rate: frames per second.
      short_side: pixels of the shorter side; videos that are smaller stay as they are ...
      upscale: ... but for this.
      quality: JPEG quality.
      max_seconds: only so much of each clip is stored.
      damaged: 'keep' stores what can be decoded of a damaged video, 'skip' counts it as a failure.

    Raises:
      ValueError: a value is out of its range.
    """

    frame_rate: float | None = _option(
        None,
        'stored frames per second',
        name='--fps',
        kind=float,
        metavar='FPS',
        positive=True,
        most=1000,
        unset="each video's own",
    )
    short_side: int | None = _option(
        None,
        'store frames with this shorter side, for example 320',
        metavar='PIXELS',
        positive=True,
        most=8192,
        unset='as they are',
    )
    upscale: bool = _option(
        False, 'enlarge videos that are smaller than --short_side, too', kind=bool
    )
    quality: int = _option(90, 'JPEG quality, 1 to 100', least=1, most=100)
    max_seconds: float | None = _option(
        None,
        'store only the first S seconds of each clip',
        kind=float,
        metavar='S',
        positive=True,
        unset='all',
    )
    damaged: str = _option(
        'keep',
        'keep what can be decoded of a damaged video, listed in damaged.csv, or skip it',
        kind=str,
        choices=('keep', 'skip'),
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, flag = getattr(self, field.name), field.metadata.get('flag')
            wanted = None if flag is None or value is None else flag.refusal(value)
            if wanted is not None:
                raise ValueError(f'{field.name}={value!r}: must be {wanted}')

    def as_json(self) -> dict[str, Any]:
        """What `dataset.json` and the notes for restarts hold: no `LATER` option that is as before."""
        values = dataclasses.asdict(self)
        if self.short_side is None:
            del values['upscale']
        return {k: v for k, v in values.items() if k not in LATER or v != LATER[k]}


@dataclasses.dataclass(frozen=True)
class Options(Storage):
    """A conversion.

    Attributes:
      name: the dataset's name.
      workers: processes.
      shards: files per split, at most one per clip.
      max_failures: share of the videos that may fail.
      replace: does not refuse to replace a finished dataset by another one.
      video_timeout: seconds that one clip may take; its decoder is ended then, which is a failure.
      beam: options of an Apache Beam pipeline that converts the shards instead of processes of this
        machine, see `conversion.beam`; None: no Beam.
      progress: shows a progress bar on standard error.
    """

    name: str | None = _option(None, "the dataset's name", kind=str, unset="the directory's")
    workers: int | None = _option(None, 'processes', least=1, unset='one per CPU')
    shards: int | None = _option(
        None, 'files per split', least=1, unset='one per 128 clips, 16 to 1024'
    )
    max_failures: float = _option(
        0.1,
        'fail if more than this share of the videos cannot be converted',
        kind=float,
        metavar='SHARE',
        least=0,
        most=1,
    )
    video_timeout: float = _option(
        600.0,
        'end a decoder that takes longer for one clip, and count a failure',
        kind=float,
        metavar='SECONDS',
        positive=True,
        most=threading.TIMEOUT_MAX,
    )
    replace: bool = _option(
        False, 'replace a finished dataset of other videos, classes or options', kind=bool
    )
    beam: tuple[str, ...] | None = None
    progress: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.beam is not None and self.workers is not None:
            raise ValueError("--workers has no effect with --beam; give Beam's own option instead")

    @property
    def storage(self) -> Storage:
        """What decides the records."""
        return Storage(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Storage)})


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds a flag for every option."""
    for field in dataclasses.fields(Options):
        flag: _Flag | None = field.metadata.get('flag')
        if flag is None:
            continue
        if flag.kind is bool:
            parser.add_argument(f'--{field.name}', action='store_true', help=flag.help)
            continue
        default = f'{field.default:g}' if flag.kind is float and field.default else field.default
        parser.add_argument(
            flag.name or f'--{field.name}',
            dest=field.name,
            type=flag.parse,
            choices=flag.choices,
            default=field.default,
            metavar=flag.metavar,
            help=f'{flag.help} (default: {flag.unset or default})',
        )
    parser.add_argument(
        '--beam',
        nargs='?',
        const='',
        metavar='OPTIONS',
        help='convert by an Apache Beam pipeline with these options, in one word, for example '
        '--beam="--runner=FlinkRunner --parallelism=64"; without OPTIONS on this machine',
    )


def from_arguments(args: argparse.Namespace) -> Options:
    """The options that were given.

    Raises:
      ValueError: they make no sense.
    """
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Options) if f.name in args}
    beam = given.pop('beam')
    return Options(**given, beam=None if beam is None else tuple(shlex.split(beam)))
