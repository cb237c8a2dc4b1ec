"""Class lists in all the forms in which people have them; the same classes out of each."""

import subprocess
import sys

import pytest

from data_pipelines.annotations.class_lists import read_class_list
from tests.helpers.calling import ROOT

NAMES = ('run', 'jump high', 'sit, then stand')


def read(tmp_path, text, name='classes.txt'):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_class_list(path)


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('a.txt', 'run\njump high\nsit, then stand\n\n'),
        ('a.txt', b'\xef\xbb\xbfrun\r\njump high\r\nsit, then stand\r\n'),
        ('a.txt', '"run"\n"jump high"\n"sit, then stand"'),
        ('a.csv', 'id,name\n2,"sit, then stand"\n0,run\n1,jump high\n'),
        ('a.csv', 'name,id\n"sit, then stand",2\nrun,0\njump high,1\n'),
        ('a.csv', b'\xef\xbb\xbfid,name\r\n0,run\r\n1,jump high\r\n2,"sit, then stand"\r\n'),
        ('a.csv', 'label_id;label_name\n0;run\n1;jump high\n2;sit, then stand'),
        ('a.tsv', 'label\tid\nrun\t0\njump high\t1\nsit, then stand\t2'),
        ('a.csv', 'label,name\n0,run\n1,jump high\n2,"sit, then stand"'),
        ('a.csv', 'id,label\n0,run\n1,jump high\n2,"sit, then stand"'),
        ('a.csv', 'id,key,instances\n0,run,7\n1,jump high,1\n2,"sit, then stand",2'),  # EPIC's
        ('a.csv', '1,jump high\n0,run\n2,sit, then stand'),
        ('a.csv', 'jump high,1\nrun,0\nsit, then stand,2'),
        ('a.txt', 'jump high\t1\nrun\t0\nsit, then stand\t2'),
        ('a.txt', '1\tjump high\n0\trun\n2\tsit, then stand'),
        ('a.txt', '2 sit, then stand\n0 run\n1 jump high'),
        ('a.txt', 'run 0\njump high 1\nsit, then stand 2'),
        ('a.txt', 'id name\n0 run\n1 jump high\n2 sit, then stand'),
        ('a.yaml', '0: run\n1: jump high\n2: sit, then stand'),
        ('a.json', '["run", "jump high", "sit, then stand"]'),
        ('a.json', '{"sit, then stand": 2, "run": 0, "jump high": 1}'),
        ('a.json', '{"\\"run\\"": "0", "jump high": "1", "sit, then stand": "2"}'),  # Kinetics'
        ('a.json', '{"2": "sit, then stand", "0": "run", "1": "jump high"}'),
        ('a.json', '{"id2label": {"0": "run", "1": "jump high", "2": "sit, then stand"}}'),
        (
            'a.txt',
            '[{"id": 1, "name": "jump high"}, {"id": 0, "name": "run"},'
            ' {"id": 2, "name": "sit, then stand"}]',
        ),
    ],
)
def test_every_form(tmp_path, name, text):
    found = read(tmp_path, text, name)
    assert found.names == NAMES and not found.first
    found.check_different()
    assert found.offset([0, 2], 'x') == 0


def test_counted_from_one(tmp_path):
    """UCF101's classInd.txt; its own lists count from 1, PySlowFast's and MMAction's from 0."""
    for name, text in (
        ('classInd.txt', '1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n3 Archery\r\n'),
        ('a.csv', 'id,name\n1,ApplyEyeMakeup\n3,Archery\n2,ApplyLipstick\n'),
        (
            'a.pbtxt',
            'item { name: "ApplyEyeMakeup" id: 1 } item { name: "ApplyLipstick" id: 2 }'
            ' item { name: "Archery" id: 3 }',
        ),
    ):
        found = read(tmp_path, text, name)
        assert found.names == ('ApplyEyeMakeup', 'ApplyLipstick', 'Archery') and found.first == 1
        assert found.offset([2, 1, 3], name) == 1
        assert found.offset([0, 1], name) == found.offset([0, 3], name) == 0
        with pytest.raises(ValueError, match='they hold neither 0 nor 3'):
            found.offset([1, 2], name)


