"""Damaged files of every kind: an error of ours, or the exact original;
no crash, no hang, nothing wrong in silence.
"""

import collections
import functools
import json
import pathlib
import subprocess
import sys

import pytest

from data_pipelines.annotations import Annotations
from data_pipelines.annotations.activitynet import read_activitynet
from data_pipelines.annotations.ava import read_ava
from data_pipelines.annotations.hmdb51 import read_hmdb51
from data_pipelines.annotations.kinetics import read_kinetics
from data_pipelines.annotations.moments_in_time import read_moments_in_time
from data_pipelines.annotations.pyslowfast import read_pyslowfast
from data_pipelines.annotations.something_v2 import read_something_v2
from data_pipelines.annotations.ucf101 import read_ucf101
from data_pipelines.conversion.jpeg import encode_jpeg
from data_pipelines.datasets import dataset_info
from data_pipelines.storage import indexing
from data_pipelines.storage.reader import RecordReader, ShardReader
from data_pipelines.storage.record_index import build_index, save_index
from data_pipelines.storage.sequence_example import (
    RecordError,
    decode_clip,
    decode_sequence_example,
    encoded_frames,
    label_indices,
)
from multitrain_jax.ava_eval import evaluate_files
from tests.helpers import tiny_ava, tiny_records, video_writer
from tests.helpers.mutation import mutate
from tests.helpers.read_records import read_records
from tests.helpers.tiny import quick_compile  # noqa: F401

ROOT = pathlib.Path(__file__).parent.parent.parent
COUNTS = [150, pytest.param(20_000, marks=pytest.mark.slow)]  # inputs of each kind


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """(directory, its six records) with both indexes; records of different lengths."""
    directory = tmp_path_factory.mktemp('records') / 'd'
    clips = [
        [tiny_records.flat_frame(record, frame) for frame in range(2 + record)]
        for record in range(6)
    ]
    tiny_records.write_records(
        directory, clips, [[r] for r in range(6)], num_classes=6, num_shards=1
    )
    index = build_index(directory, 'train')
    save_index(directory, 'train', index)
    indexing.write_frame_index(directory, 'train', index, threads=1)
    with_index = ShardReader(directory, index)
    return directory, [bytes(with_index.read(number)) for number in range(6)]


@pytest.mark.parametrize('count', COUNTS)
def test_shards(dataset, tmp_path, count):
    directory, originals = dataset
    shard = (directory / 'train-00000-of-00001').read_bytes()
    path = tmp_path / 'train-00000-of-00001'
    for seed in range(count):
        path.write_bytes(mutate(shard, seed))
        try:
            for _, data in read_records(path):
                assert bytes(data) in originals, seed
        except RecordError:
            continue


@pytest.mark.parametrize('name', ['train.index', 'train.frames'])
@pytest.mark.parametrize('count', COUNTS)
def test_indexes(dataset, tmp_path, name, count):
    """A record that is read is the one that was asked for."""
    directory, originals = dataset
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = (directory / name).read_bytes()
    for seed in range(count):
        (tmp_path / name).write_bytes(mutate(content, seed))
        try:
            reader = RecordReader(tmp_path, 'train')
        except RecordError:
            continue
        for number in range(len(reader)):
            try:
                assert bytes(reader.read(number)) == originals[number], seed
            except RecordError:
                continue
        reader.close()


@pytest.mark.parametrize('count', COUNTS)
def test_sequence_examples(dataset, count):
    """The two parsers agree, or refuse."""
    for seed in range(count):
        data = mutate(dataset[1][seed % 6], seed)
        found = []
        for parse in (decode_clip, decode_sequence_example):
            try:
                example = parse(memoryview(data))
                frames = [bytes(frame) for frame in encoded_frames(example)]
                found.append((label_indices(example).tolist(), frames))
            except ValueError:
                found.append(None)
        assert found[0] == found[1] or found[1] is None or found[0] is None, seed


@pytest.mark.parametrize('count', COUNTS)
def test_dataset_descriptions(dataset, tmp_path, count):
    content = (dataset[0] / 'dataset.json').read_bytes()
    for seed in range(count):
        (tmp_path / 'dataset.json').write_bytes(mutate(content, seed))
        try:
            info = dataset_info.load_dataset_info(tmp_path)
        except ValueError:
            continue
        assert all(isinstance(name, str) for name in info.classes) and isinstance(
            info.multi_label, bool
        )
        assert all(
            split.records >= 0 and len(split.class_counts) == len(info.classes)
            for split in info.splits.values()
        )


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """Names that the annotation files below look for; what is in them does not matter."""
    folder = tmp_path_factory.mktemp('videos')
    for name in ('a', 'b', 'v_x', 'movie_A', 'movie_B'):
        (folder / f'{name}.mp4').write_bytes(b'x')
    return folder


