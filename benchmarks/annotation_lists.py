"""Processor seconds and memory to read annotation lists of full size, with a tree of as many
(empty) files.

    python -m benchmarks.annotation_lists                    # all; --only=kinetics710
    python -m benchmarks.annotation_lists --share=0.1        # a tenth of every list

The lists are made up in the official syntax and with the official numbers of lines. Each is read in
a process of its own, from the page cache. The class balance of as many records is timed, too.
"""

import argparse
from collections.abc import Callable, Iterator
import json
import pathlib
import random
import resource
import string
import subprocess
import sys
import tempfile
import time

import numpy as np

from data_pipelines.annotations.formats import FORMATS
from data_pipelines.convert import _parser
from data_pipelines.order.balance import BalancedRecords
from data_pipelines.storage.label_index import RecordLabels

KINETICS = {
    'kinetics400': (400, 240_436, 19_796, 38_685),
    'kinetics600': (600, 370_582, 28_313, 56_618),
    'kinetics700': (700, 536_685, 33_966, 64_535),
}


class Maker:
    """Makes a list and its files below a directory; gives the arguments of the conversion."""

    def __init__(self, root: pathlib.Path, share: float):
        self.root, self._share, self._random = root, share, random.Random(0)

    def count(self, number: int) -> int:
        return max(1, round(number * self._share))

    def youtube_id(self) -> str:
        return ''.join(self._random.choices(string.ascii_letters + string.digits + '-_', k=11))

    def write(self, name: str, lines: Iterator[str]) -> pathlib.Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(''.join(f'{line}\n' for line in lines))
        return path

    def files(self, names: Iterator[str]) -> None:
        folders = set()
        for name in names:
            path = self.root / 'videos' / name
            if path.parent not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.add(path.parent)
            path.touch()


def kinetics(maker: Maker, name: str) -> list[str]:
    classes, *counts = KINETICS[name]
    arguments = []
    for split, count in zip(('train', 'validation', 'test'), counts):
        count = max(classes, maker.count(count))  # each class is in each split
        rows = [(number % classes, maker.youtube_id()) for number in range(count)]
        lines = (f'class {label},{video},3,13,{split},0' for label, video in rows)
        head = 'label,youtube_id,time_start,time_end,split,is_cc'
        path = maker.write(f'{name}/{split}.csv', iter([head, *lines]))
        maker.files(f'{split}/class {label}/{video}_000003_000013.mp4' for label, video in rows)
        if split != 'test':
            arguments += ['--csv', f'{split}={path}']
    return arguments


def kinetics710(maker: Maker) -> list[str]:
    arguments = []
    for name in KINETICS:
        kinetics(maker, name)
        for split in ('train', 'validation', 'test'):
            arguments += ['--csv', f'{name}:{split}={maker.root}/{name}/{split}.csv']
    return arguments


def something_v2(maker: Maker) -> list[str]:
    labels = maker.write('labels.json', iter([json.dumps({f't {n}': str(n) for n in range(174)})]))
    entries = [
        {'id': str(n), 'label': f'T {n % 174}', 'template': f't {n % 174}', 'placeholders': []}
        for n in range(maker.count(168_913))
    ]
    train = maker.write('train.json', iter([json.dumps(entries)]))
    maker.files(f'{n}.webm' for n in range(len(entries)))
    return ['--labels', str(labels), '--annotations', f'train={train}']


def jester(maker: Maker) -> list[str]:
    labels = maker.write('labels.csv', (f'gesture {n}' for n in range(27)))
    count = maker.count(118_562)
    train = maker.write('train.csv', (f'{n};gesture {n % 27}' for n in range(count)))
    maker.files(f'{n}/{image:05d}.jpg' for n in range(count) for image in range(1, 4))
    return ['--labels', str(labels), '--csv', f'train={train}']


def charades(maker: Maker) -> list[str]:
    classes = maker.write('classes.txt', (f'c{n:03d} action {n}' for n in range(157)))
    head = 'id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length'
    count = maker.count(7985)
    actions = ';'.join(f'c{n * 20:03d} {n}.00 {n + 9}.50' for n in range(7))
    lines = (f'V{n:05d},S,Hall,6,7,Yes,"A, b.",x;y,"C.",{actions},30.50' for n in range(count))
    train = maker.write('train.csv', iter([head, *lines]))
    maker.files(f'V{n:05d}.mp4' for n in range(count))
    return ['--classes', str(classes), '--csv', f'train={train}', '--clips=segments']


