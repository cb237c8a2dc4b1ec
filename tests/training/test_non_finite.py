"""Steps that are not finite do not change the model,
are told with all that helps, and can be taken again.
"""

import contextlib
import logging
import re
import shutil

import jax
import numpy as np
import optax
import pytest

from multitrain_jax import experiment, replay, train
from multitrain_jax.checkpoints import runs
from multitrain_jax.errors import UserError
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import data_mesh, replicate
from multitrain_jax.reporting import writers
from multitrain_jax.training import non_finite
from multitrain_jax.training.train_step import TrainState
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.tiny_training import prepared


def bad(batch):
    weight = batch['weight'].copy()
    weight[3] = np.nan
    return batch | {'weight': weight}


def run(workdir, bad_steps, **changes):
    """A run of 8 steps in which the batches of some steps have a weight that is not a number."""
    config = tiny.config(checkpoint__every_steps=2, log_every_steps=3, **changes)
    source = tiny.ArraySource(config, steps_per_epoch=2)
    plain = source.batch
    source.batch = lambda step: bad(plain(step)) if step in bad_steps else plain(step)
    return train.train_and_evaluate(config, workdir, source=source, devices=jax.devices()[:1])


def numbers(state):
    return jax.device_get((state.params, state.opt_state, state.ema))


CHANGES = dict(non_finite__action='skip', non_finite__max_skips=1, optimizer__ema_decay=0.9)


@pytest.mark.parametrize('devices', [1, 8])
def test_the_update_is_left_out(devices):
    """Parameters, optimizer and average are those of before,
    on every replica; the number of steps goes on.
    """
    source, driver, step, state = prepared(devices, **CHANGES)
    before = numbers(state)
    share = lambda batch: driver.to_devices(batch)  # noqa: E731
    state = replicate(jax.tree.map(jax.numpy.copy, state), driver.mesh)
    state, terms = step(state, share(bad(source.batch(0))))
    assert not np.isfinite(float(terms['loss'][0])) and float(terms['skipped_updates'][0]) == 1
    assert (int(state.step), int(state.skipped)) == (1, 1)
    jax.tree.map(np.testing.assert_array_equal, numbers(state), before)
    for leaf in jax.tree.leaves(state.params):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == devices and all(np.array_equal(shards[0], shard) for shard in shards)

    state, terms = step(state, share(source.batch(1)))
    assert np.isfinite(float(terms['loss'][0])) and (int(state.step), int(state.skipped)) == (2, 1)
    changed = numbers(state)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(before), strict=True)
    )

    for batch in (bad(source.batch(2)), source.batch(3)):  # one too many: nothing changes any more
        state, terms = step(state, share(batch))
        assert (int(state.step), int(state.skipped)) == (2, 2)
        jax.tree.map(np.testing.assert_array_equal, numbers(state), changed)


def test_norms_of_the_parts_make_up_the_norm():
    source, driver, step, state = prepared(1, **CHANGES)
    state = replicate(jax.tree.map(jax.numpy.copy, state), driver.mesh)
    _, terms = step(state, driver.to_devices(source.batch(0)))
    parts = {name: float(x) for name, (x, _) in terms.items() if name.startswith('gradient_norm/')}
    assert parts.keys() == {
        f'gradient_norm/{part}' for part in ('backbone', 'heads', 'projections', 'expander')
    }
    np.testing.assert_allclose(
        sum(x**2 for x in parts.values()), float(terms['gradient_norm'][0]) ** 2, rtol=1e-4
    )


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    """(workdir, error) of a run that has stopped at step 5."""
    workdir = tmp_path_factory.mktemp('stopped')
    with pytest.raises(UserError) as error:
        run(workdir, {5})
    return workdir, error


