"""The small experiment: arms differ in what they are named after and in nothing else; its page says what its runs say."""

import dataclasses
import pathlib

import numpy as np
import pytest

from experiments import multitrain_small, multitrain_small_page
from multitrain_jax import results
from multitrain_jax.accuracy import DatasetResult
from multitrain_jax.config import read_config
from multitrain_jax.errors import UserError
from multitrain_jax.projections import Agreement

CONDITION = multitrain_small.Condition(train_videos=40, steps=500)


def config_of(name):
    values = multitrain_small.run_config(multitrain_small.RUNS[name], CONDITION, 3, 200, pathlib.Path('/out'))
    return read_config(values)


def test_joint_arms_differ_in_their_losses_only():
    joint = config_of('joint')
    assert (joint.objective.lambda_proj, joint.objective.lambda_inf) == (0, 0)
    assert not joint.model.projections and not joint.model.expander
    for name, projection, informative in [('projection', 1.0, 0.0), ('informative', 0.0, 0.1), ('both', 1.0, 0.1)]:
        other = config_of(name)
        assert (other.objective.lambda_proj, other.objective.lambda_inf) == (projection, informative)
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
    monkeypatch.setattr(multitrain_small, 'training_accuracy', lambda workdir, datasets: dict.fromkeys(datasets, 97.0))
    base = {'joint': 0.5, 'informative': 0.4, 'projection': 0.6, 'both': 0.55, 'only_directions': 0.3, 'only_motions': 0.5}
    finish(tmp_path, 0, base)
    with pytest.raises(UserError, match='no two seeds'):
        multitrain_small.write_results(tmp_path / 'page.md', tmp_path, [CONDITION], 5)
    finish(tmp_path, 2, {name: value + 0.2 + 0.1 * (name == 'projection') for name, value in base.items()})
    multitrain_small.workdir_of(tmp_path, CONDITION, 1, 'joint').mkdir(parents=True)  # begun
    multitrain_small.write_results(tmp_path / 'page.md', tmp_path, [CONDITION], 5)
    page = (tmp_path / 'page.md').read_text()
    assert '## 40 training videos of each dataset, 500 updates, 2 seeds\n\n4000 clips seen of each dataset: 100 of' in page
    rows = [line for line in page.splitlines() if line.startswith('| + projection')]
    spread = np.std([60, 90], ddof=1)
    assert rows[0] == f'| + projection loss | {" | ".join([f"75.0 ± {spread:.1f}"] * 3)} | 97.0 ± 0.0 |'
    # Differences are 10 and 20: mean 15, standard error 5, Student's factor of one degree of freedom 12.71.
    assert rows[1].startswith('| + projection loss | +15.0 [-48.5, +78.5], 2/2 |')
    assert rows[2] == '| + projection loss | 3.0 of 10 |'
    separate = next(line for line in page.splitlines() if line.startswith('| separate'))
    assert separate.split(' | ')[1:] == ['40.0 ± 14.1', '60.0 ± 14.1', '50.0 ± 14.1', '97.0 ± 0.0 |']
    assert (tmp_path / 'page.png').read_bytes().startswith(b'\x89PNG')


def test_runs_of_other_videos_are_not_mixed(tmp_path):
    multitrain_small.check_validation_videos(tmp_path, 200)
    multitrain_small.check_validation_videos(tmp_path, 200)
    with pytest.raises(UserError, match="holds runs with .*'validation_videos': 200.*choose another --output"):
        multitrain_small.check_validation_videos(tmp_path, 100)


def test_the_committed_page_has_its_plot():
    page = pathlib.Path(multitrain_small_page.__file__).parent / 'MULTITRAIN_SMALL.md'
    assert '(MULTITRAIN_SMALL.png)' in page.read_text(encoding='utf-8')
    assert page.with_suffix('.png').stat().st_size < 300_000
