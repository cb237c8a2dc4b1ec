"""results.json and the closing table."""

import math

from multitrain_jax.evaluation import results
from multitrain_jax.evaluation.metrics import DatasetResult

OUTCOME = results.RunResults(
    steps=12,
    accuracy={
        'a': DatasetResult(10, 0.5, 0.9),
        'b': DatasetResult(30, mean_average_precision=0.25),
    },
    clips_per_second=34.4,
    workdir='runs/x',
)


def test_round_trip(tmp_path):
    assert results.load(tmp_path) is None
    results.save(tmp_path, OUTCOME)
    assert results.load(tmp_path) == OUTCOME
    results.save(tmp_path, results.RunResults(12, OUTCOME.accuracy, math.nan, 'runs/x'))
    assert math.isnan(results.load(tmp_path).clips_per_second)
    assert [path.name for path in tmp_path.iterdir()] == ['results.json']


def test_scalars():
    assert results.scalars(OUTCOME.accuracy) == {
        'evaluation/a/top1': 0.5,
        'evaluation/a/top5': 0.9,
        'evaluation/b/mean_average_precision': 0.25,
        'evaluation/average': 0.375,
    }


def test_table():
    lines = results.table(OUTCOME).splitlines()
    cells = [line.split() for line in lines]
    assert ['a', '10', '50.0', '90.0', '-'] in cells
    assert ['b', '30', '-', '-', '25.0'] in cells
    assert ['average', '40', '50.0', '90.0', '25.0'] in cells
    assert any('12 steps, 34 clips/s' in line for line in lines)
    assert any('--checkpoint=runs/x/export' in line for line in lines)


def test_no_column_for_what_nobody_has():
    plain = results.RunResults(1, {'a': DatasetResult(10, 0.5, 0.9)}, math.nan, 'w')
    assert 'mAP' not in results.table(plain) and 'clips/s' not in results.table(plain)
