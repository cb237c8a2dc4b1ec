import shutil

import pytest

from data_pipelines.annotations.folder import read_folder
from tests.helpers.golden import shared_path
from tests.helpers.video_writer import write_numbered


def make(root, *names):
    for name in names:
        path = root / name
        if name.endswith('/'):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'')


def test_splits(tmp_path):
    make(
        tmp_path,
        'train/b run/2.mp4',
        'train/b run/10.AVI',
        'train/a/x.webm',
        'train/a/notes.txt',
        'train/a/.hidden.mp4',
        'train/.cache/x.mp4',
        'validation/a/x.webm',
        'validation/b run/',
        'readme.mp4',
    )
    annotations = read_folder(tmp_path)
    assert annotations.classes == ('a', 'b run')
    assert not annotations.multi_label
    assert list(annotations.splits) == ['train', 'validation']
    train = [(clip.key, clip.labels) for clip in annotations.splits['train']]
    assert train == [('a/x.webm', (0,)), ('b run/10.AVI', (1,)), ('b run/2.mp4', (1,))]
    assert annotations.splits['train'][2].path == str(tmp_path / 'train/b run/2.mp4')
    assert [clip.key for clip in annotations.splits['validation']] == ['a/x.webm']
    assert list(read_folder(tmp_path, ['validation']).splits) == ['validation']
    (note,) = annotations.notes
    assert '2 files or folders' in note and 'readme.mp4' in note and 'notes.txt' in note


def test_single_split(tmp_path):
    make(tmp_path, 'run/1.mp4', 'jump/1.mp4', 'sit/')
    assert list(read_folder(tmp_path).splits) == ['train']
    annotations = read_folder(tmp_path, ['test'])
    assert annotations.classes == ('jump', 'run', 'sit')
    assert [(c.key, c.labels, c.path) for c in annotations.splits['test']] == [
        ('jump/1.mp4', (0,), str(tmp_path / 'jump/1.mp4')),
        ('run/1.mp4', (1,), str(tmp_path / 'run/1.mp4')),
    ]


@pytest.mark.parametrize(
    'names, splits, message',
    [
        (
            ['train/a/1.mp4', 'train/b/1.mp4', 'val/a/1.mp4'],
            None,
            "same classes: 'b' is in only one",
        ),
        (
            ['train/a/1.mp4', 'val/a/1.mp4'],
            ['test'],
            r"no split 'test' in it \(it has train, val\)",
        ),
        (['a/1.mp4'], ['train', 'val'], '2 splits were asked for'),
        (['a/1.mp4', 'train/a/1.mp4'], None, "'a' holds videos, 'train' holds folders"),
        (['a/1.txt'], None, 'no videos in it'),
        ([], None, 'no videos in it'),
        (
            ['x.mp4', 'y.mp4', 'notes.txt'],
            None,
            r'its 2 videos \(x.mp4, ...\) lie in no folder of a class; .*/running/x.mp4',
        ),
        (['a/1/0001.jpg'], None, 'images, but no videos in it'),
        (['a/b/'], None, r'no videos in it \(wanted'),
        (['a/0001.jpg'], None, 'images, but no videos in it'),
    ],
)
def test_mistakes(tmp_path, names, splits, message):
    make(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path, splits)


def test_files_of_any_suffix(tmp_path):
    train = tmp_path / 'train'
    make(train, 'run/1.mp4', 'run/cover.png', 'run/extras/2.mp4', 'sit/readme', 'sit/none.xyz')
    shutil.copy(shared_path('cases/animated.gif'), train / 'sit')
    write_numbered(train / 'sit' / 'a.m2ts', 3)
    annotations = read_folder(tmp_path)
    assert [clip.key for clip in annotations.splits['train']] == [
        'run/1.mp4',
        'sit/a.m2ts',
        'sit/animated.gif',
    ]
    (note,) = annotations.notes
    assert '4 files or folders' in note
    for name in ('run/cover.png', 'run/extras', 'sit/readme', 'sit/none.xyz'):
        assert str(train / name) in note


def test_classes_are_compared_in_one_normal_form(tmp_path):
    make(tmp_path, 'train/ne\u0301/a.mp4', 'val/n\u00e9/e\u0301.mp4')
    annotations = read_folder(tmp_path)
    assert annotations.classes == ('n\u00e9',)
    (clip,) = annotations.splits['val']
    assert clip.key == 'n\u00e9/\u00e9.mp4'
    assert clip.path == str(tmp_path / 'val/n\u00e9/e\u0301.mp4')


def test_a_part_of_each_class_is_held_out(tmp_path):
    make(tmp_path, *(f'{name}/{number}.mp4' for name in ('run', 'jump') for number in range(10)))
    make(tmp_path, 'sit/1.mp4', 'fall/1.mp4', 'fall/2.mp4')
    splits = read_folder(tmp_path, validation_share=0.2).splits
    assert list(splits) == ['train', 'validation']
    keys = {split: {clip.key for clip in clips} for split, clips in splits.items()}
    assert not keys['train'] & keys['validation'] and len(keys['train'] | keys['validation']) == 23
    counts = [sum(key.startswith(name) for key in keys['validation']) for name in ('run', 'jump')]
    assert counts == [2, 2]
    assert 'sit/1.mp4' in keys['train']  # the only one is trained on
    assert len({'fall/1.mp4', 'fall/2.mp4'} & keys['train']) == 1
    # One more video leaves the others where they are, but for at most one.
    make(tmp_path, 'run/new.mp4')
    again = read_folder(tmp_path, validation_share=0.2).splits['validation']
    assert len(keys['validation'] - {clip.key for clip in again}) <= 1
    for share, splits in ((1.0, None), (-0.1, None), (0.2, ['train'])):
        with pytest.raises(ValueError, match='validation_share'):
            read_folder(tmp_path, splits, validation_share=share)


def test_no_such_directory(tmp_path):
    with pytest.raises(ValueError, match='nowhere: no such directory'):
        read_folder(tmp_path / 'nowhere')
