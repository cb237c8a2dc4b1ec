"""Probes from data to exports, as `run.py --config=configs/probe.py` trains them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import multitrain_jax as mt
from multitrain_jax import run_report
from multitrain_jax.checkpoints.exports import ModelInfo, write_export
from multitrain_jax.config import ProbeConfig, read_stored_config
from multitrain_jax.errors import UserError
from multitrain_jax.models.multitrain import MultiTrainConfig, abstract_model
from multitrain_jax.models.vit import ViTConfig
from multitrain_jax.probing import run
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401

BACKBONE = ViTConfig(
    num_frames=4, image_size=16, width=16, blocks=1, heads=2, mlp_width=32, patch_stride=(2, 8, 8)
)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Datasets and an import without heads."""
    root = tmp_path_factory.mktemp('probe')
    tiny.write_datasets(root / 'data')
    model = MultiTrainConfig(BACKBONE, (), projections=False, expander=False)
    generator = np.random.default_rng(0)
    draw = lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, abstract_model(model)[1])
    info = ModelInfo(model, {}, (0.45,) * 3, (0.225,) * 3, 16, 1, 1)
    write_export(root / 'import', info, params)
    return root


def config(place, **probe):
    usual = tiny.config(data_root=str(place / 'data'), model__backbone=BACKBONE, epochs=30.0)
    return dataclasses.replace(
        usual,
        datasets={name: dataclasses.replace(own, stride=2) for name, own in usual.datasets.items()},
        init_from=str(place / 'import'),
        probe=ProbeConfig(
            **dict(learning_rates=(1e-7, 1e-2), blocks=1, cache_dir=str(place / 'features')) | probe
        ),
    )


def test_probes_of_all_datasets_from_records_to_exports(place, tmp_path, caplog):
    caplog.set_level('INFO')
    experiment = config(place)
    outcomes = run.run(experiment, tmp_path)
    assert 'features of colours: 8 of 20 clips' in caplog.text
    # The mean colour tells the class.
    assert outcomes['colours'].best == 1 and outcomes['colours'].results[1].top1 > 0.8
    assert outcomes['colours'].results[0].top1 < 0.8
    content = json.loads((tmp_path / 'probe.json').read_text())
    assert content['colours']['best_learning_rate'] == 1e-2
    assert content['colours']['results'][1]['top1'] == outcomes['colours'].results[1].top1
    assert any(line.endswith('best') for line in run.table(experiment, outcomes))

    places = [str(tmp_path / 'export' / name) for name in outcomes]
    for path, line in zip(places, run.models(tmp_path, outcomes)):
        assert f'multitrain_jax.predict --checkpoint={path} VIDEO' in line
    for directory in (tmp_path, tmp_path / 'export'):
        with pytest.raises(UserError, match=f'model.json.; models in it: {", ".join(places)}$'):
            mt.load(directory)
    with pytest.raises(UserError, match=f'figures: probe.json; models in it: {places[0]}'):
        run_report.make(tmp_path)
    kept = read_stored_config(json.loads((tmp_path / 'config.json').read_text()))
    assert kept == experiment and (tmp_path / 'command.txt').exists()

    model = mt.load(tmp_path / 'export' / 'colours')
    assert model.info.datasets['colours'].stride == 2
    clip = np.zeros((3, 4, 16, 16, 3), np.uint8)
    for number in range(3):
        clip[number] = 38
        clip[number, ..., number] += 150
    found = model.logits(clip)['colours'].argmax(-1)
    assert np.mean(found == np.arange(3)) > 0.6

    caplog.clear()
    again = run.run(experiment, tmp_path)
    assert 'features of' not in caplog.text  # they are on disk
    np.testing.assert_array_equal(
        again['colours'].params['kernel'], outcomes['colours'].params['kernel']
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda e: dataclasses.replace(e, init_from=None), 'config.probe needs config.init_from'),
        (lambda e: dataclasses.replace(e, init_from='nowhere'), 'config.init_from=nowhere'),
        (
            lambda e: dataclasses.replace(e, model=tiny.config().model),
            'MViTConfig: has no attentive pooling; probe a plain transformer .* or leave '
            'config.probe out and train linear probes: config.optimizer.frozen=',
        ),
        (
            lambda e: dataclasses.replace(
                e, probe=dataclasses.replace(e.probe, cache_gib=1e-9, blocks=0)
            ),
            'config.probe.cache_gib=1e-09: the features of colours',
        ),
    ],
)
def test_mistakes_are_told_in_one_line(place, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as error:
        run.run(change(config(place, cache_dir=str(tmp_path / 'cache'))), tmp_path)
    assert '\n' not in str(error.value)


def test_a_training_run_is_not_overwritten(place, tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(UserError, match='has a training run in it; give probes another one'):
        run.run(config(place), tmp_path)
    assert not (tmp_path / 'config.json').exists()
