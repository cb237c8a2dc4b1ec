"""Two small runs as tests of sense: what a plain transformer learned on one dataset helps on
another.

Measured with seed 0 on two CPU cores, chance 10 %: fine-tuned on "directions" for four epochs 73 %
top-1 from weights trained on "motions", 10 % from random ones.
"""

import pathlib

import jax
import pytest

from data_pipelines.synthetic.prepare import prepare_synthetic
import multitrain_jax as mt
from multitrain_jax import train
from multitrain_jax.config import config_tree, read_config
from multitrain_jax.models import variants
from multitrain_jax.probing import run
from tests.helpers import heat_on_shapes
from tests.helpers.shipped_configs import load

pytestmark = pytest.mark.slow
NAMES = ('motions', 'directions')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('plain')
    prepare_synthetic(str(root / 'data'), train_videos=400, validation_videos=100, seed=0)
    return root


def settings(root: pathlib.Path, name: str, **changes):
    """configs/quickstart.py with the small plain model, on one of its datasets."""
    config = load('quickstart.py')
    config.data_root, config.synthetic = str(root / 'data'), None
    config.model.backbone = config_tree(variants.vit_tiny())
    for other in set(NAMES) - {name}:
        del config.datasets[other]
    config.model.update(projections=False, expander=False, head_hidden=0, head_dropout=0.0)
    config.objective.update(lambda_proj=0.0, lambda_inf=0.0)
    config.update(changes)
    return config


def trained(config, workdir: pathlib.Path) -> float:
    outcome = train.train_and_evaluate(read_config(config), workdir, devices=jax.devices()[:1])
    (result,) = outcome.accuracy.values()
    return result.top1


@pytest.fixture(scope='module')
def weights(root):
    """Exports of a model that learned "motions", and of one that hardly began to."""
    assert trained(settings(root, 'motions'), root / 'trained') > 0.85
    fresh = settings(root, 'motions', epochs=0.05)
    fresh.optimizer.update(warmup_epochs=0.0, peak_learning_rate=1e-5)
    trained(fresh, root / 'fresh')
    return root / 'trained' / 'export', root / 'fresh' / 'export'


def test_fine_tuning_from_our_own_weights_beats_a_random_start(root, weights):
    start, accuracies = weights[0], []
    for number, init_from in enumerate((str(start), None)):
        config = settings(root, 'directions', epochs=4.0, init_from=init_from)
        accuracies.append(trained(config, root / f'directions{number}'))
    assert accuracies[0] > accuracies[1] + 0.3


def test_a_probe_on_trained_features_beats_one_on_random_features(root, weights):
    best = []
    for start in weights:
        config = load('probe.py:quickstart')
        config.data_root, config.synthetic = str(root / 'data'), None
        config.init_from, config.probe.cache_dir = str(start), str(root / 'features')
        workdir = root / f'probe-{start.parent.name}'
        workdir.mkdir()
        outcomes = run.run(read_config(config), workdir)
        best.append({name: o.results[o.best].top1 for name, o in outcomes.items()})
    for name in NAMES:
        assert best[0][name] > best[1][name] + 0.1, best


def test_the_trained_model_looks_at_the_moving_shape(weights):
    """Chance is the shape's share of the picture;
    a model that has learned nothing stays near it.
    """
    (share, chance), (before, _) = (
        heat_on_shapes.shares(mt.load(path), 'motions') for path in weights
    )
    assert share.mean() > 2 * chance.mean() and (share > chance).mean() > 0.8
    assert before.mean() < share.mean()
