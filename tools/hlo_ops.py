"""The operations that a compiled program executes: how often each runs,
its FLOPs and the bytes it moves.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re

from tools.hlo_text import Array, Instruction, Program

# What moves no data itself.
_FREE = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'partition-id',
    'replica-id', 'iota',
    'copy-done', 'slice-done', 'async-done', 'async-update', 'fusion-done', 'opt-barrier',
    'domain',
}  # fmt: skip
# Custom calls of XLA's GPU backend, and Pallas kernels; others (a TPU's are notes to its compiler)
# move nothing that could be counted.
_GPU_LIBRARY = ('__cublas$', '__cudnn$')
_GPU_PRODUCT = '__cublas$'
_GPU_CONVOLUTION = '__cudnn$conv'
_GPU_ATTENTION = '__cudnn$fmha'
_PALLAS = ('tpu_custom_call', 'mosaic_gpu_v2', 'mosaic_gpu')
_SMALL_CALL = 'xla_cpu_small_call="true"'  # compiled into one kernel
_NO_ESTIMATE = 2**63 - 1  # cycles of kernels that the compiler has none for
# One FLOP for each number of the result, whatever a transcendental function takes.
_ARITHMETIC = {
    'add', 'subtract', 'multiply', 'divide', 'maximum', 'minimum', 'negate', 'abs', 'power', 'sqrt',
    'rsqrt', 'cbrt', 'exponential', 'exponential-minus-one', 'log', 'log-plus-one', 'logistic',
    'tanh', 'erf', 'sine', 'cosine', 'tan', 'atan2', 'remainder', 'floor', 'ceil',
    'round-nearest-even', 'round-nearest-afz', 'sign',
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction that is executed as one piece: a fusion, or what stands outside of fusions.

    Attributes:
        instruction: itself.
        computation: where it stands.
        runs: how often it is executed in one run of the program; 0: in a branch that is not the
            dearest.
    """

    instruction: Instruction
    computation: str
    runs: int


