"""The small experiments: arms differ in what they are named after and in nothing else; their pages say what their runs say."""

import dataclasses
import json
import os
import pathlib

import jax
import numpy as np
import pytest

from experiments import cofinetuning_small, multitrain_small, small_runs
from multitrain_jax.config import read_config
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation import results
from multitrain_jax.evaluation.metrics import DatasetResult
from multitrain_jax.reporting.projections import Agreement

CONDITION = multitrain_small.Condition(train_videos=40, steps=500)


def config_of(name):
    values = multitrain_small.run_config(
        multitrain_small.RUNS[name], CONDITION, 3, 200, pathlib.Path('/out')
    )
    return read_config(values)


def test_joint_arms_differ_in_their_losses_only():
    joint = config_of('joint')
    assert (joint.objective.lambda_proj, joint.objective.lambda_inf) == (0, 0)
    assert not joint.model.projections and not joint.model.expander
    for name, projection, informative in [
        ('projection', 1.0, 0.0),
        ('informative', 0.0, 0.1),
        ('both', 1.0, 0.1),
    ]:
        other = config_of(name)
        assert (other.objective.lambda_proj, other.objective.lambda_inf) == (
            projection,
            informative,
        )
        objective = dataclasses.replace(other.objective, lambda_proj=0.0, lambda_inf=0.0)
        model = dataclasses.replace(other.model, projections=False, expander=False)
        assert dataclasses.replace(other, objective=objective, model=model) == joint


def test_compute_is_equal():
    """Updates, and clips of each dataset: a joint epoch has 80 samples, a separate one 40."""
    joint = config_of('joint')
    assert joint.epochs * 80 / joint.batch_size == 500
    for name in multitrain_small.DATASETS:
        alone = config_of(f'only_{name}')
        assert list(alone.datasets) == [name]
        assert alone.epochs * 40 / alone.batch_size == 500
        assert alone.epochs == joint.epochs
        same = {field: getattr(joint, field) for field in ('datasets', 'batch_size')}
        model = dataclasses.replace(alone.model, num_classes=joint.model.num_classes)
        assert dataclasses.replace(alone, model=model, **same) == joint


def finish(output, seed, top1):
    for name, run in multitrain_small.RUNS.items():
        workdir = multitrain_small.workdir_of(output, CONDITION, seed, name)
        workdir.mkdir(parents=True)
        accuracy = {dataset: DatasetResult(200, top1[name], 1.0) for dataset in run.datasets}
        results.save(workdir, results.RunResults(500, accuracy, 100.0, str(workdir)))


def test_page_tells_means_and_paired_differences(tmp_path, monkeypatch):
    found = {'a to b': Agreement(3, 10, 1.6)}
    monkeypatch.setattr(multitrain_small, 'read_agreements', lambda workdir, relations: found)
    monkeypatch.setattr(
        multitrain_small,
        'training_accuracy',
        lambda workdir, datasets: dict.fromkeys(datasets, 97.0),
    )
    base = {
        'joint': 0.5,
        'informative': 0.4,
        'projection': 0.6,
        'both': 0.55,
        'only_directions': 0.3,
        'only_motions': 0.5,
    }
    finish(tmp_path, 0, base)
    with pytest.raises(UserError, match='no two seeds'):
        multitrain_small.write_results(tmp_path / 'page.md', tmp_path, [CONDITION], 5)
    finish(
        tmp_path,
        2,
        {name: value + 0.2 + 0.1 * (name == 'projection') for name, value in base.items()},
    )
    multitrain_small.workdir_of(tmp_path, CONDITION, 1, 'joint').mkdir(parents=True)  # begun
    multitrain_small.write_results(tmp_path / 'page.md', tmp_path, [CONDITION], 5)
    page = (tmp_path / 'page.md').read_text()
    assert (
        '## 40 training videos of each dataset, 500 updates, 2 seeds\n\n4000 clips seen of each dataset: 100 of'
        in page
    )
    rows = [line for line in page.splitlines() if line.startswith('| + projection')]
    spread = np.std([60, 90], ddof=1)
    assert (
        rows[0]
        == f'| + projection loss | {" | ".join([f"75.0 ± {spread:.1f}"] * 3)} | 97.0 ± 0.0 |'
    )
    # Differences are 10 and 20: mean 15, standard error 5, Student's factor of one degree of freedom 12.71.
    assert rows[1].startswith('| + projection loss | +15.0 [-48.5, +78.5], 2/2 |')
    assert rows[2] == '| + projection loss | 3.0 of 10 |'
    separate = next(line for line in page.splitlines() if line.startswith('| separate'))
    assert separate.split(' | ')[1:] == [
        '40.0 ± 14.1',
        '60.0 ± 14.1',
        '50.0 ± 14.1',
        '97.0 ± 0.0 |',
    ]
    assert (tmp_path / 'page.png').read_bytes().startswith(b'\x89PNG')


