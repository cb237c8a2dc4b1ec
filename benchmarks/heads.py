"""What more datasets cost: heads, projections and objective alone, and a whole training step, for
2, 8, 32 datasets.

    python -m benchmarks.heads [--classes=100] [--batch=4] [--rounds=5]

Printed are the lines of the program, the time to compile it (once, no cache), and medians over the
rounds, in which the numbers of datasets take turns; each also as time that all cores of this
process were busy, which other work on the machine disturbs less, and whose ratio to that of the
fewest datasets is given. "part" is forward and gradients of heads (hidden 2048), projections and
losses for 768-wide embeddings; "step" is the training step of configs/multitrain.py, AdamW
included, without augmentation but mixing, with MViTv2-S on clips of --frames frames of --size px.
Its backbone costs about 1/8 of the full S 16x4 on 16 frames of 224 px: the share of all the rest is
that much larger than there.
"""

import argparse
import sys

from flax import nnx
import jax
import numpy as np

from benchmarks import synthetic_step
from multitrain_jax.config import read_config
from multitrain_jax.models.heads import Heads, Projections
from multitrain_jax.models.multitrain import Outputs
from multitrain_jax.objectives.objective import DatasetObjective, ObjectiveConfig, clip_objective
from multitrain_jax.objectives.targets import Targets

WIDTH = 768
DATASETS = (2, 8, 32)


def part(datasets: int, classes: int, batch: int):
    """(lowered program, function from the compiled one to one that runs
    forward and gradients of the heads' part).
    """

    @nnx.jit
    def make():
        rngs = nnx.Rngs(0)
        settings = dict(hidden=2048, head_dropout=0.5, logit_dropout=0.5, init_std=0.02)
        heads = Heads(WIDTH, (classes,) * datasets, rngs=rngs, **settings)
        return nnx.split((heads, Projections((classes,) * datasets, init_std=0.02, rngs=rngs)))

    graph, params = make()
    specs = [DatasetObjective(str(number), classes) for number in range(datasets)]
    config = ObjectiveConfig(lambda_inf=0.0)
    rng = np.random.default_rng(0)
    own = rng.integers(0, datasets, (batch, 2)).astype(np.int32)
    label = np.eye(classes, dtype=np.float32)[rng.integers(0, classes, (batch, 2))]
    share, weight = np.full((batch, 2), 0.5, np.float32), np.ones(batch, np.float32)
    targets = Targets(dataset=own, label=label, lam=share, weight=weight)
    embedding = rng.standard_normal((batch, WIDTH)).astype(np.float32)

    def loss(params, embedding, key):
        heads, projections = nnx.merge(graph, params)
        logits = heads(embedding, key=key)
        projected = heads.mask_padding(projections(logits))
        outputs = Outputs(embedding, heads.mask_padding(logits), projected)
        return clip_objective(outputs, targets, config, specs)[0]

    lowered = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, embedding, jax.random.key(0))
    return (
        lowered,
        lambda program: (
            lambda: jax.block_until_ready(program(params, embedding, jax.random.key(1)))
        ),
    )


def step(datasets: int, classes: int, batch: int, frames: int, size: int):
    """(lowered program, function from the compiled one to one that takes a training step)."""
    values = synthetic_step.shipped_config('multitrain').to_dict()
    entry = values['datasets']['kinetics400']
    values['datasets'] = {f'dataset{number:02d}': entry for number in range(datasets)}
    values['model']['backbone'] |= dict(
        num_frames=frames, image_size=size, stage_blocks=(1, 2, 11, 2), dtype='float32', remat=False
    )
    values['input'] |= dict(short_side=(size, size), repeats=1)
    values['augment'] |= dict(rand_augment='', color_jitter=0.0, erasing_probability=0.0)
    values |= dict(batch_size=batch)
    step, state, share = synthetic_step.training_step(read_config(values), classes)
    return step.lower(state, share), lambda program: synthetic_step.steps_of(program, state, share)


def measure(name: str, make, rounds: int) -> None:
    """Compiles for every number of datasets, then lets them take turns."""
    lines, compiling, runs = [], [], []
    for number in DATASETS:
        lowered, prepare = make(number)
        lines.append(len(lowered.as_text().splitlines()))
        program, taken = synthetic_step.timed(lowered.compile)
        runs.append(prepare(program))
        compiling.append(taken)
        print(
            f'({name} for {number} datasets compiled in {compiling[-1][0]:.0f} s)',
            file=sys.stderr,
            flush=True,
        )
    medians = synthetic_step.take_turns(runs, rounds)
    for number, length, compiled, median in zip(DATASETS, lines, compiling, medians):
        print(
            f'{name:<5}{number:>9}{length:>9}'
            f'{compiled[0]:>10.1f}{compiled[1]:>8.1f}{compiled[1] / compiling[0][1]:>7.2f}'
            f'{1000 * median[0]:>10.0f}{1000 * median[1]:>8.0f}{median[1] / medians[0][1]:>7.2f}',
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--classes', type=int, default=100, help='of every dataset')
    parser.add_argument('--batch', type=int, default=4, help='clips')
    parser.add_argument('--frames', type=int, default=8)
    parser.add_argument('--size', type=int, default=112, help='pixels')
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    device = jax.devices()[0]
    print(
        f'jax {jax.__version__}, {device.device_kind} ({device.platform}), {args.classes} '
        f'classes, batch {args.batch}, '
        f'{args.frames} frames of {args.size} px'
    )
    print(f'{"":<5}{"datasets":>9}{"lines":>9}{"compile s":>10}{"CPU s":>8}{"ratio":>7}', end='')
    print(f'{"run ms":>10}{"CPU ms":>8}{"ratio":>7}', flush=True)
    measure('part', lambda number: part(number, args.classes, args.batch), args.rounds)
    measure(
        'step',
        lambda number: step(number, args.classes, args.batch, args.frames, args.size),
        args.rounds,
    )


if __name__ == '__main__':
    main()
