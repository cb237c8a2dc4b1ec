import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from multitrain_jax.models.heads import add_projected
from multitrain_jax.objectives.objective import (
    DatasetObjective,
    ObjectiveConfig,
    batch_objective,
    clip_objective,
)
from multitrain_jax.objectives.targets import Targets, Term, make_targets
from multitrain_jax.objectives.uncertainty import LIMIT, init_log_variances, learned_weight
from tests.helpers.golden_losses import (
    MultiHeadCase,
    load,
    parameter_of,
    variance_by_parameter,
)


def objective(outputs, targets, config, datasets, *, log_variances=None, axis_name=None):
    """The part that is a mean over clips, and the part of the whole batch."""
    clips, terms = clip_objective(outputs, targets, config, datasets, log_variances=log_variances)
    batch, more = batch_objective(
        outputs.expanded, config, log_variances=log_variances, axis_name=axis_name
    )
    loss = clips + batch
    return loss, terms | more | {'loss': Term(loss, jnp.ones_like(loss))}


evaluate = jax.jit(objective, static_argnums=(2, 3))


class Outputs(NamedTuple):
    logits: jax.Array
    projected: jax.Array | None
    expanded: jax.Array | None
    projection_kernel: jax.Array | None = None


CASES = [
    'base',
    'hard_labels',
    'shared_smoothing_700',
    'weights',
    'absent_dataset',
    'bce_multilabel',
    'bce_multilabel_no_proj',
    'no_proj',
    'add_to_pred',
    'nce_rce',
    'rce_proj_mae',
]


@pytest.mark.parametrize('name', CASES)
def test_equal_to_the_reference_in_value_and_gradient(name):
    case = MultiHeadCase(name)

    def loss(logits, projected, targets):
        if case.add_projected:
            logits = add_projected(logits, projected, case.add_projected)
        outputs = Outputs(logits, projected, None)
        return objective(outputs, targets, case.config, case.datasets)[0]

    wanted = (0,) if case.projected is None else (0, 1)
    with jax.enable_x64(True):
        step = jax.jit(jax.value_and_grad(loss, wanted))
        value, gradients = step(case.logits, case.projected, case.targets)
    np.testing.assert_allclose(value, case.loss, rtol=1e-12)
    np.testing.assert_allclose(gradients[0], case.grad_logits, rtol=1e-12, atol=1e-14)
    if case.projected is not None:
        np.testing.assert_allclose(gradients[1], case.grad_projected, rtol=1e-12, atol=1e-14)

    single = jax.jit(loss)(case.logits, case.projected, case.targets)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, case.loss, rtol=2e-6)


@pytest.mark.parametrize('name', ['mtl', 'mtl_absent_dataset'])
def test_learned_dataset_weights_equal_to_the_reference(name):
    """But for v / 2: the reference adds it once per dataset and batch, we once per clip."""
    case = MultiHeadCase(name)

    def loss(logits, projected, parameter):
        outputs = Outputs(logits, projected, None)
        learned = {'dataset': parameter}
        return objective(outputs, case.targets, case.config, case.datasets, log_variances=learned)[
            0
        ]

    with jax.enable_x64(True):
        step = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        value, gradients = step(case.logits, case.projected, parameter_of(case.variances))
    np.testing.assert_allclose(gradients[0], case.grad_logits, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gradients[1], case.grad_projected, rtol=1e-12, atol=1e-14)
    batch = len(case.targets.weight)
    more = np.bincount(case.targets.dataset[:, 0], minlength=3) - 1
    expected = case.loss + np.sum(more * 0.5 * np.log(case.variances)) / batch
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    expected = case.grad_variances + more * 0.5 / case.variances / batch
    expected *= variance_by_parameter(case.variances)
    np.testing.assert_allclose(gradients[2], expected, rtol=1e-11, atol=1e-14)
    if name == 'mtl_absent_dataset':
        assert np.asarray(gradients[2])[0] == 0.0  # no clip, no change


def test_learned_weights_start_from_the_fixed_ones():
    params, features, targets = _problem(seed=3)
    outputs = _model(params, features)
    config = dataclasses.replace(
        CONFIG, learned_dataset_weights=True, learned_informative_weights=True
    )
    learned = init_log_variances(len(DATASETS), dataset=True, informative=True)
    fixed, _ = evaluate(outputs, targets, CONFIG, DATASETS)
    value, terms = evaluate(outputs, targets, config, DATASETS, log_variances=learned)
    np.testing.assert_allclose(value, fixed, rtol=1e-6)
    assert terms['weight/a'].sum == 2.0 and terms['informative/std_weight'].sum == 25.0


