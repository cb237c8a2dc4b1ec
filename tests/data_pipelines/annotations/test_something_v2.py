import pytest

from data_pipelines.annotations.something_v2 import read_something_v2
from tests.helpers.file_tree import make_files, summary

LABELS = """\
{"Holding something next to something":"1",
 "Approaching something with your camera":"0",
 "Putting something that cannot actually stand upright upright on the table, so it falls":"2"}
"""
TRAIN = """\
[
{"id":"78687","label":"holding potato next to vicks vaporub bottle",
 "template":"Holding [something] next to [something]","placeholders":["potato","vicks bottle"]},
{"id":"42326","label":"putting a pen upright on the table, so it falls", "template":
 "Putting [something that cannot actually stand upright] upright on the table, so it falls",
 "placeholders":["a pen"]}
]
"""
VALIDATION = """\
[{"id":"74225","label":"approaching cube with your camera",
  "template":"Approaching [something] with your camera","placeholders":["cube"]}]
"""
ANSWERS = '1420;Approaching something with your camera\n50058;Holding something next to something\n'


@pytest.fixture
def root(tmp_path):
    for name, text in (
        ('labels.json', LABELS),
        ('train.json', TRAIN),
        ('validation.json', VALIDATION),
        ('test-answers.csv', ANSWERS),
        ('test.json', '[{"id":"1420"},{"id":"50058"}]'),
    ):
        (tmp_path / name).write_text(text)
    make_files(tmp_path / 'videos', '78687.webm', 'deeper/42326.mp4', '74225.webm', '1420.webm')
    return tmp_path


def read(root, **files):
    files = {split: root / name for split, name in files.items()}
    return read_something_v2(root / 'labels.json', files, root / 'videos')


def test_official_files(root):
    annotations = read(
        root, train='train.json', validation='validation.json', test='test-answers.csv'
    )
    approaching, holding, putting = annotations.classes
    assert approaching == 'Approaching something with your camera'
    assert holding == 'Holding something next to something'
    videos = root / 'videos'
    assert summary(annotations, 'train', videos) == [
        ('78687', '78687.webm', holding, None, None),
        ('42326', 'deeper/42326.mp4', putting, None, None),
    ]
    assert summary(annotations, 'validation', videos) == [
        ('74225', '74225.webm', approaching, None, None)
    ]
    assert summary(annotations, 'test', videos) == [
        ('1420', '1420.webm', approaching, None, None),
        ('50058', '50058.mp4', holding, None, None),  # missing
    ]


def test_test_set_without_answers(root):
    with pytest.raises(ValueError, match='test.json, entry 1: no "template"; .*test-answers.csv'):
        read(root, test='test.json')


@pytest.mark.parametrize(
    'file, text, message',
    [
        ('train.json', '[{"id": "1",\n"template" "x"}]', 'line 2: not JSON'),
        ('train.json', '{}', 'not a list of videos'),
        ('train.json', '[]', 'no video in it'),
        ('train.json', '["1"]', 'entry 1: wanted an object with "id" and "template"'),
        (
            'train.json',
            '[{"id": "1", "template": "Eating [something]"}]',
            "entry 1: .*labels.json has no class 'Eating something'",
        ),
        (
            'train.json',
            '[{"id": "../1", "template": "Holding [something] next to [something]"}]',
            'entry 1: .* is no path inside',
        ),
        ('labels.json', '{"x": "first"}', "'x': wanted a class number, got 'first'"),
        ('labels.json', '{"x": "1"}', 'none of them has the number 0'),
        ('labels.json', '[' * 100_000, 'JSON nested too deeply|not JSON'),
    ],
)
def test_mistakes(root, file, text, message):
    (root / file).write_text(text)
    with pytest.raises(ValueError, match=f'{file}.*({message})'):
        read(root, train='train.json')


def test_malformed_answers(root):
    (root / 'test-answers.csv').write_text('1420;Holding something next to something\n7,8\n')
    with pytest.raises(ValueError, match='test-answers.csv, line 2: wanted "id;template"'):
        read(root, test='test-answers.csv')
