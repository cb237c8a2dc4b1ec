"""Videos and annotations -> record shards, their index and `dataset.json`: the command.

    python -m data_pipelines.convert folder --videos=VIDEOS --output=DIR/motions
    python -m data_pipelines.convert pyslowfast --csv train=train.csv --csv validation=val.csv \\
        --classes=classes.txt --path_prefix=/data/kinetics --output=DIR/kinetics

Each format of annotations is a subcommand, which its module in `data_pipelines.annotations` adds.
From Python: `data_pipelines.conversion.dataset.convert`.
"""

import argparse
from collections.abc import Callable, Sequence
import math
import os
import shlex
import sys
import time

from data_pipelines.annotations import (
    activitynet,
    ava,
    folder,
    hmdb51,
    kinetics,
    moments_in_time,
    pyslowfast,
    something_v2,
    ucf101,
)
from data_pipelines.command_line import EXIT_INTERRUPTED, ArgumentParser, exit_code
from data_pipelines.conversion.dataset import DAMAGED, FAILURES, convert
from data_pipelines.conversion.estimate import describe, estimate

# Modules with `add_command(formats, common)`, in the order of the help.
_FORMATS = (
    folder,
    pyslowfast,
    kinetics,
    moments_in_time,
    something_v2,
    activitynet,
    hmdb51,
    ucf101,
    ava,
)


def _common_arguments() -> argparse.ArgumentParser:
    """The arguments that every format has."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--output', required=True, metavar='DIR', help='directory of the dataset')
    common.add_argument('--name', help="the dataset's name (default: the directory's)")
    common.add_argument('--workers', type=int, help='processes (default: one per CPU)')
    common.add_argument(
        '--shards', type=int, help='files per split (default: by the number of clips)'
    )
    common.add_argument(
        '--short_side',
        type=int,
        metavar='PIXELS',
        help='store frames with this shorter side, for example 320 (default: as they are)',
    )
    common.add_argument(
        '--fps',
        type=_positive,
        metavar='FPS',
        help="stored frames per second (default: each video's own)",
    )
    common.add_argument(
        '--quality', type=int, default=90, help='JPEG quality, 1 to 100 (default: 90)'
    )
    common.add_argument(
        '--max_seconds',
        type=_positive,
        metavar='S',
        help='store only the first S seconds of each clip (default: all)',
    )
    common.add_argument(
        '--damaged',
        choices=('keep', 'skip'),
        default='keep',
        help='keep what can be decoded of a damaged video, listed in damaged.csv, or skip it '
        '(default: keep)',
    )
    common.add_argument(
        '--max_failures',
        type=_share,
        default=0.1,
        metavar='SHARE',
        help='fail if more than this share of the videos cannot be converted (default: 0.1)',
    )
    common.add_argument(
        '--video_timeout',
        type=_positive,
        default=600.0,
        metavar='SECONDS',
        help='end a decoder that takes longer for one clip, and count a failure (default: 600)',
    )
    common.add_argument(
        '--beam',
        nargs='?',
        const='',
        metavar='OPTIONS',
        help='convert by an Apache Beam pipeline with these options, in one word, for example '
        '--beam="--runner=FlinkRunner --parallelism=64"; without OPTIONS on this machine',
    )
    common.add_argument(
        '--dry_run',
        action='store_true',
        help='only count clips and missing files, and estimate size and time by converting a '
        'sample; writes nothing',
    )
    return common


def _positive(text: str) -> float:
    return _number(text, lambda value: 0 < value < math.inf, 'a positive number')


def _share(text: str) -> float:
    return _number(text, lambda value: 0 <= value <= 1, 'a share, 0 to 1')


def _number(text: str, accept: Callable[[float], bool], wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not accept(value):
        raise argparse.ArgumentTypeError(f'{text!r}: wanted {wanted}')
    return value


def _parser(common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog='python -m data_pipelines.convert',
        description='Converts videos and annotations to record shards that training reads.',
        epilog='example: python -m data_pipelines.convert folder --videos=my_videos '
        '--output=data/mine --short_side=320',
    )
    formats = parser.add_subparsers(dest='format', required=True, metavar='FORMAT')
    for annotation_format in _FORMATS:
        annotation_format.add_command(formats, common)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    common = _common_arguments()
    args = _parser(common).parse_args(argv)
    return exit_code(lambda: _run(args, common))


def _run(args: argparse.Namespace, common: argparse.ArgumentParser) -> int:
    began = time.monotonic()
    not_of_format = {'read', *(action.dest for action in common._actions)}
    source = {key: value for key, value in vars(args).items() if key not in not_of_format}
    settings = {
        'workers': args.workers,
        'shards': args.shards,
        'short_side': args.short_side,
        'frame_rate': args.fps,
        'quality': args.quality,
        'max_seconds': args.max_seconds,
        'damaged': args.damaged,
        'video_timeout': args.video_timeout,
    }
    try:
        if args.beam is not None and args.workers is not None:
            raise ValueError("--workers has no effect with --beam; give Beam's own option instead")
        annotations = args.read(args)
        if args.dry_run:
            expected = estimate(annotations, args.output, **settings)
            text = describe(expected, annotations.classes, args.output, args.max_failures)
            print(text.encode(errors='backslashreplace').decode())  # names that are no UTF-8
            return 0
        info = convert(
            annotations,
            args.output,
            name=args.name,
            max_failures=args.max_failures,
            arguments=source,
            beam=None if args.beam is None else shlex.split(args.beam),
            **settings,
        )
    except KeyboardInterrupt:
        goes_on = '' if args.dry_run else '; the same command goes on where this one stopped'
        print(f'interrupted{goes_on}', file=sys.stderr)
        return EXIT_INTERRUPTED
    splits = [f'{split.records} {name}' for name, split in info.splits.items()]
    print(
        f'{args.output}: {" + ".join(splits)} clips of {len(info.classes)} classes '
        f'in {time.monotonic() - began:.1f} s'
    )
    for file, problems in (
        (FAILURES, [f for split in info.splits.values() for f in split.failures]),
        (DAMAGED, [d for split in info.splits.values() for d in split.damaged]),
    ):
        if problems:
            verb = 'failed' if file == FAILURES else 'are damaged and were stored in part'
            print(f'{len(problems)} videos {verb}: {os.path.join(args.output, file)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
