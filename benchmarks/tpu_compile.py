"""Compiles a config's programs for TPUs, on a machine without one, and says what they need: memory,
work, communication.

    pip install -e '.[tpu]'        # in a virtual environment of its own
    python -m benchmarks.tpu_compile --topology=v5e:16x16 --config=configs/multitrain.py \\
        --output=results.jsonl
    python -m benchmarks.tpu_compile --topology=v5e:4x4 --config=configs/multitrain.py \\
        --config.accumulation_steps=16
    python -m benchmarks.tpu_compile --table results.jsonl

The whole training step is compiled by TPU's own compiler (libtpu): augmentation, all losses with
their collectives, accumulation, AdamW. Arrays are only described, no data is read; the datasets'
numbers of classes are known here. Results are lines of JSON, so that a table can be made of several
runs; a program that does not fit is a result, too. The compiler's ms are its estimates of its
kernels added up, Pallas kernels left out, of which it has none; clips/s of a chip and hours of the
whole run follow from them.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
from pathlib import Path
import re
import sys
from unittest import mock

# Before JAX starts: this process computes on the CPU, and libtpu must neither look for TPUs, nor
# ask a cloud about them, nor keep other processes from loading it.
os.environ |= dict(
    JAX_PLATFORMS='cpu',
    TPU_SKIP_MDS_QUERY='1',
    TPU_WORKER_HOSTNAMES='localhost',
    ALLOW_MULTIPLE_LIBTPU_LOAD='1',
)

import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

from benchmarks import described_programs
from multitrain_jax.config import Config, load_config  # noqa: E402
from multitrain_jax.config_reading import split_arguments  # noqa: E402
from multitrain_jax.errors import run_command  # noqa: E402
from multitrain_jax.models import pooling_attention  # noqa: E402
from multitrain_jax.ops.depthwise_pool import depthwise_pool  # noqa: E402
from multitrain_jax.parallel.mesh import grid_mesh
from tools import hlo_cost, profile_step  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip's memory, and its rates by the data sheet:
    bfloat16 FLOP/s, bytes/s from HBM, cycles/s.
    """

    gib: int
    flop_rate: float
    bandwidth: float
    clock: float


CHIPS = {
    'TPU v4': Chip(32, 275e12, 1.228e12, 1.05e9),
    'TPU v5 lite': Chip(16, 197e12, 0.819e12, 1.5e9),
    'TPU v5': Chip(95, 459e12, 2.765e12, 1.75e9),
    'TPU v6 lite': Chip(32, 918e12, 1.64e12, 1.75e9),
}


def compile_program(
    topology: str, program: str, config: Config, options: dict, hlo: str | None
) -> dict:
    """What the compiled program needs on every chip, as fields of one line of the results."""
    note = described_programs.Clock()
    # The two cores of a v4 chip work as one device, as they do on a real one; else they would be
    # two.
    cores = {'chip_config_name': 'megacore'} if topology.startswith('v4') else {}
    devices = topologies.get_topology_desc(topology, 'tpu', **cores).devices
    mesh = grid_mesh(config.parallel.model, devices)
    note(f'{len(devices)} x {devices[0].device_kind}')
    lowered = described_programs.lower(program, config, mesh)
    note(f'{program} lowered, {len(lowered.as_text().splitlines())} lines')
    chip = CHIPS[devices[0].device_kind]
    result = dict(chip=devices[0].device_kind, chips=len(devices), gib=chip.gib)
    try:
        compiled = lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        if 'hbm' not in str(error):
            raise
        note('does not fit')
        used = re.search(r'Used ([\d.]+[GM]) of ([\d.]+[GM]) hbm', str(error))
        return result | dict(fits=False, used=used and used[0], compile_cpu_s=note.compiling)
    note('compiled')
    memory = compiled.memory_analysis()
    text = compiled.as_text()
    if hlo:
        Path(hlo).write_text(text, encoding='utf-8')
    print(
        profile_step.least_times(text, chip.flop_rate, chip.bandwidth, chip.clock), file=sys.stderr
    )
    cost = hlo_cost.of_program(text)
    if program == 'train':
        found = described_programs.bounds(
            text, config, len(devices), chip.flop_rate, chip.bandwidth
        )
        result |= dataclasses.asdict(found) | dict(clock=chip.clock)
    return result | dict(
        fits=True,
        peak=memory.peak_memory_in_bytes,
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        flops=cost.flops,
        bytes=cost.bytes,
        cycles=cost.cycles,
        collectives=cost.collectives,
        compile_cpu_s=note.compiling,
    )


