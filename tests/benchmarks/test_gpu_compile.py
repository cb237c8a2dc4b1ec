"""The shipped training step, made small, compiles for GPUs; needs the extra `gpu`, no GPU."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parent.parent.parent
_SMALL = (
    '--config.model.backbone.num_frames=4',
    '--config.model.backbone.image_size=64',
    '--config.model.backbone.stage_blocks=(1,2)',
    '--config.model.backbone.query_strides=((1,1,1),(1,2,2))',
    '--config.augment.rand_augment=',
    '--config.model.head_hidden=32',
    '--config.model.expander_hidden=32',
)


@pytest.mark.slow
@pytest.mark.parametrize('attention', ['xla', 'cudnn', 'auto'])
def test_training_step(attention):
    if importlib.util.find_spec('jax_cuda12_plugin') is None:
        pytest.skip('jax[cuda12] is not installed')
    command = [
        sys.executable,
        '-m',
        'benchmarks.gpu_compile',
        '--config=configs/multitrain.py',
        '--config.batch_size=8',
        *_SMALL,
    ]
    environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    done = subprocess.run(
        [*command, f'--config.model.backbone.attention={attention}'],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout)['kernels']
    fused = sum(count for name, count in kernels.items() if name.startswith('__cudnn$fmha'))
    assert fused == (0 if attention == 'xla' else 6)  # of three blocks, forward and backward
    ours = sum(count for name, count in kernels.items() if name.startswith('mosaic_gpu'))
    # Three of each block's poolings stand by themselves; XLA may take the 14 of the norms into
    # fusions.
    assert 9 <= ours <= 23 if attention == 'auto' else ours == 0
