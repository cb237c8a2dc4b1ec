"""Key frames from videos to records and back."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from data_pipelines.annotations import Annotations, Clip, KeyFrame
from data_pipelines.conversion import shard
from data_pipelines.conversion.dataset import convert
from data_pipelines.conversion.options import Options
from data_pipelines.convert import main
from data_pipelines.datasets.dataset_info import load_dataset_info
from data_pipelines.storage.regions import regions
from tests.helpers import tiny_ava
from tests.helpers.golden import reference_path
from tests.helpers.read_records import numbers_in, read_examples
from tests.helpers.video_writer import number_image, write_numbered, write_video


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    return tiny_ava.write_ava(tmp_path_factory.mktemp('ava'))


@pytest.fixture(scope='module')
def command(files):
    return [
        'ava',
        *(f'--boxes={split}={files[split]}' for split in ('train', 'validation')),
        *(f'--{name}={files[name]}' for name in ('actions', 'timestamps', 'excluded', 'proposals')),
        f'--videos={files["videos"]}',
        '--video_start=900',
        '--context_seconds=1.5',
    ]


def test_command(files, command, tmp_path):
    assert main([*command, f'--output={tmp_path}', '--shards=1', '--workers=1']) == 0
    info = load_dataset_info(tmp_path)
    assert info.classes == ('bend/bow (at the waist)', 'stand', 'watch (a person)')
    assert info.localisation and info.multi_label
    assert info.arguments['action_ids'] == [1, 12, 80]
    assert info.arguments['context_seconds'] == 1.5
    train = info.splits['train']
    assert (train.records, train.class_counts, train.box_counts) == (3, (2, 2, 1), (2, 2, 1))
    first, second, third = read_examples(tmp_path, 'train')
    assert first.context['video/filename'] == [b'movie_A,0902']
    # Second 902 of the original is second 2 of the file, its frame 50; 0.75 s on either side.
    assert numbers_in(first) == list(range(32, 69))  # frame 31 appears at 1.24 s, before 1.25 s
    found = regions(first, 3)
    assert numbers_in(first)[found.key_frame] == 50
    assert found.timestamp == 2_000_000
    assert first.context['clip/start/timestamp'].tolist() == [1_280_000]
    assert first.context['clip/end/timestamp'].tolist() == [2_750_000]
    np.testing.assert_array_equal(
        found.boxes, np.array([[0.1, 0.2, 0.5, 0.9], [0.6, 0.1, 0.9, 0.8]], np.float32)
    )
    np.testing.assert_array_equal(found.labels, [[0, 1, 1], [1, 0, 0]])
    assert found.persons.tolist() == [0, 1]
    np.testing.assert_array_equal(
        found.proposals,
        np.array([[0.61, 0.11, 0.91, 0.81], [0.111, 0.201, 0.501, 0.901]], np.float32),
    )
    np.testing.assert_array_equal(found.scores, np.array([0.99, 0.95], np.float32))
    assert regions(second, 3).proposals.shape == (0, 4)
    assert third.context['video/filename'] == [b'movie_B,0902']
    # The layout that other readers of such records expect.
    assert first.context['region/label/index'].tolist() == [1, 2, 0]
    assert first.context['region/bbox/ymax'].tolist() == np.float32([0.9, 0.9, 0.8]).tolist()
    assert first.context['clip/label/index'].tolist() == [0, 1, 2]


def test_dmvr_layout_is_read_by_tensorflow(files, command, tmp_path):
    tf = pytest.importorskip('tensorflow')
    main([*command, f'--output={tmp_path}', '--shards=1', '--workers=1'])
    (serialised, *_) = tf.data.TFRecordDataset(str(tmp_path / 'train-00000-of-00001'))
    context, lists = tf.io.parse_single_sequence_example(
        serialised,
        context_features={
            'clip/key_frame/index': tf.io.FixedLenFeature([], tf.int64),
            'clip/key_frame/timestamp': tf.io.FixedLenFeature([], tf.int64),
            'region/bbox/xmin': tf.io.VarLenFeature(tf.float32),
            'region/label/index': tf.io.VarLenFeature(tf.int64),
            'region/track/index': tf.io.VarLenFeature(tf.int64),
            'predicted/region/score': tf.io.VarLenFeature(tf.float32),
        },
        sequence_features={'image/encoded': tf.io.FixedLenSequenceFeature([], tf.string)},
    )
    assert int(context['clip/key_frame/index']) == 18
    assert lists['image/encoded'].shape == (37,)
    np.testing.assert_allclose(tf.sparse.to_dense(context['region/bbox/xmin']), [0.1, 0.1, 0.6])
    assert tf.sparse.to_dense(context['region/track/index']).numpy().tolist() == [0, 0, 1]


def convert_one(tmp_path, path, time, *, context=2.0, **options):
    """The record of a key frame at `time`, or why there is none."""
    key_frame = KeyFrame(time, ((0.1, 0.1, 0.5, 0.5),), (0,), (-1,))
    clip = Clip(str(path), 'v,1', (0,), max(0.0, time - context / 2), time + context / 2, key_frame)
    good = Clip(
        str(tmp_path / 'good.mp4'), 'w,1', (0,), 0.0, 1.0, dataclasses.replace(key_frame, time=0.5)
    )
    write_numbered(tmp_path / 'good.mp4', 25)
    annotations = Annotations(('stand',), {'train': (clip, good)}, True, True)
    info = convert(
        annotations,
        tmp_path / 'out',
        Options(workers=1, shards=1, max_failures=1, progress=False, **options),
    )
    if info.splits['train'].failures:
        return info.splits['train'].failures[0][1]
    example = read_examples(tmp_path / 'out', 'train')[0]
    return example, regions(example, 1)


@pytest.mark.parametrize(
    ('time', 'key', 'stored'),
    [
        (2.0, 50, (25, 74)),
        (2.01, 50, (26, 75)),  # frame 50 is on screen from 2.00 to 2.04 s
        (2.039, 50, (26, 75)),
        (0.0, 0, (0, 24)),
        (0.3, 7, (0, 32)),
        (5.97, 149, (125, 149)),  # the last frame
    ],
)
def test_key_frame_by_presentation_time(tmp_path, time, key, stored):
    write_numbered(tmp_path / 'video.mp4', 150)
    example, found = convert_one(tmp_path, tmp_path / 'video.mp4', time)
    shown = numbers_in(example)
    assert (shown[0], shown[-1]) == stored and shown[found.key_frame] == key


@pytest.mark.parametrize('frame_rate', [10, 15, 30])
@pytest.mark.parametrize('time', [0.03, 0.9, 2.013, 5.95])
def test_key_frame_at_another_frame_rate(tmp_path, time, frame_rate):
    """One of the picks is at the key frame's very time."""
    write_numbered(tmp_path / 'video.mp4', 150)
    example, found = convert_one(tmp_path, tmp_path / 'video.mp4', time, frame_rate=frame_rate)
    shown = numbers_in(example)
    assert shown[found.key_frame] == int((time + 1e-9) * 25)
    assert found.key_frame == int(min(time, 1.0) * frame_rate + 1e-6)
    start = example.context['clip/start/timestamp'][0] / 1e6
    assert start + found.key_frame / frame_rate == pytest.approx(time, abs=2e-6)


