"""The pooling kernels for GPUs, simulated, against the convolution and the norm that they stand
for; and where they are used.
"""

import functools
import math

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
import numpy as np
import pytest

from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.pooling_attention import MViTBlock
from tests.helpers.pooling import EPSILON, pooled_separately, pooling_arguments
from tests.helpers.tiny import quick_compile  # noqa: F401

pooling_gpu = pytest.importorskip('multitrain_jax.ops.pooling_gpu')
pytestmark = pytest.mark.skipif(
    jax.__version_info__ < (0, 12), reason='the kernels are for newer versions of JAX'
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('grid', 'q_stride', 'kv_stride', 'heads'),
    [
        ((2, 2, 2), 1, 2, 1),  # queries dense, keys and values strided
        ((2, 2, 3), 2, 1, 2),  # queries strided, several heads
        ((1, 4, 1), 4, 4, 1),  # one frame; places that no result sees
    ],
)
def test_they_equal_convolution_and_norm(grid, q_stride, kv_stride, heads):
    sizes = dict(
        grid=grid, q_stride=(1,) + 2 * (q_stride,), kv_stride=(1,) + 2 * (kv_stride,), heads=heads
    )
    arguments = pooling_arguments(8, grid, heads, 32)
    kernels = functools.partial(pooling_gpu.pool, epsilon=EPSILON, interpret=True, **sizes)

    def with_gradients(function):
        out, gradients = jax.vjp(function, *arguments)
        return out, gradients(
            tuple(
                jnp.sin(number + jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
                for number, y in enumerate(out)
            )
        )

    found = with_gradients(
        lambda *arguments: tuple(y.reshape(*y.shape[:2], -1) for y in kernels(*arguments))
    )

    def separately(*arguments):
        q, k, v = pooled_separately(*arguments, **sizes)
        return q, k, v, q

    wanted = with_gradients(separately)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * max(1.0, np.abs(other).max()))


_NORMS = {'_result', '_gradients'}
_POOLING = {'_pooled', '_backward_to_result', '_backward_to_input'}


def _traced(clips: int, **changes) -> jax.stages.Traced:
    """Gradients of a block, traced for a described H100."""
    # Relative positions so wide that cuDNN, which is not here, does not attend.
    options = dict(dtype='bfloat16', attention='auto', positions='relative') | changes
    config = MViTConfig(num_frames=32, image_size=64, kv_stride=(1, 1, 1), **options)
    shape = config.block_shapes()[0][0]
    graph, params = nnx.split(nnx.eval_shape(lambda: MViTBlock(shape, config, rngs=nnx.Rngs(0))))
    tokens = math.prod(shape.grid) + config.class_token
    x = jax.ShapeDtypeStruct((clips, tokens, shape.width_in), config.dtype)

    def gradients(params, x):
        return jax.grad(
            lambda params: nnx.merge(graph, params)(x, shape.grid)[0].sum().astype('float32')
        )(params)

    device = jax.sharding.AbstractDevice(
        device_kind='NVIDIA H100 80GB HBM3', num_cores=132, platform='gpu'
    )
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        return jax.jit(gradients).trace(params, x)


@pytest.mark.parametrize(
    ('clips', 'changes', 'kernels'),
    [
        (8, {}, _POOLING | _NORMS),
        (2, {}, _NORMS),
        (8, dict(class_token=True), _NORMS),
        (8, dict(dtype='float32'), set()),
        (8, dict(attention='xla'), set()),
    ],
)
def test_programs_for_gpus_hold_the_kernels(clips, changes, kernels):
    jaxpr = str(_traced(clips, **changes).jaxpr)
    assert {name for name in _POOLING | _NORMS if f'name={name}' in jaxpr} == kernels
    assert ('mpmd_map' in jaxpr) == bool(kernels)


@pytest.mark.slow
def test_they_are_lowered_for_gpus():
    """All that JAX does for a GPU, up to what only its compiler can do."""
    text = _traced(8).lower(lowering_platforms=('cuda',)).as_text()
    assert text.count('stablehlo.custom_call @mosaic_gpu') >= 5
