"""Datasets with labels and one with boxes, from records to the figures,
the export and the csv of detections.
"""

import csv
import dataclasses
import json
import sys

from flax import nnx
import jax
import numpy as np
import pytest

import multitrain_jax as mt
from multitrain_jax import evaluate as evaluate_command
from multitrain_jax import train
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.errors import UserError
from multitrain_jax.parallel import drivers
from multitrain_jax.reporting.projections import projections_of
from multitrain_jax.weights import warm_start
from tests.helpers import tiny
from tests.helpers.box_records import write_scenes
from tests.helpers.tiny import quick_compile  # noqa: F401

SCENES = {
    'path': 'scenes',
    'sampling': 'key_frame',
    'stride': 1,
    'target_frame_rate': None,
    'flip': True,
}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_scenes(tiny.write_datasets(tmp_path_factory.mktemp('data')))


def config(root, **changes):
    defaults = {
        'data_root': str(root),
        'localisation': {'max_boxes': 2},
        'datasets__scenes': SCENES,
        'epochs': 0.6,
        'evaluation__temporal_views': 1,
        'evaluation__spatial_views': 1,
        'checkpoint__every_steps': 1,
    }
    return tiny.config(**{**defaults, **changes})


@pytest.fixture(scope='module')
def run(root, tmp_path_factory):
    """A finished run of two steps, each with a batch of every dataset."""
    workdir = tmp_path_factory.mktemp('run')
    settings = config(
        root,
        schedule={'kind': 'accumulated'},
        datasets__scenes__batch_size=4,
        datasets__colours__batch_size=8,
        datasets__shades__batch_size=4,
        accumulation_steps=2,
        accumulation='two_pass',
    )
    return settings, workdir, train.train_and_evaluate(settings, workdir, devices=jax.devices()[:1])


def test_a_run_reports_map(run):
    _, workdir, outcome = run
    assert outcome.steps == 2
    scenes = outcome.accuracy['scenes']
    assert scenes.videos == 6 and scenes.boxes > 0 and 0 <= scenes.mean_average_precision <= 1
    assert scenes.top1 is None and outcome.accuracy['colours'].boxes is None
    assert (
        json.loads((workdir / 'results.json').read_text())['accuracy']['scenes']['boxes']
        == scenes.boxes
    )


def test_interrupted_is_uninterrupted(run, root, tmp_path):
    settings, workdir, _ = run

    class Stop(Exception):
        pass

    train_step = drivers.Pmap.train_step
    calls = []

    def mapped(*arguments):
        inner = train_step(*arguments)

        def counted(state, share):
            calls.append(1)
            if len(calls) == 2:
                raise Stop
            return inner(state, share)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drivers.Pmap, 'train_step', mapped)
        with pytest.raises(Stop):
            train.train_and_evaluate(settings, tmp_path / 'cut', devices=jax.devices()[:1])
    assert [
        path.name for path in (tmp_path / 'cut' / 'checkpoints').iterdir() if path.name.isdigit()
    ] == ['1']
    train.train_and_evaluate(settings, tmp_path / 'cut', devices=jax.devices()[:1])
    whole, cut = (open_trained(where / 'export').params for where in (workdir, tmp_path / 'cut'))
    jax.tree.map(np.testing.assert_array_equal, whole, cut)


def test_the_export_localises(run):
    _, workdir, _ = run
    model = mt.load(workdir / 'export')
    assert model.info.datasets['scenes'].action_ids == (4, 9, 80)
    clips = np.random.default_rng(0).integers(0, 256, (2, *model.clip_shape), np.uint8)
    boxes = np.array([[[0, 0, 0.5, 1], [0.1, 0.2, 0.9, 0.8]]] * 2, np.float32)
    found = model.localise(clips, boxes)
    assert set(found) == {'scenes'} and found['scenes'].shape == (2, 2, 3)
    assert ((found['scenes'] > 0) & (found['scenes'] < 1)).all()
    np.testing.assert_allclose(
        model.localise(clips[:1], boxes[:1, 1:])['scenes'][0, 0], found['scenes'][0, 1], rtol=1e-4
    )
    assert {name: own.shape for name, own in model.logits(clips).items()} == {
        'colours': (2, 3),
        'shades': (2, 5),
    }
    whole = model.activated(model.named(model._run(clips)))
    np.testing.assert_allclose(
        whole['scenes'], model.localise(clips, [[[0, 0, 1, 1]]] * 2)['scenes'][:, 0], rtol=1e-4
    )
    np.testing.assert_allclose(whole['shades'], model.scores(clips)['shades'], rtol=1e-4)
    with pytest.raises(UserError, match='not pixels'):
        model.localise(clips, 100 * boxes)
    with pytest.raises(UserError, match='must be .2, M, 4.'):
        model.localise(clips, boxes[0])
    with pytest.raises(UserError, match='boxes of 1 videos for 2 videos'):
        model.localise(['a.mp4', 'b.mp4'], [[[0, 0, 1, 1]]])