def variable_rate_times():
    """Milliseconds: 50 frames per second, then 5, then 25."""
    times = [20 * i for i in range(50)] + [1000 + 200 * i for i in range(10)]
    return times + [3000 + 40 * i for i in range(50)]


@pytest.mark.parametrize('frame_rate', [None, 10])
@pytest.mark.parametrize('time', [0.5, 1.199, 1.2, 2.95, 3.5])
def test_key_frame_of_variable_frame_rate(tmp_path, time, frame_rate):
    times = variable_rate_times()
    images = [number_image(number) for number in range(len(times))]
    write_video(tmp_path / 'video.mp4', images, times=times)
    example, found = convert_one(tmp_path, tmp_path / 'video.mp4', time, frame_rate=frame_rate)
    shown = [number for number, at in enumerate(times) if at <= time * 1000 + 1e-6][-1]
    assert numbers_in(example)[found.key_frame] == shown


def test_key_frame_before_the_first_frame():
    """A video whose sound begins earlier: nothing but its first frame is ever on screen then."""
    clip = Clip('video.mp4', 'v,1', (0,), 0.0, 1.1, KeyFrame(0.1))
    assert shard._key_frame_index(clip, [0.5, 0.54, 0.58], 1.1) == 0


def test_key_frame_past_the_end(tmp_path):
    write_numbered(tmp_path / 'video.mp4', 150)
    reason = convert_one(tmp_path, tmp_path / 'video.mp4', 6.2)
    assert reason == 'the key frame, at 6.2 s, lies past its end, 6.000 s'