KINETICS = (
    b'label,youtube_id,time_start,time_end,split,is_cc\nrun,a,1,5,train,0\n"jump, '
    b'high",b,0,10,train,0\nrun,b,20,30,train,0\n'
)
ACTIVITYNET = json.dumps(
    {
        'database': {
            'x': {'subset': 'training', 'annotations': [{'label': 'run', 'segment': [1.5, 20]}]}
        }
    }
).encode()
READERS = {  # content, how it is read from a path
    'pyslowfast': (
        b'a.mp4 0\nb.mp4 1\n',
        lambda path, videos: read_pyslowfast({'train': path}, path_prefix=videos),
    ),
    'kinetics': (KINETICS, lambda path, videos: read_kinetics({'train': path}, videos)),
    'activitynet': (ACTIVITYNET, lambda path, videos: read_activitynet(path, videos)),
    'moments_in_time': (
        b'run/a.mp4,run,3,0\njump/b.mp4,jump,2,1\n',
        lambda path, videos: read_moments_in_time(
            beside(path, 'run,0\njump,1\n'), {'train': path}, videos
        ),
    ),
    'moments_categories': (
        b'run,0\njump,1\n',
        lambda path, videos: read_moments_in_time(
            path, {'train': beside(path, 'a.mp4,run,3,0')}, videos
        ),
    ),
    'something_v2': (
        b'[{"id": "a", "template": "Holding [something]"}, {"id": "b", "template": "Throwing '
        b'[something]"}]',
        lambda path, videos: read_something_v2(
            beside(path, '{"Holding something": "0", "Throwing something": "1"}'),
            {'train': path},
            videos,
        ),
    ),
    'something_labels': (
        b'{"Holding something": "0", "Throwing something": "1"}',
        lambda path, videos: read_something_v2(
            path, {'train': beside(path, '[{"id": "a", "template": "Holding something"}]')}, videos
        ),
    ),
    'hmdb51': (
        b'a.avi 1\nb.avi 2\n',
        lambda path, videos: read_hmdb51(
            path.rename(path.with_name('run_test_split1.txt')).parent, videos
        ),
    ),
    'ucf101': (b'1 run\n2 jump\n', lambda path, videos: read_ucf101(ucf_lists(path), videos)),
    'ava_boxes': (
        tiny_ava.TRAIN.encode(),
        lambda path, videos: read_ava({'train': [path]}, beside(path, tiny_ava.ACTIONS), videos),
    ),
    'ava_actions': (
        tiny_ava.ACTIONS.encode(),
        lambda path, videos: read_ava({'train': [beside(path, tiny_ava.TRAIN)]}, path, videos),
    ),
}


def beside(path, content):
    other = path.with_name('other')
    other.write_text(content)
    return other


def ucf_lists(path):
    for name in ('trainlist01.txt', 'testlist01.txt'):
        (path.parent / name).write_text('run/a.avi 1\njump/b.avi 2\n')
    return path.rename(path.with_name('classInd.txt')).parent


@pytest.mark.parametrize('count', [80, pytest.param(5_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', READERS)
def test_annotations(name, count, videos, tmp_path):
    content, read = READERS[name]
    outcomes = collections.Counter()
    for seed in range(-1, count):
        path = tmp_path / 'annotations'
        path.write_bytes(content if seed < 0 else mutate(content, seed))
        try:
            found = read(path, videos)
        except ValueError as error:
            assert seed >= 0 and '\n' not in str(error)[:2000].strip()
            outcomes['refused'] += 1
            continue
        outcomes['read'] += 1
        assert isinstance(found, Annotations)
        for clip in (clip for clips in found.splits.values() for clip in clips):
            assert all(0 <= label < len(found.classes) for label in clip.labels), seed
            assert pathlib.Path(clip.path).resolve().is_relative_to(videos), (seed, clip.path)
            for box in clip.key_frame.boxes if clip.key_frame else ():
                assert 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1, seed
    assert min(outcomes['refused'], outcomes['read']) > 0, outcomes


@pytest.mark.parametrize('count', COUNTS)
def test_ava_results(count, tmp_path):
    (tmp_path / 'actions').write_text(tiny_ava.ACTIONS)
    (tmp_path / 'truth').write_text(tiny_ava.TRAIN)
    lines = ''.join(f'{line.rpartition(",")[0]},0.5\n' for line in tiny_ava.TRAIN.splitlines())
    for seed in range(count):
        (tmp_path / 'found').write_bytes(mutate(lines.encode(), seed))
        try:
            result = evaluate_files(tmp_path / 'truth', tmp_path / 'found', tmp_path / 'actions')
        except ValueError:
            continue
        assert 0 <= result['map'] <= 1


def run_worker(kind, path, count, timeout):
    done = subprocess.run(
        [sys.executable, '-m', 'tests.fuzz.worker', kind, str(path), '0', str(count)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (
        f'ended with {done.returncode} after {lines[-1:]}: {done.stderr[-2000:]}'
    )
    assert len(lines) == count
    return collections.Counter(line.split()[1] for line in lines)


@pytest.mark.parametrize('count', [300, pytest.param(50_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    'encode',
    [tiny_records.jpeg, functools.partial(encode_jpeg, quality=90)],
    ids=['plain', 'converted'],
)
def test_jpeg(tmp_path, encode, count):
    (tmp_path / 'x.jpg').write_bytes(encode(tiny_records.smooth_image(64, 80)))
    outcomes = run_worker('jpeg', tmp_path / 'x.jpg', count, timeout=60 + count / 100)
    assert outcomes['refused'] > 0


@pytest.mark.parametrize('count', [60, pytest.param(3_000, marks=pytest.mark.slow)])
def test_videos(tmp_path, count):
    video_writer.write_numbered(tmp_path / 'x.mp4', 6)
    outcomes = run_worker('video', tmp_path / 'x.mp4', count, timeout=60 + count / 2)
    assert outcomes['refused'] > 0


@pytest.mark.slow
def test_exports(finished_run):
    outcomes = run_worker('export', finished_run[2] / 'export' / 'model.json', 1_000, timeout=1200)
    assert outcomes['refused'] > 0
