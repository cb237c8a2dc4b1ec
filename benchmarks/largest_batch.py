"""The most clips of which this machine's device trains a step, and how fast.

    python -m benchmarks.largest_batch --model=B32x3 [--first=8]

The step of benchmarks/train_step.py is compiled for two sizes; the memory that both need tells the
size that just fits into the device. That one is compiled and run, or, where it does not fit after
all, a tenth less, and so on.
"""

import argparse

import jax

from benchmarks import step_configs, synthetic_step

CLASSES = 400
_SPARE = 0.97  # of the device's memory that one allocator may hand out


def compiled_step(model: str, batch: int, remat: bool):
    """(function of one step, bytes that it holds,
    multiplications and additions of the model in it).
    """
    config = step_configs.plain(step_configs.backbone(model, remat), batch)
    step, state, share = synthetic_step.training_step(config, CLASSES)
    step = step.lower(state, share).compile()
    memory = step.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    held += memory.output_size_in_bytes - memory.alias_size_in_bytes
    flops = 6 * batch * config.model.backbone.multiplications()
    return synthetic_step.steps_of(step, state, share), held, flops


def largest(first: int, held: tuple[int, int], memory: int) -> int:
    """The clips that fit if memory grows straight from that of `first` to that of twice as many."""
    per_clip = (held[1] - held[0]) / first
    return int((memory - held[0]) / per_clip) + first


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--model', choices=step_configs.MODELS, default='B32x3')
    parser.add_argument('--first', type=int, default=8, help='clips of the smaller trial')
    parser.add_argument('--remat', action='store_true', help='recompute every block')
    parser.add_argument(
        '--memory', type=int, help="bytes (default: what the device's allocator has)"
    )
    args = parser.parse_args()
    device = jax.devices()[0]
    memory = args.memory or int(_SPARE * device.memory_stats()['bytes_limit'])
    held = tuple(compiled_step(args.model, n, args.remat)[1] for n in (args.first, 2 * args.first))
    clips = largest(args.first, held, memory)
    while clips > 0:
        try:
            run, bytes_held, flops = compiled_step(args.model, clips, args.remat)
            ((seconds, _),) = synthetic_step.take_turns([run], 3)
            break
        except jax.errors.JaxRuntimeError as error:
            if 'RESOURCE_EXHAUSTED' not in str(error):
                raise
            print(f'{clips} clips do not fit', flush=True)
            clips = int(0.9 * clips)
    else:
        raise SystemExit(f'not one clip fits into {memory / 2**30:.1f} GiB')
    print(
        f'{device.device_kind}, {args.model}: {clips} clips in {bytes_held / 2**30:.1f} GiB, '
        f'{1000 * seconds:.0f} ms a step, {clips / seconds:.1f} clips/s, '
        f'{flops / seconds / 1e12:.1f} TFLOP/s of the model'
    )


if __name__ == '__main__':
    main()
