"""The command that tests a checkpoint: against the library's own predictions,
with data from other places, mistakes.
"""

import csv
import dataclasses
import json
import logging
import shutil
import sys

import numpy as np
import pytest

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.conversion.dataset import convert
from data_pipelines.conversion.options import Options
from data_pipelines.options import Source
import multitrain_jax as mt
from multitrain_jax import evaluate
from multitrain_jax.errors import UserError, run_command
from multitrain_jax.evaluation import predictions
from tests.helpers import tiny, tiny_records
from tests.helpers.batches import evaluation_batches
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.video_writer import write_video

CONFIG = f'--config={tiny.CONFIG_FILE}'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tiny.write_datasets(tmp_path_factory.mktemp('data'))


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process: (exit code,
    standard output, last line of standard error).
    """
    handlers = logging.getLogger().handlers[:]

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['evaluate', *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_command(evaluate.main)
        out, err = capsys.readouterr()
        return end.value.code, out, err.strip().rpartition('\n')[2]

    yield call
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def tested(run, data, finished_run, tmp_path):
    """Both datasets, tested on the newest checkpoint: (standard output, directory of the files)."""
    code, out, err = run(
        CONFIG,
        f'--config.data_root={data}',
        f'--workdir={finished_run[2]}',
        '--spatial_views=1',
        f'--output={tmp_path}',
    )
    assert code == 0, err
    return out, tmp_path


def test_scores_are_the_mean_over_the_views_of_the_models_own(tested, data, finished_run):
    out, files = tested
    model = mt.load(finished_run[2] / 'export')
    metrics = json.loads((files / 'metrics.json').read_text())
    assert (metrics['step'], metrics['temporal_views'], metrics['spatial_views']) == (8, 2, 1)
    for name, classes in tiny.CLASSES.items():
        found = predictions.load(files / f'{name}_predictions.npz')
        views = 2 if name == 'colours' else 1
        source = Source(
            data / name,
            name,
            'validation',
            sampling='strided' if name == 'colours' else 'uniform',
            stride=1,
        )
        (batch,) = evaluation_batches(
            source,
            batch_size=7 * views,
            num_frames=4,
            crop_size=16,
            short_side=16,
            temporal_views=2,
        )
        expected = model.scores(batch['video'])[name].reshape(7, views, len(classes)).mean(axis=1)
        np.testing.assert_allclose(found.scores.score, expected, atol=1e-5)
        np.testing.assert_array_equal(found.scores.label, np.arange(7) % len(classes))
        assert found.scores.name == tuple(tiny_records.video_name(number) for number in range(7))
        assert found.spec.classes == classes

        hits = expected.argmax(axis=1) == found.scores.label
        assert metrics['datasets'][name]['top1'] == pytest.approx(hits.mean())
        assert f'{100 * hits.mean():.1f}' in next(
            line for line in out.splitlines() if line.startswith(name)
        )
        with open(files / f'{name}_confusion.csv', newline='') as file:
            rows = list(csv.reader(file))
        assert rows[0] == ['', *classes] and [row[0] for row in rows[1:]] == list(classes)
        counts = np.array([row[1:] for row in rows[1:]], int)
        assert counts.sum() == 7 and counts.trace() == hits.sum()
        with open(files / f'{name}_classes.csv', newline='') as file:
            by_class = {row['name']: row for row in csv.DictReader(file)}
        for number, label in enumerate(classes):
            own = found.scores.label == number
            assert int(by_class[label]['videos']) == own.sum()
            assert float(by_class[label]['top1']) == pytest.approx(hits[own].mean())
        assert (files / f'{name}_confusion.png').read_bytes().startswith(b'\x89PNG')


def reordered(data, tmp_path, classes):
    """The shades with other class names."""
    shutil.copytree(data / 'shades', tmp_path / 'other')
    info = json.loads((data / 'shades' / 'dataset.json').read_text())
    (tmp_path / 'other' / 'dataset.json').write_text(json.dumps(info | {'classes': classes}))
    return tmp_path / 'other'


def test_an_export_on_a_directory_whose_classes_are_in_another_order(
    run, tested, data, finished_run, tmp_path
):
    """Classes are matched by name: class number n there is number 4 - n of the head."""
    _, files = tested
    other = reordered(data, tmp_path, list(tiny.CLASSES['shades'][::-1]))
    code, out, err = run(
        f'--checkpoint={finished_run[2] / "export"}',
        '--datasets',
        other,
        '--spatial_views=1',
        f'--output={tmp_path / "o"}',
    )
    assert code == 0, err
    assert 'colours' not in out and 'shades' in out
    before, after = (
        predictions.load(path / 'shades_predictions.npz') for path in (files, tmp_path / 'o')
    )
    np.testing.assert_allclose(after.scores.score, before.scores.score, atol=1e-6)
    np.testing.assert_array_equal(after.scores.label, 4 - before.scores.label)


def test_linked_videos_are_found_by_video_root(run, finished_run, tmp_path):
    """The same result as through a config."""
    clips = []
    for number, label in enumerate((0, 1, 2, 1)):
        colour = np.eye(3, dtype=np.uint8)[label] * 150 + 40
        path = tmp_path / 'videos' / f'{number}.mp4'
        path.parent.mkdir(exist_ok=True)
        write_video(path, np.tile(colour, (6, 20, 28, 1)), rate=10)
        clips.append(Clip(str(path), path.name, (label,)))
    annotations = Annotations(tiny.CLASSES['colours'], {'validation': tuple(clips)})
    options = Options(storage='link', workers=1, progress=False)
    convert(annotations, tmp_path / 'linked', options)
    (tmp_path / 'videos').rename(tmp_path / 'moved')
    export = finished_run[2] / 'export'
    chosen = ['--datasets', f'colours={tmp_path}/linked']
    code, _, err = run(export, *chosen)
    assert code == 2 and '--video_root for commands' in err, err
    results = []
    for name, ways in (
        ('flag', [f'--video_root={tmp_path}/moved', '--temporal_views=2', '--batch_size=8']),
        ('config', [CONFIG, f'--config.datasets.colours.video_root={tmp_path}/moved']),
    ):
        code, _, err = run(export, *chosen, *ways, f'--output={tmp_path / name}')
        assert code == 0, err
        results.append(predictions.load(tmp_path / name / 'colours_predictions.npz').scores)
    assert results[0].name == results[1].name and len(results[0].name) == 4
    np.testing.assert_allclose(results[0].score, results[1].score, atol=1e-6)


def test_an_ensemble_of_files(run, tested, tmp_path):
    _, files = tested
    one = files / 'colours_predictions.npz'
    code, out, err = run('--ensemble', one, one, f'--output={tmp_path / "both"}')
    assert code == 0, err
    alone = json.loads((files / 'metrics.json').read_text())['datasets']['colours']['top1']
    both = json.loads((tmp_path / 'both' / 'metrics.json').read_text())
    assert both['datasets']['colours']['top1'] == both['average'] == alone


def test_mistakes_are_told_in_one_line(run, data, finished_run, tmp_path):
    workdir, export = finished_run[2], finished_run[2] / 'export'
    root = f'--config.data_root={data}'
    misnamed = reordered(data, tmp_path, ['black', 'dark', 'grey', 'light', 'pink'])
    for arguments, message in [
        ([f'--workdir={tmp_path}'], 'neither a run (directory "checkpoints") nor an export'),
        ([f'--workdir={workdir}', '--step=7'], 'no checkpoint of step 7; it has [3, 6, 8]'),
        ([f'--workdir={workdir}'], '/nowhere/colours: no dataset.json here'),
        ([f'--checkpoint={export}'], 'give --config=FILE, or --datasets colours=DIR'),
        ([f'--checkpoint={export}', '--step=6'], 'leave --step out'),
        (
            [f'--checkpoint={export}', '--datasets', 'cats=x'],
            "has no dataset 'cats', only colours, shades",
        ),
        (
            [f'--checkpoint={export}', '--datasets', f'shades={misnamed}'],
            "class 'pink' is not one of the 5 classes",
        ),
        ([f'--checkpoint={export}', '--datasets', misnamed], 'no head has its 5 classes'),
        (
            [
                f'--checkpoint={export}',
                '--datasets',
                f'colours={data}/colours',
                f'colours={data}/colours',
            ],
            'named twice',
        ),
        (
            [f'--workdir={workdir}', CONFIG, root, '--split=holdout'],
            "has no split 'holdout', only train, validation",
        ),
        ([f'--workdir={workdir}', CONFIG, root, '--temporal_views=0'], 'temporal_views=0'),
        (
            [f'--workdir={workdir}', CONFIG, root, '--short_side=8'],
            'below the 16 pixels of the model',
        ),
        (
            [f'--workdir={workdir}', CONFIG, root, '--batch_size=9'],
            'batch_size=9 does not divide over 8 devices',
        ),
        ([f'--workdir={workdir}', CONFIG, '--config.nothing=1'], '--config.nothing: unknown field'),
        ([f'--workdir={workdir}', '--config=configs/none.py'], 'No such file'),
        ([f'--workdir={workdir}', '--config.epochs=1'], 'needs --config=FILE'),
        (['--ensemble', tmp_path / 'none.npz'], 'no such file'),
    ]:
        code, out, err = run(*arguments)
        assert (code, out) == (2, ''), arguments
        assert err.startswith('error: ') and message in err, err


def written(directory):
    """{file below it: content}."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob('*')
        if path.is_file()
    }


