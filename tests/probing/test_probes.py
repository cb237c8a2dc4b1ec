"""Probes of several datasets and learning rates at once against each one alone."""

import dataclasses

import numpy as np
import pytest

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.models.vit import ViTConfig
from multitrain_jax.optimizer import OptimizerConfig
from multitrain_jax.probing import probes
from multitrain_jax.probing.features import Features
from tests.helpers.tiny import quick_compile  # noqa: F401

POOLING = ViTConfig(
    num_frames=2,
    image_size=16,
    width=8,
    blocks=1,
    heads=2,
    pooling='attentive',
    pooler_blocks=1,
    init_std=0.3,
)
SPECS = (
    DatasetSpec('few', ('a', 'b')),
    DatasetSpec('more', ('c', 'd', 'e')),
    DatasetSpec('several', ('f', 'g', 'h', 'i'), multi_label=True),
)
RATES = (1e-6, 3e-3, 1e-2)


def make(spec: DatasetSpec, records: int, seed: int, views: int = 2) -> Features:
    """Tokens, one of which tells the class."""
    generator = np.random.default_rng(seed)
    count = len(spec.classes)
    directions = np.random.default_rng(5).normal(0, 2, (count, 8))
    label = np.arange(records) % count
    tokens = generator.normal(0, 1, (records, views, 5, 8))
    for record in range(records):
        for view in range(views):
            tokens[record, view, generator.integers(5)] = directions[label[record]]
    labels = np.eye(count, dtype=np.float32)[label] if spec.multi_label else label.astype(np.int32)
    present = np.ones(records, bool)
    present[1] = False
    return Features(tokens.reshape(-1, 5, 8).astype(np.float16), labels, present, views)


TRAINING = [make(spec, records, 1) for spec, records in zip(SPECS, (12, 30, 24))]
VALIDATION = [make(spec, 12, 2) for spec in SPECS]


def train(rates=RATES):
    return probes.train(
        SPECS,
        TRAINING,
        VALIDATION,
        POOLING,
        OptimizerConfig(weight_decay=0.01, warmup_epochs=1.0),
        learning_rates=rates,
        epochs=12.0,
        batch_size=8,
        label_smoothing=0.0,
        seed=3,
    )


@pytest.fixture(scope='module')
def together():
    return train()


def test_they_learn_and_the_best_learning_rate_is_picked(together):
    for spec, outcome in zip(SPECS, together):
        figures = [
            r.mean_average_precision if spec.multi_label else r.top1 for r in outcome.results
        ]
        assert figures[outcome.best] == max(figures) > 0.8
        assert outcome.best > 0 and figures[0] < 0.8  # the first hardly moves
        assert outcome.params['kernel'].shape == (8, len(spec.classes))
        assert all(r.videos == 11 for r in outcome.results)


def test_one_learning_rate_alone_gives_the_same(together):
    for n, outcome in enumerate(train(RATES[1:2])):
        alone, stacked = dataclasses.asdict(outcome.results[0]), together[n].results[1]
        for name, value in alone.items():
            if isinstance(value, float):
                assert value == pytest.approx(getattr(stacked, name), abs=0.1)


def test_a_dataset_that_is_done_rests():
    """Its probe is the same whether the other dataset takes twice or four times as long."""
    kernels = []
    for records in (20, 40):
        training = [TRAINING[0], make(SPECS[1], records, 1)]
        outcome = probes.train(
            SPECS[:2],
            training,
            VALIDATION[:2],
            POOLING,
            OptimizerConfig(weight_decay=0.01),
            learning_rates=RATES[2:],
            epochs=2.0,
            batch_size=8,
            label_smoothing=0.0,
            seed=3,
        )
        kernels.append(outcome[0].params['kernel'])
    np.testing.assert_allclose(*kernels, rtol=1e-3, atol=1e-4)
