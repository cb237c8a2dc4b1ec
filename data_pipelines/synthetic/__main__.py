"""Renders two labelled action datasets as MP4 files."""

import argparse
from concurrent.futures.process import BrokenProcessPool
import sys

import cv2

from data_pipelines.command_line import ArgumentParser, check_picture_name, exit_code
from data_pipelines.synthetic import classification
from data_pipelines.synthetic.classification import contact_sheet, render_datasets


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(
        prog='python -m data_pipelines.synthetic',
        description=classification.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example:\n  python -m data_pipelines.synthetic --output=data/synthetic',
    )
    parser.add_argument('--output', required=True, help='directory for the videos')
    parser.add_argument(
        '--train_videos', type=int, default=400, help='per dataset (default: %(default)s)'
    )
    parser.add_argument(
        '--validation_videos', type=int, default=100, help='per dataset (default: %(default)s)'
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='another seed, other videos (default: %(default)s)'
    )
    parser.add_argument(
        '--workers', type=int, default=None, help='processes (default: one per processor)'
    )
    parser.add_argument(
        '--sheet',
        metavar='FILE.png',
        default=None,
        help='also draw a picture with one video of every class',
    )
    flags = parser.parse_args(arguments)
    return exit_code(lambda: _render(flags))


def _render(flags: argparse.Namespace) -> int:
    if not flags.output:
        raise ValueError('--output= is empty; name the directory for the videos')
    if flags.sheet:
        check_picture_name('--sheet', flags.sheet)
    try:
        paths = render_datasets(
            flags.output,
            train_videos=flags.train_videos,
            validation_videos=flags.validation_videos,
            seed=flags.seed,
            workers=flags.workers,
        )
        if flags.sheet and not cv2.imwrite(flags.sheet, contact_sheet(seed=flags.seed)[..., ::-1]):
            raise ValueError(f'cannot write {flags.sheet}')
    except BrokenProcessPool as error:
        raise OSError(
            'a worker process was killed (out of memory?); run the same command again, '
            'it goes on where it stopped'
        ) from error
    motions, directions = paths['motions']['train'].parent, paths['directions']
    print(f"""{flags.output} is complete. To train on it, convert both datasets next:

  python -m data_pipelines.convert folder --videos={motions} --output=RECORDS/motions
  python -m data_pipelines.convert pyslowfast --csv train={directions['train']} \\
      --csv validation={directions['validation']} --classes={directions['classes']} \\
      --path_prefix={directions['train'].parent} --output=RECORDS/directions""")
    return 0


if __name__ == '__main__':
    sys.exit(main())