@pytest.fixture
def own_run(finished_run, data, tmp_path):
    """The finished run in a place of its own, and arguments that name it and its data."""
    shutil.copytree(finished_run[2], tmp_path / 'run')
    return tmp_path / 'run', [tmp_path / 'run', CONFIG, f'--config.data_root={data}']


def test_another_protocol_writes_to_another_place(run, own_run, data):
    """Another checkpoint, split and data, too; the same test again to the same."""
    workdir, arguments = own_run
    shutil.copytree(data / 'colours', workdir.parent / 'colours')
    places = [
        ([], 'step_8_2x3_16px'),
        (['--spatial_views=1'], 'step_8_2x1_16px'),
        (['--step=6'], 'step_6_2x3_16px'),
        (['--split=train'], 'step_8_2x3_16px_train'),
        (['--datasets', f'colours={workdir.parent}/colours'], 'step_8_2x3_16px_2'),
        (['--datasets', 'colours'], 'step_8_2x3_16px_3'),
    ]
    for more, place in places:
        before = written(workdir)
        code, out, err = run(*arguments, *more)
        assert code == 0, err
        assert out.rstrip().endswith(f'files: {workdir}/evaluation/{place}')
        after = written(workdir)
        assert before.items() <= after.items()
        assert f'evaluation/{place}/metrics.json' in after.keys() - before.keys()
    before = written(workdir)
    code, out, _ = run(*arguments)
    assert code == 0 and out.rstrip().endswith('/step_8_2x3_16px')
    assert written(workdir).keys() == before.keys()


