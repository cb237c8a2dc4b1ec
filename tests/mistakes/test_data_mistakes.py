"""Records that are missing, damaged or do not fit together:
training says which file, and what to do.
"""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from data_pipelines.datasets import dataset_info
from data_pipelines.storage.reader import RecordReader
from tests.helpers import tiny_records
from tests.helpers.calling import check_mistake
from tests.helpers.tiny import quick_compile  # noqa: F401

SHARD = 'train-00000-of-00002'


def info(**changes):
    """Changes fields of dataset.json; 'train__records': of a split."""

    def change(colours):
        path = colours / 'dataset.json'
        content = json.loads(path.read_text())
        for name, value in changes.items():
            split, _, field = name.rpartition('__')
            (content['splits'][split] if split else content)[field] = value
        path.write_text(json.dumps(content))

    return change


def write(name, content):
    return lambda colours: (colours / name).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def rewrite(labels=(0,), frames=None):
    """The training records anew, with these labels and frames."""

    def change(colours):
        for path in colours.glob('train*'):
            path.unlink()
        before = dataset_info.load_dataset_info(colours)
        clips = [frames or [tiny_records.flat_frame(0, frame) for frame in range(6)]] * 4
        tiny_records.write_records(colours, clips, [list(labels)] * 4, num_classes=3)
        after = dataset_info.load_dataset_info(colours)
        splits = {**before.splits, **after.splits}
        dataset_info.save_dataset_info(colours, dataclasses.replace(before, splits=splits))

    return change


def stale(colours):
    RecordReader(colours, 'train').close()
    content = (colours / SHARD).read_bytes()
    (colours / SHARD).write_bytes(content + content)


def pointing_outside(colours):
    RecordReader(colours, 'train').close()
    header, _, body = (colours / 'train.index').read_bytes().partition(b'\n')
    numbers = np.frombuffer(body, '<u8').copy()
    numbers[0] = 2**63
    (colours / 'train.index').write_bytes(header + b'\n' + numbers.tobytes())


def empty(split):
    def change(colours):
        for path in colours.glob(f'{split}-*'):
            path.write_bytes(b'')
        (colours / f'{split}.index').unlink(missing_ok=True)
        info(**{f'{split}__records': 0})(colours)

    return change


# (what is done to the directory of the dataset "colours", parts of the line)
MISTAKES = {
    'no directory': (shutil.rmtree, ['no dataset.json here', 'data_pipelines.convert']),
    'no dataset.json': (
        lambda colours: (colours / 'dataset.json').unlink(),
        ['no dataset.json here'],
    ),
    'empty dataset.json': (write('dataset.json', ''), ['dataset.json: not JSON']),
    'binary dataset.json': (write('dataset.json', b'\xff\xfe'), ['dataset.json: not JSON']),
    'deep dataset.json': (write('dataset.json', '[' * 100_000), ['dataset.json: not JSON']),
    'other JSON': (write('dataset.json', '{}'), ['not a dataset description']),
    'later version': (info(version=9), ['not a dataset description of version 1']),
    'no classes': (info(classes=[]), ['damaged dataset description', 'classes']),
    'numbers as classes': (info(classes=[1, 2, 3]), ['classes is [1, 2, 3], wanted names']),
    'a text as classes': (info(classes='abc'), ["classes is 'abc', wanted list"]),
    'classes twice': (info(classes=['a', 'a', 'b']), ['names a class twice']),
    'other number of classes': (info(classes=['red', 'green']), ['counts 3 classes', 'names 2']),
    'splits as list': (info(splits=[]), ['splits is [], wanted dict']),
    'no split': (info(splits={}), ["no split 'train'"]),
    'records in words': (info(train__records='many'), ["records is 'many'"]),
    'wrong number of records': (
        info(train__records=19),
        ['states 19 records', 'the shards hold 20'],
    ),
    'wrong counts': (info(train__class_counts=['a', 'b', 'c']), ["class_counts is 'a'"]),
    'frame rate in words': (info(frame_rate='fast'), ["frame_rate is 'fast'"]),
    'negative frame rate': (info(frame_rate=-1), ['frame_rate is -1']),
    'multi_label in words': (info(multi_label='no'), ["multi_label is 'no', wanted bool"]),
    'boxes, sampled anywhere': (info(localisation=True), ["sampling='strided'", 'key_frame']),
    'shard missing': (
        lambda colours: (colours / SHARD).unlink(),
        [f'{SHARD}: this shard is missing'],
    ),
    'shard cut': (
        lambda colours: write(SHARD, (colours / SHARD).read_bytes()[:-5])(colours),
        ['cut short inside the record'],
    ),
    'shard of text': (write(SHARD, 'x' * 100), [SHARD, 'damaged length']),
    'shards of two conversions': (
        write('train-00000-of-00003', ''),
        ['from different conversions: of 2, of 3'],
    ),
    'no shards of a split': (
        lambda colours: [p.unlink() for p in colours.glob('train-*')],
        ['no shards', "'train'", 'validation'],
    ),
    'no training records': (empty('train'), ["has no record in the split 'train'"]),
    'no test records': (empty('validation'), ["has no record in the split 'validation'"]),
    'index stale': (stale, ['train.index: out of date', 'delete it']),
    'index of text': (write('train.index', 'text'), ['not a record index', 'delete it']),
    'deep index': (write('train.index', '[' * 100_000 + '\n'), ['not a record index']),
    'index outside': (pointing_outside, ['points past the end of a shard']),
    'frame index of text': (write('train.frames', 'text'), ['not a frame index', 'delete it']),
    'other classes than the other split': (
        lambda colours: info(
            splits={'train': json.loads((colours / 'dataset.json').read_text())['splits']['train']}
        )(colours),
        ["no split 'validation', only train"],
    ),
    # Found when the batch is made: max_bad_records is 0.
    'label out of range': (rewrite(labels=[7]), ['class number [7] is not one of the 3 classes']),
    'negative label': (rewrite(labels=[-1]), ['class number [-1]']),
    'several labels': (
        rewrite(labels=[0, 1]),
        ['several labels, [0, 1], in a dataset of one label'],
    ),
    'no frames': (rewrite(frames=[b'']), ['frame 0']),
    'text as frames': (rewrite(frames=[b'no picture'] * 6), ['cannot be decoded as JPEG or PNG']),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_one_line(name, places, filled, tmp_path):
    change, parts = MISTAKES[name]
    data = tmp_path / 'data'
    shutil.copytree(places['data'], data)
    for index in data.rglob('*.index'):
        index.unlink()  # of the tests before; each makes its own
    change(data / 'colours')
    line = check_mistake(
        'run', filled(['--config={config}', f'--config.data_root={data}', '--workdir={new}']), parts
    )
    assert re.search(r'colours', line)
    assert not (tmp_path / 'new' / 'export').exists() and not list(
        (tmp_path / 'new').glob('checkpoints/*')
    )
