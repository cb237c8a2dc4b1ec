import json
import subprocess
import sys

import pytest

from multitrain_jax import ava_eval
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation.box_metrics import OFFICIAL, PYSLOWFAST
from tests.helpers.golden import reference_path, shared_path

TRUTH = (
    'v,0902,0.1,0.1,0.5,0.5,1,0\n'
    'v,0902,0.1,0.1,0.5,0.5,3,0\n'
    'v,0903,0.2,0.2,0.6,0.9,1,1\n'
    'w,0902,0.2,0.2,0.6,0.9,1,1\n'
)
DETECTIONS = (
    'v,902.000000,0.1,0.1,0.5,0.52,1.0,0.9\n'
    'v,0902,0.1,0.1,0.5,0.52,3,0.2\n'
    'v,0903,0.6,0.1,0.9,0.5,1,0.95\n'
    'w,902,0.2,0.2,0.6,0.9,2,0.5\n'
)
LABELS = (
    'item {\n  name: "bend"\n  id: 1\n}\nitem {\n  name: "sit"\n  id: 3\n}\nitem {\n  name: '
    '"walk"\n  id: 5\n}\n'
)


@pytest.fixture
def files(tmp_path):
    for name, text in (
        ('truth.csv', TRUTH),
        ('detections.csv', DETECTIONS),
        ('labels.pbtxt', LABELS),
    ):
        (tmp_path / name).write_text(text)
    return tmp_path


def _evaluate(folder, **options):
    return ava_eval.evaluate_files(
        folder / 'truth.csv', folder / 'detections.csv', folder / 'labels.pbtxt', **options
    )


def test_by_hand(files):
    result = _evaluate(files, training=files / 'truth.csv')
    # bend: three boxes; the detection of score 0.95 is wrong, that of 0.9 right: precision 1/2 at
    # recall 1/3.
    assert result['average_precision'] == {'bend': pytest.approx(1 / 6), 'sit': 1.0, 'walk': None}
    assert result['map'] == pytest.approx(7 / 12)
    assert (result['key_frames'], result['boxes'], result['detections']) == (3, 4, 4)
    assert (result['detections_of_other_actions'], result['actions_without_groundtruth']) == (1, 1)
    assert result['thirds']['frequent'] == {
        'map': pytest.approx(1 / 6),
        'actions': 1,
        'training_boxes': 3,
    }
    assert result['thirds']['rare'] == {'map': None, 'actions': 1, 'training_boxes': 0}


def test_excluded_key_frames_do_not_count(files):
    (files / 'excluded.csv').write_text('v,0903\n')
    assert _evaluate(files, exclusions=files / 'excluded.csv')['average_precision'][
        'bend'
    ] == pytest.approx(1 / 2)


@pytest.mark.parametrize('line', ['vidA,0903', 'vidA,903.000', 'vidA,0903,,,,,,', 'vidA,0903,,,,,'])
def test_detections_on_key_frames_without_anybody_are_wrong(tmp_path, line):
    """As AVA-Kinetics has them, and as the official evaluation counts."""
    truth, found, labels = (
        shared_path(f'cases/mini{n}') for n in ('_gt.csv', '_det.csv', '.pbtxt')
    )
    assert 'vidA,0903\n' in truth.read_text()
    own = tmp_path / 'truth.csv'
    own.write_text(truth.read_text().replace('vidA,0903\n', f'{line}\n'))
    for protocol in (OFFICIAL, PYSLOWFAST):
        result = ava_eval.evaluate_files(own, found, labels, protocol=protocol)
        assert result['map'] == 0.5 and result['key_frames'] == 2 and result['boxes'] == 1
    # A key frame that no line names does not count, nor one that is excluded.
    own.write_text(truth.read_text().replace('vidA,0903\n', ''))
    assert ava_eval.evaluate_files(own, found, labels)['map'] == 1
    (tmp_path / 'excluded.csv').write_text('vidA,0903\n')
    excluded = tmp_path / 'excluded.csv'
    assert ava_eval.evaluate_files(truth, found, labels, exclusions=excluded)['map'] == 1


@pytest.mark.parametrize(
    ('variant', 'options'),
    [
        ('activitynet_after_exclusion_60', {}),
        ('pyslowfast_60', {'protocol': PYSLOWFAST}),
    ],
)
def test_equal_to_the_official_evaluators(variant, options):
    expected = json.loads(reference_path('ava_eval_expected.json').read_text())['variants'][variant]
    result = ava_eval.evaluate_files(
        *(
            reference_path(f'ava_eval_{name}')
            for name in ('groundtruth.csv', 'detections.csv', 'labelmap_60.pbtxt')
        ),
        exclusions=reference_path('ava_eval_excluded.csv'),
        **options,
    )
    assert result['map'] == pytest.approx(expected['mAP@0.5'], abs=1e-9)


MISTAKES = {
    'pixels': ('v,0902,10,10,50,50,1,0.9\n', 'coordinates reach 50, so they seem to be pixels'),
    'other places': (
        'v,0902,0.6,0.6,0.9,0.9,1,0.9\n',
        'no detection overlaps any box of the ground truth by half',
    ),
    'other timestamps': (
        'v,1,0.1,0.1,0.5,0.5,1,0.9\n',
        'compare the names of the videos and the timestamps',
    ),
    'other actions': ('v,0902,0.1,0.1,0.5,0.5,2,0.9\n', '0 detections of evaluated actions'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_the_usual_mistakes_are_not_a_precision_of_zero(files, name):
    text, message = MISTAKES[name]
    (files / 'detections.csv').write_text(text)
    with pytest.raises(UserError, match=message):
        _evaluate(files)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('v,0902,0.1,0.1,0.5,1,0.9', 'line 2: 7 columns, wanted .*score'),
        ('v,soon,0.1,0.1,0.5,0.5,1,0.9', "line 2: timestamp 'soon' is not a number"),
        ('v,0902,0.1,x,0.5,0.5,1,0.9', 'line 2: not a number'),
        ('v,0902,0.1,0.1,0.5,0.5,1,inf', 'infinite'),
        ('v,0902,0.1,0.1,0.5,0.5,1.5,0.9', 'not whole'),
    ],
)
def test_damaged_lines_are_named(files, line, message):
    (files / 'detections.csv').write_text(f'{DETECTIONS.splitlines()[0]}\n{line}\n')
    with pytest.raises(ValueError, match=message):
        _evaluate(files)


def test_the_command(files, capsys):
    arguments = [
        f'--{name}={files / file}'
        for name, file in (
            ('groundtruth', 'truth.csv'),
            ('detections', 'detections.csv'),
            ('labelmap', 'labels.pbtxt'),
        )
    ]
    assert ava_eval.main(arguments) == 0
    assert 'mAP@0.5 IoU, %   58.3' in capsys.readouterr().out
    assert ava_eval.main([*arguments, '--json']) == 0
    assert json.loads(capsys.readouterr().out)['map'] == pytest.approx(7 / 12)
    (files / 'truth.csv').unlink()
    done = subprocess.run(
        [sys.executable, '-m', 'multitrain_jax.ava_eval', *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'no such file' in done.stderr
