import dataclasses
import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data_pipelines import index
from data_pipelines.annotations import KeyFrame
from data_pipelines.datasets.dataset_info import (
    DatasetInfo,
    SplitInfo,
    load_dataset_info,
    save_dataset_info,
)
from data_pipelines.inspect import main
from data_pipelines.storage import regions
from data_pipelines.storage.record_index import build_index, save_index
from data_pipelines.storage.sequence_example import (
    CLIP_END,
    CLIP_START,
    IMAGE_ENCODED,
    IMAGE_FRAME_RATE,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    LABEL_INDEX,
    LABEL_TEXT,
    VIDEO_FILENAME,
    encode_sequence_example,
)
from data_pipelines.storage.tfrecord import RecordWriter, scan_records
from tests.helpers.golden import shared_path
from tests.helpers.read_records import flip_byte
from tests.helpers.tiny_records import jpeg, smooth_image


def frame(height=40, width=60, phase=0.0):
    return jpeg(smooth_image(height, width, phase))


def encode(key, label, *, frames=3, key_frame=None, size=(40, 60), **changes):
    """One record; `changes` of context features, None to leave one out."""
    context = {
        VIDEO_FILENAME: [key],
        LABEL_INDEX: [label],
        LABEL_TEXT: [f'class {label}'],
        CLIP_START: [0],
        CLIP_END: [frames * 100_000],
        IMAGE_FRAME_RATE: [10.0],
        IMAGE_HEIGHT: [size[0]],
        IMAGE_WIDTH: [size[1]],
    }
    if key_frame is not None:
        context.update(regions.region_features(key_frame, 1))
    context.update(changes)
    images = [frame(*size, phase=i / 3) for i in range(frames)]
    return encode_sequence_example(
        {name: value for name, value in context.items() if value is not None},
        {IMAGE_ENCODED: images},
    )


def write_shard(directory, name, encoded):
    directory.mkdir(parents=True, exist_ok=True)
    with RecordWriter(directory / name) as writer:
        return [writer.write(data)[0] for data in encoded]


@pytest.fixture
def dataset(tmp_path):
    """train: 5 records of 3 classes in 2 shards; validation: 1; with index and dataset.json."""
    directory = tmp_path / 'data'
    train = [encode(f'{i}.mp4', i % 3, frames=2 + i) for i in range(5)]
    write_shard(directory, 'train-00000-of-00002', train[:3])
    write_shard(directory, 'train-00001-of-00002', train[3:])
    write_shard(directory, 'validation-00000-of-00001', [encode('v.mp4', 2, size=(30, 50))])
    splits = {'train': SplitInfo(5, 2, (2, 2, 1)), 'validation': SplitInfo(1, 1, (0, 0, 1))}
    classes = tuple(f'class {i}' for i in range(3))
    save_dataset_info(directory, DatasetInfo('tiny', classes, False, splits, 10.0))
    for split in splits:
        save_index(directory, split, build_index(directory, split))
    return directory


@pytest.fixture
def inspected(capsys):
    """Runs the command; returns its exit code and its JSON."""

    def run(directory, *arguments):
        code = main([str(directory), '--json', '--no_sheet', '--threads=2', *arguments])
        report = json.loads(capsys.readouterr().out)
        assert report['ok'] == (code == 0) == (not report['problems'])
        return code, report

    return run


def messages(report):
    return [problem['message'] for problem in report['problems']]


@pytest.mark.parametrize('arguments', [[], ['--quick']])
def test_sound_dataset(dataset, inspected, arguments):
    code, report = inspected(dataset, *arguments)
    assert code == 0
    assert report['name'] == 'tiny' and not report['localisation']
    assert report['classes'] == {'0': 'class 0', '1': 'class 1', '2': 'class 2'}
    train = report['splits']['train']
    assert (train['records'], train['good_records'], train['shards']) == (5, 5, 2)
    assert train['bytes'] == sum(p.stat().st_size for p in dataset.glob('train-*-of-*'))
    assert train['frames'] == {'least': 2, 'median': 4, 'most': 6, 'sum': 20}
    assert train['seconds']['sum'] == pytest.approx(2.0)
    assert train['frame_sizes'] == {'60x40': 5} and train['frame_rates'] == {'10': 5}
    assert train['class_counts'] == {'0': 2, '1': 2, '2': 1}
    assert report['splits']['validation']['frame_sizes'] == {'50x30': 1}