def test_learned_weights_settle_and_stay_finite():
    """Each weighted mean loss ends at 1/2 (arXiv 1705.07115);
    a loss of 0 does not send its weight to infinity.
    """
    losses, weight = jnp.asarray([0.02, 3.0, 40.0, 0.0]), jnp.asarray([0.5, 1.0, 0.2, 1.0])

    def total(parameter):
        factor, penalty = learned_weight(weight, parameter)
        return jnp.sum(factor * losses + penalty)

    parameter = jax.lax.fori_loop(0, 3000, lambda _, p: p - 0.1 * jax.grad(total)(p), jnp.zeros(4))
    factor, _ = learned_weight(weight, parameter)
    np.testing.assert_allclose((factor * losses)[:3], 0.5, rtol=1e-3)
    assert 0 < factor[3] <= np.exp(LIMIT)


def test_l1_of_projections_equal_to_the_reference():
    golden, meta = load()
    names, numbers = meta['datasets'], meta['num_classes']
    most, count = max(numbers), len(names)
    kernel = np.full((count, count - 1, most, most), 7.0)  # padding, which must not count
    for d, j in np.ndindex(count, count - 1):
        source = (d + 1 + j) % count
        weight = golden[f'sparsity/weight/{names[source]}_{names[d]}']  # torch: [out, in]
        kernel[d, j, : numbers[source], : numbers[d]] = weight.T
    config = ObjectiveConfig(lambda_proj=0.0, lambda_inf=0.0, projection_l1=1e-4)
    datasets = tuple(DatasetObjective(name, classes) for name, classes in zip(names, numbers))
    targets = make_targets(np.zeros(2, np.int32), np.zeros(2, np.int32), np.ones(2), most)

    def loss(kernel, scale):
        outputs = Outputs(jnp.zeros((count, 2, most)), None, None, kernel)
        weighted = dataclasses.replace(config, projection_l1=scale)
        return objective(outputs, targets, weighted, datasets)[0]

    with jax.enable_x64(True):
        value = loss(jnp.asarray(kernel), 1e-4) - loss(jnp.asarray(kernel), 0.0)
        gradient = jax.grad(loss)(jnp.asarray(kernel), 1e-4)
    np.testing.assert_allclose(value, golden['sparsity/L1'], rtol=1e-12)
    expected = []
    for pair in golden['sparsity/order']:
        source, d = (names.index(name) for name in pair.split('_'))
        own = gradient[d, (source - d - 1) % count]
        expected.append(own[: numbers[source], : numbers[d]].T.ravel())
        assert not own[numbers[source] :].any() and not own[:, numbers[d] :].any()
    np.testing.assert_allclose(
        np.concatenate(expected), golden['sparsity/grad_L1_concat'], rtol=1e-12
    )


def test_total_equal_to_the_reference():
    """All three parts together: dataset losses,
    0.1 times the informative loss, L1 of the projections.
    """
    golden, meta = load()
    case = MultiHeadCase('base')
    kernel = np.zeros((3, 2, 9, 9))
    for pair in golden['sparsity/order']:
        source, d = (case.names.index(name) for name in pair.split('_'))
        weight = golden[f'sparsity/weight/{pair}'].T
        kernel[d, (source - d - 1) % 3, : weight.shape[0], : weight.shape[1]] = weight
    config = dataclasses.replace(case.config, lambda_inf=0.1, projection_l1=1e-4)
    with jax.enable_x64(True):
        expanded = jnp.asarray(golden['inf/base/emb'], jnp.float64)
        outputs = Outputs(
            jnp.asarray(case.logits), jnp.asarray(case.projected), expanded, jnp.asarray(kernel)
        )
        value, _ = evaluate(outputs, case.targets, config, case.datasets)
    np.testing.assert_allclose(value, golden['total/loss'], rtol=1e-12)


def test_informative_loss_is_added_with_its_weight():
    golden, _ = load()
    case = MultiHeadCase('base')
    config = dataclasses.replace(case.config, lambda_inf=0.1)
    with jax.enable_x64(True):
        expanded = jnp.asarray(golden['inf/base/emb'], jnp.float64)
        outputs = Outputs(jnp.asarray(case.logits), jnp.asarray(case.projected), expanded)
        value, terms = evaluate(outputs, case.targets, config, case.datasets)
    np.testing.assert_allclose(value, case.loss + 0.1 * golden['inf/base/loss'], rtol=1e-12)
    np.testing.assert_allclose(
        terms['informative/std'].sum, golden['inf/base/std_term'], rtol=1e-12
    )
    np.testing.assert_allclose(
        terms['informative/covariance'].sum, golden['inf/base/cov_term'], rtol=1e-12
    )


