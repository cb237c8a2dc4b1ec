"""Batches made by processes: those of threads, bit by bit; nothing is left of the processes."""

import fcntl
import gc
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import traceback

import pytest

from data_pipelines import pipeline, processes
from data_pipelines.options import ScheduleOptions, Source
from data_pipelines.storage.sequence_example import RecordError
from data_pipelines.workers import Threads
from tests.helpers.batches import assert_equal_batches, evaluation_batches, train_batches
from tests.helpers.tiny_records import (
    flat_dataset,
    flat_frame,
    flip_byte,
    two_flat_datasets,
    write_records,
)

ROOT = pathlib.Path(__file__).parents[2]
SPEC = dict(num_frames=3, crop_size=16, short_side=(16, 20))
TEST_SPEC = dict(num_frames=3, crop_size=16, short_side=16)


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    return two_flat_datasets(tmp_path_factory.mktemp('two'))


def _pids(batches):
    return [worker.process.pid for worker in batches._filler._workers]


def _alive(pids):
    """Those of which something is left, be it unwaited for."""
    return [pid for pid in pids if pathlib.Path(f'/proc/{pid}').exists()]


def _wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def _wait_until_gone(pids):
    _wait_for(lambda: not _alive(pids))


def _memory(pid):
    """What a process has mapped."""
    return pathlib.Path(f'/proc/{pid}/maps').read_text()


def _go_on(batches, seconds=60):
    """Takes batches, which are to end with an error."""
    until = time.monotonic() + seconds
    for _ in batches:
        assert time.monotonic() < until


def test_training_batches_are_those_of_threads(sources):
    options = dict(batch_size=6, repeats=2, seed=4, num_steps=9)
    numbers = dict(num_processes=2, num_threads=5)
    want = list(train_batches(sources, **SPEC, **options, num_processes=0))
    with train_batches(sources, **SPEC, **options, **numbers, prefetch=1) as batches:
        pids = _pids(batches)
        assert len(pids) == 2
        # No copy: a batch is the memory that the workers write to, and the same comes again.
        pool, places = batches._filler._pool, set()
        for expected in want:
            batch = next(batches)
            places.add(pool.block(batch['video'])[0].number)
            assert_equal_batches([expected], [batch])
        assert len(places) <= 6
        for pid in pids:
            # One process may have made all batches before the other one has started.
            _wait_for(lambda: 'cv2' in _memory(pid))
            assert not re.search('jaxlib|tensorflow', _memory(pid))


def test_a_hosts_share_from_the_middle(sources):
    options = dict(batch_size=6, seed=4, num_steps=3, start_step=4, host=1, num_hosts=2)
    want = list(train_batches(sources, **SPEC, **options))
    batches = train_batches(sources, **SPEC, **options, num_processes=1, prefetch=0)
    found = [next(batches)]
    for name in (signal.SIGTERM, signal.SIGINT):  # as SLURM sends them to all processes
        os.kill(*_pids(batches), name)
    assert_equal_batches(want, [*found, *batches])


def test_batches_of_many_sizes(sources):
    """Blocks that are no more needed are forgotten by the workers, too."""
    schedule = ScheduleOptions('alternating')
    options = dict(batch_size=4, schedule=schedule, num_steps=12)
    named = [
        Source(**{**vars(source), 'batch_size': size}) for source, size in zip(sources, (4, 7))
    ]
    want = list(train_batches(named, **SPEC, **options, num_processes=0))
    with train_batches(named, **SPEC, **options, num_processes=1) as batches:
        found = [next(batches) for _ in range(12)]
        assert_equal_batches(want, found)
        assert {len(batch['video']) for batch in found} == {4, 7}
        pool = batches._filler._pool
        assert len(pool.live) >= 12  # all that are held
        del found
        gc.collect()
        assert len(pool.live) <= 5


def test_evaluation_batches_are_those_of_threads(sources):
    """Views of a record lie in several batches; the last one is padded."""
    views = dict(batch_size=4, temporal_views=3, spatial_views=3)
    want = list(evaluation_batches(sources[0], **TEST_SPEC, **views))
    found = evaluation_batches(sources[0], **TEST_SPEC, **views, num_processes=2)
    assert_equal_batches(want, list(found))
    assert want[-1]['weight'].min() == 0


