"""What is saved is what was there when save was called, and only whole checkpoints are found."""

import logging
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax.checkpoints import runs
from multitrain_jax.errors import UserError
from multitrain_jax.training.train_step import TrainState

ROOT = pathlib.Path(__file__).parent.parent.parent


def state(number):
    return {
        'params': {'layers': {0: jnp.full((3, 4), float(number)), 1: jnp.arange(4.0) + number}},
        'opt_state': (jnp.full((2,), number, jnp.int32), {}),
        'key': jax.random.key(number),
        'step': jnp.asarray(number),
    }


def same(one, other):
    plain = lambda leaf: (
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    )
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_array_equal(plain(a), plain(b))


@pytest.fixture
def saved(tmp_path):
    opened = runs.RunCheckpoints(tmp_path, keep=2)
    yield opened
    opened.close()


def test_round_trip_and_keep(saved):
    for step in (1, 2, 3):
        assert saved.save(step, state(step), {'model': {'width': step}})
    saved.wait()
    assert saved.all_steps() == [2, 3] and saved.latest_step() == 3
    same(saved.restore(3, jax.eval_shape(lambda: state(0))), state(3))
    same(saved.restore_params(2, state(0)['params']), state(2)['params'])
    assert saved.read_meta(2) == {'model': {'width': 2}}


def test_the_moving_average_is_what_is_used(saved):
    """Of the parameters that have one; the frozen ones are as they are."""
    kept = {'layers': {1: jnp.full(4, 7.0)}, 'objective': {'dataset': jnp.zeros(2)}}
    saved.save(1, state(1) | {'ema': kept}, {})
    saved.wait()
    same(
        saved.restore_params(1, state(0)['params']),
        {'layers': {0: state(1)['params']['layers'][0], 1: jnp.full(4, 7.0)}},
    )


def test_saving_a_step_again_is_no_error(saved):
    assert saved.save(1, state(1), {})
    assert not saved.save(1, state(5), {})
    same(saved.restore(1, state(0)), state(1))


def test_buffers_may_be_donated_at_once(saved):
    """The next step may overwrite the state's buffers while the save still runs.

    Orbax takes host copies before it returns; on the CPU it takes views, and JAX then does not
    reuse the buffers.
    """
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    big = {'params': jax.device_put(jnp.arange(8e6).reshape(8, -1))}
    expected = np.array(big['params'])
    assert saved.save(1, big, {})
    for _ in range(3):
        big = {'params': overwrite(big['params'])}
    jax.block_until_ready(big)
    saved.wait()
    np.testing.assert_array_equal(saved.restore(1, big)['params'], expected)


def test_half_written_checkpoints_are_not_found(tmp_path):
    first = runs.RunCheckpoints(tmp_path, keep=5)
    first.save(1, state(1), {})
    first.close()
    shutil.copytree(
        tmp_path / 'checkpoints' / '1', tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
    )
    again = runs.RunCheckpoints(tmp_path, keep=5)
    assert again.all_steps() == [1]
    same(again.restore(again.latest_step(), state(0)), state(1))
    again.close()


def test_nothing_saved(saved):
    assert saved.latest_step() is None and saved.all_steps() == []


def largest(directory):
    return max(
        (path for path in directory.rglob('*') if path.is_file()),
        key=lambda path: path.stat().st_size,
    )


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


def flip_in_description(directory):
    """A byte of a text: it stays JSON."""
    path = directory / 'meta' / 'metadata'
    assert 'width' in path.read_text()
    path.write_text(path.read_text().replace('width', 'wideh'))


DAMAGES = {
    'flipped byte of the numbers': lambda directory: flip(
        largest(directory / 'state' / 'ocdbt.process_0' / 'd')
    ),
    'flipped byte of the tables': lambda directory: flip(directory / 'state' / 'manifest.ocdbt'),
    'flipped byte of the description': flip_in_description,
    'flipped byte of the checksums': lambda directory: flip(directory / 'checksums' / 'metadata'),
    'truncated': lambda directory: os.truncate(
        largest(directory / 'state' / 'ocdbt.process_0' / 'd'), 100
    ),
    'half copied': lambda directory: shutil.rmtree(directory / 'state' / 'ocdbt.process_0'),
    'without description': lambda directory: shutil.rmtree(directory / 'meta'),
    'without state': lambda directory: shutil.rmtree(directory / 'state'),
    'empty': lambda directory: [
        shutil.rmtree(path) for path in directory.iterdir() if path.is_dir()
    ],
}


