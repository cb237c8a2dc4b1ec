"""Memory and time of a training step: the batch at once, cut into pieces, and cut with two passes.

    python -m benchmarks.accumulation [--batch=64] [--pieces=8] [--rounds=5]

The quickstart's model on one device. The steps take turns within every round; printed are medians.
"""

import argparse
import dataclasses

import jax

from benchmarks import synthetic_step
from multitrain_jax.config import read_config


def compiled_step(config):
    """(a function that takes a step, MiB of temporary memory)."""
    step, state, share = synthetic_step.training_step(config, classes=10)
    program = step.lower(state, share).compile()
    return synthetic_step.steps_of(
        program, state, share
    ), program.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--pieces', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    config = dataclasses.replace(
        read_config(synthetic_step.shipped_config('quickstart')), batch_size=args.batch
    )
    device = jax.devices()[0]
    print(
        f'jax {jax.__version__}, {device.device_kind} ({device.platform}), quickstart model, '
        f'batch {args.batch}'
    )
    cases = {
        f'1 x {args.batch}': (1, 'plain'),
        f'{args.pieces} x {args.batch // args.pieces}, plain': (args.pieces, 'plain'),
        f'{args.pieces} x {args.batch // args.pieces}, two passes': (args.pieces, 'two_pass'),
    }
    steps = {
        name: compiled_step(
            dataclasses.replace(config, accumulation_steps=pieces, accumulation=how)
        )
        for name, (pieces, how) in cases.items()
    }
    taken = synthetic_step.take_turns([run for run, _ in steps.values()], args.rounds)
    print(f'{"":<24} {"memory MiB":>11} {"step ms":>9} {"relative":>9}')
    for (name, (_, memory)), (own, _) in zip(steps.items(), taken):
        print(
            f'{name:<24} {memory:>11.0f} {1000 * own:>9.0f} {own / taken[0][0]:>9.2f}', flush=True
        )


if __name__ == '__main__':
    main()