TOGETHER = ('concatenate', 'weighted', 'alternating', 'uniform', 'accumulated', 'task_by_task')
SIZES = cofinetuning_small.Condition(upstream_videos=30, scene_videos=20, steps=70)


def stage_configs(arm):
    stages = cofinetuning_small.arms(SIZES)[arm]
    make = cofinetuning_small.stage_config
    return [
        read_config(make(stages, n, SIZES, 3, 10, pathlib.Path('/out/seed/arm')))
        for n in range(len(stages))
    ]


def test_every_cofinetuning_arm_has_the_same_updates_and_clips():
    videos = {'directions': 30, 'scenes': 20}
    assert {'alone', 'transfer', 'transfer_half', *TOGETHER} == set(cofinetuning_small.arms(SIZES))
    for arm in cofinetuning_small.arms(SIZES):
        samples = [
            (config, config.epochs * sum(videos[name] for name in config.datasets))
            for config in stage_configs(arm)
        ]
        assert sum(count for _, count in samples) == pytest.approx(70 * 8)
        for config, count in samples:
            assert count / 8 == pytest.approx(round(count / 8))  # whole updates
            sizes = set(config.batch_sizes.values())
            assert sizes == ({4} if arm == 'accumulated' else {8}) and config.batch_size == 8
    by_size, half = (stage_configs(arm) for arm in ('transfer', 'transfer_half'))
    assert [config.epochs for config in by_size] == pytest.approx(
        [42 * 8 / 30, 28 * 8 / 20]
    )  # 42 and 28 updates
    assert [config.epochs for config in half] == pytest.approx([35 * 8 / 30, 35 * 8 / 20])


def test_cofinetuning_arms_differ_in_data_and_schedule_only():
    base = stage_configs('concatenate')[0]
    assert list(base.datasets) == ['directions', 'scenes'] and base.init_from is None
    assert base.optimizer.warmup_steps == 4
    for arm in TOGETHER:
        (config,) = stage_configs(arm)
        assert config.schedule.kind == arm
        datasets = {
            name: dataclasses.replace(entry, batch_size=None)
            for name, entry in config.datasets.items()
        }
        assert dataclasses.replace(config, schedule=base.schedule, datasets=datasets) == base
    assert stage_configs('task_by_task')[0].schedule.order[-1] == 'scenes'
    first, second = stage_configs('transfer')
    assert list(first.datasets) == ['directions'] and list(second.datasets) == ['scenes']
    assert (first.init_from, second.init_from) == (None, '/out/seed/arm/0')
    for config in (first, second, *stage_configs('alone')):
        optimizer = dataclasses.replace(config.optimizer, warmup_steps=base.optimizer.warmup_steps)
        model = dataclasses.replace(config.model, num_classes=base.model.num_classes)
        same = {
            'optimizer': optimizer,
            'model': model,
            'datasets': base.datasets,
            'epochs': base.epochs,
            'init_from': None,
        }
        assert dataclasses.replace(config, **same) == base