def test_text(dataset, capsys):
    assert main([str(dataset), '--no_sheet', '--top=1']) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['class', '0', '0', '2', '0'] in lines  # name, number, train, validation
    assert ['...', '1', 'more'] in lines
    assert ['class', '2', '2', '1', '1'] in lines
    assert lines[-1][:3] == ['all', 'is', 'well']
    assert any(line[:3] == ['2', 'classes', 'have'] for line in lines)  # none in validation


def test_flipped_byte_names_file_and_offset(dataset, inspected):
    path = dataset / 'train-00000-of-00002'
    offsets = [offset for offset, _ in scan_records(path)]
    flip_byte(path, offsets[1] + 200)
    code, report = inspected(dataset)
    assert code == 1
    assert report['problems'] == [
        {'file': str(path), 'offset': offsets[1], 'message': 'damaged data (checksum differs)'}
    ]
    assert report['splits']['train']['good_records'] == 4


def test_cut_shard(dataset, inspected):
    path = dataset / 'train-00001-of-00002'
    second = [offset for offset, _ in scan_records(path)][1]
    path.write_bytes(path.read_bytes()[:-100])
    code, report = inspected(dataset)
    cut, index, counts = report['problems']
    assert code == 1
    assert (cut['file'], cut['offset']) == (str(path), second) and 'cut short' in cut['message']
    assert index['file'].endswith('train.index') and 'out of date' in index['message']
    assert "states 5 records in 2 shards of 'train', there are 4 in 2" in counts['message']


def test_missing_shard(dataset, inspected):
    (dataset / 'train-00000-of-00002').unlink()
    code, report = inspected(dataset)
    assert code == 1 and 'train-00000-of-00002: this shard is missing' in messages(report)[0]
    assert report['splits']['train']['good_records'] == 2


def test_missing_split(dataset, inspected):
    (dataset / 'validation-00000-of-00001').unlink()
    code, report = inspected(dataset)
    assert code == 1
    assert messages(report) == ["describes a split 'validation', of which there is no shard"]


