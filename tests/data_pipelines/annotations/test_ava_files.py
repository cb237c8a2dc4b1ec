import pytest

from data_pipelines.annotations import ava_files
from tests.helpers.golden import reference_path

ACTIONS = {1: 'bend/bow (at the waist)', 3: 'crouch/kneel', 80: 'watch (a person)'}

LABELS = """label {
  name: "bend/bow (at the waist)"
  label_id: 1
  label_type: PERSON_MOVEMENT
}
label {
  name: "watch (a person)"
  label_id: 80
  label_type: PERSON_INTERACTION
}
label {
  name: "crouch/kneel"
  label_id: 3
  label_type: PERSON_MOVEMENT
}
"""
ITEMS = """# those that are evaluated
item {
  name: "bend/bow (at the waist)"
  id: 1
}
item { name: 'crouch/kneel', id: 3 }
item { name: "watch (a person)"; id: 80 }
"""


@pytest.fixture
def write(tmp_path):
    def written(text, name='file.csv'):
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


@pytest.mark.parametrize('text', [LABELS, ITEMS])
def test_both_syntaxes_of_action_lists(write, text):
    actions = ava_files.read_actions(write(text))
    assert actions == ACTIONS and list(actions) == [1, 3, 80]


def test_action_name_with_quotes_and_braces(write):
    actions = ava_files.read_actions(write(r'item { name: "say \"}\" \\ #1" id: 7 }'))
    assert actions == {7: 'say "}" \\ #1'}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'no action in it'),
        (LABELS + LABELS, "line 16: the action 'bend/bow .* listed already"),
        ('item {\n name: "a"\n}', 'line 1: wanted a name and an id'),
        ('item {\n name: "a" id: 1', 'line 2: .*the end of the file'),
        ('item {\n name: "a\n id: 1 }', 'line 2: not an action list'),
        ('thing { name: "a" id: 1 }', 'wanted label { name: "wave" label_id: 1 } or item'),
        ('video,0902,0.1,0.1,0.2,0.2,1,2', 'not an action list'),
        ('item { name: "a" id: -1 }', 'wanted a name and an id'),
    ],
)
def test_damaged_action_lists(write, text, message):
    with pytest.raises(ValueError, match=message):
        ava_files.read_actions(write(text))


def test_golden_action_lists():
    for count, name in ((60, 'ava_eval_labelmap_60.pbtxt'), (80, 'ava_eval_labelmap_80.pbtxt')):
        actions = ava_files.read_actions(reference_path(name))
        assert len(actions) == count
        assert all(text == f'action_{number:02d}' for number, text in actions.items())


def test_boxes(write):
    frames = ava_files.read_boxes(
        write(
            '-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1\n'
            '-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,1,1\n'
            '\n'
            '-5KQ66BBWC4,903,0.1,0.2,0.3,1.004,3,2\r\n'
            '000QsbOC-a4,191.000000\n'  # as AVA-Kinetics: nobody there
            '0010FaFAuEQ,33.066733,0.000000,0.1,0.5,1.000000,3\n'  # and without a person
            '005I7fOBh9g,1.000000,,,,,,\n'
        ),
        ACTIONS,
    )
    assert list(frames) == [
        ('-5KQ66BBWC4', 902_000_000),
        ('-5KQ66BBWC4', 903_000_000),
        ('000QsbOC-a4', 191_000_000),
        ('0010FaFAuEQ', 33_066_733),
        ('005I7fOBh9g', 1_000_000),
    ]
    first, second, third, fourth, fifth = frames.values()
    assert first.text == '0902' and first.where.endswith('file.csv, line 1')
    assert first.boxes == [(0.077, 0.151, 0.283, 0.811)] * 2
    assert first.actions == [80, 1] and first.persons == [1, 1]
    assert second.boxes == [(0.1, 0.2, 0.3, 1.0)]  # what sticks out is cut off
    assert fourth.persons == [-1] and fourth.text == '33.066733'
    assert not third.boxes and not third.actions and not fifth.boxes


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('v,0902,0.1,0.2,0.3,0.4', '6 columns, wanted video,timestamp,x1'),
        ('v,0902,0.1,0.2,0.3,0.4,1,2,3', '9 columns'),
        ('v', '1 columns'),
        (',0902,0.1,0.2,0.3,0.4,1,2', 'no video'),
        ('v,soon,0.1,0.2,0.3,0.4,1,2', "timestamp 'soon' is not a number"),
        ('v,-1,0.1,0.2,0.3,0.4,1,2', 'timestamp -1, wanted seconds'),
        ('v,nan,0.1,0.2,0.3,0.4,1,2', 'is not a number'),
        ('v,0902,0.1,0.2,,0.4,1,2', "box coordinate '' is not a number"),
        ('v,0902,0.1,0.2,nan,0.4,1,2', "box coordinate 'nan' is not a number"),
        ('v,0902,0.3,0.2,0.1,0.4,1,2', 'has no area; wanted x1<x2'),
        ('v,0902,0.1,0.4,0.3,0.4,1,2', 'has no area'),
        ('v,0902,64,48,128,96,1,2', 'lies outside the frame; .*0 to 1'),
        ('v,0902,-0.1,0.2,0.3,0.4,1,2', 'lies outside the frame'),
        ('v,0902,0.1,0.2,0.3,0.4,2,2', 'action 2 is not in the action list'),
        ('v,0902,0.1,0.2,0.3,0.4,sit,2', "action 'sit' is not a whole number"),
        ('v,0902,0.1,0.2,0.3,0.4,1,x', "person 'x' is not a whole number"),
        ('v,0902,"0.1,0.2,0.3,0.4,1,2', 'not csv'),
    ],
)
def test_damaged_boxes_name_the_line(write, line, message):
    path = write(f'v,0901,0.1,0.2,0.3,0.4,1,2\n{line}\n')
    with pytest.raises(ValueError, match=rf'file\.csv, line 2: .*{message}'):
        ava_files.read_boxes(path, ACTIONS)


