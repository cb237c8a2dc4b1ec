"""Attention against float64 formulas, and the fused kernel against the plain form."""

import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest

from multitrain_jax.ops import attention as module
from multitrain_jax.ops.attention import attention


def _arrays(batch=2, queries=5, keys=7, heads=3, width=8, value_width=6):
    rng = np.random.default_rng(0)
    shapes = ((queries, width), (keys, width), (keys, value_width), (queries, value_width))
    return [
        rng.normal(size=(batch, tokens, heads, channels)) for tokens, channels in shapes
    ]  # q, k, v, gradient of the result


def _expected(q, k, v, g):
    """Result and gradients of q, k, v by loops over clips and heads in float64."""
    out, grads = np.zeros(g.shape), [np.zeros(x.shape) for x in (q, k, v)]
    for b, n in np.ndindex(q.shape[0], q.shape[2]):
        one_q, one_k, one_v, one_g = (x[b, :, n] for x in (q, k, v, g))
        logits = one_q @ one_k.T
        weights = np.exp(logits - logits.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        out[b, :, n] = weights @ one_v
        of_weights = one_g @ one_v.T
        of_logits = weights * (of_weights - (weights * of_weights).sum(1, keepdims=True))
        for grad, value in zip(grads, (of_logits @ one_k, of_logits.T @ one_q, weights.T @ one_g)):
            grad[b, :, n] = value
    return out, grads


def _program_for(kind, platform):
    """What is traced in this context is for such a device."""
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=1, platform=platform)
    return jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


def _with_gradients(implementation, dtype, q, k, v, g, **options):
    q, k, v, g = (jnp.asarray(x, dtype) for x in (q, k, v, g))
    attend = functools.partial(attention, implementation=implementation, **options)
    out, gradient = jax.vjp(attend, q, k, v)
    return out, gradient(g)


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize(
    ('dtype', 'spread', 'tolerance'),
    [('float32', 1, 1e-5), ('float32', 100, 1e-3), ('bfloat16', 1, 4e-2)],
)
def test_xla_equals_the_formula(dtype, spread, tolerance, recompute):
    arrays = _arrays()
    arrays[0] *= spread  # 100: logits of some hundreds, most weights 0
    # What is compared is the arithmetic, not the rounding of the arguments.
    arrays = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in arrays]
    out, grads = jax.jit(lambda *a: _with_gradients('xla', dtype, *a, recompute=recompute))(*arrays)
    expected, expected_grads = _expected(*arrays)
    assert out.dtype == dtype
    for found, wanted in zip((out, *grads), (expected, *expected_grads)):
        np.testing.assert_allclose(
            np.asarray(found, np.float64), wanted, atol=tolerance * max(1.0, np.abs(wanted).max())
        )


