"""Where the time of a training step goes: by part of the model, beside the FLOPs and bytes of each
and the roofline.

    python -m tools.profile_step --model=S16x4 [--batch=1] [--steps=5] [--top=20] [--json=FILE] \\
        [--plot=FILE]

The step is that of benchmarks/train_step.py (forward, backward, clipping, AdamW; one dataset, no
augmentation); quickstart is that of configs/quickstart.py, and with --recipe the published sizes
take that of configs/multitrain.py (four datasets, all losses, RandAugment). Needs JAX and what the
model needs, no TensorFlow.

Times are wall times of the fastest of the traced steps. Where several operations run at once, each
gets an equal share of the time (on CPU one of each thread that works), so that all rows and "not
attributed" (no operation ran: launching, waiting, and what the trace does not show) add up to the
step. A loop does not count, only what runs in it. FLOPs and bytes are counted in the compiled
program: those of products of matrices and convolutions, those of other arithmetic ("other"), and
operands and results of every operation, whether they come from memory or a cache. The roofline is
the time that these take at the rates of a large matrix product and of adding to a large array,
measured here as well: for each operation the longer of the two.

With JAX_COMPILATION_CACHE_DIR set, a second run need not compile. A GPU's command buffers hide what
runs in them: XLA_FLAGS=--xla_gpu_enable_command_buffer= turns them off.
"""

import argparse
import collections
from collections.abc import Callable, Mapping
import dataclasses
import json
from pathlib import Path

import jax

from benchmarks import device_rates, step_configs, synthetic_step
from multitrain_jax.config import Config
from multitrain_jax.errors import run_command
from multitrain_jax.parallel import host_memory
from tools import profile_trace
from tools.hlo_ops import Operations, cycles
from tools.hlo_text import Program
from tools.profile_kinds import KINDS, OTHER, Parts

CLASSES = 400  # of every dataset


@dataclasses.dataclass
class Row:
    """What one operation or one kind of operations does in a step.

    Attributes:
        ms: wall time.
        backward_ms: the part of it that belongs to the backward pass.
        products: FLOPs of matrix products and convolutions.
        other: FLOPs of other arithmetic.
        bytes: of operands and results.
        roofline_ms: the least time for these FLOPs and bytes, added up over operations.
        cycles: what a TPU's compiler estimates; 0 for others.
    """

    ms: float = 0.0
    backward_ms: float = 0.0
    products: float = 0.0
    other: float = 0.0
    bytes: float = 0.0
    roofline_ms: float = 0.0
    cycles: float = 0.0

    def __add__(self, more: 'Row') -> 'Row':
        return Row(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(more))))


@dataclasses.dataclass
class Profile:
    """Attributes:
    step_ms: wall time of the fastest traced step.
    untraced_ms: of a step without tracing, median.
    flop_rate, bandwidth: of the device, FLOP/s and bytes/s.
    operations: {name: (kind, runs in a step, Row)}.
    where: {name: path of scopes of the operation}.
    not_attributed_ms: time in which no operation ran.
    """

    step_ms: float
    untraced_ms: float
    flop_rate: float
    bandwidth: float
    operations: dict[str, tuple[str, int, Row]]
    where: dict[str, str]
    not_attributed_ms: float

    def kinds(self) -> dict[str, Row]:
        """By kind, the dearest first."""
        return dict(sorted(by_kind(self.operations).items(), key=lambda item: -item[1].ms))


def count(
    text: str, flop_rate: float, bandwidth: float
) -> tuple[dict[str, tuple[str, int, Row]], set[str], dict[str, str]]:
    """({operation: (kind, runs, Row without times)}, names of those of the backward pass,
    {operation: path of scopes}).
    """
    operations = Operations(Program(text))
    parts = Parts(operations)
    table, backward, where = {}, set(), {}
    for one in operations.executed():
        name = one.instruction.name
        products, other = (
            one.runs * of(one.computation, name) for of in (operations.flops, operations.arithmetic)
        )
        size = one.runs * operations.bytes(one)
        least = 1000 * max((products + other) / flop_rate, size / bandwidth)
        part = parts.of(one)
        _, runs, row = table.get(
            name, ('', 0, Row())
        )  # a computation may be called from several places
        table[name] = (
            part.kind,
            runs + one.runs,
            row + Row(0, 0, products, other, size, least, one.runs * cycles(one.instruction)),
        )
        where[name] = one.instruction.op_name
        if part.backward:
            backward.add(name)
    return table, backward, where


