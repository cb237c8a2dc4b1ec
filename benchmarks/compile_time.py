"""What it takes to make the training step of a model ready: tracing and lowering, compiling,
without any cache.

    python -m benchmarks.compile_time [--model quickstart S16x4 B32x3] [--batch=4] [--remat]

quickstart is the step of configs/quickstart.py, S16x4 and B32x3 are that of configs/multitrain.py
(four datasets, all losses, RandAugment), in bfloat16 on accelerators and float32 on CPU. Seconds,
each also of processor time of this process, which other work on the machine disturbs less; lines of
the program before optimisation.
"""

import argparse

import jax

from benchmarks import step_configs, synthetic_step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        '--model',
        choices=('quickstart', *step_configs.MODELS),
        nargs='+',
        default=['quickstart', 'S16x4'],
    )
    parser.add_argument('--batch', type=int, default=4, help='clips')
    parser.add_argument(
        '--remat', action='store_true', help='recompute every block in the backward pass'
    )
    args = parser.parse_args()
    device = jax.devices()[0]
    print(
        f'jax {jax.__version__}, {device.device_kind} ({device.platform}), batch {args.batch}, '
        f'remat {args.remat}'
    )
    print(
        f'{"":<12}{"lines":>9}{"lower s":>9}{"CPU s":>9}{"compile s":>11}{"CPU s":>9}', flush=True
    )
    for model in args.model:
        config = step_configs.shipped(model, args.batch, args.remat)
        step, state, share = synthetic_step.training_step(config, classes=100)
        lowered, lowering = synthetic_step.timed(lambda: step.lower(state, share))
        _, compiling = synthetic_step.timed(lowered.compile)
        lines = len(lowered.as_text().splitlines())
        print(
            f'{model:<12}{lines:>9}{lowering[0]:>9.1f}{lowering[1]:>9.1f}{compiling[0]:>11.1f}{compiling[1]:>9.1f}',
            flush=True,
        )


if __name__ == '__main__':
    main()
