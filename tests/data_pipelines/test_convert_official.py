"""Official annotation files through the command, with real videos."""

import csv
import json
import pathlib
import re
import shlex

import cv2
import pytest

from data_pipelines.annotations.formats import FORMATS
from data_pipelines.convert import main
from data_pipelines.datasets.dataset_info import load_dataset_info
from data_pipelines.storage.sequence_example import (
    label_indices,
)
from tests.helpers.golden import shared_path
from tests.helpers.read_records import key_of, numbers_in, read_examples
from tests.helpers.video_writer import number_image, write_numbered


def stored(directory, split):
    """Key -> (class number, class name, numbers of the stored frames)."""
    found = {}
    for example in read_examples(directory, split):
        (label,) = label_indices(example).tolist()
        (name,) = example.context['clip/label/text']
        found[key_of(example)] = label, name.decode(), numbers_in(example)
    return found


def videos(root, **counts):
    root.mkdir(parents=True)
    for name, count in counts.items():
        path = root / name.replace('__', '/').replace('_DOT_', '.')
        path.parent.mkdir(parents=True, exist_ok=True)
        write_numbered(path, count)
    return root


def convert(*arguments):
    return main([*map(str, arguments), '--workers=1', '--max_failures=0.5'])


def test_kinetics(tmp_path):
    videos(
        tmp_path / 'k',
        train__air_drumming__AAAAAAAAAAA_000000_000010_DOT_mp4=6,
        train__yoga__BBBBBBBBBBB_DOT_mp4=4,
        val__yoga__BBBBBBBBBBB_000007_000017_DOT_mp4=5,
    )
    header = 'label,youtube_id,time_start,time_end,split\n'
    (tmp_path / 'train.csv').write_text(
        f'{header}air drumming,AAAAAAAAAAA,0,10,train\nyoga,CCCCCCCCCCC,1,11,train\n'
    )
    (tmp_path / 'val.csv').write_text(
        f'{header}yoga,BBBBBBBBBBB,7,17,val\nair drumming,AAAAAAAAAAA,0,10,val\n'
    )
    output = tmp_path / 'out'
    assert 0 == convert(
        'kinetics',
        f'--videos={tmp_path / "k"}',
        f'--csv=train={tmp_path / "train.csv"}',
        f'--csv=validation={tmp_path / "val.csv"}',
        f'--output={output}',
    )
    assert stored(output, 'train') == {
        'AAAAAAAAAAA_000000_000010': (0, 'air drumming', [*range(6)])
    }
    assert stored(output, 'validation') == {
        'AAAAAAAAAAA_000000_000010': (0, 'air drumming', [*range(6)]),
        'BBBBBBBBBBB_000007_000017': (1, 'yoga', [*range(5)]),
    }
    info = load_dataset_info(output)
    assert info.classes == ('air drumming', 'yoga')
    assert info.splits['train'].class_counts == (1, 0)
    assert info.arguments['format'] == 'kinetics' and not info.arguments['untrimmed']
    with open(output / 'failures.csv', newline='') as file:
        assert list(csv.reader(file))[1:] == [
            ['train', 'CCCCCCCCCCC_000001_000011', 'no such file']
        ]


def test_activitynet_cuts_segments(tmp_path):
    videos(tmp_path / 'anet', v_x_DOT_mp4=50)  # 2 s
    (tmp_path / 'a.json').write_text(
        json.dumps(
            {
                'database': {
                    'x': {
                        'subset': 'training',
                        'annotations': [
                            {'segment': [1.2, 1.4], 'label': 'sliding'},
                            {'segment': [0, 0.12], 'label': 'cooking'},
                            {'segment': [1.9, 9.0], 'label': 'cooking'},
                            {'segment': [5, 6], 'label': 'cooking'},
                            {'segment': [1, 1], 'label': 'sliding'},
                        ],
                    }
                }
            }
        )
    )
    output = tmp_path / 'out'
    assert 0 == convert(
        'activitynet',
        f'--videos={tmp_path / "anet"}',
        f'--json={tmp_path / "a.json"}',
        f'--output={output}',
    )
    assert stored(output, 'train') == {
        'v_x_0': (1, 'sliding', [30, 31, 32, 33, 34]),
        'v_x_1': (0, 'cooking', [0, 1, 2]),
        'v_x_2': (0, 'cooking', [48, 49]),  # until the video ends
    }
    failures = dict(load_dataset_info(output).splits['train'].failures)
    assert failures['v_x_3'] == 'no frame at or after 5 s (the video ends at 2.000 s)'
    assert failures['v_x_4'] == 'the clip ends (1.0 s) before it starts (1.0 s)'


