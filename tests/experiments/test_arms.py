"""Arms differ in what they are named after, and see as many clips of as many videos."""

import dataclasses

import numpy as np
import pytest

from experiments import cofinetuning, diagnose, multitrain, real_video, related_data, setup
from experiments.arrays import ArrayData, Clips
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.experiment import run_length

SETTINGS = {'rate': 1e-3, 'lambda_inf': 0.01, 'lambda_proj': 0.3}


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """That of `multitrain`, on black clips and without pre-training."""

    def black(names, split, count, seed, cache):
        del split, seed, cache
        side = related_data.SIDE + related_data.MARGIN
        video = np.zeros((count, related_data.FRAMES, side, side, 3), np.uint8)
        return {name: Clips(video, np.zeros(count, np.int32)) for name in names}

    monkeypatch.setattr(related_data, 'clips', black)
    monkeypatch.setattr(related_data, 'pretrained', lambda *args: None)
    return multitrain.Experiment(tmp_path)


def same_but(config, other, *, objective=(), model=(), **fields):
    """`other` with these fields as in `config`."""
    return dataclasses.replace(
        other,
        objective=dataclasses.replace(
            other.objective, **{name: getattr(config.objective, name) for name in objective}
        ),
        model=dataclasses.replace(
            other.model, **{name: getattr(config.model, name) for name in model}
        ),
        **{name: getattr(config, name) for name in fields},
    )


@pytest.mark.parametrize('count', multitrain.COUNTS)
def test_multitrain_arms_differ_in_their_losses_only(experiment, count):
    names = multitrain.DATASETS[:count]

    def made(arm):
        return experiment.run(arm, names, SETTINGS, 3, clips=multitrain.CLIPS[count])

    joint, source = made('joint')
    assert (joint.objective.lambda_inf, joint.objective.lambda_proj) == (0, 0)
    assert run_length(joint, source).steps * 128 == count * multitrain.CLIPS[count]
    lambdas = {
        'informative': (0.01, 0.0),
        'projection': (0.0, 0.3),
        'both': (0.01, 0.3),
        'both_plain': (0.01, 0.3),
        'maps': (0.0, 0.0),
    }
    for arm, (inf, proj) in lambdas.items():
        other, others = made(arm)
        assert (other.objective.lambda_inf, other.objective.lambda_proj) == (inf, proj)
        assert (other.model.expander, other.model.projections) == (inf > 0, proj > 0)
        assert other.accumulation == ('plain' if arm == 'both_plain' else 'two_pass')
        parts = dict(objective=('lambda_inf', 'lambda_proj'), model=('expander', 'projections'))
        changed = same_but(joint, other, **parts, accumulation=None, datasets=None)
        # Programs without projections have heads of all datasets, see `Experiment.run`.
        assert dataclasses.replace(changed, model=joint.model) == joint
        assert run_length(other, others).steps == run_length(joint, source).steps


def test_the_search_returns_to_the_rate(experiment, monkeypatch):
    """The best rate depends on the weight here: 8e-3 beside the first one, 2e-3 beside the best."""

    def line(arm, names, settings, seed, *, search):
        assert search and len(names) == multitrain.SEARCHED and seed in multitrain.SEARCH_SEEDS
        weight = settings.get('lambda_proj', 0.0)
        best = 8e-3 if weight == multitrain.FIRST['lambda_proj'] else 2e-3
        return {'average': -abs(np.log(settings['rate'] / best)) - 3 * abs(weight - 0.3)}

    monkeypatch.setattr(experiment, 'line', line)
    assert experiment.best('projection') == {'lambda_proj': 0.3, 'rate': 2e-3}
    assert experiment.best('joint') == {'rate': 2e-3}


def test_single_models_see_as_many_clips_of_their_dataset(experiment):
    single, source = experiment.run('single', ('axes',), SETTINGS, 3, clips=3072)
    assert run_length(single, source).steps * single.batch_size == 3072
    assert [spec.name for spec in source.datasets if spec.evaluation_records] == ['axes']
    numbers = {int(n) for batch in source.train_batches(0, 20) for n in batch['dataset']}
    assert [source.datasets[number].name for number in numbers] == ['axes']


@pytest.mark.parametrize('arm', cofinetuning.ARMS)
def test_cofinetuning_arms_make_as_many_updates_of_as_many_clips(arm):
    names = ('scenes',) if arm == 'alone' else ('directions', 'motions', 'scenes')
    config = cofinetuning.run_config(arm, names, 2e-3, 0.5, 4, 500, None)
    joint = cofinetuning.run_config('transfer', names, 2e-3, 0.5, 4, 500, None)
    sizes = sum(cofinetuning.VIDEOS[name] for name in names)
    per_step = sum(config.batch_sizes.values()) if arm == 'accumulated' else config.batch_size
    assert per_step == 16 and config.epochs * sizes / 16 == pytest.approx(500)
    assert config.optimizer == joint.optimizer and config.augment == joint.augment
    assert config.localisation == joint.localisation
    losses = (config.objective.lambda_inf > 0, config.objective.lambda_proj > 0)
    assert losses == (arm == 'multitrain',) * 2


def test_diagnose_conditions_are_trained_once_each():
    for batch, seeds in diagnose.SEEDS.items():
        found = list(diagnose.conditions(batch))
        assert len({tuple(one.items()) for one in found}) == len(found) and seeds
        for one in found:
            config = diagnose.run_config(one, 0, None)
            assert config.batch_size == batch and config.accumulation == one['accumulation']
            assert config.objective.lambda_inf == one['lambda_inf']


def test_rates_scale_with_the_peak():
    config = related_data.base_config(('axes',))
    setup.set_rates(config, 2e-3, steps=200)
    optimizer = config.optimizer
    assert optimizer.peak_learning_rate == 2e-3 and optimizer.warmup_steps == 20
    assert optimizer.warmup_start_learning_rate == optimizer.end_learning_rate == 2e-5


def test_real_videos_are_halved_class_by_class():
    label = np.array([0] * 10 + [1] * 6, np.int32)
    clips = Clips(np.arange(16, dtype=np.uint8).reshape(16, 1, 1, 1, 1), label)
    train, tested = real_video.split(clips, 0)
    for part, counts in ((train, [5, 3]), (tested, [5, 3])):
        assert np.bincount(part.label).tolist() == counts
    both = np.concatenate([train.video.ravel(), tested.video.ravel()])
    assert sorted(both.tolist()) == list(range(16))
    assert not np.array_equal(real_video.split(clips, 1)[0].video, train.video)


def test_real_videos_of_unequal_datasets_are_seen_equally_often(tmp_path, monkeypatch):
    monkeypatch.setattr(related_data, 'pretrained', lambda *args: None)
    side = real_video.SIDE + real_video.MARGIN

    def black(name, folder, output):
        count = {'few': 8, 'many': 80}[name]
        video = np.zeros((count, related_data.FRAMES, side, side, 3), np.uint8)
        return Clips(video, np.arange(count, dtype=np.int32) % 2), ('a', 'b')

    monkeypatch.setattr(real_video, 'read_clips', black)
    experiment = real_video.Experiment(tmp_path, {'few': tmp_path, 'many': tmp_path})
    config, source = experiment.run('joint', ('few', 'many'), SETTINGS, 0, clips=1280)
    assert run_length(config, source).steps == 2 * 1280 / 128
    seen = np.concatenate([batch['dataset'] for batch in source.train_batches(0, 20)])
    assert abs(np.mean(seen) - 0.5) < 0.05
    assert isinstance(source, ArrayData) and isinstance(source.datasets[0], DatasetSpec)
