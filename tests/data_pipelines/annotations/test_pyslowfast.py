import pytest

from data_pipelines.annotations.pyslowfast import read_pyslowfast


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


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match='none.csv: no such file'):
        read_pyslowfast({'train': tmp_path / 'none.csv'})
    with pytest.raises(ValueError, match='no csv file'):
        read_pyslowfast({})
