"""Turns videos and annotations into record shards, their index and `dataset.json`.

    python -m data_pipelines.convert folder --videos=VIDEOS --output=DIR/motions
    python -m data_pipelines.convert pyslowfast --csv train=train.csv --csv validation=val.csv \\
        --classes=classes.txt --path_prefix=/data/kinetics --output=DIR/kinetics

Each format of annotations is a subcommand, see `data_pipelines.annotations.formats`.
From Python: `data_pipelines.conversion.dataset.convert`.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import os
import sys
import time

from data_pipelines.annotations import Annotations
from data_pipelines.annotations.formats import FORMATS
from data_pipelines.command_line import EXIT_INTERRUPTED, ArgumentParser, exit_code
from data_pipelines.conversion import options as conversion_options
from data_pipelines.conversion.dataset import DAMAGED, FAILURES, convert
from data_pipelines.conversion.estimate import describe, estimate
from data_pipelines.conversion.options import Options
from data_pipelines.settings import spelt_out

_PROGRAM = 'python -m data_pipelines.convert'


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=_PROGRAM,
        description='Converts videos and annotations to record shards that training reads.',
        epilog=f'example: {_PROGRAM} folder --videos=my_videos --output=data/mine --short_side=320',
    )
    formats = parser.add_subparsers(dest='format', required=True, metavar='FORMAT')
    for one in FORMATS.values():
        format_parser = formats.add_parser(
            one.name,
            help=one.help,
            description=f'Converts {one.help}.',
            # Not wrapped, so that it can be copied.
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=f'example: {_PROGRAM} {one.name} {one.example}',
        )
        format_parser.add_argument(
            '--output', required=True, metavar='DIR', help='directory of the dataset'
        )
        how = format_parser.add_argument_group('how to convert')
        conversion_options.add_arguments(how)
        how.add_argument(
            '--dry_run',
            action='store_true',
            help='only count clips and missing files, and estimate size and time by converting a '
            'sample; writes nothing',
        )
        one.add_arguments(format_parser)  # last: it may set defaults
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    return exit_code(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    try:
        options = conversion_options.from_arguments(args)
        annotations = FORMATS[args.format].read(args)
        if args.dry_run:
            code = _estimate(annotations, args.output, options)
        else:
            code = _convert(annotations, args, options)
        for note in annotations.notes:
            _print(f'note: {note}')
        return code
    except KeyboardInterrupt:
        goes_on = '' if args.dry_run else '; the same command goes on where this one stopped'
        print(f'interrupted{goes_on}', file=sys.stderr)
        return EXIT_INTERRUPTED


def _print(text: str) -> None:
    print(spelt_out(text).encode(errors='backslashreplace').decode())  # names that are no UTF-8


def _estimate(annotations: Annotations, output: str, options: Options) -> int:
    expected = estimate(annotations, output, options)
    text = describe(expected, annotations.classes, output, options.max_failures)
    _print(text)
    return 1 if expected.missing > options.max_failures * expected.clips else 0


def _convert(annotations: Annotations, args: argparse.Namespace, options: Options) -> int:
    began = time.monotonic()
    own = {'output', 'dry_run', *(field.name for field in dataclasses.fields(Options))}
    source = {name: value for name, value in vars(args).items() if name not in own}
    info = convert(annotations, args.output, options, arguments=source)
    splits = [f'{split.records} {name}' for name, split in info.splits.items()]
    print(
        f'{args.output}: {" + ".join(splits)} clips of {len(info.classes)} classes '
        f'in {time.monotonic() - began:.1f} s'
    )
    small = sum(split.small for split in info.splits.values())
    if small:
        print(
            f'{small} clips are smaller than --short_side={options.short_side} and were stored as '
            'they are (--upscale enlarges them)'
        )
    for file, problems, verb in (
        (FAILURES, [f for split in info.splits.values() for f in split.failures], 'failed'),
        (
            DAMAGED,
            [d for split in info.splits.values() for d in split.damaged],
            'are damaged and were stored in part',
        ),
    ):
        if problems:
            print(f'{len(problems)} videos {verb}: {os.path.join(args.output, file)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
