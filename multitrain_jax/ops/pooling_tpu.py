"""Pooling of queries, keys and values with their LayerNorms as kernels for TPUs, forward and
backward.

The convolution is depthwise, 3x3x3, padded by one (`ops.depthwise_pool`), and strided along h and
w. One pass reads queries, keys and values as the linear layer leaves them, side by side on the
lanes, and writes them pooled and normalised; two passes compute the gradients: one that of the
convolution's results and the sums for the parameters, for which it convolves anew, one that of the
input. Nothing is brought into another order in the chip's memory, and all arithmetic is float32.

A clip passes by in chunks of whole frames. A chunk is copied to the core's memory (VMEM) as
float32, 128 lanes (a tile) after another, between the frame before and the frame after it: what a
tap sees is then a load from another row. Rows of the neighbouring token row, which a tap beyond the
left or right edge would see, are masked.
"""

from collections.abc import Callable
import dataclasses
import functools
import itertools
import math

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np

_LANES, _SUBLANES = 128, 8  # of a tile of float32
_PACKED = 16  # rows of a tile of bfloat16
_TAPS = 27
_LEFT, _RIGHT, _TOP, _BOTTOM = 1, 2, 4, 8  # bits: the token has a neighbour on that side


@dataclasses.dataclass(frozen=True)
class _Group:
    """Those of queries (0), keys (1) and values (2) that have the same stride."""

    parts: range  # which
    stride: tuple[int, int]  # along h and w
    size: tuple[int, int]  # pooled (h, w)
    tiles: range  # numbers of the tiles that hold their lanes; a tile may hold lanes of others, too

    @property
    def dense(self) -> bool:
        """Whether there is a result for every token."""
        return self.stride == (1, 1)

    @property
    def tokens(self) -> int:
        """Of a pooled frame."""
        return math.prod(self.size)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Sizes of a call."""

    grid: tuple[int, int, int]  # (t, h, w) of the tokens
    q_stride: tuple[int, int]  # along h and w
    kv_stride: tuple[int, int]  # likewise
    heads: int  # of queries, and of keys and of values
    d: int  # width of a head
    epsilon: float  # of the LayerNorms
    memory: int  # bytes that a kernel may take in the core's memory
    interpret: bool = False  # whether the kernels are only simulated

    @property
    def width(self) -> int:
        return self.heads * self.d

    @property
    def tokens(self) -> int:
        """Of a frame."""
        return self.grid[1] * self.grid[2]

    @property
    def frames(self) -> int:
        """Of a chunk: the fewest whose tokens fill tiles."""
        times = (n for n in range(1, self.grid[0]) if self.grid[0] % n == 0)
        return next((n for n in times if n * self.tokens % _PACKED == 0), self.grid[0])

    @property
    def rows(self) -> int:
        """Tokens of a chunk."""
        return self.frames * self.tokens

    @property
    def chunks(self) -> int:
        return self.grid[0] // self.frames

    @property
    def tiles(self) -> int:
        return -(-3 * self.width // _LANES)

    @property
    def margin(self) -> int:
        """Rows beside a clip's that taps of the first and last tokens reach."""
        return -(-(self.grid[2] + 1) // _SUBLANES) * _SUBLANES

    @property
    def ring_rows(self) -> int:
        """Of a chunk between two frames and two margins."""
        return self.rows + 2 * (self.tokens + self.margin)

    @property
    def current(self) -> int:
        """First row of the chunk among these."""
        return self.margin + self.tokens

    @property
    def groups(self) -> list[_Group]:
        if self.q_stride == self.kv_stride:
            return [self._group(range(3), self.q_stride)]
        return [self._group(range(1), self.q_stride), self._group(range(1, 3), self.kv_stride)]

    def _group(self, parts: range, stride: tuple[int, int]) -> _Group:
        size = tuple((n - 1) // s + 1 for n, s in zip(self.grid[1:], stride))
        first, last = parts.start * self.width, parts.stop * self.width
        return _Group(parts, stride, size, range(first // _LANES, -(-last // _LANES)))

    def lanes_of(self, tile: int) -> int:
        """How many lanes of a tile of the input are used."""
        return min(_LANES, 3 * self.width - tile * _LANES)

    def offset(self, dt: int, dh: int, dw: int) -> int:
        """Rows from a token to the one that a tap sees."""
        return (dt - 1) * self.tokens + (dh - 1) * self.grid[2] + dw - 1


def fits(
    grid: tuple[int, int, int],
    q_stride: tuple[int, int, int],
    kv_stride: tuple[int, int, int],
    heads: int,
    d: int,
    memory: int,
) -> bool:
    """Whether the kernels take these sizes in bfloat16: strides along h, w; bytes of memory."""
    if q_stride[0] != 1 or kv_stride[0] != 1:
        return False
    plan = _Plan(grid, q_stride[1:], kv_stride[1:], heads, d, 0.0, memory)
    lanes, width = plan.tiles * _LANES, -(-plan.width // _LANES) * _LANES
    # Of the kernel that takes most, `_backward_to_results`: what comes and goes by chunks lies
    # there twice.
    taken = 2 * 2 * plan.rows * lanes + 4 * plan.ring_rows * lanes
    taken += 4 * plan.rows * _LANES + 4 * _TAPS * (1 + _SUBLANES) * lanes
    for group in plan.groups:
        given, own = len(group.parts) * width, len(group.tiles) * _LANES
        if group.dense:
            taken += 2 * 2 * plan.rows * (given + own)
        else:
            taken += (
                plan.grid[0] * group.tokens * (2 * given + 2 * 4 * own) + 4 * group.tokens * own
            )
    return taken < memory


def pool(
    qkv: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    grid: tuple[int, int, int],
    q_stride: tuple[int, int, int],
    kv_stride: tuple[int, int, int],
    heads: int,
    epsilon: float,
    memory: int = 0,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values, pooled and normalised over each head.

    Args:
      qkv: [B, t * h * w, 3 * heads * d], float32 or bfloat16: queries, keys, values.
      kernel: [3, 3, 3, 3, d], of queries, keys and values; the heads share it.
      scale: [3, d].
      bias: [3, d].
      grid: (t, h, w).
      q_stride: of the queries' pooling along t, h, w; the first is 1.
      kv_stride: of that of keys and values.
      heads: of each of the three.
      epsilon: of the LayerNorms.
      memory: bytes that a kernel may take in the core's memory; enough for `fits`.
      interpret: whether to simulate the kernels, on a CPU.

    Returns:
      [B, tokens, heads * d] each, of the type of `qkv`.
    """
    d = kernel.shape[-1]
    plan = _Plan(grid, q_stride[1:], kv_stride[1:], heads, d, epsilon, memory, interpret)
    return _pool(plan, qkv, *(p.astype(jnp.float32) for p in (kernel, scale, bias)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(plan, qkv, kernel, scale, bias):
    out, shapes, scratch = [], [], [_vmem(plan.tiles, plan.ring_rows)]
    for group in plan.groups:
        tokens = plan.grid[0] * group.tokens
        shape = jax.ShapeDtypeStruct((qkv.shape[0], tokens, plan.width), qkv.dtype)
        spec = _before(plan, plan.width) if group.dense else _whole(tokens, plan.width)
        out += [spec] * len(group.parts)
        shapes += [shape] * len(group.parts)
        scratch += [] if group.dense else [_vmem(len(group.tiles), tokens)]
    kernels, edges = _kernels(plan, kernel), _edges(plan)
    return _call(
        functools.partial(_forward, plan),
        plan,
        'forward',
        qkv.shape[0],
        [qkv, kernels, edges, scale, bias],
        [_coming(plan, 3 * plan.width), *map(_constant, (kernels, edges, scale, bias))],
        shapes,
        out,
        scratch,
    )


def _backward(plan, residuals, gradients):
    qkv, kernel, scale = residuals
    *at_results, of_kernel, of_norm = _gradients_at_results(plan, qkv, kernel, scale, gradients)
    of_qkv = _gradient_of_input(plan, kernel, at_results, qkv.dtype)
    of_kernel = of_kernel.sum((0, 3)).swapaxes(0, 1).reshape(_TAPS, -1)[:, : 3 * plan.width]
    of_kernel = of_kernel.reshape(_TAPS, 3, plan.heads, plan.d).sum(2).swapaxes(0, 1)
    of_scale, of_bias = of_norm.sum((0, 3)).swapaxes(0, 1)
    return of_qkv, of_kernel.reshape(kernel.shape), of_scale, of_bias


_pool.defvjp(
    lambda plan, qkv, kernel, scale, bias: (
        _pool(plan, qkv, kernel, scale, bias),
        (qkv, kernel, scale),
    ),
    _backward,
)


def _gradients_at_results(plan, qkv, kernel, scale, gradients):
    """Gradients at the convolution's results, for every group, and of the parameters, summed over a
    clip.

    Returns:
      of a dense group [B, tokens, lanes of its tiles], of the type of `qkv`; of others float32 [B,
      tiles, tokens, 128]; float32 [B, tiles, 27, 8, 128] and [B, 3, 2, 8, d], whose sums over clips
      and 8 are those of the kernels, and of the norms' scales and biases.
    """
    clips, scratch = qkv.shape[0], [_vmem(plan.tiles, plan.ring_rows)]
    given, out, shapes = [], [], []
    for group in plan.groups:
        tokens, tiles = plan.grid[0] * group.tokens, len(group.tiles)
        if group.dense:
            given += [_before(plan, plan.width)] * len(group.parts)
            out.append(_before(plan, tiles * _LANES))
            shapes.append(jax.ShapeDtypeStruct((clips, tokens, tiles * _LANES), qkv.dtype))
        else:
            given += [_whole(tokens, plan.width)] * len(group.parts)
            out.append(_whole(tiles, tokens, _LANES))
            shapes.append(jax.ShapeDtypeStruct((clips, tiles, tokens, _LANES), jnp.float32))
            scratch += [_vmem(tiles, tokens), _vmem(tiles, group.tokens)]
    for sums in ((plan.tiles, _TAPS, _SUBLANES, _LANES), (3, 2, _SUBLANES, plan.d)):
        out.append(_whole(*sums))
        shapes.append(jax.ShapeDtypeStruct((clips, *sums), jnp.float32))
    kernels, edges = _kernels(plan, kernel), _edges(plan)
    return _call(
        functools.partial(_backward_to_results, plan),
        plan,
        'backward_to_results',
        clips,
        [qkv, kernels, edges, scale, *gradients],
        [_coming(plan, 3 * plan.width), *map(_constant, (kernels, edges, scale)), *given],
        shapes,
        out,
        scratch,
    )


def _gradient_of_input(plan, kernel, at_results, dtype):
    """[B, t * h * w, 3 * width] from what `_gradients_at_results` gives for the groups."""
    clips, kernels, edges = at_results[0].shape[0], _kernels(plan, kernel), _edges(plan)
    given, scratch = [], []
    for group, array in zip(plan.groups, at_results):
        tiles = len(group.tiles)
        given.append(_coming(plan, array.shape[2]) if group.dense else _whole(*array.shape[1:]))
        scratch.append(_vmem(tiles, plan.ring_rows if group.dense else plan.rows + 2 * plan.margin))
    (of_qkv,) = _call(
        functools.partial(_backward_to_input, plan),
        plan,
        'backward_to_input',
        clips,
        [kernels, kernels[:, ::-1], edges, *at_results],
        [*map(_constant, (kernels, kernels, edges)), *given],
        [jax.ShapeDtypeStruct((clips, plan.grid[0] * plan.tokens, 3 * plan.width), dtype)],
        [_before(plan, 3 * plan.width)],
        scratch,
    )
    return of_qkv


def _call(kernel, plan, name, clips, arguments, given, shapes, out, scratch):
    """Calls a kernel for every clip and step: step n takes in chunk n and computes chunk n - 1."""
    return pl.pallas_call(
        kernel,
        grid=(clips, plan.chunks + 1),
        in_specs=given,
        out_specs=out,
        out_shape=shapes,
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=('parallel', 'arbitrary'), vmem_limit_bytes=plan.memory
        ),
        interpret=plan.interpret,
        name=f'pooling_{name}',
    )(*arguments)


def _coming(plan: _Plan, lanes: int) -> pl.BlockSpec:
    """The chunk that a step takes in."""
    last = plan.chunks - 1
    return pl.BlockSpec(
        (1, plan.rows, lanes), lambda clip, step: (clip, jnp.minimum(step, last), 0)
    )


def _before(plan: _Plan, lanes: int) -> pl.BlockSpec:
    """The chunk that a step computes."""
    return pl.BlockSpec(
        (1, plan.rows, lanes), lambda clip, step: (clip, jnp.maximum(step - 1, 0), 0)
    )


def _whole(*shape: int) -> pl.BlockSpec:
    """All of a clip."""
    return pl.BlockSpec(
        (1, *shape), lambda clip, step: (clip, *(0 for _ in shape)), pipeline_mode=pl.Buffered(1)
    )


def _constant(array: jax.Array) -> pl.BlockSpec:
    return pl.BlockSpec(
        array.shape, lambda clip, step: (0,) * array.ndim, pipeline_mode=pl.Buffered(1)
    )


def _vmem(*shape: int):
    return pltpu.VMEM((*shape, _LANES), jnp.float32)


def _kernels(plan: _Plan, kernel: jax.Array) -> jax.Array:
    """[tiles, 27, 128]: every tap's factor of every lane of queries, keys and values."""
    lanes = jnp.repeat(kernel.reshape(3, _TAPS, 1, plan.d), plan.heads, axis=2)
    lanes = lanes.swapaxes(0, 1).reshape(_TAPS, -1)
    lanes = jnp.pad(lanes, ((0, 0), (0, plan.tiles * _LANES - lanes.shape[1])))
    return lanes.reshape(_TAPS, plan.tiles, _LANES).swapaxes(0, 1)


def _edges(plan: _Plan) -> jax.Array:
    """int32 [rows, 128]: on which sides every token of a chunk has neighbours."""
    _, h, w = plan.grid
    y, x = np.divmod(np.arange(plan.rows) % plan.tokens, w)
    sides = _LEFT * (x > 0) + _RIGHT * (x < w - 1) + _TOP * (y > 0) + _BOTTOM * (y < h - 1)
    return jnp.asarray(np.broadcast_to(sides[:, None], (plan.rows, _LANES)), jnp.int32)


# The kernels. A ring is [tiles, ring_rows, 128]: margin, a frame, the chunk, a frame, margin.


def _forward(plan, qkv_ref, kernel_ref, edge_ref, scale_ref, bias_ref, *refs):
    out, ring, whole = refs[:3], refs[3], iter(refs[4:])
    step = pl.program_id(1)
    read = functools.partial(_read, plan, qkv_ref)
    _take_in(plan, ring, read, step)

    def write(group, tiles, start):
        rows = pl.ds(start, tiles[0].shape[0])
        for part in group.parts:
            scale, bias = scale_ref[part : part + 1, :], bias_ref[part : part + 1, :]
            for head, y in enumerate(_heads(plan, group, tiles, part)):
                y = _normalised(plan, y)[0] * scale + bias
                out[part][0, rows, _columns(plan, head)] = y.astype(out[part].dtype)

    for group in plan.groups:
        if group.dense:

            @pl.when(step > 0)
            def _(group=group):
                @_for_blocks(plan.rows)
                def _(start, size):
                    write(
                        group,
                        _convolved(plan, group, ring, kernel_ref, edge_ref, start, size),
                        start,
                    )

            continue
        results = next(whole)

        @pl.when(step > 0)
        def _(group=group, results=results):
            for frame in range(plan.frames):
                first = ((step - 1) * plan.frames + frame) * group.tokens
                _convolve_strided(plan, group, ring, kernel_ref, frame, results, first)

        @pl.when(step == plan.chunks)
        def _(group=group, results=results):
            @_for_blocks(results.shape[1])
            def _(start, size):
                rows = pl.ds(start, size)
                write(group, [results[n, rows, :] for n in range(results.shape[0])], start)

    _go_on(plan, ring, read, step)


def _backward_to_results(plan, qkv_ref, kernel_ref, edge_ref, scale_ref, *refs):
    given, refs = refs[:3], refs[3:]
    at_results, refs = refs[: len(plan.groups)], refs[len(plan.groups) :]
    (of_kernel, of_norm, ring), own = refs[:3], refs[3:]
    strided = [group for group in plan.groups if not group.dense]
    whole = dict(zip((group.parts for group in strided), zip(own[::2], own[1::2])))
    step = pl.program_id(1)
    read = functools.partial(_read, plan, qkv_ref)
    _take_in(plan, ring, read, step)

    @pl.when(step == 0)
    def _():
        of_kernel[...], of_norm[...] = jnp.zeros_like(of_kernel), jnp.zeros_like(of_norm)
        for group in strided:
            gradients = whole[group.parts][0]

            @_for_blocks(gradients.shape[1])
            def _(start, size, group=group, gradients=gradients):
                rows = pl.ds(start, size)
                parts = [given[part][0, rows, :].astype(jnp.float32) for part in group.parts]
                for n, tile in enumerate(_as_tiles(plan, group, parts)):
                    gradients[n, rows, :] = tile

    def at_convolution(group, results, gradients):
        """Tiles of the gradient before the norms, from the results' tiles and heads' gradients."""
        heads = []
        for part, own_gradients in zip(group.parts, gradients):
            scale = scale_ref[part : part + 1, :]
            for y, g in zip(_heads(plan, group, results, part), own_gradients):
                y, inverse_std = _normalised(plan, y)
                of_norm[0, part, 0] += _folded(g * y)
                of_norm[0, part, 1] += _folded(g)
                g = g * scale
                means = g.mean(-1, keepdims=True), (g * y).mean(-1, keepdims=True)
                heads.append(inverse_std * (g - means[0] - y * means[1]))
        return _as_tiles(plan, group, heads)

    @pl.when(step > 0)
    def _():
        for group, out in zip(plan.groups, at_results):
            if group.dense:

                @_for_blocks(plan.rows)
                def _(start, size, group=group, out=out):
                    rows = pl.ds(start, size)
                    results = _convolved(plan, group, ring, kernel_ref, edge_ref, start, size)
                    gradients = [
                        [
                            given[part][0, rows, _columns(plan, head)].astype(jnp.float32)
                            for head in range(plan.heads)
                        ]
                        for part in group.parts
                    ]
                    for n, g in enumerate(at_convolution(group, results, gradients)):
                        out[0, rows, n * _LANES : (n + 1) * _LANES] = g.astype(out.dtype)
                        _add_to_kernel(plan, ring, edge_ref, of_kernel, group.tiles[n], start, g)

                continue
            gradients, results = whole[group.parts]
            for frame in range(plan.frames):
                first = ((step - 1) * plan.frames + frame) * group.tokens
                _convolve_strided(plan, group, ring, kernel_ref, frame, results, 0)

                @_for_blocks(group.tokens)
                def _(
                    start,
                    size,
                    group=group,
                    out=out,
                    first=first,
                    gradients=gradients,
                    results=results,
                ):
                    rows, of_all = pl.ds(start, size), pl.ds(first + start, size)
                    number = range(len(group.tiles))
                    own = [gradients[n, of_all, :] for n in number]
                    own = [_heads(plan, group, own, part) for part in group.parts]
                    tiles = at_convolution(group, [results[n, rows, :] for n in number], own)
                    for n, g in enumerate(tiles):
                        results[n, rows, :] = g
                        out[0, n, of_all, :] = g

                _add_to_kernel_strided(plan, group, ring, of_kernel, frame, results)

    _go_on(plan, ring, read, step)


def _backward_to_input(plan, kernel_ref, flipped_ref, edge_ref, *refs):
    at_results, out, own = (
        refs[: len(plan.groups)],
        refs[len(plan.groups)],
        refs[len(plan.groups) + 1 :],
    )
    step = pl.program_id(1)
    dense = [
        (ring, lambda tile, rows, ref=ref: ref[0, rows, tile * _LANES : (tile + 1) * _LANES])
        for group, ref, ring in zip(plan.groups, at_results, own)
        if group.dense
    ]
    for ring, read in dense:
        _take_in(plan, ring, read, step)

    @pl.when(step > 0)
    def _():
        for group, ref, sums in zip(plan.groups, at_results, own):
            if not group.dense:
                sums[...] = jnp.zeros_like(sums)
                for frame in range(plan.frames):
                    _spread(
                        plan, group, kernel_ref, ref, (step - 1) * plan.frames + frame, frame, sums
                    )

        @_for_blocks(plan.rows)
        def _(start, size):
            for tile in range(plan.tiles):
                terms = []
                for group, array in zip(plan.groups, own):
                    n = tile - group.tiles[0]
                    if tile in group.tiles and group.dense:
                        factors = flipped_ref.at[tile]
                        terms.append(
                            _convolved_tile(plan, array.at[n], factors, edge_ref, start, size)
                        )
                    elif tile in group.tiles:
                        terms.append(array[n, pl.ds(plan.margin + start, size), :])
                lanes = plan.lanes_of(tile)
                total = sum(terms[1:], terms[0])[:, :lanes].astype(out.dtype)
                out[0, pl.ds(start, size), tile * _LANES : tile * _LANES + lanes] = total

    for ring, read in dense:
        _go_on(plan, ring, read, step)


def _for_blocks(rows: int) -> Callable:
    """Decorates a function of (first row, number of rows), which is called for blocks of rows."""
    size = next((n for n in (64, 56, 48, 32, 16, 8) if rows % n == 0), rows)

    def call(body):
        def run(n, carry):
            body(n * size if size % _SUBLANES else pl.multiple_of(n * size, _SUBLANES), size)
            return carry

        jax.lax.fori_loop(0, rows // size, run, 0)

    return call


def _read(plan, qkv_ref, tile, rows):
    first = tile * _LANES
    return qkv_ref[0, rows, first : first + plan.lanes_of(tile)]


def _take_in(plan, ring, read, step):
    """Puts the first frame of the step's chunk behind the one before it; behind the last chunk
    zeros.

    `read(tile, rows)` are rows of the step's chunk. What nothing is put into is 0: masked or not,
    it must not be NaN.
    """

    @pl.when(step == 0)
    def _():
        ring[...] = jnp.zeros_like(ring)

    rows = pl.ds(plan.current + plan.rows, plan.tokens)
    for tile in range(ring.shape[0]):

        @pl.when(step < plan.chunks)
        def _(tile=tile):
            frame = read(tile, slice(0, plan.tokens))
            ring[tile, rows, : frame.shape[1]] = frame.astype(jnp.float32)

        @pl.when(step == plan.chunks)
        def _(tile=tile):
            ring[tile, rows, :] = jnp.zeros((plan.tokens, _LANES), jnp.float32)


def _go_on(plan, ring, read, step):
    """Puts the step's chunk in the place of the one before it, whose last frame stays before it."""

    @pl.when(step < plan.chunks)
    def _():
        last = plan.current + plan.rows - plan.tokens
        for tile in range(ring.shape[0]):

            @pl.when(step > 0)
            def _(tile=tile):
                frame = ring[tile, last : last + plan.tokens, :]
                ring[tile, plan.margin : plan.margin + plan.tokens, :] = frame

            chunk = read(tile, slice(0, plan.rows))
            rows = slice(plan.current, plan.current + plan.rows)
            ring[tile, rows, : chunk.shape[1]] = chunk.astype(jnp.float32)


def _convolved(plan, group, ring, kernel_ref, edge_ref, start, size):
    """Results at every token, for a block of rows of the chunk: each tile of a group."""
    return [
        _convolved_tile(plan, ring.at[tile], kernel_ref.at[tile], edge_ref, start, size)
        for tile in group.tiles
    ]


def _convolved_tile(plan, ring, factors, edge_ref, start, size):
    edge, total = edge_ref[pl.ds(start, size), :], 0.0
    for dh in range(3):
        of_row = 0.0
        for dw in range(3):
            of_column = 0.0
            for dt in range(3):
                rows = pl.ds(start + (plan.current + plan.offset(dt, dh, dw)), size)
                of_column += ring[rows, :] * factors[pl.ds(_tap(dt, dh, dw), 1), :]
            of_row += _where(edge, (_LEFT, 0, _RIGHT)[dw], of_column)
        total += _where(edge, (_TOP, 0, _BOTTOM)[dh], of_row)
    return total


def _add_to_kernel(plan, ring, edge_ref, sums, tile, start, g):
    """Adds products of the gradient `g` at a block of rows with what the taps see there."""
    size = g.shape[0]
    edge = edge_ref[pl.ds(start, size), :]
    for dh in range(3):
        of_row = _where(edge, (_TOP, 0, _BOTTOM)[dh], g)
        for dw in range(3):
            of_column = _where(edge, (_LEFT, 0, _RIGHT)[dw], of_row)
            for dt in range(3):
                rows = pl.ds(start + (plan.current + plan.offset(dt, dh, dw)), size)
                sums[0, tile, _tap(dt, dh, dw)] += _folded(ring[tile, rows, :] * of_column)


def _where(edge, side, x):
    """`x` where the token has a neighbour on that side, else 0; side 0: everywhere."""
    return jnp.where((edge & side) != 0, x, 0.0) if side else x


def _tap(dt, dh, dw):
    return (dt * 3 + dh) * 3 + dw


def _convolve_strided(plan, group, ring, kernel_ref, frame, results, first):
    """Puts a pooled frame of the chunk into `results` [tiles, rows, 128], from row `first` on."""

    def row(y, carry):
        for n, tile in enumerate(group.tiles):
            total = 0.0
            for dh in range(3):
                of_row = 0.0
                for dw in range(3):
                    of_column = 0.0
                    for dt in range(3):
                        rows = _strided_rows(plan, group, plan.current, frame, y, dt, dh, dw)
                        factor = kernel_ref[tile, pl.ds(_tap(dt, dh, dw), 1), :]
                        of_column += ring.at[tile][rows, :] * factor
                    of_row += _inside_columns(plan, group, dw, of_column)
                total += _inside_rows(plan, group, y, dh, of_row)
            results[n, pl.ds(first + y * group.size[1], group.size[1]), :] = total
        return carry

    jax.lax.fori_loop(0, group.size[0], row, 0)


def _add_to_kernel_strided(plan, group, ring, sums, frame, gradients):
    """`_add_to_kernel` for a pooled frame, `gradients` [tiles, tokens, 128]."""

    def row(y, carry):
        for n, tile in enumerate(group.tiles):
            g = gradients[n, pl.ds(y * group.size[1], group.size[1]), :]
            for dh in range(3):
                of_row = _inside_rows(plan, group, y, dh, g)
                for dw in range(3):
                    of_column = _inside_columns(plan, group, dw, of_row)
                    for dt in range(3):
                        rows = _strided_rows(plan, group, plan.current, frame, y, dt, dh, dw)
                        product = ring.at[tile][rows, :] * of_column
                        sums[0, tile, _tap(dt, dh, dw)] += _folded(product)
        return carry

    jax.lax.fori_loop(0, group.size[0], row, 0)


def _spread(plan, group, kernel_ref, gradients, number, frame, sums):
    """Adds to a frame of the chunk, in `sums`, what it gives to the pooled frames around it.

    `gradients` [1, tiles, tokens, 128] are of all pooled frames; `number` is that of the frame in
    the clip.
    """

    def row(y, carry):
        for n, tile in enumerate(group.tiles):
            around = []  # rows of the pooled frames whose tap dt sees this frame
            for dt in range(3):
                other = number + 1 - dt
                start = (jnp.clip(other, 0, plan.grid[0] - 1) * group.size[0] + y) * group.size[1]
                g = gradients[0, n, pl.ds(start, group.size[1]), :]
                around.append(jnp.where((other >= 0) & (other < plan.grid[0]), g, 0.0))
            for dh, dw in itertools.product(range(3), range(3)):
                total = sum(
                    g * kernel_ref[tile, pl.ds(_tap(dt, dh, dw), 1), :]
                    for dt, g in enumerate(around)
                )
                total = _inside_columns(plan, group, dw, _inside_rows(plan, group, y, dh, total))
                rows = _strided_rows(plan, group, plan.margin, frame, y, 1, dh, dw)
                sums.at[n][rows, :] = sums.at[n][rows, :] + total
        return carry

    jax.lax.fori_loop(0, group.size[0], row, 0)


def _strided_rows(plan, group, first, frame, y, dt, dh, dw):
    """The rows that a tap sees from row `y` of a pooled frame; the chunk begins at `first`."""
    start = (
        first + frame * plan.tokens + plan.offset(dt, dh, dw) + y * group.stride[0] * plan.grid[2]
    )
    return pl.ds(start, group.size[1], stride=group.stride[1])


def _inside_rows(plan, group, y, dh, x):
    """`x` where the tap's row lies inside the frame, else 0."""
    row, height = y * group.stride[0] + dh - 1, plan.grid[1]
    if dh == 0:
        return jnp.where(row >= 0, x, 0.0)
    if dh == 2 and (group.size[0] - 1) * group.stride[0] + 1 >= height:
        return jnp.where(row < height, x, 0.0)
    return x


def _inside_columns(plan, group, dw, x):
    """The same for the tap's column; rows of `x` are the places of a pooled row."""
    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    if dw == 0:
        return jnp.where(place > 0, x, 0.0)
    if dw == 2 and (group.size[1] - 1) * group.stride[1] + 1 >= plan.grid[2]:
        return jnp.where(place < group.size[1] - 1, x, 0.0)
    return x


def _columns(plan, head):
    return slice(head * plan.d, (head + 1) * plan.d)


def _heads(plan, group, tiles, part):
    """The heads of queries, keys or values, [rows, d] each, of the tiles of their group."""
    lanes = jnp.concatenate(tiles, -1) if len(tiles) > 1 else tiles[0]
    first = part * plan.width - group.tiles[0] * _LANES
    return [lanes[:, first + head * plan.d :][:, : plan.d] for head in range(plan.heads)]


def _as_tiles(plan, group, pieces):
    """Tiles of a group from its heads or parts, [rows, lanes] each, in order; other lanes are 0."""
    before = group.parts.start * plan.width - group.tiles[0] * _LANES
    after = len(group.tiles) * _LANES - before - len(group.parts) * plan.width
    rows = pieces[0].shape[0]
    ends = [[jnp.zeros((rows, lanes), jnp.float32)] if lanes else [] for lanes in (before, after)]
    pieces = [*ends[0], *pieces, *ends[1]]
    lanes = jnp.concatenate(pieces, -1) if len(pieces) > 1 else pieces[0]
    return [lanes[:, n * _LANES : (n + 1) * _LANES] for n in range(len(group.tiles))]


def _normalised(plan, y):
    """(deviations over the standard deviation, 1 over it), for every row."""
    y = y - y.mean(-1, keepdims=True)
    inverse_std = jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + plan.epsilon)
    return y * inverse_std, inverse_std


def _folded(x):
    """Sums of every eighth row: [rows, lanes] -> [8, lanes]."""
    missing = -x.shape[0] % _SUBLANES
    if missing:
        x = jnp.concatenate([x, jnp.zeros((missing, x.shape[1]), x.dtype)], 0)
    return x.reshape(-1, _SUBLANES, x.shape[1]).sum(0)
