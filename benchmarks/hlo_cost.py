"""What a compiled TPU program does, counted in its text: XLA's own totals count the body of a loop once, however often it runs.

    cost = hlo_cost.of_program(compiled.as_text())

Counted are multiplications of matrices and convolutions, bytes that go between the chip's memory (HBM) and the core, the
compiler's estimate of clock cycles, and collectives.
"""

import collections
import dataclasses
import functools
import math
import re

_BITS = dict(pred=8, s4=4, u4=4, s8=8, u8=8, s16=16, u16=16, bf16=16, f16=16, s32=32, u32=32, f32=32, s64=64, u64=64, f64=64)
_COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
_NO_ESTIMATE = 2**63 - 1  # cycles of kernels that the compiler has none for
# What moves no data itself.
_FREE = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'partition-id', 'replica-id', 'iota',
    'copy-done', 'slice-done', 'async-done', 'async-update', 'opt-barrier', 'custom-call', 'domain',
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run of the program on one chip.

    Attributes:
        flops: of matrix products and convolutions; a multiplication and an addition are two.
        bytes: read from and written to HBM, as the arrays lie there (rows of 96 numbers fill 128).
        cycles: clock cycles, the compiler's estimates of its kernels added up. For comparing programs.
        collectives: {kind: (how many, bytes of their results)}.
        unknown_loops: loops of which the text does not say how often they run; counted as once.
    """

    flops: float = 0.0
    bytes: float = 0.0
    cycles: float = 0.0
    collectives: dict = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0


@dataclasses.dataclass(frozen=True)
class _Array:
    bytes: int  # with padding
    dims: tuple[int, ...]
    in_hbm: bool


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    arrays: tuple[_Array, ...]  # of the result, tuples flattened
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def attribute(self, name: str) -> str:
        match = re.search(rf'\b{name}=(\{{[^}}]*\}}|[^,\s]+)', self.attributes)
        return match[1] if match else ''

    @property
    def called(self) -> list[str]:
        names = ('calls', 'to_apply', 'body', 'branch_computations', 'true_computation', 'false_computation')
        return [one for name in names for one in re.findall(r'%([\w.\-]+)', self.attribute(name))]


def of_program(text: str) -> Cost:
    """The cost of a program in XLA's text form, `compiled.as_text()`."""
    return _Program(text).cost()


