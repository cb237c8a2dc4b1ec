"""How fast a model trains on this machine's device, ours and PyTorch's in turns.

    python -m benchmarks.train_step --model=S16x4 --batch=1 [--against torch torch-compile] \\
        [--rounds=5]
    python -m benchmarks.train_step --model=ViT-B --batch=1 [--against torch torch-compile] \\
        [--rounds=5]

Ours is the training step of run.py (forward, backward, clipping, AdamW; one dataset of 400 classes,
cross-entropy, no augmentation), in bfloat16 on accelerators and float32 on CPU, and the forward
pass alone. --form=public is the architecture of torchvision, with class token and relative
positions, --form=multitrain that of configs/multitrain.py; a plain transformer is VideoMAE's in
both. PyTorch's side is torchvision's MViTv2 (pip install torch torchvision) or transformers'
VideoMAE (pip install torch transformers) on the same device: eager or torch.compile, autocast to
bfloat16 on a GPU, fused AdamW, and for its arrays the order (channels last or not) in which its
step is faster here.

Printed are medians over rounds in which all take turns, forward and step each also as processor
time of this process; peak memory of the step (arguments and temporary arrays of our program; what
CUDA's allocator of PyTorch held); and model-FLOP utilisation: the FLOPs of the model (multiply and
add count 2; backward twice forward; recomputation does not count) over what a large matrix product
reaches on this device. "speed" is relative to the first row.
"""

import argparse
import functools
import os

os.environ.setdefault(
    'XLA_PYTHON_CLIENT_PREALLOCATE', 'false'
)  # PyTorch needs memory of the GPU too

from flax import nnx  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from benchmarks import device_rates, step_configs, synthetic_step  # noqa: E402
from multitrain_jax.augment.pipeline import prepare_eval  # noqa: E402
from multitrain_jax.batch import DatasetSpec  # noqa: E402
from multitrain_jax.config import Config, with_datasets  # noqa: E402
from multitrain_jax.models.multitrain import abstract_model  # noqa: E402
from multitrain_jax.models.mvit import MViTConfig  # noqa: E402
from multitrain_jax.ops.attention import IMPLEMENTATIONS  # noqa: E402
from multitrain_jax.parallel import host_memory  # noqa: E402

CLASSES = 400


def ours(config: Config) -> dict:
    """Compiled forward pass and step, as functions without arguments;
    compile time; memory of the step.
    """
    step, state, share = synthetic_step.training_step(config, CLASSES)
    lowered = step.lower(state, share)
    step, compiling = synthetic_step.timed(lowered.compile)
    datasets = [DatasetSpec('kinetics400', tuple(map(str, range(CLASSES))))]
    graphdef, _ = abstract_model(with_datasets(config, datasets))
    params = jax.tree.map(jnp.copy, state.params)  # the step takes over its own
    video = jax.device_put(synthetic_step.random_clips(config, config.batch_size), jax.devices()[0])
    logits = jax.jit(lambda params, video: nnx.merge(graphdef, params)(prepare_eval(video)).logits)
    forward = logits.lower(params, video).compile()
    memory = step.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return dict(
        forward=lambda: jax.block_until_ready(forward(params, video)),
        step=synthetic_step.steps_of(step, state, share),
        compile=compiling[0],
        memory=held + memory.output_size_in_bytes - memory.alias_size_in_bytes,
    )


def opponent(config: Config, compiled: bool) -> dict:
    """The same of PyTorch, in the order of its arrays in which its eager step is faster."""
    from benchmarks import torch_models

    make = functools.partial(
        torch_models.Trainer,
        config.model.backbone,
        CLASSES,
        config.batch_size,
        clip_norm=config.optimizer.clip_norm,
    )
    last = False  # of a plain transformer, which has no convolutions but for its tubelets
    if isinstance(config.model.backbone, MViTConfig):
        orders = (False, True)
        steps = [make(compiled=False, channels_last=last).step for last in orders]
        taken = [own[0] for own in synthetic_step.take_turns(steps, 2)]
        last = orders[taken.index(min(taken))]
        print(f'(PyTorch: channels last {taken[1]:.2f} s, first {taken[0]:.2f} s a step)')
    trainer = make(compiled=compiled, channels_last=last)
    compiling = synthetic_step.timed(trainer.step)[1] if compiled else [float('nan')]
    return dict(
        forward=trainer.forward,
        step=trainer.step,
        compile=compiling[0],
        memory=trainer.peak_bytes(trainer.step),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--model', choices=step_configs.MODELS, default='S16x4')
    parser.add_argument(
        '--form', choices=step_configs.FORMS, nargs='+', default=['public'], help='of ours'
    )
    parser.add_argument('--batch', type=int, default=1, help='clips')
    parser.add_argument(
        '--against', choices=('none', 'torch', 'torch-compile'), nargs='+', default=['none']
    )
    parser.add_argument(
        '--remat', action='store_true', help='ours recomputes every block in the backward pass'
    )
    parser.add_argument(
        '--attention', choices=IMPLEMENTATIONS, nargs='+', default=['auto'], help='of ours'
    )
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    host_memory.keep_freed_memory()  # of the whole process: PyTorch gains by it too
    device = jax.devices()[0]
    dtype, model = step_configs.dtype(), step_configs.MODELS[args.model]
    several = len(args.attention) > 1
    config = {
        f'{form}, {attention}' if several else form: step_configs.plain(
            step_configs.FORMS[form](step_configs.backbone(args.model, args.remat, attention)),
            args.batch,
        )
        for form in args.form
        for attention in args.attention
    }
    sides = {f'ours, {form}': ours(own) for form, own in config.items()}
    for name in args.against:
        if name != 'none':
            public = step_configs.plain(
                step_configs.FORMS['public'](model(stochastic_depth=0.1)), args.batch
            )
            sides[name] = opponent(public, name == 'torch-compile')

    rate = device_rates.matmul_rate(dtype)
    forward, step = (
        synthetic_step.take_turns([side[part] for side in sides.values()], args.rounds)
        for part in ('forward', 'step')
    )
    flops = 6 * args.batch * next(iter(config.values())).model.backbone.multiplications()
    print(
        f'jax {jax.__version__}, {device.device_kind} ({device.platform}), {args.model}, batch '
        f'{args.batch}, {dtype}; '
        f'matrix product {rate / 1e12:.3g} TFLOP/s, step {flops / 1e12:.3g} TFLOP'
    )
    columns = (
        'compile s',
        'forward ms',
        'CPU ms',
        'speed',
        'step ms',
        'CPU ms',
        'speed',
        'clips/s',
        'MiB',
        'MFU %',
    )
    print(f'{"":<24}' + ''.join(f'{column:>11}' for column in columns))
    for (name, side), f, s in zip(sides.items(), forward, step):
        memory = '-' if side['memory'] is None else f'{side["memory"] / 2**20:.0f}'
        print(
            f'{name:<24}{side["compile"]:>11.1f}{1000 * f[0]:>11.1f}{1000 * f[1]:>11.1f}'
            f'{forward[0][0] / f[0]:>11.2f}'
            f'{1000 * s[0]:>11.1f}{1000 * s[1]:>11.1f}{step[0][0] / s[0]:>11.2f}'
            f'{args.batch / s[0]:>11.2f}{memory:>11}'
            f'{100 * flops / s[0] / rate:>11.1f}',
            flush=True,
        )


if __name__ == '__main__':
    main()
