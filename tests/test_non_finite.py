"""Steps that are not finite do not change the model, are told with all that helps, and can be taken again."""

import logging

import jax
import numpy as np
import pytest

from multitrain_jax import checkpoints, metrics, non_finite, parallel, train
from multitrain_jax.errors import UserError
from tests import tiny
from tests.tiny import quick_compile  # noqa: F401
from tests.tiny_training import prepared


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
    """Parameters, optimizer and average are those of before, on every replica; the number of steps goes on."""
    source, mesh, step, state = prepared(devices, **CHANGES)
    before = numbers(state)
    share = lambda batch: parallel.to_devices(batch, mesh)  # noqa: E731
    state = parallel.replicate(jax.tree.map(jax.numpy.copy, state), mesh)
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
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(before), strict=True))

    for batch in (bad(source.batch(2)), source.batch(3)):  # one too many: nothing changes any more
        state, terms = step(state, share(batch))
        assert (int(state.step), int(state.skipped)) == (2, 2)
        jax.tree.map(np.testing.assert_array_equal, numbers(state), changed)


def test_norms_of_the_parts_make_up_the_norm():
    source, mesh, step, state = prepared(1, **CHANGES)
    state = parallel.replicate(jax.tree.map(jax.numpy.copy, state), mesh)
    _, terms = step(state, parallel.to_devices(source.batch(0), mesh))
    parts = {name: float(x) for name, (x, _) in terms.items() if name.startswith('gradient_norm/')}
    assert parts.keys() == {f'gradient_norm/{part}' for part in ('backbone', 'heads', 'projections', 'expander')}
    np.testing.assert_allclose(sum(x**2 for x in parts.values()), float(terms['gradient_norm'][0]) ** 2, rtol=1e-4)


def test_stopping_tells_and_keeps_what_helps(tmp_path):
    with pytest.raises(UserError) as error:
        run(tmp_path, {5})
    text = str(error.value)
    file = tmp_path / 'non_finite' / 'step_5.npz'
    for part in (
        'the loss of step 5 is not finite (nan); terms that are not: ', 'loss', 'clips: colours ', '%, shades ',
        'gradient norms: backbone nan, ', 'heads nan', 'projections nan', 'expander ',
        f'the last good checkpoint is step 4 in {tmp_path}/checkpoints', f'--config.replay={file}', '--config.non_finite.action=skip',
    ):  # fmt: skip
        assert part in text
    assert '\n' not in text
    step, batch = non_finite.load_batch(file)
    config = tiny.config()
    expected = bad(tiny.ArraySource(config).batch(5))
    assert step == 5 and batch.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(batch[name], array)
        assert batch[name].dtype == array.dtype

    saved = non_finite.state_checkpoints(tmp_path, keep=None)
    assert saved.all_steps() == [5]
    saved.close()
    saved = checkpoints.RunCheckpoints(tmp_path, keep=None)
    assert saved.all_steps() == [2, 4]
    saved.close()


def test_skipping_is_counted_and_bounded(tmp_path, caplog, monkeypatch):
    written = {}

    class Writer(metrics.LogWriter):
        def write_scalars(self, step, scalars):
            written.setdefault(step, {}).update(scalars)

    monkeypatch.setattr(metrics, 'open_writer', lambda *args, **options: Writer())
    with caplog.at_level(logging.WARNING, 'multitrain_jax'):
        outcome = run(tmp_path / 'two', {2, 5}, non_finite__action='skip', non_finite__max_skips=2)
    assert outcome.steps == 8
    told = [record.getMessage() for record in caplog.records if record.name == 'multitrain_jax']
    assert len(told) == 2 and told[0].startswith('the loss of step 2 ') and told[1].endswith('passed over, 2 of at most 2')
    assert sorted(path.name for path in (tmp_path / 'two' / 'non_finite').iterdir()) == ['step_2.npz', 'step_5.npz']
    assert [written[step]['skipped_updates'] for step in (3, 6, 8)] == [1, 2, 2]
    assert all(np.isfinite(value) for values in written.values() for value in values.values())
    with pytest.raises(UserError, match='the loss of step 7 .* or raise config.non_finite.max_skips=2'):
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


@pytest.mark.parametrize('content', [b'', b'text', b'PK\x03\x04'])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / 'x.npz').write_bytes(content)
    with pytest.raises(UserError, match='not a batch that a run has saved') as error:
        non_finite.load_batch(tmp_path / 'x.npz')
    assert '\n' not in str(error.value)
    np.savez(tmp_path / 'pickle.npz', step=np.int64(1), weight=np.array([{}], object))
    with pytest.raises(UserError, match='allow_pickle=False'):
        non_finite.load_batch(tmp_path / 'pickle.npz')