def table(paths: list[str]) -> str:
    """The results of several runs as a table, in the order in which they were made."""
    lines = [
        '| program | TPU | settings | GiB per chip | GFLOP | GB moved | Mcycles | collectives | '
        'compiling, CPU s '
        '| least ms | ceiling % | compiler ms | clips/s | hours |',
        f'|{"---|" * 14}',
    ]
    for path in paths:
        for line in Path(path).read_text(encoding='utf-8').splitlines():
            one = json.loads(line)
            start = f'| {one["program"]} | {one["topology"]} | {" ".join(one["settings"]) or "-"} '
            if not one['fits']:
                lines.append(
                    f'{start}| does not fit: {one["used"]} of {one["gib"]} | | | | | '
                    f'{one["compile_cpu_s"]:.0f} | | | | | |'
                )
                continue
            lines.append(
                f'{start}| {one["peak"] / 2**30:.2f} of {one["gib"]} | {one["flops"] / 1e9:.0f} '
                f'| {one["bytes"] / 1e9:.1f} '
                f'| {one["cycles"] / 1e6:.0f} | {hlo_cost.summary(one["collectives"])} | '
                f'{one["compile_cpu_s"]:.0f} ' + _speed(one)
            )
    return '\n'.join(lines)


def _speed(one: dict) -> str:
    """Cells of a line of the table: roofline, the compiler's estimate,
    and what follows from that.
    """
    if 'least_ms' not in one:
        return '| | | | | |'
    ms = 1000 * one['cycles'] / one['clock']
    hours = described_programs.hours(one['run_clips'], one['clips'], ms, one['chips'])
    return (
        f'| {one["least_ms"]:.1f} | {100 * one["ceiling"]:.0f} | {ms:.0f} '
        f'| {1000 * one["clips"] / ms:.1f} | {hours:.0f} |'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        '--topology', default='v5e:16x16', help='such as v5e:4x4, v4:2x2x4, v5p:2x2x2'
    )
    parser.add_argument(
        '--program',
        default='train',
        choices=described_programs.PROGRAMS,
        help='predict: of an export',
    )
    parser.add_argument(
        '--pool',
        choices=('xla_conv', 'shifted'),
        help='pooling convolution (default: that for TPU)',
    )
    parser.add_argument(
        '--level',
        choices=('O0', 'O1', 'O2', 'O3'),
        help="of optimization (default: the compiler's own); O0: far quicker, the program slower",
    )
    parser.add_argument('--hlo', metavar='FILE', help='gets the compiled program as text')
    parser.add_argument('--output', help='file that gets a line of JSON')
    parser.add_argument(
        '--table', nargs='+', metavar='FILE', help='print the results in these files instead'
    )
    config_arguments, others = split_arguments(sys.argv[1:])
    args = parser.parse_args(others)
    if args.table:
        print(table(args.table))
        return
    config = load_config(config_arguments or [f'--config={ROOT}/configs/multitrain.py'])
    options = {'optimization_level': args.level} if args.level else {}
    pool = contextlib.nullcontext()
    if args.pool:
        pool = mock.patch.object(
            pooling_attention,
            'depthwise_pool',
            functools.partial(depthwise_pool, implementation=args.pool),
        )
    settings = [
        argument.removeprefix('--config.').removeprefix('--config=')
        for argument in config_arguments
    ]
    settings += [
        f'{name}={value}' for name, value in (('pool', args.pool), ('level', args.level)) if value
    ]
    with pool:
        result = compile_program(args.topology, args.program, config, options, args.hlo)
    line = json.dumps(
        dict(program=args.program, topology=args.topology, settings=settings) | result
    )
    print(line)
    if args.output:
        with open(args.output, 'a', encoding='utf-8') as file:
            file.write(line + '\n')


if __name__ == '__main__':
    run_command(main)
