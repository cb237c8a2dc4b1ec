"""The programs of the shipped configs, made small,
compile for TPUs; needs the extra `tpu`, no TPU.
"""

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
    '--config.model.backbone.width=32',
    '--config.augment.rand_augment=',
    '--config.model.head_hidden=32',
    '--config.model.expander_hidden=32',
)
_CHIPS = 4  # of v5e:2x2


def _compile(*arguments: str) -> dict:
    # A process of its own: the environment that the compiler needs must not reach the other tests.
    environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    command = [
        sys.executable,
        '-m',
        'benchmarks.tpu_compile',
        '--topology=v5e:2x2',
        '--level=O0',
        *arguments,
        *_SMALL,
    ]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def needs_libtpu():
    if importlib.util.find_spec('libtpu') is None:
        pytest.skip('libtpu is not installed')


@pytest.mark.slow
@pytest.mark.parametrize(
    'overrides', [(), ('--config.accumulation_steps=2', '--config.parallel.model=2')]
)
def test_training_step(overrides):
    result = _compile('--config=configs/multitrain.py', '--config.batch_size=16', *overrides)
    assert result['fits'] and result['chips'] == _CHIPS
    # Every gradient is averaged over the chips, once: three arrays of a parameter's size are the
    # state.
    (_, reduced) = result['collectives']['all-reduce']
    if not overrides:
        assert 0.9 * result['arguments'] / 3 < reduced < 1.3 * result['arguments'] / 3


@pytest.mark.slow
def test_training_step_with_boxes():
    assert _compile('--config=configs/cofinetune_ava.py', '--config.batch_size=8')['fits']


@pytest.mark.slow
@pytest.mark.parametrize('program', ['evaluate', 'predict'])
def test_forward_programs(program):
    result = _compile(
        '--config=configs/cofinetune_ava.py',
        '--config.evaluation.batch_size=8',
        f'--program={program}',
    )
    assert result['fits'] and result['collectives'] == {}