def test_other_formats(tmp_path):
    root = videos(
        tmp_path / 'v',
        a__x_DOT_mp4=3,
        a__y_DOT_mp4=4,
        b__x_DOT_mp4=5,
        b__y_DOT_mp4=6,
    )

    def write(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    write('splits/a_test_split1.txt', 'x.avi 1\ny.avi 2\n')
    write('splits/b_test_split1.txt', 'x.avi 2\ny.avi 1\n')
    write('splits/classInd.txt', '1 a\n2 b\n')
    write('splits/trainlist01.txt', 'a/x.avi 1\nb/y.avi 2\n')
    write('splits/testlist01.txt', 'a/y.avi\nb/x.avi\n')
    categories = write('categories.txt', 'a,0\nb,1\n')
    training = write('trainingSet.csv', 'a/x.mp4,a,1,0\nb/y.mp4,b,1,0\n')
    validation = write('validationSet.csv', 'a/y.mp4,a,1,0\nb/x.mp4,b,1,0\n')
    for name, arguments, suffix, test in (
        ('hmdb51', [f'--splits={tmp_path / "splits"}'], '.avi', 'test'),
        ('ucf101', [f'--lists={tmp_path / "splits"}'], '.avi', 'test'),
        (
            'moments_in_time',
            [f'--categories={categories}', f'--csv=train={training}', f'--csv=val={validation}'],
            '.mp4',
            'val',
        ),
    ):
        output = tmp_path / name
        assert convert(name, f'--videos={root}', *arguments, f'--output={output}') == 0
        assert stored(output, 'train') == {
            f'a/x{suffix}': (0, 'a', [0, 1, 2]),
            f'b/y{suffix}': (1, 'b', [0, 1, 2, 3, 4, 5]),
        }
        assert stored(output, test) == {
            f'a/y{suffix}': (0, 'a', [0, 1, 2, 3]),
            f'b/x{suffix}': (1, 'b', [0, 1, 2, 3, 4]),
        }


def test_something_v2(tmp_path):
    root = videos(tmp_path / 'v', **{'7_DOT_mp4': 3, '8_DOT_mp4': 4})
    (tmp_path / 'labels.json').write_text('{"Holding something":"0","Moving something":"1"}')
    (tmp_path / 'train.json').write_text('[{"id":"7","template":"Moving [something]"}]')
    (tmp_path / 'validation.json').write_text('[{"id":"8","template":"Holding [something]"}]')
    output = tmp_path / 'out'
    assert 0 == convert(
        'something_v2',
        f'--videos={root}',
        f'--labels={tmp_path / "labels.json"}',
        f'--annotations=train={tmp_path / "train.json"}',
        f'--annotations=validation={tmp_path / "validation.json"}',
        f'--output={output}',
    )
    assert stored(output, 'train') == {'7': (1, 'Moving something', [0, 1, 2])}
    assert stored(output, 'validation') == {'8': (0, 'Holding something', [0, 1, 2, 3])}


@pytest.mark.parametrize('name', FORMATS)
def test_examples_parse(capsys, tmp_path, monkeypatch, name):
    """The example of each help gets as far as the annotation files, which are not there."""
    with pytest.raises(SystemExit) as stop:
        main([name, '--help'])
    assert stop.value.code == 0
    start = f'example: python -m data_pipelines.convert {name} '
    example = capsys.readouterr().out.splitlines()[-1]
    assert example.startswith(start)
    monkeypatch.chdir(tmp_path)
    assert main([name, *shlex.split(example.removeprefix(start))]) == 2
    assert 'no such' in capsys.readouterr().err


def test_commands_of_the_pages_parse(capsys, tmp_path, monkeypatch):
    """Each gets as far as the files, which are not there."""
    root = pathlib.Path(__file__).parents[2]
    text = ''.join((root / name).read_text() for name in ('README.md', 'docs/data.md'))
    lines = text.replace('\\\n', ' ').splitlines()
    start = 'multitrain convert '
    commands = [line.removeprefix(start).split() for line in lines if line.startswith(start)]
    assert {command[0] for command in commands} == set(FORMATS)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert main(command) == 2
        assert 'no such' in capsys.readouterr().err


def test_lists_of_other_codebases(tmp_path, capsys):
    """The inputs of MMAction's own tests, and lists that a user had: read, or one line."""
    cases = shared_path('cases')
    videos(tmp_path / 'v', test_DOT_mp4=6, a_DOT_mp4=5, b_DOT_mp4=4)
    (tmp_path / 'v' / 'imgs').mkdir()
    for number in range(5):
        path = tmp_path / 'v' / 'imgs' / f'img_{number + 1:05d}.png'
        cv2.imwrite(str(path), number_image(number)[..., ::-1])

    def read(name, output, *more):
        return main(
            [
                'pyslowfast',
                f'--csv=test={cases / name}',
                f'--path_prefix={tmp_path / "v"}',
                f'--output={tmp_path / output}',
                '--workers=1',
                *more,
            ]
        )

    assert read('frame_lists/video_test_list_multi_label.txt', 'labels') == 0
    assert load_dataset_info(tmp_path / 'labels').multi_label
    assert labels(tmp_path / 'labels', 'test') == {'test.mp4': [0, 3], 'test.mp4#2': [0, 2, 4]}
    frames = 'frame_lists/rawframe_test_list_multi_label.txt'
    assert read(frames, 'frames', '--images_per_second=30') == 0
    assert labels(tmp_path / 'frames', 'test') == {'imgs': [1], 'imgs#2': [3, 5]}
    example = read_examples(tmp_path / 'frames', 'test')[0]
    assert numbers_in(example) == list(range(5))
    assert example.context['image/frame_rate'].tolist() == [30]
    assert example.context['clip/end/timestamp'].tolist() == [166_667]
    assert read(frames, 'no rate') == 2
    assert 'give --images_per_second' in capsys.readouterr().err
    assert read('frame_lists/hmdb51_train_5_lines.txt', 'missing', '--dry_run') == 1
    said = capsys.readouterr()
    assert '100.0% of the clips are missing' in said.out and '--path_prefix=DIR' in said.out
    assert read('duplicate_lines.csv', 'again') == 0
    assert labels(tmp_path / 'again', 'test') == {'a.mp4': [0], 'b.mp4': [1], 'a.mp4#2': [0]}
    assert read('two_classes.csv', 'json', f'--classes={cases / "classids.json"}', *HALF) == 0
    assert load_dataset_info(tmp_path / 'json').classes == ('running', 'walking')
    assert labels(tmp_path / 'json', 'test') == {'a.mp4': [0], 'b.mp4': [1]}
    named = f'--classes={cases / "id_name_classes/classes.csv"}'
    assert read('id_name_classes/test.csv', 'named', named, '--dry_run') == 1
    said = capsys.readouterr().out.splitlines()
    assert ['Archery', '2'] in [line.split() for line in said]


HALF = ['--max_failures=0.5']


def labels(directory, split):
    """Key -> class numbers."""
    return {
        key_of(example): label_indices(example).tolist()
        for example in read_examples(directory, split)
    }


def test_segments_of_no_length(tmp_path):
    """Each kind of wrong segment in its own words, and no test of numbers."""
    videos(tmp_path / 'v', **{f'v_{name}_DOT_mp4': 25 * 13 for name in ('AAA', '-BBB', 'DDD')})
    path = shared_path('cases/activitynet_zero_length.json')
    arguments = [f'--videos={tmp_path / "v"}', f'--json={path}', f'--output={tmp_path / "out"}']
    assert main(['activitynet', *arguments, '--workers=1', '--max_failures=1']) == 0
    info = load_dataset_info(tmp_path / 'out')
    reasons = dict(info.splits['train'].failures)
    for number in (0, 5, 6, 8):  # [0, 0], [5, 3], [5, 5], [-3, -1]
        assert re.fullmatch(
            r'the clip ends \(.* s\) before it starts \(.* s\)', reasons[f'v_AAA_{number}']
        )
    assert not any('Error' in reason for reason in reasons.values())