@pytest.mark.parametrize('candidates', ['ground_truth', 'proposals'])
def test_the_evaluate_command(run, tmp_path, monkeypatch, capsys, candidates):
    settings, workdir, outcome = run
    monkeypatch.setattr(
        drivers,
        'data_mesh',
        lambda devices: train.jax.sharding.Mesh(np.array(jax.devices()[:1]), ('data',)),
    )
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'evaluate',
            f'--workdir={workdir}',
            '--datasets',
            'scenes',
            f'--candidates={candidates}',
            f'--output={tmp_path}',
        ],
    )
    assert evaluate_command.main() == 0
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert (
        metrics['candidates'] == candidates
        and metrics['test_short_sides'] == []
        and not metrics['test_flip']
    )
    # The proposals are the annotated boxes.
    scenes = outcome.accuracy['scenes']
    assert metrics['datasets']['scenes']['mean_average_precision'] == pytest.approx(
        scenes.mean_average_precision
    )
    assert f'{100 * scenes.mean_average_precision:.1f}' in capsys.readouterr().out
    with open(tmp_path / 'detections_scenes.csv', newline='') as file:
        lines = list(csv.reader(file))
    assert len(lines) == 3 * scenes.boxes and {line[6] for line in lines} == {'4', '9', '80'}
    with open(tmp_path / 'scenes_classes.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['third'] for row in rows] == ['frequent', 'middle', 'rare']


def test_heads_are_kept_by_names_of_datasets_and_actions(run, root):
    _, workdir, _ = run
    weights = open_trained(workdir / 'export')
    settings = config(root)
    specs = [
        DatasetSpec('colours', ('red', 'green', 'blue')),
        DatasetSpec('other', ('a', 'b'), localisation=True),
        DatasetSpec('scenes', ('class 2', 'new', 'class 0'), localisation=True),
    ]
    model = tiny.model(settings, specs, 5)
    fresh = jax.device_get(nnx.to_pure_dict(nnx.state(model)))
    params, report = warm_start.fill(
        fresh, model.config, specs, weights, mean=settings.augment.mean, std=settings.augment.std
    )
    theirs = open_trained(workdir / 'export').params['localisation_heads'][0]['output']['kernel']
    ours = params['localisation_heads'][1]['output']['kernel']
    np.testing.assert_array_equal(ours[:, [0, 2]], np.asarray(theirs)[:, [2, 0]])
    np.testing.assert_array_equal(
        ours[:, 1], fresh['localisation_heads'][1]['output']['kernel'][:, 1]
    )
    outcomes = {row.name: row.outcome for row in report.rows if row.name.startswith('localisation')}
    assert outcomes == {'localisation_heads/other': 'fresh', 'localisation_heads/scenes': 'used'}


@pytest.mark.slow
@pytest.mark.parametrize(
    'schedule',
    [
        {'kind': 'concatenate'},
        {'kind': 'alternating'},
        {'kind': 'task_by_task', 'order': ('colours', 'shades', 'scenes')},
    ],
    ids=lambda schedule: schedule['kind'],
)
def test_schedules_train(root, tmp_path, schedule):
    order = (
        {**schedule, 'order': (*schedule['order'], 'actions')} if 'order' in schedule else schedule
    )
    actions = {
        **SCENES,
        'task': 'classification',
    }  # the actions of whole clips, in the projections too
    settings = config(root, schedule=order, epochs=1.0, datasets__actions=actions)
    outcome = train.train_and_evaluate(settings, tmp_path, devices=jax.devices()[:1])
    assert outcome.steps >= 3 and 0 <= outcome.accuracy['scenes'].mean_average_precision <= 1
    assert 0 <= outcome.accuracy['actions'].mean_average_precision <= 1
    found = {one.name for one in projections_of(open_trained(tmp_path))}
    assert {'actions to colours', 'shades to actions'} < found and not any(
        'scenes' in name for name in found
    )


@pytest.mark.slow
def test_boxes_alone(root, tmp_path):
    """The downstream-only baseline: no classification head."""
    settings = config(root)
    settings = dataclasses.replace(
        settings,
        datasets={'scenes': settings.datasets['scenes']},
        epochs=2.0,
        batch_size=4,
        objective=dataclasses.replace(settings.objective, lambda_proj=0.0),
    )
    outcome = train.train_and_evaluate(settings, tmp_path, devices=jax.devices()[:1])
    assert set(outcome.accuracy) == {'scenes'}
    model = mt.load(tmp_path / 'export')
    assert model.logits(np.zeros((1, *model.clip_shape), np.uint8)) == {}