@pytest.mark.parametrize(
    'function',
    [attention, functools.partial(attention, recompute=True), jax.checkpoint(attention)],
    ids=['kept', 'recomputed', 'checkpoint'],
)
def test_under_scan_and_recomputation(function):
    q, k, v, g = _arrays(value_width=8)
    steps = [v, 2 * v, -v]

    def loss(q, k, values):
        y, _ = jax.lax.scan(lambda q, v: (function(q, k, v), None), q, values)
        return (y * g).sum()

    found = jax.jit(jax.grad(loss, (0, 1)))(
        *map(jnp.float32, (q, k)), jnp.stack([jnp.float32(v) for v in steps])
    )
    queries = [q]
    for value in steps:
        queries.append(_expected(queries[-1], k, value, g)[0])
    gradient, of_k = g, 0
    for query, value in zip(queries[-2::-1], steps[::-1]):
        gradient, one, _ = _expected(query, k, value, gradient)[1]
        of_k = of_k + one
    for one, wanted in zip(found, (gradient, of_k)):
        np.testing.assert_allclose(one, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize('recompute', [False, True])
def test_products_are_of_the_type_of_the_arguments_and_recomputation_takes_one_more(recompute):
    function = functools.partial(_with_gradients, 'xla', 'bfloat16', recompute=recompute)
    text = jax.jit(function).lower(*map(jnp.float32, _arrays())).as_text()
    products = re.findall(r'dot_general .* : \(tensor<[\dx]*(\w+)>, tensor<[\dx]*(\w+)>\)', text)
    assert products == (7 if recompute else 6) * [('bf16', 'bf16')]


@pytest.mark.parametrize(
    ('dtype', 'tolerance', 'sizes'),
    [
        ('float32', 2e-5, dict(queries=37, keys=7, heads=1)),  # rows and keys are filled up
        ('float32', 2e-5, dict(queries=1100, keys=20, heads=1)),  # several blocks of rows
        ('bfloat16', 4e-2, dict(queries=32, keys=16, heads=2)),
        # 2 heads of these fill 128 lanes, a clip has 5 such pairs
        ('bfloat16', 4e-2, dict(queries=20, keys=24, heads=10, width=64, value_width=64)),
        # none do: heads apart
        ('float32', 2e-5, dict(queries=24, keys=9, heads=12, width=56, value_width=48)),
    ],
)
def test_the_kernel_for_tpus_equals_the_formula(dtype, tolerance, sizes):
    """Simulated: the arithmetic of its blocks, not TPU's."""
    arrays = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in _arrays(batch=1, **sizes)]
    out, grads = jax.jit(lambda *a: _with_gradients('pallas', dtype, *a, scale=0.25))(*arrays)
    expected, expected_grads = _expected(0.25 * arrays[0], *arrays[1:])
    expected_grads[0] *= 0.25
    for found, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        np.testing.assert_allclose(
            np.asarray(found, np.float64), wanted, atol=tolerance * max(1.0, np.abs(wanted).max())
        )


@pytest.mark.parametrize('implementation', ['xla', 'pallas'])
def test_queries_are_added(implementation):
    arrays = _arrays(heads=1, width=8, value_width=8)
    expected, expected_grads = _expected(*arrays)
    expected, expected_grads[0] = expected + arrays[0], expected_grads[0] + arrays[3]
    out, grads = _with_gradients(implementation, 'float32', *arrays, add_queries=True)
    for found, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=2e-5)


def test_the_kernel_for_tpus_refuses_keys_that_do_not_fit():
    k = jax.ShapeDtypeStruct((1, 60_000, 1, 96), 'bfloat16')
    attend = functools.partial(attention, implementation='pallas')
    with _program_for('TPU v5', 'tpu'), pytest.raises(ValueError, match='must fit'):
        jax.eval_shape(attend, k, k, k)


@pytest.mark.parametrize('heads', [2, 3])
def test_devices_share_the_heads(heads):
    """Two devices have a head of two each, or all of three."""
    devices = np.asarray(jax.devices()[:4]).reshape(2, 2)
    mesh = Mesh(devices, ('data', 'model'), axis_types=(AxisType.Auto,) * 2)
    q, k, v, _ = (jnp.asarray(x, 'float32') for x in _arrays(batch=4, heads=heads))
    attend = functools.partial(attention, implementation='pallas')
    spec = PartitionSpec('data')
    mapped = jax.shard_map(
        attend, mesh=mesh, in_specs=spec, out_specs=spec, axis_names={'data'}, check_vma=False
    )
    np.testing.assert_allclose(jax.jit(mapped)(q, k, v), attention(q, k, v), atol=1e-5)


@pytest.mark.parametrize('model', [1, 2])
def test_programs_for_several_tpus_hold_the_kernel(model):
    """Of replicas of one or of two devices."""
    device = jax.sharding.AbstractDevice(device_kind='TPU v5 lite', num_cores=1, platform='tpu')
    names, spec = ('data', 'model'), PartitionSpec('data')
    mesh = AbstractMesh((2, model), names, (AxisType.Auto,) * 2, abstract_device=device)
    q = jax.ShapeDtypeStruct((4, 64, 2, 64), 'bfloat16', sharding=NamedSharding(mesh, spec))
    mapped = jax.shard_map(
        functools.partial(attention, implementation='auto'),
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        axis_names={'data'},
        check_vma=False,
    )
    program = jax.jit(mapped).trace(q, q, q).lower(lowering_platforms=('tpu',)).as_text()
    assert program.count('tpu_custom_call') == 1