def test_cofinetuning_page_tells_what_the_lines_say(tmp_path):
    def write(seed, left_out=None):
        arms = [arm for arm in cofinetuning_small.arms(SIZES) if arm != left_out]
        for number, arm in enumerate(arms):
            line = {
                **dataclasses.asdict(SIZES),
                'seed': seed,
                'arm': arm,
                'clips': {'scenes': 40 * (number + 1)},
                'mAP': 0.2 + 0.1 * seed,
                'boxes': 9,
                'frequent': 0.5,
                'middle': 0.3,
                'rare': 0.05 * number * (seed + 1),
                'loss': 0.125,
                'finished': 1e9 + seed,
                **({} if arm == 'alone' else {'top1': 0.75}),
            }
            with open(tmp_path / 'results.jsonl', 'a') as file:
                file.write(json.dumps(line) + '\n')

    write(0)
    write(1, left_out='uniform')
    todo = cofinetuning_small.unfinished(tmp_path, [SIZES], 2, 10)
    assert [training.title for training in todo] == [
        'upstream_30_scenes_20_steps_70, seed 1, uniform'
    ]
    page = tmp_path / 'PAGE.md'
    with pytest.raises(UserError, match='no two seeds'):
        cofinetuning_small.write_results(page, tmp_path, [SIZES], 5)
    write(2)
    cofinetuning_small.write_results(page, tmp_path, [SIZES], 5)
    text = page.read_text()
    rows = [
        line
        for line in text.splitlines()
        if line.startswith(('| scenes only', '| transfer |', '| task_by_task'))
    ]
    third = '| 50.0 ± 0.0 | 30.0 ± 0.0 |'
    assert rows[0] == f'| scenes only | 30.0 ± 14.1 {third} 0.0 ± 0.0 | 2 | 0.125 |  |'
    assert rows[1] == f'| transfer | 30.0 ± 14.1 {third} 10.0 ± 7.1 | 4 | 0.125 | 75.0 ± 0.0 |'
    # Rare, of seeds 0 and 2: 15 - 5 and 45 - 15; mean 20, standard error 10, Student's factor 12.71.
    assert (
        rows[4]
        == '| task_by_task | ' + '+0.0 [+0.0, +0.0], 0/2 | ' * 3 + '+20.0 [-107.1, +147.1], 2/2 |'
    )
    assert '2001-09-09' in text and len((tmp_path / 'PAGE.jsonl').read_text().splitlines()) == 26
    assert (tmp_path / 'PAGE.png').read_bytes().startswith(b'\x89PNG')


def own_process() -> str:
    assert jax.local_device_count() == 3
    return str(os.getpid())


def test_trainings_run_each_in_a_process_of_its_own(caplog, monkeypatch):
    monkeypatch.delenv('XLA_FLAGS', raising=False)  # it would say how many devices there are
    todo = [small_runs.Training(f'number {number}', 10, own_process) for number in range(3)]
    with caplog.at_level('INFO', 'multitrain_jax'):
        assert small_runs.run_each(todo, cpu_devices=3, at_most=2) == 1
    processes = {record.args[1] for record in caplog.records if len(record.args) == 3}
    assert len(processes) == 2 and str(os.getpid()) not in processes


def test_runs_of_other_videos_are_not_mixed(tmp_path):
    small_runs.check_settings(tmp_path, {'validation_videos': 200})
    small_runs.check_settings(tmp_path, {'validation_videos': 200})
    with pytest.raises(
        UserError, match="holds runs with .*'validation_videos': 200.*choose another --output"
    ):
        small_runs.check_settings(tmp_path, {'validation_videos': 100})


PAGES = sorted(pathlib.Path(small_runs.__file__).parent.glob('*_SMALL.md'))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_the_committed_pages_have_their_plots(page):
    assert f'({page.stem}.png)' in page.read_text(encoding='utf-8')
    assert page.with_suffix('.png').stat().st_size < 300_000