def test_terms_rebuild_the_loss_and_an_absent_dataset_counts_nothing():
    case = MultiHeadCase('absent_dataset')
    outputs = Outputs(
        jnp.asarray(case.logits, jnp.float32), jnp.asarray(case.projected, jnp.float32), None
    )
    loss, terms = evaluate(outputs, case.targets, case.config, case.datasets)
    total = sum(
        entry.weight
        * (terms[f'classification/{entry.name}'].sum + terms[f'projection/{entry.name}'].sum)
        for entry in case.datasets
    )
    np.testing.assert_allclose(total / len(case.targets.weight), loss, rtol=1e-6)
    for kind in ('classification', 'projection', 'top1'):
        assert terms[f'{kind}/ssv2'] == (0.0, 0.0)
    assert sum(float(terms[f'top1/{entry.name}'].count) for entry in case.datasets) == 8


DATASETS = (
    DatasetObjective('a', 4, weight=2.0),
    DatasetObjective('b', 6),
    DatasetObjective('c', 3, multi_label=True),
)
CONFIG = ObjectiveConfig()


def _problem(batch=16, slots=2, width=5, seed=0):
    rng = np.random.default_rng(seed)
    number, classes = len(DATASETS), max(entry.num_classes for entry in DATASETS)
    dataset = rng.integers(0, number, (batch, slots))
    label = np.zeros((batch, slots, classes), np.float32)
    for clip, slot in np.ndindex(batch, slots):
        label[clip, slot, rng.integers(DATASETS[dataset[clip, slot]].num_classes)] = 1
    share = rng.uniform(0.05, 1, (batch, slots))
    targets = Targets(
        label=label,
        dataset=dataset.astype(np.int32),
        lam=(share / share.sum(1, keepdims=True)).astype(np.float32),
        weight=(rng.uniform(size=batch) > 0.2).astype(np.float32),
    )
    features = rng.normal(size=(batch, width)).astype(np.float32)
    params = {
        'heads': rng.normal(size=(number, width, classes)).astype(np.float32),
        'projections': rng.normal(size=(number, number - 1, classes, classes)).astype(np.float32)
        / 3,
        'expander': rng.normal(size=(width, 8)).astype(np.float32) / 4,
    }
    return params, features, targets


def _model(params, features):
    logits = jnp.einsum('bw,nwc->nbc', features, params['heads'])
    others = jnp.stack([jnp.roll(logits, -1 - j, axis=0) for j in range(len(DATASETS) - 1)], axis=1)
    projected = jnp.einsum('njbc,njce->njbe', others, params['projections'])
    return Outputs(logits, projected, features @ params['expander'])


def _step(params, features, targets, axis_name=None):
    def loss(params):
        return objective(_model(params, features), targets, CONFIG, DATASETS, axis_name=axis_name)

    (value, terms), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    if axis_name is None:
        return value, terms, gradients
    return jax.lax.pmean((value, terms, gradients), axis_name)


def _equal_steps(one, many):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), one[2], many[2]
    )
    np.testing.assert_allclose(one[0], many[0], rtol=1e-6)
    for name in one[1]:
        mean = [term.sum / term.count for term in (one[1][name], many[1][name])]
        np.testing.assert_allclose(*mean, rtol=1e-5, err_msg=name)


def test_eight_devices_give_the_loss_and_gradient_of_one():
    params, features, targets = _problem()
    one = jax.jit(_step)(params, features, targets)
    shared = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), (features, targets))
    step = jax.pmap(
        lambda p, f, t: _step(p, f, t, 'data'),
        axis_name='data',
        in_axes=(None, 0, 0),
        out_axes=None,
    )
    _equal_steps(one, step(params, *shared))


def test_shard_map_gives_the_same_gradient():
    params, features, targets = _problem(seed=1)
    one = jax.jit(_step)(params, features, targets)
    mesh = Mesh(np.asarray(jax.devices()[:8]), ('data',))

    def step(params, features, targets):
        params = jax.lax.pcast(params, 'data', to='varying')
        return _step(params, features, targets, 'data')

    many = jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(P(), P('data'), P('data')), out_specs=P())
    )(params, features, targets)
    _equal_steps(one, many)


