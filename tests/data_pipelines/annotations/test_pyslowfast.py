import os

import pytest

from data_pipelines.annotations.pyslowfast import read_pyslowfast
from tests.helpers.file_tree import make_files


def write(path, text):
    path.write_text(text, encoding='utf-8')
    return path


@pytest.mark.parametrize('separator', [' ', ',', '\t', ', '])
def test_lines(tmp_path, separator):
    train = write(
        tmp_path / 'train.csv',
        f'videos/a.mp4{separator}2\nmy videos/b, c 7.mp4{separator}0\n\nabs/é.mp4{separator}1',
    )
    val = write(tmp_path / 'val.csv', f'v.mp4{separator}4\n')
    annotations = read_pyslowfast({'train': train, 'validation': val}, path_prefix='/data')
    assert annotations.classes == ('0', '1', '2', '3', '4')
    assert [(c.key, c.path, c.labels) for c in annotations.splits['train']] == [
        ('videos/a.mp4', '/data/videos/a.mp4', (2,)),
        ('my videos/b, c 7.mp4', '/data/my videos/b, c 7.mp4', (0,)),
        ('abs/é.mp4', '/data/abs/é.mp4', (1,)),
    ]
    assert [(c.key, c.labels) for c in annotations.splits['validation']] == [('v.mp4', (4,))]


def test_paths_stay_inside_the_prefix(tmp_path):
    csv = write(tmp_path / 'train.csv', 'a.mp4 0\n/etc/b.mp4 1\n')
    assert read_pyslowfast({'train': csv}).splits['train'][1].path == '/etc/b.mp4'
    for path in ('/etc/b.mp4', '../b.mp4', 'a/../../b.mp4'):
        write(csv, f'a.mp4 0\n{path} 1\n')
        with pytest.raises(ValueError, match=f"train.csv, line 2: '{path}' is no path inside"):
            read_pyslowfast({'train': csv}, path_prefix='/data')


def test_class_names(tmp_path):
    names = write(tmp_path / 'classes.txt', 'run fast\njump\nsit\n\n')
    csv = write(tmp_path / 'train.csv', 'a.mp4 1')
    annotations = read_pyslowfast({'train': csv}, classes_file=names)
    assert annotations.classes == ('run fast', 'jump', 'sit')
    assert annotations.splits['train'][0].path == 'a.mp4'


@pytest.mark.parametrize(
    'rows, classes, message',
    [
        ('a.mp4 0\nb.mp4', None, r'train.csv, line 2: wanted "path label" .* got \'b.mp4\''),
        ('a.mp4 -1', None, 'line 1: wanted'),
        ('a.mp4 1.5\n', None, 'line 1: wanted'),
        ('a.mp4 0\nb.mp4 1\na.mp4 1', None, r'line 3: a.mp4 was listed in line 1 already'),
        ('\n\n', None, 'train.csv: no line in it'),
        ('a.mp4 2', 'x\ny', r'train.csv, line 1: class 2, but .*classes.txt names only 0 to 1'),
        ('a.mp4 0', 'x\ny\nx', r"classes.txt, line 3: 'x' is the name of class 0 already"),
        ('a.mp4 0', 'x\n\ny', r'classes.txt, line 2: no class name'),
    ],
)
def test_mistakes(tmp_path, rows, classes, message):
    csv = write(tmp_path / 'train.csv', rows)
    names = None if classes is None else write(tmp_path / 'classes.txt', classes)
    with pytest.raises(ValueError, match=message):
        read_pyslowfast({'train': csv}, classes_file=names)


LISTS = {
    'frames of one label': 'swing/a b 77 1\nswing/c 3 0\n',
    'frames of several labels': 'imgs 5 1\nimgs 5 0 1\n',
    'labels': 'a.mp4 0 1\nb.mp4 1\n',
}


def clips(annotations, split='train'):
    return [(clip.key, clip.labels, clip.images) for clip in annotations.splits[split]]


