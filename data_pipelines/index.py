"""Writes `NAME.index` and `NAME.frames` of records that have none.

    python -m data_pipelines.index data/mine

Conversion writes both. Records of other writers, and of conversions before there were such files,
need the first (reading makes it when it is missing) and are read faster with the second.
"""

import argparse
from collections.abc import Sequence
import sys

import tqdm

from data_pipelines.command_line import ArgumentParser, exit_code
from data_pipelines.cores import available_cores
from data_pipelines.storage.indexing import write_frame_index
from data_pipelines.storage.record_index import build_index, find_splits, save_index


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog='python -m data_pipelines.index',
        description='Reads all records of a directory and writes where they and their frames lie '
        '(NAME.index, NAME.frames), for faster reading. Conversion has done this for records that '
        'it wrote.',
        epilog='example: python -m data_pipelines.index data/mine',
    )
    parser.add_argument('directory', metavar='DIR', help="directory of shards, ours or DMVR's")
    parser.add_argument('--threads', type=int, help='threads (default: one per CPU)')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    return exit_code(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if args.threads is not None and args.threads < 1:
        raise ValueError(f'--threads={args.threads}: must be at least 1')
    for split in find_splits(args.directory):
        index = build_index(args.directory, split)
        with tqdm.tqdm(
            total=sum(index.sizes), desc=f'index {split}', unit='B', unit_scale=True, leave=False
        ) as bar:
            write_frame_index(
                args.directory,
                split,
                index,
                threads=args.threads or available_cores(),
                on_progress=bar.update,
            )
        save_index(args.directory, split, index)
        print(f'{split}: {len(index.offsets)} records in {len(index.shards)} shards')
    return 0


if __name__ == '__main__':
    sys.exit(main())
