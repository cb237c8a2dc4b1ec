"""What a compiled TPU program does, counted in its text: XLA's own totals count the body of a loop
once, however often it runs.

    cost = hlo_cost.of_program(compiled.as_text())

Counted are multiplications of matrices and convolutions, bytes that go between the chip's memory
(HBM) and the core, the compiler's estimate of clock cycles, and collectives.
"""

import collections
import dataclasses

from tools.hlo_ops import Operations, cycles
from tools.hlo_text import Instruction, Program

_COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run of the program on one chip.

    Attributes:
        flops: of matrix products and convolutions; a multiplication and an addition are two.
        bytes: read from and written to HBM, as the arrays lie there (rows of 96 numbers fill 128).
        cycles: clock cycles, the compiler's estimates of its kernels added up. For comparing
            programs.
        collectives: {kind: (how many, bytes of their results)}.
        unknown_loops: loops of which the text does not say how often they run; counted as once.
    """

    flops: float = 0.0
    bytes: float = 0.0
    cycles: float = 0.0
    collectives: dict = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0


def of_program(text: str) -> Cost:
    """The cost of a program in XLA's text form, `compiled.as_text()`."""
    program = Program(text)
    operations, fused = Operations(program), program.fused()
    flops = size = estimate = 0.0
    moved: dict[tuple[str, str], tuple[int, int]] = {}  # (kind, channel): (runs, bytes)

    def look_for_collectives(computation: str, one: Instruction, runs: int) -> None:
        kind = one.opcode.removesuffix('-start')
        if kind in _COLLECTIVES:
            # Fusions that run beside a collective each hold a copy of it.
            channel = one.attribute('channel_id') if computation in fused else one.name
            length = sum(array.bytes for array in one.arrays) // (
                2 if one.opcode.endswith('-start') else 1
            )
            moved[kind, channel] = (runs, length)
        for called in one.called if one.opcode == 'fusion' else ():
            for inner in program.computations[called].values():
                look_for_collectives(called, inner, runs)

    for one in operations.executed():
        if one.runs:
            flops += one.runs * operations.flops(one.computation, one.instruction.name)
            size += one.runs * operations.bytes(one)
            estimate += one.runs * cycles(one.instruction)
            look_for_collectives(one.computation, one.instruction, one.runs)
    collectives: dict[str, tuple[int, int]] = {}
    for (kind, _), (count, length) in moved.items():
        before = collectives.get(kind, (0, 0))
        collectives[kind] = (before[0] + count, before[1] + count * length)
    every = (one for computation in program.computations.values() for one in computation.values())
    unknown = sum(one.opcode == 'while' and program.trips(one) is None for one in every)
    return Cost(flops, size, estimate, collectives, unknown)


def summary(collectives: dict) -> str:
    """`all-reduce 2 x 245.1 MiB, ...`"""
    by_size = collections.OrderedDict(sorted(collectives.items(), key=lambda item: -item[1][1]))
    return (
        ', '.join(
            f'{count} {kind} of {size / 2**20:.1f} MiB' for kind, (count, size) in by_size.items()
        )
        or 'none'
    )