def test_numbers_behind_names_without_a_suffix_are_frames_then_labels(tmp_path):
    """MMAction's lists of rawframes."""
    csv = write(tmp_path / 'list.txt', LISTS['frames of one label'])
    annotations = read_pyslowfast({'train': csv}, path_prefix=tmp_path)
    assert not annotations.multi_label
    assert clips(annotations) == [('swing/a b', (1,), 77), ('swing/c', (0,), 3)]
    write(csv, LISTS['frames of several labels'])
    annotations = read_pyslowfast({'train': csv}, path_prefix=tmp_path)
    assert annotations.multi_label and annotations.classes == ('0', '1')
    assert clips(annotations) == [('imgs', (1,), 5), ('imgs#2', (0, 1), 5)]
    # One number alone is the label, as it always was; and whoever knows better says so.
    write(csv, 'a 3\nb 0\n')
    assert clips(read_pyslowfast({'train': csv})) == [('a', (3,), None), ('b', (0,), None)]
    write(csv, 'a 3 1\nb 0\n')
    with pytest.raises(ValueError, match='line 2: one number, where other lines have frames'):
        read_pyslowfast({'train': csv})
    found = read_pyslowfast({'train': csv}, numbers='labels')
    assert clips(found) == [('a', (3, 1), None), ('b', (0,), None)] and found.multi_label
    write(csv, 'a.mp4 3 1\n')
    assert clips(read_pyslowfast({'train': csv}, numbers='frames')) == [('a.mp4', (1,), 3)]


def test_several_labels_behind_the_name_of_a_file(tmp_path):
    csv = write(tmp_path / 'list.txt', LISTS['labels'] + 'c d.m2ts, 2, 0\n')
    (tmp_path / 'c d.m2ts').write_bytes(b'')  # no known suffix: that it is there tells
    annotations = read_pyslowfast({'train': csv}, path_prefix=tmp_path)
    assert annotations.multi_label
    assert clips(annotations) == [
        ('a.mp4', (0, 1), None),
        ('b.mp4', (1,), None),
        ('c d.m2ts', (2, 0), None),
    ]
    write(csv, 'a.mp4 0\n')
    assert not read_pyslowfast({'train': csv}).multi_label
    assert read_pyslowfast({'train': csv}, multi_label=True).multi_label


def test_lists_of_frames_of_pyslowfast(tmp_path):
    csv = write(
        tmp_path / 'train.csv',
        'original_vido_id video_id frame_id path labels\n'
        '107YZ 0 0 107YZ/107YZ-000001.jpg "15,20"\n'
        '107YZ 0 1 107YZ/107YZ-000002.jpg "3"\n'
        '2B87G 1 0 2B87G/2B87G-000001.jpg ""\n'
        'OUK7X 2 0 OUK7X/a b-000001.jpg "7"\n',
    )
    annotations = read_pyslowfast({'train': csv}, path_prefix='/frames')
    assert clips(annotations) == [('107YZ', (3, 15, 20), 2), ('OUK7X', (7,), 1)]
    assert [clip.path for clip in annotations.splits['train']] == ['/frames/107YZ', '/frames/OUK7X']
    write(csv, csv.read_text() + 'OUK7X 2 1 x/1.jpg "7"\nOUK7X 2\n')
    with pytest.raises(ValueError, match=r'line 6: images of OUK7X in two .* more .* 7\)'):
        read_pyslowfast({'train': csv})


def test_names_are_found_as_files_of_any_suffix_anywhere_below(tmp_path):
    make_files(tmp_path / 'v', 'swing/a.avi', 'deep/er/b.webm', 'c/0001.jpg', 'e\u0301.mp4')
    csv = write(tmp_path / 'l.txt', 'swing/a 3 0\nb 3 0\nc 1 0\nd 3 0\n\u00e9.mp4 0\n')
    found = read_pyslowfast({'train': csv}, path_prefix=tmp_path / 'v').splits['train']
    assert [os.path.relpath(clip.path, tmp_path / 'v') for clip in found] == [
        'swing/a.avi',
        'deep/er/b.webm',
        'c',
        'd',  # is not there
        'e\u0301.mp4',  # in another normal form
    ]
    assert found[-1].key == '\u00e9.mp4'