def test_damaged_frame_in_a_good_record(dataset, inspected):
    whole = frame()
    data = encode_sequence_example(
        {LABEL_INDEX: [0]}, {IMAGE_ENCODED: [whole, whole[: len(whole) // 2]]}
    )
    (offset,) = write_shard(dataset, 'extra-00000-of-00001', [data])
    code, report = inspected(dataset)
    assert code == 1
    problem, unknown = report['problems']
    assert problem['offset'] == offset and 'frame 1 cannot be decoded' in problem['message']
    assert "does not know the split 'extra'" in unknown['message']
    assert len(inspected(dataset, '--quick')[1]['problems']) == 1  # that is what quick means


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({LABEL_INDEX: None, LABEL_TEXT: None}, 'no class number'),
        ({LABEL_INDEX: [3]}, 'dataset.json has 3'),
        ({LABEL_TEXT: ['class 1']}, "class 0 is called 'class 1', elsewhere 'class 0'"),
        ({LABEL_TEXT: ['class 0', 'class 1']}, '1 class numbers, but 2 class names'),
        (
            {LABEL_INDEX: [0, 1], LABEL_TEXT: None},
            '2 labels in a dataset of one label',
        ),
        ({IMAGE_WIDTH: [61]}, 'image/width is 61, but the frames are 60x40'),
    ],
)
def test_wrong_records(dataset, inspected, changes, message):
    write_shard(dataset, 'train-00001-of-00002', [encode('x', 0), encode('y', 0, **changes)])
    (dataset / 'train.index').unlink()
    code, report = inspected(dataset)
    assert code == 1 and message in messages(report)[0]
    assert report['splits']['train']['good_records'] == 4


def test_wrong_counts(dataset, inspected):
    info = load_dataset_info(dataset)
    splits = {**info.splits, 'train': SplitInfo(5, 2, (1, 2, 2))}
    save_dataset_info(dataset, dataclasses.replace(info, splits=splits))
    assert messages(inspected(dataset)[1]) == [
        "states 1 records of the class 'class 0' in 'train', there are 2 (2 such classes)"
    ]


def test_index_of_other_records(dataset, inspected):
    """Of the same size, so that only the records tell."""
    a, b = (encode(f'{i}.mp4', 0, frames=frames) for i, frames in ((0, 2), (1, 4)))
    write_shard(dataset, 'train-00001-of-00002', [a, b])
    save_index(dataset, 'train', build_index(dataset, 'train'))
    write_shard(dataset, 'train-00001-of-00002', [b, a])
    code, report = inspected(dataset)
    assert code == 1 and 'does not say where the records are' in messages(report)[0]


def test_an_empty_shard_is_warned_of_in_one_line(dataset):
    write_shard(dataset, 'train-00001-of-00002', [])
    command = [sys.executable, '-m', 'data_pipelines.index', str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True)
    (line,) = (line for line in done.stderr.splitlines() if 'empty' in line)
    assert line == f'warning: {dataset}/train-00001-of-00002: this shard is empty'


def test_frame_index(dataset, inspected, capsys):
    """Missing: a note. Right: nothing to say. Of other records: a problem at each."""
    assert 'data_pipelines.index' in inspected(dataset)[1]['splits']['train']['notes'][0]
    assert index.main([str(dataset)]) == 0
    capsys.readouterr()
    code, report = inspected(dataset)
    assert code == 0 and not report['splits']['train']['notes']
    path = dataset / 'train.frames'
    content = bytearray(path.read_bytes())
    content[content.index(b'\n') + 9] ^= 1  # the checksum of the first record's context
    path.write_bytes(content)
    code, report = inspected(dataset)
    assert code == 1
    assert messages(report) == [
        'does not say where the frames of record 0 are; delete it, or write it anew'
    ]
    path.write_bytes(b'nothing')
    code, report = inspected(dataset)
    assert code == 1 and 'not a frame index' in messages(report)[0]


def test_clips_in_two_splits_are_noted(dataset, inspected):
    write_shard(dataset, 'validation-00000-of-00001', [encode('2.mp4', 2, frames=4)])
    (dataset / 'validation.index').unlink()
    code, report = inspected(dataset)
    assert code == 0
    assert report['splits']['validation']['notes'][1:] == [
        "1 clips of 'validation' are in 'train' too (same video, same times)"
    ]


@pytest.fixture
def scenes(tmp_path):
    directory = tmp_path / 'scenes'
    one, two = (0.1, 0.1, 0.4, 0.9), (0.5, 0.2, 0.9, 0.8)
    key_frames = [
        KeyFrame(0.1, (one, one, two), (0, 2, 1), (0, 0, 1), (one,), (0.9,)),
        KeyFrame(0.1),
    ]
    write_shard(
        directory,
        'train-00000-of-00001',
        [
            encode(
                'a,0902',
                0,
                key_frame=key_frames[0],
                **{
                    LABEL_INDEX: [0, 1, 2],
                    LABEL_TEXT: ['class 0', 'class 1', 'class 2'],
                },
            ),
            encode(
                'a,0903',
                0,
                key_frame=key_frames[1],
                **{
                    LABEL_INDEX: np.zeros(0, np.int64),
                    LABEL_TEXT: None,
                },
            ),
        ],
    )
    splits = {'train': SplitInfo(2, 1, (1, 1, 1), box_counts=(1, 1, 1))}
    classes = tuple(f'class {i}' for i in range(3))
    save_dataset_info(directory, DatasetInfo('scenes', classes, True, splits, localisation=True))
    return directory


def test_localisation(scenes, inspected):
    code, report = inspected(scenes)
    assert code == 0 and report['localisation']
    train = report['splits']['train']
    assert train['box_counts'] == {'0': 1, '1': 1, '2': 1}
    assert (train['boxes']['sum'], train['proposals']['sum'], train['covered_boxes']) == (2, 1, 1)
    write_shard(scenes, 'train-00000-of-00001', [encode('b', 0)])
    code, report = inspected(scenes)
    assert code == 1 and 'clip/key_frame/index' in messages(report)[0]


def test_box_outside_the_frame(scenes, inspected):
    key_frame = KeyFrame(0.1, ((0.1, 0.1, 1.4, 0.9),), (0,), (0,))
    write_shard(scenes, 'train-00000-of-00001', [encode('b', 0, key_frame=key_frame)])
    assert 'outside the frame' in messages(inspected(scenes)[1])[0]


def test_sheet(scenes, dataset, capsys):
    """Frames where they belong, boxes in their colours on the key frame."""
    assert main([str(scenes)]) == 0
    assert cv2.imread(str(scenes / 'contact_sheet.jpg')) is not None
    assert main([str(scenes), f'--sheet={scenes / "sheet.png"}']) == 0
    sheet = cv2.imread(str(scenes / 'sheet.png'))[..., ::-1]
    # Row 0 is the key frame without boxes (it has no class), row 1 the one with two persons.
    top = 30 + 270 + 4
    image = sheet[top : top + 270, 274 : 274 + 405]
    shown = cv2.resize(smooth_image(40, 60, 1 / 3), (405, 270), interpolation=cv2.INTER_LINEAR)
    assert np.abs(image[100:130, 180:190].astype(int) - shown[100:130, 180:190]).mean() < 12
    orange, blue = (230, 159, 0), (86, 180, 233)
    assert (image[150, round(0.4 * 405)] == orange).all()  # right side of the first box
    assert (image[150, round(0.9 * 405)] == blue).all()
    ground = image[54:66, round(0.5 * 405) :][:, :40] == blue
    assert ground.all(axis=-1).mean() > 0.5  # behind the name of the action
    assert main([str(dataset), f'--sheet={dataset / "sheet.png"}', '--clips=4']) == 0
    sheet = cv2.imread(str(dataset / 'sheet.png'))
    assert sheet.shape[0] == 30 + 3 * 164  # two clips of train, the one of validation


def test_sheet_of_damaged_dataset(dataset):
    flip_byte(dataset / 'train-00000-of-00002', 200)
    assert main([str(dataset)]) == 1
    assert (dataset / 'contact_sheet.jpg').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--sheet=sheet.txt'], 'must end in .jpg or .png'),
        (['--sheet=/nowhere/sheet.png'], '/nowhere/sheet.png: cannot be written'),
        (['--threads=0'], '--threads=0: must be at least 1'),
        (['--clips=0'], '--clips=0: must be at least 1'),
    ],
)
def test_bad_arguments(dataset, capsys, arguments, message):
    assert main([str(dataset), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: ') and message in error


def test_directories_without_records(tmp_path, capsys):
    assert main([str(tmp_path / 'none')]) == 2
    assert 'no such directory' in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert 'no records in it (files such as train-00000-of-00016)' in capsys.readouterr().err


def test_records_of_dmvr(inspected, tmp_path):
    for number in range(3):
        name = f'shared-{number:05d}-of-00003'
        shutil.copy(shared_path(f'dmvr/{name}'), tmp_path / name)
    code, report = inspected(tmp_path)
    assert code == 0 and report['name'] is None
    split = report['splits']['shared']
    assert split['records'] == 10 and split['frame_rates'] == {'unknown': 10}
    assert split['class_counts'] == {'0': 4, '1': 1, '2': 1, '3': 2, '4': 2}
    assert split['seconds']['most'] == pytest.approx(12.5, abs=0.6)
    assert report['classes']['3'] == 'arm_wrestling'
    # Numbered anew in another run, as DMVR's generator does: said, not passed over.
    shutil.copy(shared_path('dmvr/audio-00000-of-00001'), tmp_path / 'audio-00000-of-00001')
    code, report = inspected(tmp_path)
    assert (
        code == 1
        and "is called 'cleaning_pool', elsewhere 'applying_makeup'" in messages(report)[0]
    )


@pytest.mark.parametrize(
    ('name', 'good', 'problem'),
    [
        ('no_frames', 2, 'no feature list'),
        ('empty_frame_list', 2, 'is empty'),
        ('garbage_jpeg', 2, 'frame 1 cannot be decoded'),
        ('truncated_jpeg', 2, 'frame 1 cannot be decoded'),
        ('gray_jpeg', 3, None),
        ('mixed_frame_sizes', 2, 'frame 1 is 170x128, frame 0 is 340x256'),
        ('png_frames', 3, None),
        ('no_label_index', 2, '0 class numbers, but 1 class names'),
        ('plain_example', 0, 'tf.train.Example with a single image'),
        ('truncated_file', 1, 'cut short'),
        ('bad_data_crc', 2, 'damaged data'),
        ('bad_length_crc', 1, 'damaged length'),
        ('empty_file', 0, 'has no record'),
    ],
)
def test_damaged_records_of_dmvr(inspected, tmp_path, name, good, problem):
    shutil.copy(shared_path(f'dmvr/bad/{name}'), tmp_path / 'bad-00000-of-00001')
    _, report = inspected(tmp_path)
    assert report['splits']['bad']['good_records'] == good
    assert [problem in message for message in messages(report)] == [True] * (problem is not None)