def by_kind(operations: Mapping[str, tuple[str, int, Row]]) -> dict[str, Row]:
    """What `count` gives, added up."""
    rows = collections.defaultdict(Row)
    for kind, _, row in operations.values():
        rows[kind] += row
    return dict(rows)


def least_times(text: str, flop_rate: float, bandwidth: float, clock: float = 0.0) -> str:
    """A table of FLOPs, bytes and least time by part of the model, of a compiled program that need
    not run.

    Args:
        text: the program.
        flop_rate: of the device, FLOP/s.
        bandwidth: of its memory, bytes/s.
        clock: cycles/s of a TPU, for the time of the cycles that its compiler estimates; 0:
            without.
    """
    rows = by_kind(count(text, flop_rate, bandwidth)[0])
    rows['all'] = sum(rows.values(), Row())
    columns = ['GFLOP', 'GB', 'least ms'] + (['cycles ms'] if clock else [])
    lines = [f'{"":<20}' + ''.join(f'{column:>10}' for column in columns)]
    for kind, row in sorted(rows.items(), key=lambda item: -item[1].roofline_ms):
        numbers = [(row.products + row.other) / 1e9, row.bytes / 1e9, row.roofline_ms]
        numbers += [1000 * row.cycles / clock] if clock else []
        lines.append(f'{kind:<20}' + ''.join(f'{number:>10.2f}' for number in numbers))
    return '\n'.join(lines)


def profile(
    compiled: jax.stages.Compiled, step: Callable[[], None], steps: int, dtype: str
) -> Profile:
    """Profiles a compiled program that `step` runs once."""
    (untraced,) = synthetic_step.take_turns([step], steps)
    rates = [(device_rates.matmul_rate(dtype), device_rates.memory_bandwidth())]
    trace = profile_trace.trace(step, steps)
    # Once more, and the higher ones: other work on the machine only slows down.
    rates.append((device_rates.matmul_rate(dtype), device_rates.memory_bandwidth()))
    flop_rate, bandwidth = map(max, *rates)
    table, backward, where = count(compiled.as_text(), flop_rate, bandwidth)
    spans = [span for span in profile_trace.intervals(trace) if span[0] in table]
    begin, end = min(profile_trace.steps_of(trace), key=lambda window: window[1] - window[0])
    times = profile_trace.shared_times([span for span in spans if begin <= span[1] < end])
    for name, (_, _, row) in table.items():
        row.ms = 1e-6 * times.get(name, 0.0)
        row.backward_ms = row.ms if name in backward else 0.0
    step_ms = 1e-6 * (end - begin)
    return Profile(
        step_ms,
        1000 * untraced[0],
        flop_rate,
        bandwidth,
        table,
        where,
        step_ms - 1e-6 * sum(times.values()),
    )