@pytest.mark.parametrize(
    ('kind', 'platform', 'dtype', 'width', 'chosen'),
    [
        ('TPU v5 lite', 'tpu', 'bfloat16', 96, '_pallas'),
        ('TPU7x', 'tpu', 'float32', 96, '_pallas'),
        ('TPU v5', 'tpu', 'bfloat16', 40_000, '_xla'),  # does not fit
        ('TPU v4', 'tpu', 'bfloat16', 96, '_xla'),
        ('NVIDIA H100 80GB HBM3', 'gpu', 'bfloat16', 96, '_cudnn'),
        ('NVIDIA H100 80GB HBM3', 'gpu', 'float32', 96, '_xla'),
        ('NVIDIA H100 80GB HBM3', 'gpu', 'bfloat16', 136, '_xla'),
        ('cpu', 'cpu', 'bfloat16', 96, '_xla'),
    ],
)
def test_auto_takes_what_suits_the_device_that_the_program_is_for(
    kind, platform, dtype, width, chosen, monkeypatch
):
    called, q = [], jax.ShapeDtypeStruct((2, 64, 2, width), dtype)
    for name in ('_xla', '_cudnn', '_pallas'):
        monkeypatch.setattr(module, name, lambda *args, name=name: called.append(name) or q)
    with _program_for(kind, platform):
        attention(q, q, q, implementation='auto')
    assert called == [chosen]


def test_what_cudnn_does_not_take():
    q, k, v, _ = _arrays(width=136)
    with pytest.raises(ValueError, match='bfloat16, got float32'):
        attention(*(jnp.asarray(x, 'float32') for x in (q, k, v)), implementation='cudnn')
    with pytest.raises(ValueError, match='up to 128 wide, got 136'):
        attention(*(jnp.asarray(x, 'bfloat16') for x in (q, k, v)), implementation='cudnn')
    with pytest.raises(ValueError, match="unknown implementation 'flash'"):
        attention(q, k, v, implementation='flash')


def test_widths_are_filled_up_for_cudnn(monkeypatch):
    """The fused kernel takes multiples of 8 and one width for all;
    JAX's own plain form stands in for it here.
    """
    own, seen = jax.nn.dot_product_attention, []

    def stand_in(q, k, v, *, scale, implementation):
        seen.append((implementation, {x.shape[-1] for x in (q, k, v)}))
        return own(q, k, v, scale=scale, implementation='xla')

    monkeypatch.setattr(jax.nn, 'dot_product_attention', stand_in)
    arrays = [
        np.asarray(jnp.asarray(x, 'bfloat16'), np.float64) for x in _arrays(width=11, value_width=6)
    ]
    out, grads = _with_gradients('cudnn', 'bfloat16', *arrays)
    expected, expected_grads = _expected(*arrays)
    assert seen == [('cudnn', {16})]
    for found, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        np.testing.assert_allclose(
            np.asarray(found, np.float64), wanted, atol=6e-2 * np.abs(wanted).max()
        )


@pytest.mark.skipif(jax.default_backend() != 'gpu', reason='needs an NVIDIA GPU')
@pytest.mark.parametrize('widths', [(96, 96), (118, 96)])
def test_cudnn_equals_xla(widths):
    arrays = _arrays(queries=50, keys=24, width=widths[0], value_width=widths[1])
    arrays[0] /= widths[0] ** 0.5
    xla, cudnn = (_with_gradients(name, 'bfloat16', *arrays) for name in ('xla', 'cudnn'))
    for found, wanted in zip(jax.tree.leaves(cudnn), jax.tree.leaves(xla)):
        wanted = np.asarray(wanted, np.float64)
        np.testing.assert_allclose(
            np.asarray(found, np.float64), wanted, atol=3e-2 * np.abs(wanted).max()
        )
