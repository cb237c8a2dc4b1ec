"""The training step: the same numbers on any number of devices, however the batch is cut."""

import dataclasses
import logging
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from multitrain_jax import train
from multitrain_jax.errors import UserError
from multitrain_jax.parallel.mesh import replicate
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.tiny_training import STEPS, assert_same, means, prepared, trained

ROOT = pathlib.Path(__file__).parent.parent


def test_one_and_eight_devices_agree():
    (one, metrics, params), (eight, metrics8, params8) = trained(1), trained(8)
    for step in range(STEPS):
        assert_same(one[step], eight[step], rtol=1e-4)
        assert_same(means(metrics[step]), means(metrics8[step]), rtol=1e-4)
    assert_same(params, params8, rtol=1e-4)


def test_all_objectives_reach_the_gradient():
    """The agreement above would mean little if a part of the model had no gradient."""
    first = trained(1)[0][0]
    for group in ('backbone', 'heads', 'projections', 'expander'):
        assert optax.global_norm(first[group]) > 1e-3, group


@pytest.mark.parametrize(('devices', 'pieces'), [(1, 2), (2, 4)])
def test_accumulation_gives_the_same_gradient(devices, pieces):
    """Augmentation and mixup included; only the informative loss sees smaller batches."""
    whole = trained(1, objective__lambda_inf=0.0)
    cut = trained(devices, objective__lambda_inf=0.0, accumulation_steps=pieces)
    for step in range(STEPS):
        assert_same(whole[0][step], cut[0][step], rtol=1e-4)
        assert_same(means(whole[1][step]), means(cut[1][step]), rtol=1e-4)
    assert_same(whole[2], cut[2], rtol=1e-4)


def test_a_batch_without_a_dataset():
    """Its losses are 0, not NaN, and what only they reach has no gradient."""
    source, driver, step, state = prepared(1)
    batch = source.batch(0)
    batch['dataset'][:] = 1
    state = replicate(jax.tree.map(jnp.copy, state), driver.mesh)
    state, terms = step(state, driver.to_devices(batch))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))
    assert tuple(map(float, terms['classification/colours'])) == (0, 0)
    (to_each,) = jax.tree.leaves(state.opt_state[0]['projections'])  # [N, N - 1, C, C]
    assert not to_each[0].any() and to_each[1].any()


class Loud(logging.Handler):
    """Keeps the names of compiled programs."""

    def __init__(self):
        super().__init__()
        self.compiled = []

    def emit(self, record):
        text = record.getMessage()
        if text.startswith('Compiling'):
            self.compiled.append(text)


def test_nothing_is_compiled_after_the_first_step(tmp_path):
    config = tiny.config(checkpoint__every_steps=2, evaluation__every_epochs=1.0)
    source = tiny.ArraySource(config, steps_per_epoch=2)
    seen, handler = [], Loud()
    plain = source.batch

    def batch(step):
        seen.append((step, len(handler.compiled)))
        return plain(step)

    source.batch = batch
    logger = logging.getLogger('jax._src.interpreters.pxla')
    level, before = logger.level, jax.config.jax_log_compiles
    logger.addHandler(handler)
    jax.config.update('jax_log_compiles', True)
    try:
        train.train_and_evaluate(config, tmp_path, source=source, devices=jax.devices()[:1])
    finally:
        jax.config.update('jax_log_compiles', before)
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert handler.compiled, 'compilation is no longer logged as this test expects'
    # Two batches are made ahead of their use; after step 4 all kinds of work have been done once.
    assert handler.compiled[dict(seen)[7] :] == []
    mapped = [text for text in handler.compiled if re.search(r'jit\((_fun|__call__|step)\)', text)]
    assert len(mapped) == 2, mapped  # the training step and the evaluation step, once each


def test_a_workdir_of_another_architecture_is_refused(finished_run):
    config, source, workdir = finished_run
    other = tiny.config(model__head_hidden=16)
    with pytest.raises(
        UserError,
        match=r'other settings: model\.head_hidden was 8, is 16 now; use another --workdir',
    ):
        train.train_and_evaluate(other, workdir, source=source, devices=jax.devices()[:1])
    with pytest.raises(UserError, match=r'data_order\.seed was 0, is 1'):
        train.train_and_evaluate(
            dataclasses.replace(config, seed=1), workdir, source=source, devices=jax.devices()[:1]
        )
    with pytest.raises(UserError, match='at step 8, beyond the 4 steps of config.epochs=2'):
        train.train_and_evaluate(
            dataclasses.replace(config, epochs=2.0),
            workdir,
            source=source,
            devices=jax.devices()[:1],
        )


def test_a_finished_run_is_not_trained_again(finished_run):
    config, source, workdir = finished_run
    source.train_batches, kept = None, source.train_batches
    try:
        outcome = train.train_and_evaluate(
            config, workdir, source=source, devices=jax.devices()[:1]
        )
    finally:
        source.train_batches = kept
    assert outcome.steps == 8 and set(outcome.accuracy) == {'colours', 'shades'}


WITHOUT_TENSORFLOW = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        allowed = ('data_pipelines', 'data_pipelines.settings', 'data_pipelines.options')
        absent = ('tensorflow', 'clu', 'tensorboard', 'data_pipelines', 'torch')
        if name.split('.')[0] in absent and name not in allowed:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
plain = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return plain(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec
import jax
from multitrain_jax import config, train
from tests.helpers import tiny_config
import numpy as np
from multitrain_jax.batch import DatasetSpec

class Source:
    datasets = (DatasetSpec('colours', tuple('abc')), DatasetSpec('shades', tuple('vwxyz')))
    samples_per_epoch = 32
    def train_batches(self, start, count):
        for step in range(start, start + count):
            rng = np.random.default_rng(step)
            yield {
                'video': rng.integers(0, 256, (16, 4, 16, 16, 3), np.uint8),
                'dataset': np.arange(16, dtype=np.int32) % 2,
                'label': np.arange(16, dtype=np.int32) % 2,
                'weight': np.ones(16, np.float32),
            }

settings = config.read_config(tiny_config.get_config())
outcome = train.train_and_evaluate(
    settings, sys.argv[1], source=Source(), devices=jax.devices()[:1]
)
assert outcome.steps == 8
assert 'tensorflow' not in sys.modules
print('trained')
"""


def test_trains_without_tensorflow_and_without_our_reader(tmp_path):
    environment = os.environ | {
        'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
        'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
        'PYTHONPATH': str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_TENSORFLOW, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith('trained\n')
    assert (tmp_path / 'export' / 'model.json').exists()


def test_importing_the_training_room_imports_no_tensorflow():
    """Nor what reads data: only how settings are declared."""
    code = 'import sys, multitrain_jax.train; print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = {'data_pipelines', 'data_pipelines.settings', 'data_pipelines.options'}
    rooms = ('tensorflow', 'data_pipelines', 'clu')
    assert {name for name in done.stdout.split() if name.split('.')[0] in rooms} == wanted