def test_damaged_records_are_counted_and_replaced_as_by_threads(tmp_path, caplog):
    source = flat_dataset(tmp_path / 'd', 9)
    for record in (3, 7):
        flip_byte(tmp_path / 'd', record)
    options = dict(batch_size=6, seed=2, num_steps=6)
    runs = []
    for count in (0, 1):
        with train_batches(
            [source], **SPEC, **options, num_processes=count, max_bad_records=2
        ) as batches:
            runs.append(list(batches))
            assert batches.bad_records == 2
    assert_equal_batches(*runs)
    assert caplog.text.count('damaged record skipped') == 4
    test = dict(batch_size=4, max_bad_records=2)
    assert_equal_batches(
        evaluation_batches(source, **TEST_SPEC, **test),
        evaluation_batches(source, **TEST_SPEC, **test, num_processes=1),
    )
    handed_out = []
    for count in (0, 1):
        batches = train_batches([source], **SPEC, **options, max_bad_records=1, num_processes=count)
        with pytest.raises(RecordError, match=r'train-0000.*checksum.*max_bad_records=1'):
            for number, _ in enumerate(batches, 1):
                handed_out.append((count, number))
    assert [n for count, n in handed_out if not count] == [n for count, n in handed_out if count]


def test_a_users_mistake_is_told_as_by_threads(tmp_path):
    write_records(
        tmp_path, [[flat_frame(0, 0)]], [[0]], num_classes=1, num_shards=1, frame_rate=None
    )
    source = Source(tmp_path, 'mine', 'train', target_frame_rate=30.0)
    with pytest.raises(ValueError, match='the stored frame rate is None'):
        next(train_batches([source], **SPEC, batch_size=1, num_processes=1))


def test_a_killed_process_is_named_and_ends_the_run(sources):
    batches = train_batches(sources, **SPEC, batch_size=4, num_processes=3)
    next(batches)
    pids = _pids(batches)
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(ChildProcessError) as error:
        _go_on(batches)
    text = str(error.value)
    assert f'process {pids[1]}, one of 3 that make batches, was killed by SIGKILL' in text
    assert '\n' not in text and 'num_processes' in text
    # By this commands tell that the text is for a user.
    assert traceback.extract_tb(error.tb)[-1].filename == processes.__file__
    _wait_until_gone(pids)
    assert list(batches) == []


@pytest.mark.parametrize('done', (False, True))
def test_a_process_of_which_a_thread_fails_ends_the_run(sources, done):
    """What it was to do would never be answered, and be waited for."""
    numbers = dict(num_processes=1, num_threads=4)
    batches = train_batches(sources, **SPEC, batch_size=4, **numbers, prefetch=0)
    next(batches)
    filler = batches._filler
    if done:
        next(batches)
    filler._unsent += processes.TOKEN.pack(1, 99)  # no job of the first batch
    filler._deal()
    with pytest.raises(ChildProcessError, match='ended with exit code 1'):
        _go_on(batches)


_BUSY = """
import sys
if 'data_pipelines.row_worker' in sys.orig_argv:
    import threading, cv2, numpy
    def work():
        while True:
            cv2.resize(image, (2000, 2000))
    image = numpy.zeros((1000, 1000), numpy.uint8)
    threading.Thread(target=work, daemon=True).start()
"""


def test_a_process_of_which_the_listener_fails_ends_the_run(sources, tmp_path, monkeypatch):
    """While a thread decodes, in which Python's usual end would abort."""
    (tmp_path / 'sitecustomize.py').write_text(_BUSY)
    monkeypatch.syspath_prepend(tmp_path)
    batches = train_batches(sources, **SPEC, batch_size=4, num_processes=1, prefetch=0)
    next(batches)
    batches._filler._workers[0].send(processes.pack('nothing that is known'))
    with pytest.raises(ChildProcessError, match='ended with exit code 1'):
        _go_on(batches)


