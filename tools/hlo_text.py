"""A program in XLA's text form, `compiled.as_text()`, read: computations,
their instructions, and how often each runs.
"""

import dataclasses
import functools
import math
import re

_BITS = dict(
    pred=8,
    s4=4,
    u4=4,
    s8=8,
    u8=8,
    s16=16,
    u16=16,
    bf16=16,
    f16=16,
    s32=32,
    u32=32,
    f32=32,
    s64=64,
    u64=64,
    f64=64,
)
_FLOATS = ('bf16', 'f16', 'f32', 'f64')


@dataclasses.dataclass(frozen=True)
class Array:
    bytes: int  # with padding
    dims: tuple[int, ...]
    in_hbm: bool  # a TPU's other arrays lie in its core; on CPU and GPU all are in memory
    floating: bool

    @property
    def size(self) -> int:
        return math.prod(self.dims)


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    arrays: tuple[Array, ...]  # of the result, tuples flattened
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def attribute(self, name: str) -> str:
        match = re.search(rf'\b{name}=(\{{[^}}]*\}}|[^,\s]+)', self.attributes)
        return match[1] if match else ''

    @functools.cached_property
    def called(self) -> list[str]:
        names = (
            'calls',
            'to_apply',
            'body',
            'branch_computations',
            'true_computation',
            'false_computation',
        )
        return [one for name in names for one in re.findall(r'%([\w.\-]+)', self.attribute(name))]

    @property
    def op_name(self) -> str:
        """Where in the Python program it comes from:
        names of functions and `jax.named_scope`s, joined by slashes.
        """
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ''

    @property
    def target(self) -> str:
        """The function that a custom call calls."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ''


class Program:
    """Attributes:
    computations: by name, each its instructions by name.
    entry: name of the computation that the program is.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        current: dict[str, Instruction] = {}
        self.entry = ''
        for line in text.splitlines():
            header = re.match(r'(ENTRY )?%([\w.\-]+) \(.*\{$', line)
            if header:
                current = self.computations[header[2]] = {}
                self.entry = header[2] if header[1] else self.entry
            elif line.startswith('  ') and ' = ' in line:
                instruction = _parse(line)
                current[instruction.name] = instruction

    def fused(self) -> set[str]:
        """The computations that are bodies of fusions."""
        every = (one for computation in self.computations.values() for one in computation.values())
        return {called for one in every if one.opcode == 'fusion' for called in one.called}

    def root(self, computation: str) -> Instruction:
        (root,) = (one for one in self.computations[computation].values() if one.is_root)
        return root

    def trips(self, loop: Instruction) -> int | None:
        """How often a loop runs, where the compiler says so or its condition
        compares a counter from 0 with a constant.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1])
        limits = {
            int(match[1])
            for one in self.computations[
                re.search(r'condition=%([\w.\-]+)', loop.attributes)[1]
            ].values()
            if one.opcode == 'constant' and (match := re.match(r'\((\d+)\)', one.attributes))
        }
        return limits.pop() if len(limits) == 1 else None


def _parse(line: str) -> Instruction:
    is_root, name, rest = re.match(r'\s+(ROOT )?%([\w.\-]+) = (.*)', line).groups()
    end = _closing(rest) + 1 if rest.startswith('(') else rest.index(' ')
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, rest = rest.split('(', 1)
    if opcode == 'fusion-start':
        # A fusion beside which other operations run; its type is ((operands), results, context).
        operands = kind[1 : _closing(kind[1:]) + 2]
        opcode, kind = 'fusion', kind[1 + len(operands) : kind.rindex(',')]
    end = _closing('(' + rest)
    inside = rest[: end - 1]
    operands = tuple(re.findall(r'%([\w.\-]+)', inside))
    attributes = f'({inside}){rest[end:]}' if opcode in ('parameter', 'constant') else rest[end:]
    return Instruction(name, _arrays(kind), opcode, operands, attributes, bool(is_root))


def _closing(text: str) -> int:
    """Index of the bracket that closes the one at the start."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == '(') - (letter == ')')
        if not depth:
            return index
    raise ValueError(f'no closing bracket: {text[:80]}')


def _arrays(kind: str) -> tuple[Array, ...]:
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
        found.append(Array(size, dims, 'S(' not in tiling, element in _FLOATS))
    return tuple(found)