class Operations:
    """What a program executes, and what each operation costs in one of its runs."""

    def __init__(self, program: Program):
        self.program = program
        self.flops = functools.cache(self.flops)
        self.arithmetic = functools.cache(self.arithmetic)

    def executed(self, computation: str | None = None, runs: int = 1) -> Iterator[Operation]:
        """The operations of a computation (None: the whole program) and of those that it calls,
        loops unrolled in `runs`.

        A loop of which the text does not say how often it runs counts once; of a conditional, the
        dearest branch.
        """
        computation = computation or self.program.entry
        for one in self.program.computations[computation].values():
            if one.opcode == 'while':
                trips = self.program.trips(one)
                yield from self.executed(one.called[0], runs * (1 if trips is None else trips))
            elif one.opcode == 'conditional':
                dearest = max(one.called, key=self._estimate)
                for branch in one.called:
                    yield from self.executed(branch, runs if branch == dearest else 0)
            elif one.opcode in ('call', 'async-start') and _SMALL_CALL not in one.attributes:
                yield from self.executed(one.called[0], runs)
            elif one.opcode not in _FREE and (one.opcode != 'custom-call' or _is_kernel(one)):
                yield Operation(one, computation, runs)

    def _estimate(self, computation: str) -> tuple[float, float]:
        """(cycles, bytes), for comparison."""
        every = list(self.executed(computation))
        return sum(one.runs * cycles(one.instruction) for one in every), sum(
            one.runs * self.bytes(one) for one in every
        )

    def flops(self, computation: str, name: str) -> float:
        """Of matrix products and convolutions; a multiplication and an addition are two."""
        instructions = self.program.computations[computation]
        one = instructions[name]
        if one.opcode == 'fusion':
            return sum(
                self.flops(called, inner)
                for called in one.called
                for inner in self.program.computations[called]
            )
        shapes = [
            instructions[operand].arrays[0].dims
            for operand in one.operands
            if operand in instructions
        ]
        if one.opcode == 'dot':
            contracted = [int(n) for n in re.findall(r'\d+', one.attribute('lhs_contracting_dims'))]
            return 2.0 * one.arrays[0].size * math.prod(shapes[0][axis] for axis in contracted)
        if one.opcode == 'convolution':
            return _convolution_flops(one, *shapes, one.arrays[0].dims)
        if one.target.startswith(_GPU_PRODUCT):
            axes = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', one.attributes)[1]
            return (
                2.0
                * one.arrays[0].size
                * math.prod(shapes[0][int(n)] for n in re.findall(r'\d+', axes))
            )
        if one.target.startswith(_GPU_CONVOLUTION):
            return _convolution_flops(one, *_forward_shapes(one, *shapes[:2]))
        if one.target.startswith(_GPU_ATTENTION):
            (batch, queries, heads, width), keys = shapes[0], shapes[1][1]
            products = (
                5 if one.target.endswith('Backward') else 2
            )  # the fused gradient computes the logits again
            return 2.0 * products * batch * heads * queries * keys * width
        if one.target in _PALLAS:  # what the kernel's author says
            said = re.search(r'"cost_estimate":\{"flops":"(\d+)"', one.attributes)
            return float(said[1]) if said else 0.0
        return 0.0

    def arithmetic(self, computation: str, name: str) -> float:
        """FLOPs beside products: one for each number of an elementwise
        operation's result and of what a reduction reads.
        """
        instructions = self.program.computations[computation]
        one = instructions[name]
        if one.opcode == 'fusion':
            bodies = (
                (called, inner)
                for called in one.called
                for inner in self.program.computations[called]
            )
            return sum(self.arithmetic(*inner) for inner in bodies)
        if not one.arrays or not one.arrays[0].floating:
            return 0.0
        if one.opcode in _ARITHMETIC:
            return float(one.arrays[0].size)
        if one.opcode == 'reduce':
            return float(
                sum(
                    instructions[operand].arrays[0].size
                    for operand in one.operands[: len(one.arrays)]
                )
            )
        if one.opcode == 'reduce-window':
            window = re.search(r'size=([\dx]+)', one.attribute('window'))[1]
            return float(one.arrays[0].size * math.prod(int(n) for n in window.split('x')))
        return 0.0

    def bytes(self, operation: Operation) -> float:
        """Read from and written to memory: operands and results,
        of slices and updates only the part.
        """
        instructions, one = self.program.computations[operation.computation], operation.instruction
        operands = [instructions[operand] for operand in one.operands]
        if one.opcode == 'dynamic-slice':
            return 2 * _hbm(one)
        if one.opcode == 'dynamic-update-slice':
            return 2 * _hbm(operands[1])
        if one.opcode == 'slice-start':  # the result holds the operand, too
            whole, part = one.arrays[:2]
            return part.bytes * (whole.in_hbm + part.in_hbm)
        if one.opcode.endswith('-start'):  # likewise
            return sum(array.bytes for array in one.arrays[:2] if array.in_hbm)
        results = self._results(one)
        if one.opcode != 'fusion':
            return sum(map(_hbm, operands)) + sum(array.bytes for array in results if array.in_hbm)
        (called,) = one.called
        total = 0.0
        for number, operand in enumerate(operands):
            if len(operand.arrays) == 1 and operand.arrays[0].in_hbm:
                total += min(_hbm(operand), self._read(called, number, operand.arrays[0].bytes))
        written = self._written(called)
        for number, array in enumerate(results):
            part = written[number] if number < len(written) else None
            total += (
                (array.bytes if part is None else min(part, array.bytes)) if array.in_hbm else 0
            )
        return total

    def _results(self, one: Instruction) -> tuple[Array, ...]:
        """The arrays that an operation writes: without the workspace of a GPU library,
        which is memory that it may use.
        """
        call = self.program.root(one.called[0]) if one.opcode == 'fusion' else one
        return one.arrays[:-1] if call.target.startswith(_GPU_LIBRARY) else one.arrays

    def _read(self, computation: str, number: int, whole: int) -> int:
        """Bytes of its operand of that number that a fused computation reads:
        only the slice, where it takes a slice.
        """
        instructions = self.program.computations[computation]
        parameter = next(
            one
            for one in instructions.values()
            if one.opcode == 'parameter' and one.attributes.startswith(f'({number})')
        )
        total, names = 0, [parameter.name]
        while names:
            name = names.pop()
            for one in instructions.values():
                for place in (
                    place for place, operand in enumerate(one.operands) if operand == name
                ):
                    if one.opcode == 'bitcast':
                        names.append(one.name)
                    elif one.opcode == 'fusion':
                        total += self._read(one.called[0], place, whole)
                    elif one.opcode in ('dynamic-slice', 'slice') and place == 0:
                        total += one.arrays[0].bytes
                    elif not (one.opcode == 'dynamic-update-slice' and place == 0):
                        return whole
        return total

    def _written(self, computation: str) -> list[int | None]:
        """For every result of a fused computation the bytes of the slice that it writes;
        None: all of it.
        """
        instructions = self.program.computations[computation]
        root = self.program.root(computation)

        def slice_of(one: Instruction) -> int | None:
            while one.opcode == 'bitcast':
                one = instructions[one.operands[0]]
            if one.opcode == 'dynamic-update-slice':
                return instructions[one.operands[1]].arrays[0].bytes
            if one.opcode == 'fusion' and len(one.arrays) == 1:
                return self._written(one.called[0])[0]
            return None

        return (
            [slice_of(instructions[name]) for name in root.operands]
            if root.opcode == 'tuple'
            else [slice_of(root)]
        )