class _Program:
    def __init__(self, text: str):
        self.computations: dict[str, dict[str, _Instruction]] = {}
        current: dict[str, _Instruction] = {}
        entry = ''
        for line in text.splitlines():
            header = re.match(r'(ENTRY )?%([\w.\-]+) \(.*\{$', line)
            if header:
                current = self.computations[header[2]] = {}
                entry = header[2] if header[1] else entry
            elif line.startswith('  ') and ' = ' in line:
                instruction = _parse(line)
                current[instruction.name] = instruction
        self.entry = entry
        every = (one for computation in self.computations.values() for one in computation.values())
        self.fused = {called for one in every if one.opcode == 'fusion' for called in one.called}
        self._of_computation = functools.cache(self._of_computation)
        self._flops = functools.cache(self._flops)

    def cost(self) -> Cost:
        total, moved = self._of_computation(self.entry)
        collectives: dict[str, tuple[int, int]] = {}
        for (kind, _), (count, size) in moved.items():
            before = collectives.get(kind, (0, 0))
            collectives[kind] = (before[0] + count, before[1] + count * size)
        return dataclasses.replace(total, collectives=collectives)

    def _of_computation(self, name: str) -> tuple[Cost, dict]:
        """The cost of running a computation once, and its collectives {(kind, channel): (runs, bytes)}."""
        flops = size = cycles = 0.0
        unknown, moved = 0, {}

        def add(called: str, times: int = 1) -> None:
            nonlocal flops, size, cycles, unknown
            cost, inner = self._of_computation(called)
            flops, size = flops + times * cost.flops, size + times * cost.bytes
            cycles, unknown = cycles + times * cost.cycles, unknown + cost.unknown_loops
            for key, (count, length) in inner.items():
                moved[key] = (times * count, length)

        instructions = self.computations[name]
        for one in instructions.values():
            kind = one.opcode.removesuffix('-start')
            if kind in _COLLECTIVES:
                # Fusions that run beside a collective each hold a copy of it.
                channel = one.attribute('channel_id') if name in self.fused else one.name
                length = sum(array.bytes for array in one.arrays) // (2 if one.opcode.endswith('-start') else 1)
                moved[kind, channel] = (1, length)
            if one.opcode == 'while':
                trips = self._trips(re.search(r'condition=%([\w.\-]+)', one.attributes)[1])
                unknown += trips is None
                add(one.called[0], 1 if trips is None else trips)
            elif one.opcode == 'conditional':
                add(max(one.called, key=lambda branch: self._of_computation(branch)[0].cycles))  # the dearest branch
            elif one.opcode in ('call', 'async-start'):
                add(one.called[0])
            elif one.opcode not in _FREE:
                for called in one.called if one.opcode == 'fusion' else ():
                    moved |= self._of_computation(called)[1]
                flops += self._flops(name, one.name)
                size += self._bytes(instructions, one)
                match = re.search(r'"estimated_cycles":"(\d+)"', one.attributes)
                cycles += int(match[1]) if match and int(match[1]) < _NO_ESTIMATE else 0
        return Cost(flops, size, cycles, unknown_loops=unknown), moved

    def _trips(self, condition: str) -> int | None:
        """How often a loop runs whose condition compares a counter from 0 with a constant."""
        limits = {
            int(match[1])
            for one in self.computations[condition].values()
            if one.opcode == 'constant' and (match := re.match(r'\((\d+)\)', one.attributes))
        }
        return limits.pop() if len(limits) == 1 else None

    def _flops(self, computation: str, name: str) -> float:
        instructions = self.computations[computation]
        one = instructions[name]
        if one.opcode == 'fusion':
            return sum(self._flops(called, inner) for called in one.called for inner in self.computations[called])
        shapes = [instructions[operand].arrays[0].dims for operand in one.operands if operand in instructions]
        if one.opcode == 'dot':
            contracted = [int(n) for n in re.findall(r'\d+', one.attribute('lhs_contracting_dims'))]
            return 2.0 * math.prod(one.arrays[0].dims) * math.prod(shapes[0][axis] for axis in contracted)
        if one.opcode == 'convolution':
            return _convolution_flops(one, *shapes)
        return 0.0

    def _bytes(self, instructions: dict[str, _Instruction], one: _Instruction) -> float:
        operands = [instructions[operand] for operand in one.operands]
        if one.opcode == 'dynamic-slice':
            return 2 * _hbm(one)
        if one.opcode == 'dynamic-update-slice':
            return 2 * _hbm(operands[1])
        if one.opcode.endswith('-start'):  # the result holds the operand, too
            return sum(array.bytes for array in one.arrays[:2] if array.in_hbm)
        if one.opcode != 'fusion':
            return sum(map(_hbm, operands)) + _hbm(one)
        (called,) = one.called
        total = 0.0
        for number, operand in enumerate(operands):
            if len(operand.arrays) == 1 and operand.arrays[0].in_hbm:
                total += min(_hbm(operand), self._read(called, number, operand.arrays[0].bytes))
        written = self._written(called)
        for number, array in enumerate(one.arrays):
            part = written[number] if number < len(written) else None
            total += (array.bytes if part is None else min(part, array.bytes)) if array.in_hbm else 0
        return total

    def _read(self, computation: str, number: int, whole: int) -> int:
        """Bytes of its operand of that number that a fused computation reads: only the slice, where it takes a slice."""
        instructions = self.computations[computation]
        parameter = next(
            one for one in instructions.values() if one.opcode == 'parameter' and one.attributes.startswith(f'({number})')
        )
        total, names = 0, [parameter.name]
        while names:
            name = names.pop()
            for one in instructions.values():
                for place in (place for place, operand in enumerate(one.operands) if operand == name):
                    if one.opcode == 'bitcast':
                        names.append(one.name)
                    elif one.opcode == 'fusion':
                        total += self._read(one.called[0], place, whole)
                    elif one.opcode == 'dynamic-slice' and place == 0:
                        total += one.arrays[0].bytes
                    elif not (one.opcode == 'dynamic-update-slice' and place == 0):
                        return whole
        return total

    def _written(self, computation: str) -> list[int | None]:
        """For every result of a fused computation the bytes of the slice that it writes; None: all of it."""
        instructions = self.computations[computation]
        (root,) = (one for one in instructions.values() if one.is_root)

        def slice_of(one: _Instruction) -> int | None:
            while one.opcode == 'bitcast':
                one = instructions[one.operands[0]]
            if one.opcode == 'dynamic-update-slice':
                return instructions[one.operands[1]].arrays[0].bytes
            if one.opcode == 'fusion' and len(one.arrays) == 1:
                return self._written(one.called[0])[0]
            return None

        return [slice_of(instructions[name]) for name in root.operands] if root.opcode == 'tuple' else [slice_of(root)]


