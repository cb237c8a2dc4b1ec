"""What the benchmarks of the training step share: a step on random clips,
and turns that several programs take.
"""

from collections.abc import Callable, Sequence
import importlib.util
from pathlib import Path
import time

import jax
import ml_collections
import numpy as np

ROOT = Path(__file__).resolve().parent.parent

from multitrain_jax import experiment
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.config import Config
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import data_mesh, replicate
from multitrain_jax.training.train_step import TrainState


def shipped_config(name: str) -> ml_collections.ConfigDict:
    """The experiment of configs/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / 'configs' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def random_clips(config: Config, batch: int) -> np.ndarray:
    """u8 [batch, T, H, W, 3]."""
    backbone = config.model.backbone
    shape = (batch, backbone.num_frames, backbone.image_size, backbone.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def training_step(config: Config, classes: int) -> tuple[Callable, TrainState, dict]:
    """The training step on one device, to be lowered and compiled, a state and a batch of random
    clips for it.

    Args:
        config: the experiment.
        classes: of each of its datasets.
    """
    datasets = [DatasetSpec(name, tuple(map(str, range(classes)))) for name in config.datasets]
    driver = Pmap(data_mesh(jax.devices()[:1]))
    length = experiment.Length(5000, per_epoch=100)
    prepared = experiment.prepare(config, datasets, driver, length)
    rng = np.random.default_rng(0)

    # Drawn here, so that no initialiser has to be compiled.
    def zeros(leaf):
        key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key(0) if key else np.zeros(leaf.shape, leaf.dtype)

    def draw(path, leaf):
        scale = 'scale' in jax.tree_util.keystr(path)  # of a LayerNorm
        return (
            np.ones(leaf.shape, np.float32)
            if scale
            else 0.02 * rng.standard_normal(leaf.shape, np.float32)
        )

    state = jax.tree.map(zeros, prepared.shapes)
    state = state.replace(params=jax.tree_util.tree_map_with_path(draw, state.params))
    batch = config.batch_size
    share = dict(
        video=random_clips(config, batch),
        dataset=rng.integers(0, len(datasets), batch, dtype=np.int32),
        label=rng.integers(0, classes, batch, dtype=np.int32),
        weight=np.ones(batch, np.float32),
    )
    state, share = replicate(state, driver.mesh), driver.to_devices(share)
    return prepared.train_step, state, share


def steps_of(program: Callable, state: TrainState, share: dict) -> Callable[[], None]:
    """A function that takes one step and waits for it;
    each goes on from the state that the one before left.
    """
    held = [state]

    def run():
        held[0], terms = program(held[0], share)
        jax.block_until_ready((held[0], terms))

    return run


def clock() -> np.ndarray:
    """[seconds that passed, seconds that all threads of this process were busy]."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(function: Callable) -> tuple[object, np.ndarray]:
    """(what the function returns, how long it took, as `clock` counts)."""
    start = clock()
    result = function()
    return result, clock() - start


def take_turns(runs: Sequence[Callable[[], None]], rounds: int) -> list[np.ndarray]:
    """For every run the median over the rounds, as `clock` counts; in a round each runs once.

    A first round warms up.
    """
    taken = [[timed(run)[1] for run in runs] for _ in range(rounds + 1)]
    return list(np.median(taken[1:], axis=0))