def large_state(number):
    """Too many numbers for them to lie in the tables."""
    noise = jax.random.normal(jax.random.key(number), (100, 100))
    return state(number) | {'params': {'kernel': noise}}


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """A workdir with checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp('two')
    saved = runs.RunCheckpoints(workdir, keep=5)
    for step in (1, 2):
        saved.save(step, large_state(step), {'model': {'width': step}})
    saved.close()
    return workdir


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, two, tmp_path, caplog):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](tmp_path / 'checkpoints' / '2')
    saved = runs.RunCheckpoints(tmp_path, keep=5)

    def read(step):
        return saved.read_meta(step), saved.restore(step, large_state(0))

    with caplog.at_level(logging.WARNING, 'multitrain_jax'):
        meta, restored = saved.read_newest(read)
    assert meta == {'model': {'width': 1}}
    same(restored, large_state(1))
    (record,) = [record for record in caplog.records if record.name == 'multitrain_jax']
    text = record.getMessage()
    assert text.startswith(f'checkpoint {tmp_path}/checkpoints/2 is damaged: ') and '\n' not in text

    saved.set_aside_after(1)
    assert saved.all_steps() == [1] and (tmp_path / 'damaged_checkpoints' / '2').is_dir()
    assert saved.save(2, large_state(7), {})
    saved.wait()
    same(saved.restore(2, large_state(0)), large_state(7))
    DAMAGES[damage](tmp_path / 'checkpoints' / '1')
    flip_largest = DAMAGES['flipped byte of the numbers']
    flip_largest(tmp_path / 'checkpoints' / '2')
    with pytest.raises(
        UserError, match=f'no checkpoint in {tmp_path}/checkpoints can be read: .*/1 is damaged'
    ) as error:
        saved.read_newest(read)
    assert '\n' not in str(error.value)
    with pytest.raises(runs.DamagedCheckpoint, match='params.kernel are not those that were saved'):
        saved.restore_params(2, large_state(0)['params'])
    saved.close()


def test_checkpoints_of_earlier_versions_have_no_checksums(two, tmp_path):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / 'checkpoints' / '2' / 'checksums')
    saved = runs.RunCheckpoints(tmp_path, keep=None)
    assert saved.read_meta(2) == {'model': {'width': 2}}
    same(saved.restore(2, large_state(0)), large_state(2))
    saved.close()


def test_states_of_earlier_versions_have_skipped_nothing(saved):
    fields = state(1) | {'ema': {}}
    saved.save(1, fields, {})
    saved.wait()
    like = TrainState(**state(0), ema={}, skipped=jnp.asarray(7))
    restored = saved.restore(1, like)
    assert restored.skipped == 0
    same({name: getattr(restored, name) for name in fields}, fields)


FULL = """
import os, resource, sys
import jax.numpy as jnp
import numpy as np
from multitrain_jax import errors
from multitrain_jax.checkpoints import runs
from multitrain_jax.reporting import progress

def main():
    progress.set_up_logging(sys.argv[1])
    saved = runs.RunCheckpoints(sys.argv[1], keep=1)
    noise = np.random.default_rng(0).standard_normal(50_000, np.float32)
    saved.save(1, {'params': jnp.asarray(noise)}, {})
    saved.wait()
    if sys.argv[2] == 'limit':
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    if sys.argv[2] == 'locked':
        os.chmod(saved.directory, 0o555)
    try:
        saved.save(2, {'params': jnp.asarray(noise[::-1])}, {})
    finally:
        saved.close()

errors.run_command(main)
"""


def fill(workdir, kind, *prefix):
    """Saves two checkpoints of 200 kB; the second one does not fit."""
    return subprocess.run(
        [*prefix, sys.executable, '-c', FULL, str(workdir), kind],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
    )


def check_full(done, workdir, reason):
    assert done.returncode == 2, done.stderr
    (line,) = [
        line for line in done.stderr.splitlines() if not re.match(r'WARNING: All log|I0000', line)
    ]
    assert line.startswith(
        f'error: a checkpoint could not be written to {workdir}/checkpoints: {reason}. '
    )
    assert 'The last good one is step 1; make room' in line
    saved = runs.RunCheckpoints(workdir, keep=None)
    assert saved.latest_step() == 1
    expected = np.random.default_rng(0).standard_normal(50_000, np.float32)
    np.testing.assert_array_equal(saved.restore(1, {'params': expected})['params'], expected)
    saved.close()


def test_a_file_that_the_disk_does_not_take(tmp_path):
    """The limit of a file's size stands for the full disk where nothing can be mounted."""
    check_full(fill(tmp_path, 'limit'), tmp_path, 'File too large')


@pytest.mark.slow
def test_a_directory_that_is_locked_meanwhile(tmp_path):
    prefix = ('setpriv', '--bounding-set=-dac_override')  # root may write anywhere
    if os.geteuid():
        prefix = ()
    elif not shutil.which(prefix[0]) or subprocess.run([*prefix, 'true']).returncode:
        pytest.skip('root, with all its rights')
    check_full(fill(tmp_path, 'locked', *prefix), tmp_path, 'Permission denied')


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=300k', 'tmpfs', str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip('no file system can be mounted here')
    try:
        check_full(fill(tmp_path, 'disk'), tmp_path, 'No space left on device')
    finally:
        subprocess.run(['umount', str(tmp_path)], check=True)


@pytest.mark.parametrize('kind', ['a file', 'no such file system'])
def test_a_directory_that_cannot_be_written_is_told_at_once(kind, tmp_path):
    """Not after the first steps, by a thread."""
    workdir = tmp_path if kind == 'a file' else pathlib.Path('/proc/self')
    if kind == 'a file':
        (tmp_path / 'checkpoints').write_text('mine')
    with pytest.raises(UserError, match='checkpoints: checkpoints cannot be written') as error:
        runs.RunCheckpoints(workdir, keep=1)
    assert '\n' not in str(error.value)