def _reference_loss(params, features, targets):
    """The formula in float64 NumPy, clip by clip, on the classes that exist."""

    def cross_entropy(logits, label):
        shifted = logits - logits.max()
        return -np.sum(label * (shifted - np.log(np.sum(np.exp(shifted)))))

    features = np.asarray(features, np.float64)
    outputs = jax.tree.map(lambda x: np.asarray(x, np.float64), _model(params, features)._asdict())
    total, batch = 0.0, len(features)
    for clip, slot in np.ndindex(*targets.dataset.shape):
        d = targets.dataset[clip, slot]
        entry = DATASETS[d]
        classes = slice(0, entry.num_classes)
        label = 0.9 * targets.label[clip, slot, classes] + 0.1 / entry.num_classes
        logits = outputs['logits'][d, clip, classes]
        if entry.multi_label:
            p = 1 / (1 + np.exp(-logits))
            own = -np.mean(label * np.log(p) + (1 - label) * np.log(1 - p))
        else:
            own = cross_entropy(logits, label)
        proj = np.mean(
            [cross_entropy(outputs['projected'][d, j, clip, classes], label) for j in (0, 1)]
        )
        weight = targets.lam[clip, slot] * targets.weight[clip] * entry.weight
        total += weight * (own + proj)
    expanded = outputs['expanded']
    covariance = np.cov(expanded.T)
    std = np.mean(np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)))
    off = np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)
    return total / batch + 0.1 * (25 * std + off / expanded.shape[1])


def test_mixed_clips_of_several_datasets_against_numpy():
    params, features, targets = _problem(seed=2)
    value, _ = evaluate(_model(params, features), targets, CONFIG, DATASETS)
    np.testing.assert_allclose(value, _reference_loss(params, features, targets), rtol=1e-5)


def test_top1_judges_the_largest_share_by_its_own_head():
    logits = jnp.zeros((2, 2, 3)).at[0, 0, 2].set(1.0).at[1, 0, 1].set(1.0).at[1, 1, 0].set(1.0)
    # A padded class of dataset 1 has the largest logit: it must not win.
    logits = logits.at[1, :, 2].set(50.0)
    label = jax.nn.one_hot(jnp.asarray([[0, 1], [0, 1]]), 3)
    targets = Targets(
        label=label,
        dataset=jnp.asarray([[0, 1], [1, 1]]),
        lam=jnp.asarray([[0.4, 0.6], [0.3, 0.7]]),
        weight=jnp.ones(2),
    )
    datasets = (DatasetObjective('x', 3), DatasetObjective('y', 2))
    config = ObjectiveConfig(lambda_proj=0.0, lambda_inf=0.0)
    outputs = Outputs(logits=logits, projected=None, expanded=None)
    _, terms = evaluate(outputs, targets, config, datasets)
    assert terms['top1/x'] == (0.0, 0.0)
    assert terms['top1/y'] == (1.0, 2.0)  # clip 0: class 1 is right; clip 1: class 0, not 1


def test_one_dataset_needs_no_projections():
    outputs = Outputs(logits=jnp.zeros((1, 4, 3)), projected=None, expanded=None)
    targets = make_targets(jnp.zeros(4, jnp.int32), jnp.zeros(4, jnp.int32), jnp.ones(4), 3)
    config = ObjectiveConfig(lambda_inf=0.0)
    loss, _ = evaluate(outputs, targets, config, (DatasetObjective('x', 3),))
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-6)


def test_mistakes_are_named():
    outputs = Outputs(logits=jnp.zeros((2, 4, 3)), projected=None, expanded=None)
    targets = make_targets(jnp.zeros(4, jnp.int32), jnp.zeros(4, jnp.int32), jnp.ones(4), 3)
    datasets = (DatasetObjective('x', 3), DatasetObjective('y', 2))
    with pytest.raises(ValueError, match='needs the projected logits'):
        objective(outputs, targets, ObjectiveConfig(), datasets)
    with pytest.raises(ValueError, match='needs the expanded embedding'):
        objective(outputs, targets, ObjectiveConfig(lambda_proj=0.0), datasets)
    with pytest.raises(ValueError, match='projection_l1 > 0 needs projections'):
        objective(outputs, targets, ObjectiveConfig(lambda_proj=0.0, projection_l1=1.0), datasets)
    with pytest.raises(ValueError, match='has no effect with lambda_inf=0'):
        ObjectiveConfig(lambda_inf=0.0, learned_informative_weights=True)
    with pytest.raises(ValueError, match=r'need \(1, 4, 3\)'):
        objective(outputs, targets, ObjectiveConfig(), datasets[:1])
    with pytest.raises(ValueError, match='label_smoothing=1'):
        ObjectiveConfig(label_smoothing=1.0)
    with pytest.raises(ValueError, match='classification_loss'):
        ObjectiveConfig(classification_loss='focal')