def test_key_frame_on_screen_longer_than_the_context(tmp_path):
    times = [0, 40, 3000, 3040]
    write_video(tmp_path / 'video.mp4', [number_image(n) for n in range(4)], times=times)
    reason = convert_one(tmp_path, tmp_path / 'video.mp4', 2.5)
    assert reason.startswith('no frame between 1.5 s and the key frame at 2.5 s')


def test_restart_keeps_shards_and_boxes_decide(files, command, tmp_path):
    arguments = [*command, f'--output={tmp_path}', '--shards=2', '--workers=1']
    main(arguments)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob('*-of-*')}
    main(arguments)
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob('*-of-*')}
    main([*arguments, '--without_boxes=keep', '--replace'])
    assert {split: i.records for split, i in load_dataset_info(tmp_path).splits.items()} == {
        'train': 7,
        'validation': 4,
    }
    example = read_examples(tmp_path, 'validation')[0]
    assert regions(example, 3).boxes.shape == (0, 4) and regions(example, 3).labels.shape == (0, 3)
    assert example.context['clip/label/index'].tolist() == []


def test_key_frames_without_boxes(files, command, tmp_path, capsys):
    """Listed without a box: nobody is there.

    Not listed, but a second of the video: nobody knows.
    """
    train = tmp_path / 'train.csv'
    train.write_text(files['train'].read_text() + 'movie_B,0903\n')
    arguments = [a.replace(str(files['train']), str(train)) for a in command]
    assert main([*arguments, f'--output={tmp_path / "skip"}', '--workers=1']) == 0
    said = capsys.readouterr().out
    assert 'train: 1 key frames without boxes are left out (--without_boxes=keep)' in said
    keep = [*arguments, '--without_boxes=keep', f'--output={tmp_path / "keep"}', '--workers=1']
    assert main(keep) == 0
    assert '--without_boxes' not in capsys.readouterr().out
    found = {}
    for example in read_examples(tmp_path / 'keep', 'train'):
        one = regions(example, 3)
        found[example.context['video/filename'][0].decode()] = len(one.boxes), one.listed
    assert found == {
        'movie_A,0902': (2, True),
        'movie_A,0903': (0, False),
        'movie_A,0904': (1, True),
        'movie_B,0902': (1, True),
        'movie_B,0903': (0, True),
        'movie_B,0904': (0, False),
        'movie_B,0905': (0, False),
    }


def test_official_rows_from_records(tmp_path):
    """What went in comes out: the boxes of records, as rows of an official csv."""
    truth = reference_path('ava_eval_groundtruth.csv')
    excluded = reference_path('ava_eval_excluded.csv')
    with open(truth, newline='') as file:
        rows = [tuple(row) for row in csv.reader(file)]
    with open(excluded, newline='') as file:
        left_out = {tuple(row) for row in csv.reader(file)}
    (tmp_path / 'videos').mkdir()
    for video in {row[0] for row in rows}:
        write_numbered(tmp_path / 'videos' / f'{video}.mp4', 33 * 2, rate=2)
    arguments = [
        'ava',
        f'--boxes=validation={truth}',
        f'--actions={reference_path("ava_eval_labelmap_80.pbtxt")}',
        f'--excluded={excluded}',
        f'--videos={tmp_path / "videos"}',
        '--video_start=900',
        f'--output={tmp_path / "out"}',
        '--workers=2',
    ]
    assert main(arguments) == 0
    ids = load_dataset_info(tmp_path / 'out').arguments['action_ids']
    found = []
    for example in read_examples(tmp_path / 'out', 'validation'):
        video, timestamp = example.context['video/filename'][0].decode().rsplit(',', 1)
        shown = regions(example, 80)
        second = int(timestamp) - 900
        assert numbers_in(example)[shown.key_frame] == 2 * second
        for box, labels, person in zip(shown.boxes, shown.labels, shown.persons):
            sides = [f'{side:.3f}' for side in box]
            found += [
                (video, timestamp, *sides, str(ids[label]), str(person))
                for label in np.flatnonzero(labels)
            ]
    assert sorted(found) == sorted({row for row in rows if row[:2] not in left_out})


