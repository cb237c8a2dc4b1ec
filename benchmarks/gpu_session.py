"""All that is to be measured on a GPU in one command, for a machine that is lent for a quarter of
an hour.

    pip install -e '.[gpu]' torch torchvision
    python -m benchmarks.gpu_session --output=DIR [--minutes=13]

Parts, in the order of what they are worth, each a process with a time limit of its own, whose
output goes to DIR/PART.txt:

    equal        every implementation in bfloat16 against XLA's in float32
                 (benchmarks/gpu_equality.py)
    s16x4        the step of S 16x4 against PyTorch's, eager and torch.compile
                 (benchmarks/train_step.py)
    b32x3        that of B 32x3
    attention    the step of B 32x3 of configs/multitrain.py's form with attention='cudnn', with
                 our kernels of norms and poolings as well ('auto'), and with neither ('xla')
    profile      where its time goes (tools/profile_step.py)
    largest      the largest batch (benchmarks/largest_batch.py)
    vit_b        the step of ViT-B against PyTorch's

A part that fails or takes too long does not keep the others from running; what no time is left for
is named. Programs are compiled once: JAX_COMPILATION_CACHE_DIR keeps them, by default
~/.cache/multitrain_jax/xla.
"""

import argparse
import os
from pathlib import Path
import subprocess
import sys
import time

_STEP = '-m benchmarks.train_step --rounds=5'
PARTS = {  # name: command, most seconds
    'equal': ('-m benchmarks.gpu_equality', 150),
    's16x4': (f'{_STEP} --model=S16x4 --batch=16 --against torch torch-compile', 200),
    'b32x3': (f'{_STEP} --model=B32x3 --batch=8 --against torch torch-compile', 240),
    'attention': (
        f'{_STEP} --model=B32x3 --batch=8 --form multitrain --attention cudnn auto xla',
        240,
    ),
    'profile': ('-m tools.profile_step --model=B32x3 --form=multitrain --batch=8 --top=30', 90),
    'largest': ('-m benchmarks.largest_batch --model=B32x3', 240),
    'vit_b': (f'{_STEP} --model=ViT-B --batch=16 --against torch torch-compile', 150),
}
_SMALL = {  # likewise, to try the command on a CPU
    'equal': ('-m benchmarks.gpu_equality --small', 100),
    'attention': ('-m benchmarks.train_step --model=tiny --rounds=1 --attention xla auto', 100),
    'profile': ('-m tools.profile_step --model=tiny --steps=1 --top=3', 100),
    'largest': (f'-m benchmarks.largest_batch --model=tiny --first=1 --memory={30 << 20}', 200),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--output', type=Path, required=True, help='directory for the results')
    parser.add_argument('--minutes', type=float, default=13.0, help='for all parts together')
    parser.add_argument('--parts', nargs='+', choices=PARTS, help='only these')
    parser.add_argument(
        '--small', action='store_true', help='tiny sizes, to try the command on a CPU'
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    end, failed = time.monotonic() + 60 * args.minutes, []
    cache = os.path.expanduser('~/.cache/multitrain_jax/xla')
    environment = dict(JAX_COMPILATION_CACHE_DIR=cache) | os.environ
    environment |= dict(
        XLA_PYTHON_CLIENT_MEM_FRACTION='0.95',
        # A command buffer would hide from the profile what runs in it.
        XLA_FLAGS=f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_enable_command_buffer=',
        PYTHONUNBUFFERED='1',
    )
    for name, (command, most) in (_SMALL if args.small else PARTS).items():
        left = end - time.monotonic()
        if args.parts and name not in args.parts:
            continue
        if left < 20:
            failed.append(f'{name}: no time left')
            continue
        began = time.monotonic()
        with open(args.output / f'{name}.txt', 'w', encoding='utf-8') as file:
            try:
                done = subprocess.run(
                    [sys.executable, *command.split()],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    timeout=min(left, most),
                )
                code = f'exit code {done.returncode}' if done.returncode else ''
            except subprocess.TimeoutExpired:
                code = 'out of time'
        print(f'==== {name}: {time.monotonic() - began:.0f} s {code}')
        print((args.output / f'{name}.txt').read_text(encoding='utf-8')[-6000:], flush=True)
        failed += [f'{name}: {code}'] * bool(code)
    print('\n'.join(['all parts done' if not failed else 'not done:', *failed]))
    return int(bool(failed))


if __name__ == '__main__':
    raise SystemExit(main())
