"""How videos are converted: every option once; its comment is what `--help` says of it."""

import argparse
import dataclasses
import shlex
import types
import typing
from typing import Annotated, Any, Literal

from data_pipelines.settings import (
    Fraction,
    PositiveFloat,
    PositiveInt,
    Range,
    comments,
    narrowed,
    settings,
)

# Options that datasets of earlier versions do not name, and how these were stored.
LATER = {'upscale': True, 'images_per_second': None, 'storage': 'jpeg'}

_FLAGS = {'frame_rate': '--fps'}
_NO_FLAGS = ('beam', 'progress')
_METAVARS = {
    'frame_rate': 'FPS',
    'short_side': 'PIXELS',
    'max_seconds': 'S',
    'images_per_second': 'N',
    'video_root': 'DIR',
    'max_failures': 'SHARE',
    'video_timeout': 'SECONDS',
}


# Options that only one storage has.
_OF_STORAGE = {'quality': 'jpeg', 'gop': 'h264', 'crf': 'h264', 'video_root': 'link'}


def _of_other_storages(options: 'Storage') -> list[str]:
    return [name for name, storage in _OF_STORAGE.items() if storage != options.storage]


def _storage_rules(options: 'Storage') -> None:
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in _of_other_storages(options) and value != field.default:
            raise ValueError(
                f'{field.name}={value} is for storage={_OF_STORAGE[field.name]!r}, which is '
                f'{options.storage!r}'
            )
    if options.storage == 'link' and options.short_side is not None:
        raise ValueError(
            f"short_side={options.short_side} stores smaller frames, but storage='link' stores "
            'none: they are resized at reading'
        )


@settings(rules=_storage_rules)
class Storage:
    """How clips are stored: with the clips themselves, all that decides the records."""

    # stored frames per second; None: each video's own
    frame_rate: Annotated[float, Range(gt=0, le=1000)] | None = None
    # pixels of the shorter side of stored frames, for example 320; None: as they are
    short_side: Annotated[int, Range(ge=1, le=8192)] | None = None
    upscale: bool = False  # enlarge videos that are smaller than the short side, too
    # how frames are stored: each as a JPEG; all as H.264 without B-frames; or not at all: records
    # link to the video files, which are decoded at reading
    storage: Literal['jpeg', 'h264', 'link'] = 'jpeg'
    quality: Annotated[int, Range(ge=1, le=100)] = 90  # of JPEGs, 1 to 100
    gop: Annotated[int, Range(ge=1, le=250)] = 1  # of H.264: every so many frames a key frame
    # of H.264: x264's constant rate factor; 6 more are half of the bytes
    crf: Annotated[int, Range(ge=0, le=51)] = 20
    # directory that the paths of links are relative to; None: the deepest that holds all videos
    video_root: str | None = None
    max_seconds: PositiveFloat | None = None  # store so much of each clip's beginning; None: all
    # keep what can be decoded of a damaged video, listed in damaged.csv, or skip it
    damaged: Literal['keep', 'skip'] = 'keep'

    # of videos that are folders of images, which do not say; None: such folders are refused
    images_per_second: PositiveFloat | None = None

    def as_json(self) -> dict[str, Any]:
        """For `dataset.json` and the notes for restarts: no `LATER` option that is as before."""
        values = dataclasses.asdict(self)
        if self.short_side is None:
            del values['upscale']
        for name in _of_other_storages(self):
            del values[name]
        return {k: v for k, v in values.items() if k not in LATER or v != LATER[k]}


def _rules(options: 'Options') -> None:
    if options.beam is not None and options.workers is not None:
        raise ValueError("--workers has no effect with --beam; give Beam's own option instead")


@settings(rules=_rules)
class Options(Storage):
    """A conversion."""

    name: str | None = None  # of the dataset; None: the directory's
    workers: PositiveInt | None = None  # processes; None: one per core
    # files per split, at most one per clip; None: one per 128 clips, 16 to 1024
    shards: PositiveInt | None = None
    max_failures: Fraction = 0.1  # fail if more than this share of the videos cannot be converted
    # seconds after which a decoder at one clip is ended, which counts as a failure
    video_timeout: PositiveFloat = 600.0
    replace: bool = False  # replace a finished dataset of other videos, classes or options
    # options of an Apache Beam pipeline that converts, see `conversion.beam`; None: no Beam
    beam: tuple[str, ...] | None = None
    progress: bool = True  # show a progress bar on standard error

    @property
    def as_storage(self) -> Storage:
        """What decides the records."""
        return narrowed(self, Storage)


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds a flag for every option."""
    said, kinds = comments(Options), typing.get_type_hints(Options)
    for field in dataclasses.fields(Options):
        if field.name in _NO_FLAGS:
            continue
        name, kind = _FLAGS.get(field.name, f'--{field.name}'), kinds[field.name]
        text, _, unset = said.get(field.name, '').partition('; None: ')
        if kind is bool:
            parser.add_argument(name, dest=field.name, action='store_true', help=text)
            continue
        if typing.get_origin(kind) in (typing.Union, types.UnionType):  # with None
            kind = typing.get_args(kind)[0]
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else None
        parser.add_argument(
            name,
            dest=field.name,
            type=str if choices else kind,
            choices=choices,
            default=field.default,
            metavar=_METAVARS.get(field.name),
            help=f'{text} (default: {unset or field.default})',
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