def print_table(result: Profile, top: int) -> None:
    """One line for each kind, then the dearest operations."""
    kinds = result.kinds()
    total = sum(kinds.values(), Row())
    columns = (
        'ms',
        'share %',
        'backward',
        'GFLOP',
        'other',
        'GB',
        'GFLOP/s',
        'GB/s',
        'roofline',
        'times it',
    )

    def line(name: str, row: Row) -> str:
        seconds = max(row.ms, 1e-6) / 1000
        numbers = (
            row.ms,
            100 * row.ms / result.step_ms,
            row.backward_ms,
            row.products / 1e9,
            row.other / 1e9,
            row.bytes / 1e9,
            (row.products + row.other) / 1e9 / seconds,
            row.bytes / 1e9 / seconds,
            row.roofline_ms,
            row.ms / max(row.roofline_ms, 1e-6),
        )
        return f'{name:<20}' + ''.join(
            f'{number:>10.{2 if number < 10 else 1}f}' for number in numbers
        )

    print(f'{"":<20}' + ''.join(f'{column:>10}' for column in columns))
    for kind, row in kinds.items():
        print(line(kind, row))
    print(
        f'{"not attributed":<20}{result.not_attributed_ms:>10.1f}'
        f'{100 * result.not_attributed_ms / result.step_ms:>10.1f}'
    )
    print(line('all', total))
    if top:
        print('\nThe dearest operations: runs, ms, times the roofline')
    for name, (kind, runs, row) in sorted(
        result.operations.items(), key=lambda item: -item[1][2].ms
    )[:top]:
        over = row.ms / max(row.roofline_ms, 1e-6)
        direction = 'backward' if row.backward_ms else ''
        print(f'{runs:>4} x {row.ms:>8.1f} {over:>6.1f}  {kind:<19}{direction:<9}{name}')


def as_json(result: Profile) -> dict:
    return dataclasses.asdict(result) | dict(
        kinds={kind: dataclasses.asdict(row) for kind, row in result.kinds().items()},
        operations={
            name: dict(kind=kind, runs=runs, where=result.where[name], **dataclasses.asdict(row))
            for name, (kind, runs, row) in result.operations.items()
        },
    )


def experiment(model: str, form: str, batch: int, recipe: bool, remat: bool) -> Config:
    """What the command line asks for."""
    if recipe or model == 'quickstart':
        return step_configs.shipped(model, batch, remat)
    return step_configs.plain(step_configs.FORMS[form](step_configs.backbone(model, remat)), batch)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='kinds:\n'
        + '\n'.join(f'  {kind:<20}{what}' for kind, what in (KINDS | {OTHER: 'the rest'}).items()),
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument('--model', choices=('quickstart', *step_configs.MODELS), default='S16x4')
    parser.add_argument(
        '--form', choices=step_configs.FORMS, default='public', help='of the published sizes'
    )
    parser.add_argument(
        '--recipe',
        action='store_true',
        help='the step of configs/multitrain.py, augmentation included',
    )
    parser.add_argument('--batch', type=int, default=1, help='clips')
    parser.add_argument(
        '--remat', action='store_true', help='recompute every block in the backward pass'
    )
    parser.add_argument('--steps', type=int, default=5)
    parser.add_argument('--top', type=int, default=20, help='how many operations are listed')
    parser.add_argument('--json', type=Path, help='file for all numbers, operation by operation')
    parser.add_argument('--plot', type=Path, help='file for a picture (needs matplotlib)')
    args = parser.parse_args()
    for name in ('batch', 'steps'):
        if getattr(args, name) < 1:
            parser.error(f'--{name}={getattr(args, name)}: must be at least 1')
    host_memory.keep_freed_memory()
    # Without it, a program from the cache has the scopes of the code that filled it.
    jax.config.update('jax_compilation_cache_include_metadata_in_key', True)
    config = experiment(args.model, args.form, args.batch, args.recipe, args.remat)
    step, state, share = synthetic_step.training_step(config, CLASSES)
    compiled = step.lower(state, share).compile()
    result = profile(
        compiled, synthetic_step.steps_of(compiled, state, share), args.steps, step_configs.dtype()
    )
    device = jax.devices()[0]
    print(
        f'jax {jax.__version__}, {device.device_kind} ({device.platform}), {args.model}, batch '
        f'{args.batch}; matrix product '
        f'{result.flop_rate / 1e9:.1f} GFLOP/s, memory {result.bandwidth / 1e9:.1f} GB/s\n'
        f'step {result.step_ms:.1f} ms, without tracing {result.untraced_ms:.1f} ms'
    )
    print_table(result, args.top)
    if args.json:
        args.json.write_text(json.dumps(as_json(result), indent=1))
    if args.plot:
        from tools import profile_plot  # matplotlib may be missing on accelerator machines

        profile_plot.draw(
            result, args.plot, f'{args.model}, batch {args.batch}, {device.device_kind}'
        )


if __name__ == '__main__':
    run_command(main)
