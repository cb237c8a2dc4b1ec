"""The pooling kernels for TPUs, simulated,
against the convolution and the norm that they stand for.
"""

import functools
import math
import re

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec
import numpy as np
import pytest

from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.pooling_attention import MViTBlock
from multitrain_jax.models.variants import mvit_b_32x3
from multitrain_jax.ops import pooling_tpu
from multitrain_jax.ops.tensor_parallel import on_each_device
from tests.helpers.pooling import EPSILON, pooled_separately, pooling_arguments
from tests.helpers.tiny import quick_compile  # noqa: F401


@pytest.mark.parametrize(
    ('grid', 'q_stride', 'kv_stride', 'heads', 'width'),
    [
        # queries dense, a frame fills whole tiles
        pytest.param((3, 4, 4), 1, 2, 1, 96, marks=pytest.mark.slow),
        # all dense, odd sides, a whole clip at once
        ((2, 3, 5), 1, 1, 1, 24),
        # all strided, two frames at once, several heads
        pytest.param((4, 4, 6), 2, 2, 2, 48, marks=pytest.mark.slow),
        # keys dense, lanes of a tile shared with strided queries
        pytest.param((2, 5, 4), 2, 1, 1, 32, marks=pytest.mark.slow),
    ],
)
def test_they_equal_convolution_and_norm(grid, q_stride, kv_stride, heads, width):
    sizes = dict(
        grid=grid, q_stride=(1,) + 2 * (q_stride,), kv_stride=(1,) + 2 * (kv_stride,), heads=heads
    )
    arguments = pooling_arguments(1, grid, heads, width)
    kernels = functools.partial(pooling_tpu.pool, epsilon=EPSILON, interpret=True, **sizes)
    separately = functools.partial(pooled_separately, **sizes)

    def with_gradients(function, *arguments):
        out, gradients = jax.vjp(function, *arguments)
        return out, gradients(
            tuple(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape) for y in out)
        )

    found = jax.jit(functools.partial(with_gradients, kernels))(*arguments)
    wanted = jax.jit(functools.partial(with_gradients, separately))(*arguments)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * max(1.0, np.abs(other).max()))


def test_devices_share_the_heads():
    """Of two devices each pools its own head; the parameters' gradients are of both."""
    mesh = Mesh(
        np.asarray(jax.devices()[:2]).reshape(1, 2),
        ('data', 'model'),
        axis_types=(AxisType.Auto,) * 2,
    )
    qkv, *parameters = pooling_arguments(1, (1, 4, 4), 2, 16)
    sizes = dict(grid=(1, 4, 4), q_stride=(1, 1, 1), kv_stride=(1, 1, 1))

    def divided(qkv, *parameters):
        """Heads before q/k/v, as `PoolingAttention` puts them for two devices."""
        pool = functools.partial(
            pooling_tpu.pool, epsilon=EPSILON, interpret=True, heads=1, **sizes
        )
        specs = (PartitionSpec(None, None, 'model'), *[PartitionSpec()] * 3)
        apart = qkv.reshape(1, 16, 3, 2, 16).swapaxes(2, 3).reshape(1, 16, -1)
        return on_each_device(pool, specs, specs[0])(apart, *parameters)

    def loss(pool):
        return lambda *arguments: sum(jnp.sin(y).sum() for y in pool(*arguments))

    gradients = jax.grad(loss(divided), (0, 1, 2, 3))
    mapped = jax.shard_map(
        gradients,
        mesh=mesh,
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
        axis_names={'data'},
        check_vma=False,
    )
    wanted = jax.grad(loss(functools.partial(pooled_separately, heads=2, **sizes)), (0, 1, 2, 3))
    for one, other in zip(jax.jit(mapped)(qkv, *parameters), wanted(qkv, *parameters), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize(
    ('kind', 'changes', 'kernels'),
    [
        ('TPU v5 lite', {}, 5),  # three of pooling, two of attention
        ('TPU v5 lite', dict(class_token=True), 2),
        ('TPU v5 lite', dict(dtype='float32'), 2),
        ('TPU v5 lite', dict(attention='xla'), 0),
        ('TPU v4', {}, 0),
    ],
)
def test_programs_for_tpus_hold_the_kernels(kind, changes, kernels):
    options = dict(dtype='bfloat16', attention='auto') | changes
    config = MViTConfig(num_frames=4, image_size=64, **options)
    shape = config.block_shapes()[1][0]
    graph, params = nnx.split(nnx.eval_shape(lambda: MViTBlock(shape, config, rngs=nnx.Rngs(0))))
    tokens = math.prod(shape.grid) + config.class_token
    x = jax.ShapeDtypeStruct((1, tokens, shape.width_in), config.dtype)

    def gradients(params, x):
        return jax.grad(
            lambda params: nnx.merge(graph, params)(x, shape.grid)[0].sum().astype('float32')
        )(params)

    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=1, platform='tpu')
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        traced = jax.jit(gradients).trace(params, x)
    program = traced.lower(lowering_platforms=('tpu',)).as_text()
    assert len(re.findall('tpu_custom_call', program)) == kernels


def test_which_blocks_of_the_published_model_fit():
    for memory, fitting in ((112 << 20, 7), (56 << 20, 6), (0, 0)):
        blocks = {block for stage in mvit_b_32x3().block_shapes() for block in stage}
        grids = {(b.grid, b.query_stride, b.kv_stride, b.heads, b.head_width) for b in blocks}
        assert sum(pooling_tpu.fits(*sizes, memory) for sizes in grids) == fitting