def test_stopping_tells_and_keeps_what_helps(stopped):
    tmp_path, error = stopped
    text = str(error.value)
    file = tmp_path / 'non_finite' / 'step_5.npz'
    for part in (
        'the loss of step 5 is not finite (nan); terms that are not: ',
        'loss',
        'clips: colours ',
        '%, shades ',
        'gradient norms: backbone nan, ',
        'heads nan',
        'projections nan',
        'expander ',
        f'the last good checkpoint is step 4 in {tmp_path}/checkpoints',
        f'--config.replay={file}',
        '--config.non_finite.action=skip',
    ):
        assert part in text
    assert '\n' not in text
    step, batch = non_finite.load_batch(file)
    config = tiny.config()
    expected = bad(tiny.ArraySource(config).batch(5))
    assert step == 5 and batch.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(batch[name], array)
        assert batch[name].dtype == array.dtype

    saved = runs.RunCheckpoints(non_finite.state_directory(tmp_path), keep=None)
    assert saved.all_steps() == [5]
    saved.close()
    saved = runs.RunCheckpoints(tmp_path, keep=None)
    assert saved.all_steps() == [2, 4]
    saved.close()


def lines_of(report):
    return [line.strip() for line in report.splitlines()]


def replayed(workdir, file):
    config = tiny.config(replay=str(file))
    source = tiny.ArraySource(config, steps_per_epoch=2)
    return lines_of(replay.replay(config, workdir, source=source, devices=jax.devices()[:1]))


def test_the_step_is_taken_again(stopped, monkeypatch):
    """With the very numbers of the run, from the state that was kept,
    and from the checkpoint before it.
    """
    monkeypatch.setattr(replay, '_first_nan', lambda *args: ['searched'])  # it has tests of its own
    workdir, error = stopped
    file = workdir / 'non_finite' / 'step_5.npz'
    report = replayed(workdir, file)
    assert report[0] == f'step 5, from checkpoint {workdir}/non_finite/checkpoints/5'
    assert 'batch: not finite: weight has 1 of 16, the first at [3]' in report
    assert 'parameters: all values are finite' in report
    (outcome,) = [line for line in report if line.startswith('outcome: ')]
    assert outcome.removeprefix('outcome: ') in str(error.value)
    assert report[-1] == 'searched'

    elsewhere = workdir.with_name('elsewhere')
    shutil.copytree(workdir / 'checkpoints', elsewhere / 'checkpoints')
    again = replayed(elsewhere, file)
    assert again[0] == f'step 5, from checkpoint {elsewhere}/checkpoints/4, 1 steps after it'
    assert again[1:] == report[1:]
    with pytest.raises(UserError, match='model.head_hidden was 8, is 16 now'):
        replay.replay(
            tiny.config(replay=str(file), model__head_hidden=16),
            workdir,
            source=tiny.ArraySource(tiny.config()),
        )


def test_the_operation_where_it_begins():
    """On each replica; what others only receive is not named."""
    state = TrainState(0, {'scale': np.float32(2)}, (), {}, jax.random.key(0), 0)
    devices = jax.devices()[:2]
    batch = {'video': np.array([1, 2, 3, -4], np.float32), 'dataset': np.zeros(4, np.int32)}

    def step(state, share):
        return state, {
            'loss': (
                jax.lax.psum(jax.numpy.log(share['video']).sum(), 'data') * state.params['scale'],
                1.0,
            )
        }

    (line,) = replay._first_nan(step, state, batch, devices)
    assert line.startswith('first NaN, replica 1: log at ')
    batch['video'] = np.array([1, 2, 0, 4], np.float32)
    (line,) = replay._first_nan(step, state, batch, devices)
    assert line.startswith('no operation made a NaN: numbers became too large')


@pytest.mark.slow  # every operation of the step is checked, which takes long to compile
def test_the_operation_in_the_model(stopped):
    workdir, _ = stopped
    place = replayed(workdir, workdir / 'non_finite' / 'step_5.npz')[-1]
    assert re.fullmatch(
        r'first NaN, replica 0: \w+ at multitrain_jax/\w+(/\w+)*\.py:\d+ \(\w+\): .*weight.*', place
    ), place


def test_the_steps_before_it_are_those_of_the_run(tmp_path):
    """A good step of a run, taken again from its start, has the loss that the run has logged."""
    config = tiny.config(epochs=2.0, log_every_steps=1, replay=str(tmp_path / 'step.npz'))
    source = tiny.ArraySource(config, steps_per_epoch=2)
    np.savez(tmp_path / 'step.npz', step=np.int64(3), **source.batch(3))
    report = lines_of(replay.replay(config, tmp_path, source=source, devices=jax.devices()[:1]))
    assert report[0] == 'step 3, from the start of the run, 3 steps after it'
    assert 'outcome: finite this time' in report
    written = {}

    class Writer(writers.LogWriter):
        def write_scalars(self, step, scalars):
            written.setdefault(step, {}).update(scalars)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, 'open_writer', lambda *args, **options: Writer())
        train.train_and_evaluate(config, tmp_path / 'run', source=source, devices=jax.devices()[:1])
    for name in ('loss', 'gradient_norm', 'gradient_norm/heads'):
        (line,) = [line for line in report if line.split()[0] == name]
        assert line.split()[1] == f'{written[4][f"train/{name}"]:.6g}'


