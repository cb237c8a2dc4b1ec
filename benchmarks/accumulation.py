"""Memory and time of a training step: the batch at once, cut into pieces, and cut with two passes.

    python benchmarks/accumulation.py [--batch=64] [--pieces=8] [--rounds=5]

The quickstart's model on one device. The steps take turns within every round; printed are medians.
"""

import argparse
import dataclasses
import importlib.util
from pathlib import Path
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from multitrain_jax import optimizer, parallel, train_step  # noqa: E402
from multitrain_jax.batch import DatasetSpec  # noqa: E402
from multitrain_jax.config import read_config  # noqa: E402


def compiled_step(config, mesh):
    """(a function that takes one step from the first state and returns when it is done, MiB of temporary memory)."""
    datasets = [DatasetSpec(name, tuple(map(str, range(10)))) for name in config.datasets]
    graphdef, params = train_step.abstract_model(config, datasets)
    tx = optimizer.build_optimizer(config.optimizer, lambda step: 1e-3, train_step.training_params(config, params))
    state = jax.jit(lambda: train_step.init_state(config, datasets, tx))()
    backbone, rng = config.model.backbone, np.random.default_rng(0)
    shape = (config.batch_size, backbone.num_frames, backbone.image_size, backbone.image_size, 3)
    batch = {
        'video': rng.integers(0, 256, shape, np.uint8),
        'dataset': rng.integers(0, len(datasets), config.batch_size, np.int32),
        'label': rng.integers(0, 10, config.batch_size, np.int32),
        'weight': np.ones(config.batch_size, np.float32),
    }
    share = parallel.to_devices(batch, mesh)
    step = parallel.map_train_step(train_step.make_train_step(config, datasets, graphdef, tx), mesh)
    program = step.lower(state, share).compile()

    def run():
        start = parallel.replicate(jax.tree.map(jnp.copy, state), mesh)  # the step takes it over
        jax.block_until_ready(start)
        begin = time.perf_counter()
        jax.block_until_ready(program(start, share))
        return time.perf_counter() - begin

    return run, program.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--pieces', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location('quickstart', ROOT / 'configs' / 'quickstart.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = dataclasses.replace(read_config(module.get_config()), batch_size=args.batch)
    mesh = parallel.data_mesh(jax.devices()[:1])
    device = mesh.devices.flat[0]
    print(f'jax {jax.__version__}, {device.device_kind} ({device.platform}), quickstart model, batch {args.batch}')
    cases = {
        f'1 x {args.batch}': (1, 'plain'),
        f'{args.pieces} x {args.batch // args.pieces}, plain': (args.pieces, 'plain'),
        f'{args.pieces} x {args.batch // args.pieces}, two passes': (args.pieces, 'two_pass'),
    }
    steps = {
        name: compiled_step(dataclasses.replace(config, accumulation_steps=pieces, accumulation=how), mesh)
        for name, (pieces, how) in cases.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(args.rounds + 1):
        for name, (run, _) in steps.items():
            taken = run()
            if round_number:  # the first warms up
                seconds[name].append(taken)
    print(f'{"":<24} {"memory MiB":>11} {"step ms":>9} {"relative":>9}')
    first = statistics.median(next(iter(seconds.values())))
    for name, (_, memory) in steps.items():
        own = statistics.median(seconds[name])
        print(f'{name:<24} {memory:>11.0f} {1000 * own:>9.0f} {own / first:>9.2f}', flush=True)


if __name__ == '__main__':
    main()