def cycles(one: Instruction) -> int:
    """The TPU compiler's estimate of a kernel; 0 where it has none."""
    match = re.search(r'"estimated_cycles":"(\d+)"', one.attributes)
    return int(match[1]) if match and int(match[1]) < _NO_ESTIMATE else 0


def _is_kernel(one: Instruction) -> bool:
    return (
        one.target.startswith((_GPU_PRODUCT, _GPU_CONVOLUTION, _GPU_ATTENTION))
        or one.target in _PALLAS
    )


def _forward_shapes(
    one: Instruction, first: tuple[int, ...], second: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """(input, kernel, output) of the convolution that a call of
    cuDNN computes or is a gradient of.
    """
    result = one.arrays[0].dims
    if one.target.endswith('BackwardInput'):
        return result, second, first
    if one.target.endswith('BackwardFilter'):
        return first, result, second
    return first, second, result


def _hbm(one: Instruction) -> int:
    return sum(array.bytes for array in one.arrays if array.in_hbm)


def _convolution_flops(
    one: Instruction, lhs: tuple[int, ...], rhs: tuple[int, ...], out: tuple[int, ...]
) -> float:
    """Only products whose both factors are real count, not those with padding or inserted zeros."""
    lhs_labels, rhs_labels, out_labels = re.match(
        r'(\w+)_(\w+)->(\w+)', one.attribute('dim_labels')
    ).groups()
    window = dict(
        re.findall(
            r'(\w+)=([\dx_\-]+)', re.search(r'window=\{([^}]*)\}', one.attributes + ' window={}')[1]
        )
    )
    spatial = len(out) - 2

    def numbers(name: str) -> list[int]:
        return [int(n) for n in window[name].split('x')] if name in window else [1] * spatial

    pads = (
        [int(pad.split('_')[0]) for pad in window['pad'].split('x')]
        if 'pad' in window
        else [0] * spatial
    )
    pairs = 1
    for axis, (stride, spread, step, low) in enumerate(
        zip(numbers('stride'), numbers('lhs_dilate'), numbers('rhs_dilate'), pads)
    ):
        size, taps, places = (
            shape[labels.index(str(axis))]
            for shape, labels in ((lhs, lhs_labels), (rhs, rhs_labels), (out, out_labels))
        )
        pairs *= sum(
            1
            for place in range(places)
            for tap in range(taps)
            if not (at := place * stride + tap * step - low) % spread and 0 <= at // spread < size
        )
    groups = int(one.attribute('batch_group_count') or 1)
    batch = lhs[lhs_labels.index('b')] // groups
    features = out[out_labels.index('f')]
    return 2.0 * batch * features * rhs[rhs_labels.index('i')] * pairs