def test_skipping_is_counted_and_bounded(tmp_path, caplog, monkeypatch):
    written = {}

    class Writer(writers.LogWriter):
        def write_scalars(self, step, scalars):
            written.setdefault(step, {}).update(scalars)

    monkeypatch.setattr(writers, 'open_writer', lambda *args, **options: Writer())
    with caplog.at_level(logging.WARNING, 'multitrain_jax'):
        outcome = run(tmp_path / 'two', {2, 5}, non_finite__action='skip', non_finite__max_skips=2)
    assert outcome.steps == 8
    told = [record.getMessage() for record in caplog.records if record.name == 'multitrain_jax']
    assert (
        len(told) == 2
        and told[0].startswith('the loss of step 2 ')
        and told[1].endswith('passed over, 2 of at most 2')
    )
    assert sorted(path.name for path in (tmp_path / 'two' / 'non_finite').iterdir()) == [
        'step_2.npz',
        'step_5.npz',
    ]
    assert [written[step]['train/skipped_updates'] for step in (3, 6, 8)] == [1, 2, 2]
    # The optimizer has made one update less after step 2, two less after step 5.
    config = tiny.config()
    driver, length = Pmap(data_mesh(jax.devices()[:1])), experiment.Length(8, per_epoch=2)
    prepared = experiment.prepare(config, tiny.ArraySource(config).datasets, driver, length)
    for step, updates in ((3, 2), (6, 4), (8, 6)):
        logged, applied = written[step]['train/learning_rate'], prepared.schedule(updates - 1)
        np.testing.assert_allclose(logged, applied, rtol=1e-6)
    with contextlib.closing(runs.RunCheckpoints(tmp_path / 'two', keep=None)) as saved:
        for step, updates in ((6, 4), (8, 6)):
            state = saved.restore(step, prepared.shapes)
            counts = optax.tree_utils.tree_get_all_with_path(state.opt_state, 'count')
            assert counts and all(int(count) == updates for _, count in counts)
    with pytest.raises(
        UserError, match='the loss of step 7 .* or raise config.non_finite.max_skips=2'
    ):
        run(tmp_path / 'three', {2, 5, 7}, non_finite__action='skip', non_finite__max_skips=2)


def test_batches_of_several_hosts_are_put_together(tmp_path, monkeypatch):
    class Source:
        def train_batches(self, start, count):
            return iter([{'weight': np.full(2, 10 * start + jax.process_index(), np.float32)}])

    monkeypatch.setattr(jax, 'process_count', lambda: 3)
    for host in range(3):
        monkeypatch.setattr(jax, 'process_index', lambda: host)
        file = non_finite.save_batch(tmp_path, Source(), 12)
    assert file.name == 'step_12-00002-of-00003.npz'
    step, batch = non_finite.load_batch(file)
    assert step == 12 and batch['weight'].tolist() == [120, 120, 121, 121, 122, 122]
    (tmp_path / 'non_finite' / 'step_12-00001-of-00003.npz').unlink()
    with pytest.raises(UserError, match='config.replay=.*not a batch that a run has saved'):
        non_finite.load_batch(file)


@pytest.mark.parametrize('name', ['x.npz', 'x-of-2.npz', 'step_1-00000-of-00002.npz'])
@pytest.mark.parametrize('content', [b'', b'text', b'PK\x03\x04'])
def test_other_files_are_refused(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match='not a batch that a run has saved') as error:
        non_finite.load_batch(tmp_path / name)
    assert '\n' not in str(error.value)
    np.savez(tmp_path / 'pickle.npz', step=np.int64(1), weight=np.array([{}], object))
    with pytest.raises(UserError, match='it holds Python objects'):
        non_finite.load_batch(tmp_path / 'pickle.npz')
