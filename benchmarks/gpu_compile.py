"""Compiles a config's programs for an NVIDIA GPU, on a machine without one, and says what they
need: memory, work, kernels.

    pip install -e '.[gpu]'        # in a virtual environment of its own
    python -m benchmarks.gpu_compile --config=configs/multitrain.py --config.batch_size=8
    python -m benchmarks.gpu_compile --gpu=H200 --config=configs/multitrain.py \\
        --config.batch_size=8 \\
        --config.model.backbone.attention=cudnn

The whole training step, by XLA's GPU compiler, for one GPU. The table counts FLOPs and bytes by
part of the model; `least ms` is what they would take at the rates of the data sheet
(`tools/profile_step.py` measures on a real one). Nothing runs: this compares programs. Products of
matrices go to cuBLAS, as the tile sizes of XLA's own kernels are chosen by trying them.
"""

import argparse
import collections
import dataclasses
import json
import os
from pathlib import Path
import sys

# Before JAX starts: this process computes on the CPU and looks for no GPU.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_enable_triton_gemm=false'

from jax.experimental import topologies  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

from benchmarks import described_programs
from multitrain_jax.config import Config, load_config  # noqa: E402
from multitrain_jax.config_reading import split_arguments  # noqa: E402
from multitrain_jax.errors import UserError, run_command  # noqa: E402
from multitrain_jax.parallel.mesh import grid_mesh
from tools import hlo_ops, profile_step  # noqa: E402
from tools.hlo_text import Program  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What the compiler wants to know of a GPU (SXM forms), and its rates:
    bfloat16 FLOP/s without sparsity, bytes/s.
    """

    name: str
    memory: int  # bytes
    bandwidth: float
    flop_rate: float = 989e12
    cores: int = 132
    clock_ghz: float = 1.98
    l2_bytes: int = 52428800
    capability: tuple[int, int] = (9, 0)

    def target(self) -> str:
        """XLA's description of the device, as text of the protocol buffer GpuTargetConfigProto."""
        major, minor = self.capability
        return f"""
            platform_name: "CUDA"
            device_description_str: "{self.name}"
            dnn_version_info {{ major: 9 minor: 8 }}
            runtime_version {{ major: 12 minor: 8 }}
            gpu_device_info {{
              cuda_compute_capability {{ major: {major} minor: {minor} }}
              core_count: {self.cores} clock_rate_ghz: {self.clock_ghz} fpus_per_core: 128
              device_memory_size: {self.memory} memory_bandwidth: {int(self.bandwidth)}
              l2_cache_size: {self.l2_bytes}
              threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
              shared_memory_per_core: 233472
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
            }}"""


GPUS = {
    'H100': Gpu('NVIDIA H100 80GB HBM3', 80 << 30, 3.35e12),
    'H200': Gpu('NVIDIA H200', 141 << 30, 4.8e12),
}


def compile_program(gpu: Gpu, program: str, config: Config) -> tuple[dict, str]:
    """(what the compiled program needs, as fields of one line of JSON; its text)."""
    note = described_programs.Clock()
    try:
        devices = topologies.get_topology_desc(
            gpu.name, 'cuda', topology='1x1x1', target_config=gpu.target()
        ).devices
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f'no CUDA compiler here ({error}): pip install jax[cuda12]') from error
    lowered = described_programs.lower(program, config, grid_mesh(1, devices))
    note(f'{program} lowered, {len(lowered.as_text().splitlines())} lines')
    compiled = lowered.compile()
    note('compiled')
    memory, text = compiled.memory_analysis(), compiled.as_text()
    kernels = collections.Counter()
    for one in hlo_ops.Operations(Program(text)).executed():
        kernels[one.instruction.target or 'XLA'] += one.runs
    return dict(
        gpu=gpu.name,
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        kernels=dict(kernels),
        compile_cpu_s=note.compiling,
    ), text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--gpu', default='H100', choices=sorted(GPUS))
    parser.add_argument('--program', default='train', choices=described_programs.PROGRAMS)
    parser.add_argument('--hlo', metavar='FILE', help='gets the compiled program as text')
    config_arguments, others = split_arguments(sys.argv[1:])
    args = parser.parse_args(others)
    config = load_config(config_arguments or [f'--config={ROOT}/configs/multitrain.py'])
    result, text = compile_program(GPUS[args.gpu], args.program, config)
    if args.hlo:
        Path(args.hlo).write_text(text, encoding='utf-8')
    gpu = GPUS[args.gpu]
    print(profile_step.least_times(text, gpu.flop_rate, gpu.bandwidth), file=sys.stderr)
    if args.program == 'train':
        for name, other in GPUS.items():  # the same program: both have the same cores
            found = described_programs.bounds(text, config, 1, other.flop_rate, other.bandwidth)
            result[name] = dict(least_ms=found.least_ms, ceiling=found.ceiling)
    print(json.dumps(result))


if __name__ == '__main__':
    run_command(main)
