"""Training steps on batches that hold clips with labels and clips with boxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax import experiment
from multitrain_jax.config import with_datasets
from multitrain_jax.models.multitrain import Outputs, abstract_model
from multitrain_jax.objectives.targets import make_targets
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import data_mesh, replicate
from tests.helpers import tiny_boxes
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.tiny_training import assert_same, means, wired

NAMES = ('colours', 'scenes', 'scenes_more', 'shades')
CLASSES = (3, 3, 4, 5)


def cross_entropy(logits, label):
    return -(label * (logits - np.log(np.exp(logits).sum()))).sum()


def box_loss(logits, label, mask):
    """Mean over actions and over the boxes that exist."""
    p = 1 / (1 + np.exp(-logits))
    each = -(label * np.log(p) + (1 - label) * np.log(1 - p)).mean(-1)
    return each[mask > 0].mean() if (mask > 0).any() else 0.0


@pytest.mark.parametrize('accumulated', [False, True])
@pytest.mark.parametrize('learned', [False, True])
def test_objective_by_the_formula(accumulated, learned):
    """Every clip by its own head, in float64; of the accumulated schedule,
    the sum of the datasets' means.
    """
    sizes = dict(zip(NAMES, (4, 6, 3, 3))) if accumulated else {}
    weights = dict(zip(NAMES, (1.0, 2.0, 0.5, 0.25)))
    config = tiny_boxes.config(
        **{f'datasets__{name}__batch_size': size for name, size in sizes.items()},
        **{f'datasets__{name}__loss_weight': weight for name, weight in weights.items()},
        schedule={'kind': 'accumulated'} if accumulated else {},
        objective__lambda_proj=0.0,
        objective__label_smoothing=0.0,
        objective__learned_dataset_weights=learned,
    )
    source = tiny_boxes.BoxSource(config)
    rng = np.random.default_rng(0)
    share = dict(source.batch(0))
    if accumulated:
        share['dataset'] = np.repeat(np.arange(4, dtype=np.int32), list(sizes.values()))
        share['box_mask'] = (rng.random((16, 3)) < 0.6).astype(np.float32)
        share['label'] = rng.integers(0, 3, 16, np.int32)
    else:
        share['weight'][3] = 0
    driver = Pmap(data_mesh(jax.devices()[:1]))
    objective = experiment.prepare(
        config, source.datasets, driver, experiment.Length(2, 2)
    ).objective
    logits = rng.normal(size=(2, 16, 5)).astype(np.float32)
    actions = tuple(rng.normal(size=(16, 3, count)).astype(np.float32) for count in (3, 4))
    variance = np.array([0.3, -0.2, 0.1, 0.5]) if learned else np.zeros(4)
    has_boxes = np.isin(share['dataset'], [1, 2])
    np.testing.assert_array_equal(objective.has_boxes(share['dataset']), has_boxes)
    targets = make_targets(
        jnp.asarray(share['label']),
        objective.head(share['dataset']),
        jnp.where(has_boxes, 0.0, share['weight']),
        objective.max_classes,
    )
    log_variances = (
        {'dataset': jnp.asarray(5 * np.arctanh(variance / 5), jnp.float32)} if learned else None
    )
    loss, terms = objective.clips(
        Outputs(jnp.zeros((16, 2)), jnp.asarray(logits), actions=actions),
        targets,
        {name: jnp.asarray(array) for name, array in share.items() if name != 'video'},
        log_variances=log_variances,
    )

    per_dataset = {name: [] for name in NAMES}
    for row, dataset in enumerate(share['dataset']):
        name, weight = NAMES[dataset], share['weight'][row]
        if dataset in (1, 2):
            label, count = share['box_label'][row], CLASSES[dataset]
            own = box_loss(
                actions[dataset - 1][row].astype(np.float64),
                label[:, :count],
                share['box_mask'][row],
            )
            counted = weight * share['box_mask'][row].any()
        else:
            head, count = {0: 0, 3: 1}[dataset], CLASSES[dataset]
            own = cross_entropy(
                logits[head, row, :count].astype(np.float64), np.eye(count)[share['label'][row]]
            )
            counted = weight
        scaled = weights[name] * np.exp(-variance[dataset]) * own + variance[dataset] / 2
        per_dataset[name].append((counted * scaled, counted * own, counted))
    sums = {name: np.sum(rows, axis=0) for name, rows in per_dataset.items()}
    if accumulated:
        expected = sum(sums[name][0] / sizes[name] for name in NAMES)
    else:
        expected = sum(entry[0] for entry in sums.values()) / 16
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    found = means(terms)
    for name, part in zip(
        NAMES, ('classification', 'localisation', 'localisation', 'classification')
    ):
        np.testing.assert_allclose(
            found[f'{part}/{name}'], sums[name][1] / sums[name][2], rtol=1e-5
        )
        clips = (share['dataset'] == NAMES.index(name)) & (share['weight'] > 0)
        np.testing.assert_allclose(
            found[f'share/{name}'], clips.sum() / (share['weight'] > 0).sum(), rtol=1e-6
        )


@functools.cache
def gradients(devices, **changes):
    """Gradients, metrics and parameters of the first steps."""
    config = tiny_boxes.config(optimizer__ema_decay=0.5, **changes)
    source = tiny_boxes.BoxSource(config)
    specs = source.datasets
    driver = Pmap(data_mesh(jax.devices()[:devices]))
    found = wired(config, specs, driver, steps=2)
    state = replicate(jax.jit(found.random_state)(), driver.mesh)
    state, terms = found.train_step(state, driver.to_devices(source.batch(0)))
    return (
        jax.device_get(state.opt_state[0]),
        means(jax.device_get(terms)),
        jax.device_get(state.params),
    )


def test_one_device_is_eight():
    one, eight = gradients(1), gradients(8)
    assert_same(one[0], eight[0], rtol=2e-4)
    for name, value in one[1].items():
        np.testing.assert_allclose(eight[1][name], value, rtol=1e-3, err_msg=name)
    assert {'localisation/scenes', 'localisation/scenes_more', 'classification/shades'} <= set(
        one[1]
    )
    for head in (0, 1):
        assert np.abs(one[0]['localisation_heads'][head]['output']['kernel']).max() > 0


def test_accumulation_in_two_passes_is_the_whole_batch():
    # Mixing and dropout depend on how the batch is cut only through places, which are the same.
    whole, cut = gradients(1), gradients(1, accumulation_steps=4, accumulation='two_pass')
    assert_same(whole[0], cut[0], rtol=2e-4)
    np.testing.assert_allclose(whole[1]['loss'], cut[1]['loss'], rtol=1e-4)


def test_boxes_may_be_all_there_is():
    """A downstream-only baseline: no classification head, no projection."""
    config = tiny_boxes.config(
        localisation={
            'max_boxes': 3,
            'head': {'dropout': 0.0, 'context': True, 'context_heads': 2},
        },
        objective__lambda_proj=0.0,
        model__projections=False,
    )
    specs = tiny_boxes.BoxSource(config).datasets[1:2]
    _, abstract = abstract_model(with_datasets(config, specs))
    assert (
        'heads' not in abstract
        and 'projections' not in abstract
        and len(abstract['localisation_heads']) == 1
    )