def frame_list(maker: Maker) -> list[str]:
    """PySlowFast's of Charades: a line per image."""
    count = maker.count(7985)
    lines = (
        f'V{n:05d} {n} {image} V{n:05d}/V{n:05d}-{image + 1:06d}.jpg "{n % 157},{image % 157}"'
        for n in range(count)
        for image in range(730)
    )
    train = maker.write('f.csv', iter(['original_vido_id video_id frame_id path labels', *lines]))
    maker.files(f'V{n:05d}/V{n:05d}-000001.jpg' for n in range(count))
    return ['--csv', f'train={train}', '--path_prefix', str(maker.root / 'videos')]


def epic_kitchens(maker: Maker) -> list[str]:
    verbs = maker.write(
        'v.csv', iter(['id,key,instances', *(f'{n},verb {n},[]' for n in range(97))])
    )
    head = (
        'narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,'
        'start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes'
    )
    lines = (
        f'P01_{n % 495}_{n},P01,P01_{n % 495:03d},00:00:01.089,00:00:00.14,00:00:03.37,8,202,open '
        f"door,open,{n % 97},door,3,\"['door', 'x']\",[3]"
        for n in range(maker.count(67_217))
    )
    train = maker.write('train.csv', iter([head, *lines]))
    maker.files(f'P01_{n:03d}.MP4' for n in range(495))
    return ['--classes', str(verbs), '--label=verb', '--csv', f'train={train}']


def hvu(maker: Maker) -> list[str]:
    rows = [maker.youtube_id() for _ in range(maker.count(481_417))]
    tags = ['|'.join(f'tag {(n * 7 + k * 31) % 3142}' for k in range(6)) for n in range(3142)]
    lines = (f'{tags[n % 3142]},{video},3,13' for n, video in enumerate(rows))
    train = maker.write('hvu.csv', iter(['Tags,youtube_id,time_start,time_end', *lines]))
    maker.files(f'{n % 512}/{video}_000003_000013.mp4' for n, video in enumerate(rows))
    return ['--csv', f'train={train}']


CASES: dict[str, tuple[str, Callable[[Maker], list[str]]]] = {
    'kinetics400': ('kinetics', lambda maker: kinetics(maker, 'kinetics400')),
    'kinetics700': ('kinetics', lambda maker: kinetics(maker, 'kinetics700')),
    'kinetics710': ('kinetics710', kinetics710),
    'something_v2': ('something_v2', something_v2),
    'jester': ('jester', jester),
    'charades': ('charades', charades),
    'charades, images': ('pyslowfast', frame_list),
    'epic_kitchens': ('epic_kitchens', epic_kitchens),
    'hvu': ('csv', hvu),
}


def read(arguments: list[str]) -> None:
    """Reads one list, in a process of its own; prints clips, seconds, bytes of memory."""
    args = _parser().parse_args(arguments)
    began = time.process_time()
    annotations = FORMATS[args.format].read(args)
    seconds = time.process_time() - began
    clips = sum(map(len, annotations.splits.values()))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps([clips, len(annotations.classes), seconds, memory]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--share', type=float, default=1.0)
    parser.add_argument('--only', choices=CASES)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--read', nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        read(args.read)
        return
    print(f'{"list":18} {"clips":>9} {"classes":>7} {"seconds":>8} {"us/clip":>8} {"MB":>6}')
    for name, (name_of_format, make) in CASES.items():
        if args.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            maker = Maker(pathlib.Path(folder), args.share)
            arguments = [name_of_format, *make(maker), '--output', f'{folder}/out']
            if name_of_format != 'pyslowfast':
                arguments += ['--videos', f'{folder}/videos']
            command = [sys.executable, '-m', 'benchmarks.annotation_lists', '--read', *arguments]
            found = [
                json.loads(
                    subprocess.run(command, capture_output=True, check=True, text=True).stdout
                )
                for _ in range(args.repeats)
            ]
        clips, classes, _, memory = found[0]
        seconds = float(np.median([one[2] for one in found]))
        print(
            f'{name:18} {clips:9,} {classes:7} {seconds:8.2f} {1e6 * seconds / clips:8.1f} '
            f'{memory / 1e6:6.0f}',
            flush=True,
        )
    count = round(536_685 * args.share)
    labels = RecordLabels(
        np.ones(count, np.uint32), (np.arange(count) ** 2 % 700).astype(np.uint32)
    )
    began = time.process_time()
    balanced = BalancedRecords(labels, 0.5, seed=0, dataset=0)
    made = time.process_time()
    balanced.epoch(7)
    print(
        f'class balance of {count:,} records: {made - began:.2f} s once, '
        f'{time.process_time() - made:.2f} s an epoch'
    )


if __name__ == '__main__':
    main()