def test_more_blocks_than_a_message_can_bring(sources):
    """Linux lets 253 descriptors come with one message."""
    views = dict(batch_size=1, temporal_views=100, spatial_views=3, prefetch=0)
    options = {**TEST_SPEC, 'num_frames': 1, 'max_bad_records': 0}
    want = evaluation_batches(sources[0], **options, **views)
    with want, evaluation_batches(sources[0], **options, **views, num_processes=1) as found:
        pairs = [(next(want), next(found)) for _ in range(301)]
    assert_equal_batches(*zip(*pairs))


def test_more_jobs_than_the_pipe_has_room_for(sources):
    options = dict(batch_size=300, num_frames=1, crop_size=2, short_side=(2, 2), num_steps=1)
    want = train_batches(sources, **options, num_processes=0)
    with train_batches(sources, **options, num_processes=1, prefetch=0) as found:
        fcntl.fcntl(found._filler._queue, fcntl.F_SETPIPE_SZ, 4096)  # room for 256
        os.kill(*_pids(found), signal.SIGSTOP)  # else it may make room before the pipe is full
        found._begin(1)
        assert found._filler._unsent
        os.kill(*_pids(found), signal.SIGCONT)
        assert_equal_batches(want, found)


def test_closing_and_forgetting_end_the_processes(sources):
    batches, others = (
        train_batches(sources, **SPEC, batch_size=4, num_processes=1) for _ in range(2)
    )
    pids, other_pids = _pids(batches), _pids(others)
    next(batches)
    batches.close()
    batches.close()
    assert not _alive(pids) and list(batches) == []
    next(others)
    del others
    gc.collect()
    _wait_until_gone(other_pids)


_SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which nohup has it ignore
from data_pipelines.options import ClipSize, InputOptions, OrderOptions, Source
from data_pipelines.pipeline import train_batches
batches = train_batches(
    [Source(sys.argv[1], 'd', 'train')], ClipSize(3, 16), OrderOptions(batch_size=4),
    InputOptions(short_side=(16, 20), num_processes=2),
)
next(batches)
pids = [worker.process.pid for worker in batches._filler._workers]
print(*pids, flush=True)
for batch in batches:
    time.sleep(0.01)
"""


@pytest.mark.slow  # three runs
def test_nothing_is_left_of_runs_that_are_ended(sources):
    command = [sys.executable, '-c', _SCRIPT, str(sources[0].path)]
    runs = {
        name: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        for name in ('SIGINT', 'SIGTERM', 'SIGKILL')
    }
    try:
        for name, run in runs.items():
            pids = [int(pid) for pid in run.stdout.readline().split()]
            assert len(pids) == 2 and _alive(pids) == pids
            assert not any('/dev/shm' in _memory(pid) for pid in (run.pid, *pids))
            run.send_signal(getattr(signal, name))
            run.communicate(timeout=60)
            _wait_until_gone(pids)
    finally:
        for run in runs.values():
            run.kill()


@pytest.mark.parametrize(
    'cores, options, want',
    [
        (2, {}, None),
        (7, {}, None),
        (8, {}, (4, 2)),
        (64, {}, (32, 2)),
        (64, dict(num_processes=0), None),
        (64, dict(num_threads=4), None),
        (2, dict(num_processes=2), (2, 1)),
        (16, dict(num_processes=4), (4, 4)),
        (2, dict(num_processes=5), (5, 1)),
        (64, dict(num_steps=200), (3, 21)),
        (64, dict(num_steps=127), None),
    ],
)
def test_how_many(sources, monkeypatch, cores, options, want):
    chosen = []

    class Processes(Threads):
        def __init__(self, plan, count, threads):
            super().__init__(plan, 1)
            chosen.append((count, threads))

    monkeypatch.setattr(pipeline, 'available_cores', lambda: cores)
    monkeypatch.setattr(processes, 'Processes', Processes)
    train_batches(sources, **SPEC, batch_size=4, **options).close()
    assert chosen == ([] if want is None else [want])