def test_a_test_that_fails_overwrites_nothing(run, own_run, monkeypatch):
    """Neither when it stops in its middle nor when a dataset has no figure."""
    workdir, arguments = own_run
    assert run(*arguments)[0] == 0
    before = written(workdir)
    place = 'evaluation/step_8_2x3_16px'
    calls = []
    plain = evaluate.files.write

    def stops(output, spec, scores):
        calls.append(spec.name)
        if len(calls) == 2:
            raise UserError('in its middle')
        return plain(output, spec, scores)

    monkeypatch.setattr(evaluate.files, 'write', stops)
    assert run(*arguments)[::2] == (2, 'error: in its middle') and calls == ['colours', 'shades']
    assert written(workdir) == before

    summary = evaluate.summary

    def no_figure(scores, spec):
        return dataclasses.replace(summary(scores, spec), problem='no figure')

    monkeypatch.setattr(evaluate.files, 'write', plain)
    monkeypatch.setattr(evaluate, 'summary', no_figure)
    code, out, err = run(*arguments)
    assert code == 2 and 'colours: no figure; shades: no figure' in err
    assert f'files: {workdir}/{place}/failed' in out
    after = written(workdir)
    assert before.items() <= after.items()
    assert all(name.startswith(f'{place}/failed/') for name in after.keys() - before.keys())
    code, _, _ = run(*arguments, f'--output={workdir.parent}/elsewhere/deep')
    assert code == 2 and not (workdir.parent / 'elsewhere' / 'deep' / 'metrics.json').exists()