def _hbm(one: _Instruction) -> int:
    return sum(array.bytes for array in one.arrays if array.in_hbm)


def _parse(line: str) -> _Instruction:
    is_root, name, rest = re.match(r'\s+(ROOT )?%([\w.\-]+) = (.*)', line).groups()
    end = _closing(rest) + 1 if rest.startswith('(') else rest.index(' ')
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, rest = rest.split('(', 1)
    end = _closing('(' + rest)
    inside = rest[: end - 1]
    operands = tuple(re.findall(r'%([\w.\-]+)', inside))
    attributes = f'({inside}){rest[end:]}' if opcode in ('parameter', 'constant') else rest[end:]
    return _Instruction(name, _arrays(kind), opcode, operands, attributes, bool(is_root))


def _closing(text: str) -> int:
    """Index of the bracket that closes the one at the start."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == '(') - (letter == ')')
        if not depth:
            return index
    raise ValueError(f'no closing bracket: {text[:80]}')


def _arrays(kind: str) -> tuple[_Array, ...]:
    found = []
    for element, dims, layout in re.findall(r'(\w+)\[([\d,]*)\](?:\{([^}]*)\})?', kind):
        dims = tuple(int(n) for n in dims.split(',') if n)
        padded = list(dims)
        order, _, tiling = layout.partition(':')
        tile = re.match(r'T\(([\d,]+)\)', tiling)
        if tile:
            minor_first = [int(n) for n in order.split(',') if n]
            for axis, length in zip(minor_first, reversed([int(n) for n in tile[1].split(',')])):
                padded[axis] = -(-padded[axis] // length) * length
        size = math.prod(padded) * _BITS.get(element, 0) // 8
        found.append(_Array(size, dims, 'S(' not in tiling))
    return tuple(found)


def _convolution_flops(one: _Instruction, lhs: tuple[int, ...], rhs: tuple[int, ...]) -> float:
    """Only products whose both factors are real count, not those with padding or inserted zeros."""
    lhs_labels, rhs_labels, out_labels = re.match(r'(\w+)_(\w+)->(\w+)', one.attribute('dim_labels')).groups()
    window = dict(re.findall(r'(\w+)=([\dx_\-]+)', re.search(r'window=\{([^}]*)\}', one.attributes + ' window={}')[1]))
    out = one.arrays[0].dims
    spatial = len(out) - 2

    def numbers(name: str) -> list[int]:
        return [int(n) for n in window[name].split('x')] if name in window else [1] * spatial

    pads = [int(pad.split('_')[0]) for pad in window['pad'].split('x')] if 'pad' in window else [0] * spatial
    pairs = 1
    for axis, (stride, spread, step, low) in enumerate(
        zip(numbers('stride'), numbers('lhs_dilate'), numbers('rhs_dilate'), pads)
    ):
        size, taps, places = (
            shape[labels.index(str(axis))] for shape, labels in ((lhs, lhs_labels), (rhs, rhs_labels), (out, out_labels))
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


def summary(collectives: dict) -> str:
    """`all-reduce 2 x 245.1 MiB, ...`"""
    by_size = collections.OrderedDict(sorted(collectives.items(), key=lambda item: -item[1][1]))
    return ', '.join(f'{count} {kind} of {size / 2**20:.1f} MiB' for kind, (count, size) in by_size.items()) or 'none'