def test_a_video_that_is_listed_again_is_one_more_clip(tmp_path):
    csv = write(tmp_path / 'train.csv', 'a.mp4 0\nb.mp4 1\na.mp4 0\na.mp4 0\n')
    found = read_pyslowfast({'train': csv})
    assert [clip.key for clip in found.splits['train']] == ['a.mp4', 'b.mp4', 'a.mp4#2', 'a.mp4#3']
    assert 'lines that list a video again: 2' in found.notes[1]
    write(csv, 'a.mp4 0\nb.mp4 1\na.mp4 1\nb.mp4 1\nb.mp4 0\nb.mp4 2\n')
    with pytest.raises(
        ValueError,
        match=r'line 3: a.mp4 was listed in line 1 already, with class 0 instead of 1; .*'
        r'\(2 more damaged lines: 5, 6\)',
    ):
        read_pyslowfast({'train': csv})


def test_all_wrong_lines_are_told(tmp_path):
    csv = write(tmp_path / 'train.csv', 'a.mp4 0\nb.mp4\nc.mp4 one\nd.mp4 -1\ne.mp4 0\n')
    with pytest.raises(ValueError, match=r'line 2: wanted .* \(2 more damaged lines: 3, 4\)'):
        read_pyslowfast({'train': csv})
    write(csv, 'a.mp4 0\nb.mp4 5\nc.mp4 1\nd.mp4 7\n')
    names = write(tmp_path / 'classes.txt', 'x\ny\n')
    with pytest.raises(ValueError, match=r'line 2: class 5, .* only 0 to 1 \(1 more .*: 4\)'):
        read_pyslowfast({'train': csv}, classes_file=names)


def test_classes_that_count_from_one(tmp_path):
    names = write(tmp_path / 'classInd.txt', '1 ApplyEyeMakeup\n2 ApplyLipstick\n3 Archery\n')
    for lines in ('a.avi 0\nb.avi 2\n', 'a.avi 1\nb.avi 3\n'):
        csv = write(tmp_path / 'train.csv', lines)
        found = read_pyslowfast({'train': csv}, classes_file=names)
        assert found.classes == ('ApplyEyeMakeup', 'ApplyLipstick', 'Archery')
        assert [clip.labels for clip in found.splits['train']] == [(0,), (2,)]
    write(csv, 'a.avi 0\nb.avi 3\n')
    with pytest.raises(ValueError, match='class 3, but .* names only 0 to 2'):
        read_pyslowfast({'train': csv}, classes_file=names)


def test_a_prefix_that_is_missing_is_told(tmp_path, monkeypatch):
    make_files(tmp_path / 'data', 'clips/x/a.mp4', 'clips/y/b.mp4')
    csv = write(tmp_path / 'data' / 'train.csv', 'x/a.mp4 0\ny/b.mp4 0\nz/gone.mp4 0\n')
    monkeypatch.chdir(tmp_path)
    for prefix in ('', tmp_path / 'data', 'nowhere'):
        with pytest.raises(
            ValueError, match=f'not where it says.*with --path_prefix={tmp_path / "data/clips"}$'
        ):
            read_pyslowfast({'train': csv}, path_prefix=prefix)
    assert not read_pyslowfast({'train': csv}, path_prefix=tmp_path / 'data/clips').notes
    write(csv, 'x/gone.mp4 0\n')
    (note,) = read_pyslowfast({'train': csv}).notes
    assert note.endswith(
        'such as x/gone.mp4; --path_prefix=DIR says what its paths are relative to'
    )


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match='none.csv: no such file'):
        read_pyslowfast({'train': tmp_path / 'none.csv'})
    with pytest.raises(ValueError, match='no csv file'):
        read_pyslowfast({})
