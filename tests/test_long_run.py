"""What must not grow, recompile or wait in a run that goes on for days."""

import collections
import gc
import os

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
import pytest

from multitrain_jax import train
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.reporting import writers
from multitrain_jax.training import step_log
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401

_COMPILED = '/jax/core/compile/backend_compile_duration'


class Compilations:
    """Counts compiled programs while the context lasts."""

    def __enter__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        return self

    def __exit__(self, *error):
        jax.monitoring.unregister_event_duration_listener(self._on_event)

    def _on_event(self, name, seconds, **_):
        self.count += name == _COMPILED


def run(workdir, monkeypatch, on_log=lambda step: None, *, data=None, devices=1, **changes):
    """A run on one device that calls on_log(step) with every report."""

    class Writer(writers.LogWriter):
        def write_scalars(self, step, scalars):
            on_log(step)

    monkeypatch.setattr(writers, 'open_writer', lambda *args, **options: Writer())
    config = tiny.config(**changes)
    source = None if data else tiny.ArraySource(config, steps_per_epoch=2)
    return train.train_and_evaluate(config, workdir, source=source, devices=jax.devices()[:devices])


def test_steps_after_the_first_compile_nothing(tmp_path, monkeypatch):
    seen = {}
    with Compilations() as compilations:
        run(
            tmp_path,
            monkeypatch,
            lambda step: seen.setdefault(step, compilations.count),
            checkpoint__every_steps=3,
        )
    assert seen[1] > 0
    # The first checkpoint may compile something, once; the training step and the reports may not.
    assert seen[1] == seen[2] == seen[3] and seen[4] == seen[7], seen


def test_other_rates_epochs_seeds_and_loss_weights_compile_nothing(tmp_path, monkeypatch):
    """They are data of the programs: those of an earlier run are found in the cache."""
    events = collections.Counter()
    count = lambda name, **_: events.update([name.rsplit('/')[-1]])  # noqa: E731
    cache = dict(jax_compilation_cache_dir=str(tmp_path / 'cache'))
    cache |= dict(jax_persistent_cache_min_compile_time_secs=0.0)
    before = {name: getattr(jax.config, name) for name in cache}
    jax.monitoring.register_event_listener(count)
    try:
        for name, value in cache.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        jax.clear_caches()
        run(tmp_path / 'one', monkeypatch, epochs=1.0)
        assert events['cache_misses'] > 3
        first = events['cache_misses']
        jax.clear_caches()
        changes = dict(objective__lambda_proj=0.5, objective__lambda_inf=0.3)
        changes |= dict(datasets__colours__loss_weight=2.0, objective__std_weight=9.0)
        changes |= dict(optimizer__peak_learning_rate=3e-3, optimizer__warmup_steps=2, seed=7)
        run(tmp_path / 'two', monkeypatch, epochs=2.0, **changes)
        assert events['cache_misses'] == first and events['cache_hits'] > 3
    finally:
        jax.monitoring.unregister_event_listener(count)
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_metrics_are_fetched_when_the_next_step_is_under_way(tmp_path, monkeypatch):
    happened = []

    def mapped(driver, *args):
        step = parallel_map(driver, *args)

        def counted(state, share):
            happened.append('step')
            return step(state, share)

        return counted

    def fetched(x):
        if isinstance(x, dict):
            happened.append('fetch')
        return device_get(x)

    parallel_map, device_get = Pmap.train_step, jax.device_get
    monkeypatch.setattr(Pmap, 'train_step', mapped)
    monkeypatch.setattr(step_log.jax, 'device_get', fetched)
    run(tmp_path, monkeypatch, epochs=2.0, checkpoint__every_steps=100)
    loop = happened[: len(happened) - happened[::-1].index('step')]
    assert (
        loop == ['step', 'step', 'fetch', 'step', 'fetch', 'step'][: len(loop)]
        and loop.count('step') == 4
    )


def test_a_forgotten_transfer_in_the_loop_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
        run(tmp_path, monkeypatch, lambda step: jax.numpy.ones(3) + np.ones(3, np.float32))


def resident():
    """MiB of this process's memory."""
    with open('/proc/self/statm', encoding='ascii') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20


@pytest.mark.slow
@pytest.mark.skipif(
    not os.path.exists('/proc/self/statm'), reason='needs the Linux view of a process'
)
def test_thousands_of_steps_leave_everything_flat(tmp_path, monkeypatch):
    """Reading records, logging, evaluating and saving included."""
    data = tiny.write_datasets(tmp_path / 'data')
    seen = {}

    with Compilations() as compilations:

        def look(step):
            if step % 500 == 100:  # nothing is being saved or evaluated
                gc.collect()
                arrays = [array for array in jax.live_arrays() if not array.is_deleted()]
                seen[step] = {
                    'MiB': resident(),
                    'files': len(os.listdir('/proc/self/fd')),
                    'programs': compilations.count,
                    'arrays': len(arrays),
                    'bytes': sum(array.nbytes for array in arrays),
                }

        outcome = run(
            tmp_path / 'run',
            monkeypatch,
            look,
            data=data,
            data_root=str(data),
            batch_size=4,
            epochs=300.0,
            log_every_steps=50,
            checkpoint__every_steps=250,
            evaluation__every_epochs=25.0,
        )
    assert outcome.steps == 3000
    first, rest = seen[1100], [seen[step] for step in (1600, 2100, 2600)]
    for later in rest:
        assert later['MiB'] < first['MiB'] + 20, seen
        assert later['files'] <= first['files'] + 2, seen
        assert later['programs'] == first['programs'], seen
        assert (
            abs(later['arrays'] - first['arrays']) <= 100 and later['bytes'] < first['bytes'] * 1.05
        ), seen
