"""The command that tests a published checkpoint, on a tiny one of PySlowFast and toy records."""

import dataclasses
import sys

import pytest

from experiments import published_accuracy
from multitrain_jax.errors import UserError
from tests.helpers.golden import shared_path
from tests.helpers.tiny_records import flat_frame, write_records

CLASSES = 10  # "class 0" to "class 9"
TINY = published_accuracy.Published('nowhere', 12.5, 50.0, 64, 2, 1)


@pytest.fixture
def records(tmp_path):
    directory = tmp_path / 'kinetics400'
    clips = [[flat_frame(record, frame, 70, 90) for frame in range(9)] for record in range(6)]
    labels = [[record] for record in range(6)]
    write_records(directory, clips, labels, num_classes=CLASSES, split='validation')
    return directory


def test_prints_both_figures(records, tmp_path, monkeypatch, capsys):
    pytest.importorskip('torch')
    monkeypatch.setattr(published_accuracy, 'CLASSES', CLASSES)
    monkeypatch.setitem(published_accuracy.PUBLISHED, 'tiny', TINY)
    checkpoint = shared_path('reference/mvit_v2_pyslowfast_tiny.pyth')
    arguments = ['--model=tiny', f'--checkpoint={checkpoint}', f'--records={records}']
    arguments += [f'--output={tmp_path / "out"}', '--batch_size=8']
    monkeypatch.setattr(sys, 'argv', ['published_accuracy.py', *arguments])
    assert published_accuracy.main() == 0
    *_, head, title, top1, top5 = capsys.readouterr().out.strip().splitlines()
    assert head.startswith('tiny, Kinetics-400 validation') and '2 x 1 views' in head
    assert title.split()[:3] == ['published', 'here', 'difference']
    for line, name, published in ((top1, 'top-1', 12.5), (top5, 'top-5', 50.0)):
        kind, theirs, ours, difference = line.split()
        assert kind == name and float(theirs) == published
        assert float(difference) == pytest.approx(float(ours) - published, abs=0.06)


def test_records_of_other_classes_are_refused(records, tmp_path):
    with pytest.raises(UserError, match='10 classes; the checkpoint has the 400'):
        published_accuracy.imported('x.pyth', TINY, str(records), tmp_path / 'out')


def test_protocols_are_those_published():
    """PySlowFast's configs: five clips, one crop of 224 after 256, or three of 312 after 312."""
    by_name = {
        name: (one.short_side, one.temporal_views, one.spatial_views)
        for name, one in published_accuracy.PUBLISHED.items()
    }
    assert by_name == {
        'pyslowfast_s_16x4': (256, 5, 1),
        'pyslowfast_b_32x3': (256, 5, 1),
        'pyslowfast_l_40x3': (312, 5, 3),
        'torchvision_mvit_v2_s': (256, 5, 1),
    }
    text = published_accuracy.table('a', dataclasses.replace(TINY, top1=81.0), 80.87, 50.04, 9)
    assert '81.0       80.9        -0.1' in text