def test_missing_movie_is_reported(files, command, tmp_path, capsys):
    (tmp_path / 'boxes.csv').write_text('movie_Z,0902,0.1,0.1,0.5,0.5,12,0\n')
    arguments = [
        *command,
        f'--boxes=train={tmp_path / "boxes.csv"}',
        f'--output={tmp_path / "out"}',
    ]
    assert main([*arguments, '--max_failures=0.5', '--shards=1', '--workers=1']) == 0
    assert load_dataset_info(tmp_path / 'out').splits['train'].failures == (
        ('movie_Z,0902', 'no such file'),
    )


@pytest.mark.parametrize('more', [[], ['--dry_run']])
def test_remote_output_is_refused(files, command, tmp_path, monkeypatch, capsys, more):
    monkeypatch.chdir(tmp_path)
    assert main([*command, '--output=gs://bucket/ava', *more]) == 2
    assert 'gs://bucket/ava: records are converted to a local' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_arguments_that_make_no_sense(files, command, tmp_path, capsys):
    assert main([*command, f'--output={tmp_path}', '--max_seconds=1']) == 2
    assert '--max_seconds would cut key frames off' in capsys.readouterr().err
    assert main([*command, f'--output={tmp_path}', '--boxes=train.csv']) == 2
    assert '--boxes=train.csv: wanted SPLIT=FILE' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['ava', 'ava_kinetics'])
def test_example_of_the_help_parses(name, capsys, tmp_path, monkeypatch):
    """It gets as far as the files, which are not there."""
    with pytest.raises(SystemExit):
        main([name, '--help'])
    example = capsys.readouterr().out.splitlines()[-1].split('data_pipelines.convert ')[1]
    monkeypatch.chdir(tmp_path)
    assert main(example.split()) == 2
    assert 'ava_action_list_v2.2.pbtxt: no such file' in capsys.readouterr().err


def test_ava_kinetics(files, tmp_path):
    videos = tmp_path / 'videos'
    videos.mkdir()
    (videos / 'ava').symlink_to(files['videos'], target_is_directory=True)
    write_numbered(videos / 'abcdefghijk_000012_000018.mp4', 150)
    (tmp_path / 'kinetics.csv').write_text(
        'abcdefghijk,14.033333,0.1,0.1,0.5,0.5,12\n'
        'abcdefghijk,14.033333,0.1,0.1,0.5,0.5,80\n'
        'abcdefghijk,15.000000\n'
    )
    arguments = [
        'ava_kinetics',
        f'--boxes=train={files["train"]}',
        f'--boxes=train={tmp_path / "kinetics.csv"}',
        f'--actions={files["actions"]}',
        f'--excluded={files["excluded"]}',
        f'--videos={videos}',
        '--video_start=900',
        f'--output={tmp_path / "out"}',
        '--shards=1',
        '--workers=1',
    ]
    assert main(arguments) == 0
    found = {
        e.context['video/filename'][0].decode(): e for e in read_examples(tmp_path / 'out', 'train')
    }
    assert sorted(found) == [
        'abcdefghijk,14.033333',
        'movie_A,0902',
        'movie_A,0904',
        'movie_B,0902',
    ]
    kinetics = found['abcdefghijk,14.033333']
    where = regions(kinetics, 3)
    assert numbers_in(kinetics)[where.key_frame] == 50  # 2.033 s
    assert where.boxes.shape == (1, 4) and where.labels.tolist() == [[0, 1, 1]]
    assert where.persons.tolist() == [-1]
    assert json.loads((tmp_path / 'out' / 'dataset.json').read_text())['localisation'] is True