@pytest.mark.parametrize(
    ('text', 'names'),
    [
        ('phase 1\nphase 2\nphase 3', ('phase 1', 'phase 2', 'phase 3')),
        ('100 meter dash\npole vault', ('100 meter dash', 'pole vault')),
        ('1 lap,0\n2 laps,1', ('1 lap', '2 laps')),
        (
            'Holding something, then\nPutting it down',
            ('Holding something, then', 'Putting it down'),
        ),
        ('a\u0301\nb', ('\u00e1', 'b')),  # one normal form
    ],
)
def test_numbers_that_are_parts_of_names(tmp_path, text, names):
    assert read(tmp_path, text).names == names


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('a.csv', '0,a\n1,b\nc\n3,d', 'a.csv, line 3: no class number'),
        ('a.csv', 'x,a\n1,b\n2,c', 'a.csv, line 1: no class number'),
        ('a.csv', 'id,name\n0,a\n2,b', 'names 2 classes, but none of them has the number 1'),
        ('a.csv', '0,a\n0,b', "line 2: number 0 is that of 'a' already"),
        ('a.csv', '5,a\n6,b', 'none of them has the number 0'),
        ('a.csv', 'id,name\n0,a\n1', 'line 3: 1 columns, but 2 in the header'),
        ('a.csv', 'id,name\n0,a, then b', 'put names with .,. into quotation marks'),
        ('a.csv', 'id,name\n0,\n1,b', 'line 2: no class name'),
        ('a.csv', 'id,name\n', 'no class in it'),
        ('a.csv', 'id,name\na,0\nb,x', 'wanted a number and a name of every class'),
        ('a.txt', 'turn 0\nturn 1\njump 2', 'are the numbers class numbers, or parts of the names'),
        ('a.txt', '100 m\n200 m\n3000 m steeplechase', 'none of them has the number 0'),
        ('a.txt', 'name\nrun\njump', "line 1: 'name' looks like a header"),
        ('a.txt', 'x\n\ny', 'line 2: no class name'),
        ('a.txt', '', 'no class in it'),
        ('a.txt', b'\xff\xfe\x00', 'not UTF-8'),
        ('a.json', '{"a": 1, "b": 2}', 'class numbers must be 0 to 1, each once'),
        ('a.json', '{"a": 0, "b": 0}', 'class numbers must be 0 to 1, each once'),
        ('a.json', '{"a": true}', 'wanted a list of names'),
        ('a.json', '{"0": "1", "1": "0"}', 'which are the names'),
        ('a.json', '[1, 2]', 'wanted a list of names'),
        ('a.json', '[["a"]]', 'wanted a list of names'),
        ('a.json', '["a", ""]', 'entry 2: no class name'),
        ('a.json', '{}', 'wanted a list of names'),
        ('a.json', '[', 'line 1: not JSON'),
        ('a.json', '[' * 100_000, 'nested too deeply'),
        ('a.pbtxt', 'item {', 'not an action list'),
    ],
)  # fmt: skip
def test_refused(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, text, name)
    assert '\n' not in str(error.value)


def test_all_equal_names_are_told(tmp_path):
    found = read(tmp_path, 'x\ny\nx\nz\ny\nx\n')
    with pytest.raises(
        ValueError,
        match=r"txt, line 3: 'x' is the name of class 0 already \(2 more: 'y' in line 5, "
        r"'x' in line 6\); names must differ: call it 'x#2'",
    ):
        found.check_different()
    with pytest.raises(ValueError, match="'a' is the name of class 0 already"):
        read(tmp_path, '{"a": 0, "a": 1}', 'a.json').check_different()


def test_the_standard_library_is_enough():
    """Importing a checkpoint reads class lists, without what reading videos needs."""
    code = (
        'import sys; import data_pipelines.annotations.class_lists, '
        'data_pipelines.annotations.ava_files; '
        'print([m for m in ("numpy", "av", "cv2", "google") if m in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == '[]\n', done.stderr
