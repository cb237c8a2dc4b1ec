"""What parts of the MViTv2-B 32x3 step cost on a TPU v5e, by its compiler's figures, each compiled
alone; needs no TPU.

    python -m benchmarks.tpu_pieces pool patch attention

    pool       implementations of the pooling convolution, forward and both gradients
    patch      implementations of the patch convolution, forward and kernel gradient
    attention  four blocks of stage 3 without their MLPs, forward and gradients, by what is
               recomputed; takes minutes
    kernels    the second block of each stage, forward and gradients, of XLA's operations and with
               our kernels; takes minutes. Cycles are those of XLA's operations alone: it has no
               estimates of kernels

For 2 clips, in bfloat16. Needs the extra `tpu`; see `benchmarks/tpu_compile.py` for whole programs.
"""

import argparse
import dataclasses
import functools
import math
import time

from benchmarks import tpu_compile  # prepares the environment of what follows

# isort: split

from flax import nnx  # noqa: E402
import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import AbstractMesh, Mesh, SingleDeviceSharding  # noqa: E402
import numpy as np  # noqa: E402

from multitrain_jax.models.mvit import MViTConfig  # noqa: E402
from multitrain_jax.models.pooling_attention import MViTBlock  # noqa: E402
from multitrain_jax.models.variants import mvit_b_32x3  # noqa: E402
from multitrain_jax.ops.depthwise_pool import depthwise_pool  # noqa: E402
from multitrain_jax.ops.patch_conv import patch_conv  # noqa: E402
from tools import hlo_cost  # noqa: E402

CLIPS, BLOCKS = 2, 4
POOLINGS = {  # name: grid and channels, stride
    'stage 1, q': ((16, 56, 56, 96), (1, 1, 1)),
    'stage 1, k v': ((16, 56, 56, 192), (1, 8, 8)),
    'stage 3, q': ((16, 14, 14, 384), (1, 1, 1)),
}


def measure(name: str, function, *shapes: jax.ShapeDtypeStruct) -> None:
    """Prints what the function's program for one chip needs."""
    device = topologies.get_topology_desc('v5e:2x2', 'tpu').devices[0]
    chip, described = SingleDeviceSharding(device), Mesh(np.array([device]), 'data').abstract_mesh
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=chip), shapes)
    start = time.process_time()
    with jax.sharding.use_abstract_mesh(
        AbstractMesh((), (), abstract_device=described.abstract_device)
    ):
        lowered = jax.jit(function).lower(*shapes)
    compiled = lowered.compile()
    seconds, cost = time.process_time() - start, hlo_cost.of_program(compiled.as_text())
    temporary = compiled.memory_analysis().temp_size_in_bytes / 2**20
    print(
        f'{name:<44}{cost.cycles / 1e6:>9.2f}{cost.bytes / 1e6:>9.0f}{temporary:>9.0f}'
        f'{seconds:>9.1f}',
        flush=True,
    )


def half(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def pool() -> None:
    for name, (shape, stride) in POOLINGS.items():
        x, kernel = half(CLIPS, *shape), jax.ShapeDtypeStruct((3, 3, 3, shape[-1]), jnp.float32)
        for implementation in ('xla_conv', 'shifted'):
            f = functools.partial(depthwise_pool, stride=stride, implementation=implementation)
            y = jax.eval_shape(f, x, kernel)
            measure(f'pool {implementation}, {name}, forward', f, x, kernel)
            for number, what in enumerate(('input', 'kernel')):

                def gradient(x, kernel, g, f=f, number=number):
                    return jax.vjp(f, x, kernel)[1](g)[number]

                measure(f'pool {implementation}, {name}, {what} gradient', gradient, x, kernel, y)


def patch() -> None:
    video = jax.ShapeDtypeStruct((CLIPS, 32, 224, 224, 3), jnp.float32)
    kernel, g = jax.ShapeDtypeStruct((3, 7, 7, 3, 96), jnp.float32), half(CLIPS, 16, 56, 56, 96)
    for implementation in ('xla_conv', 'patches', 'block_conv'):

        def f(kernel, video, implementation=implementation):
            return patch_conv(
                video.astype(jnp.bfloat16), kernel, (2, 4, 4), implementation=implementation
            )

        measure(f'patch {implementation}, forward', f, kernel, video)
        measure(
            f'patch {implementation}, kernel gradient',
            lambda k, v, g, f=f: jax.vjp(lambda k: f(k, v), k)[1](g),
            kernel,
            video,
            g,
        )


def attention() -> None:
    config = MViTConfig(num_frames=32, stage_blocks=(2, 3, 16, 3), dtype='bfloat16')
    shape = config.block_shapes()[2][1]
    for name, remat, remat_attention in (
        ('nothing', False, False),
        ('attention', False, True),
        ('all', True, False),
        ('all, attention twice', True, True),
    ):
        options = dataclasses.replace(config, remat_attention=remat_attention)
        graph, params = nnx.split(
            nnx.eval_shape(lambda: MViTBlock(shape, options, rngs=nnx.Rngs(0)))
        )  # noqa: B023
        params = jax.tree.map(lambda p: jax.ShapeDtypeStruct((BLOCKS, *p.shape), p.dtype), params)
        x = half(CLIPS, math.prod(shape.grid), shape.width)

        def blocks(params, x, graph=graph, remat=remat):
            def body(x, layer):
                block = nnx.merge(graph, layer)
                return x + block.attention(block.norm1(x), shape.grid)[0], None

            return jax.lax.scan(jax.checkpoint(body) if remat else body, x, params)[0]

        measure(
            f'attention of {BLOCKS} blocks, recomputed: {name}',
            lambda p, x, g, f=blocks: jax.vjp(f, p, x)[1](g),
            params,
            x,
            x,
        )


def kernels() -> None:
    for stage in range(len(mvit_b_32x3().block_shapes())):
        for attention in ('xla', 'auto'):
            options = mvit_b_32x3(dtype='bfloat16', attention=attention, remat_attention=True)
            shape = options.block_shapes()[stage][1]
            make = lambda: MViTBlock(shape, options, rngs=nnx.Rngs(0))  # noqa: B023, E731
            graph, params = nnx.split(nnx.eval_shape(make))
            x = half(CLIPS, math.prod(shape.grid), shape.width)

            def gradients(params, x, g, graph=graph, grid=shape.grid):
                return jax.vjp(lambda p, x: nnx.merge(graph, p)(x, grid)[0], params, x)[1](g)

            measure(f'block of stage {stage + 1}, attention={attention}', gradients, params, x, x)


def main() -> None:
    parts = dict(pool=pool, patch=patch, attention=attention, kernels=kernels)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('parts', nargs='+', choices=parts)
    chosen = parser.parse_args().parts
    print(f'{"":<44}{"Mcycles":>9}{"MB":>9}{"temp MiB":>9}{"CPU s":>9}')
    for part in chosen:
        parts[part]()


if __name__ == '__main__':
    tpu_compile.run_command(main)