def test_all_damaged_lines_are_told_at_once(write):
    lines = ['v,0901,0.1,0.2,0.3,0.4,1,2', 'v,0901,0.3,0.2,0.1,0.4,1,2', 'v,x', '', 'v,0901,1']
    with pytest.raises(ValueError, match=r'line 2: .*no area.* \(2 more damaged lines: 3, 5\)$'):
        ava_files.read_boxes(write('\n'.join(lines)), ACTIONS)
    with pytest.raises(ValueError, match=r'line 1: 2 columns, .* \(24 more .*, 21, \.\.\.\)$'):
        list(ava_files.read_proposals(write('v,0901\n' * 25)))


def test_empty_and_missing_files(write, tmp_path):
    with pytest.raises(ValueError, match='no line in it'):
        ava_files.read_boxes(write(''), ACTIONS)
    with pytest.raises(ValueError, match='no timestamp in it'):
        ava_files.read_timestamps(write('\n'))
    with pytest.raises(ValueError, match='no such file'):
        ava_files.read_excluded(tmp_path / 'none.csv')


def test_timestamps(write):
    assert ava_files.read_timestamps(write('0902\n903\n')) == {
        902_000_000: '0902',
        903_000_000: '903',
    }
    assert ava_files.read_excluded(write('v,0902\nw,1798\n')) == {
        ('v', 902_000_000),
        ('w', 1_798_000_000),
    }
    with pytest.raises(ValueError, match='line 1: 1 columns, wanted video,timestamp'):
        ava_files.read_excluded(write('0902\n'))
    with pytest.raises(ValueError, match="line 2: timestamp 'x'"):
        ava_files.read_timestamps(write('0902\nx\n'))


def test_proposals(write):
    rows = list(
        ava_files.read_proposals(
            write(
                '1j20qq1JyX4,0902,0.036,0.098,0.550,0.979,,0.995518\n'
                '1j20qq1JyX4,0902,0.003,0.125,0.119,0.837,-1,0.742486\n'
                '1j20qq1JyX4,0903,0.003,0.125,0.119,0.837,12,0.5\n'
                '1j20qq1JyX4,0903,0.003,0.125,0.119,0.837,0.25\n'
            )
        )
    )
    moment = '1j20qq1JyX4', 902_000_000
    assert rows[0] == (moment, (0.036, 0.098, 0.550, 0.979), 0.995518)
    assert [score for _, _, score in rows] == [0.995518, 0.742486, 0.5, 0.25]
    with pytest.raises(ValueError, match='line 1: score 7, wanted 0 to 1'):
        list(ava_files.read_proposals(write('v,0902,0.1,0.2,0.3,0.4,,7\n')))


def test_golden_files():
    actions = ava_files.read_actions(reference_path('ava_eval_labelmap_80.pbtxt'))
    frames = ava_files.read_boxes(reference_path('ava_eval_groundtruth.csv'), actions)
    assert sum(len(frame.boxes) for frame in frames.values()) == 1944
    assert len({video for video, _ in frames}) == 10
    assert ('vid_HQXZ2kM', 925_000_000) in ava_files.read_excluded(
        reference_path('ava_eval_excluded.csv')
    )
    # The other list does not know all of them.
    with pytest.raises(ValueError, match='line 2: action 23 is not in the action list'):
        ava_files.read_boxes(
            reference_path('ava_eval_groundtruth.csv'),
            ava_files.read_actions(reference_path('ava_eval_labelmap_60.pbtxt')),
        )
