"""Batches from a tf.data service against those made in this process."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from data_pipelines import service
from data_pipelines import service_batches as library
from data_pipelines.options import BoxOptions, ScheduleOptions, Source
from data_pipelines.storage.reader import RecordReader
from data_pipelines.storage.sequence_example import RecordError
from tests.helpers.batches import assert_equal_batches, service_batches, train_batches
from tests.helpers.box_records import box_dataset
from tests.helpers.tiny_records import flat_dataset

pytest.importorskip('tensorflow')

_ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = dict(batch_size=4, num_frames=3, crop_size=16, short_side=(16, 20), seed=5)


@contextlib.contextmanager
def _command(*arguments):
    """A running role of the command, and the line that it prints once it serves."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'data_pipelines.service', *arguments],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'},
    )
    try:
        line = process.stdout.readline()
        assert line, process.wait()  # whoever asks it for batches would wait for ever
        yield process, line
    finally:
        process.kill()
        process.wait()


def test_a_local_dispatcher_and_worker_make_the_same_batches(tmp_path, monkeypatch):
    source = flat_dataset(tmp_path / 'd', 9, num_frames=9)
    monkeypatch.chdir(tmp_path)
    relative = Source('d', 'd', 'train')  # The worker runs in another directory.
    with _command('dispatcher', '--port=0') as (_, line):
        address = line.split('grpc://')[1].strip()
        with _command('worker', f'--dispatcher={address}', '--host=localhost'):
            batches = service_batches(address, [relative], **OPTIONS, start_step=3, num_steps=12)
            assert batches.samples_per_epoch == 9
            got = list(batches)
            assert_equal_batches(
                got, train_batches([source], **OPTIONS, start_step=3, num_steps=12)
            )
            assert batches.step == 15 and batches.bad_records == 0 and batches.wait_seconds > 0
            # Batches of changing size, with boxes.
            boxes = box_dataset(
                tmp_path / 'boxes',
                [[(20, 20, 70, 90)]] * 3,
                boxes=BoxOptions(2, jitter=0.1),
                batch_size=2,
            )
            schedule = ScheduleOptions('alternating')
            options = dict(
                **OPTIONS, start_step=1, num_steps=4, schedule=schedule, max_bad_records=0
            )
            batches = list(service_batches(address, [source, boxes], **options))
            assert [len(batch['dataset']) for batch in batches] == [2, 4, 2, 4]
            assert_equal_batches(batches, train_batches([source, boxes], **options))
            # Damage that a worker meets counts here.
            reader = RecordReader(tmp_path / 'd', 'train')
            path = tmp_path / 'd' / reader.shard_of(4)
            data = bytearray(path.read_bytes())
            data[int(reader.index.offsets[4]) + 40] ^= 1
            path.write_bytes(data)
            options = dict(**OPTIONS, start_step=0, num_steps=4)
            batches = service_batches(address, [source], **options, max_bad_records=1)
            assert_equal_batches(batches, train_batches([source], **options, max_bad_records=1))
            assert batches.bad_records == 1
            with pytest.raises(RecordError, match='checksum.*max_bad_records=0'):
                list(service_batches(address, [source], **options, max_bad_records=0))


class _Arrivals:
    """Stands for the distributed dataset: gives steps in an order of its own, and loses some."""

    def __init__(self, source, steps):
        whole = list(train_batches([source], **OPTIONS, num_steps=max(steps) + 1))
        self._elements = [(*whole[step].values(), json.dumps([]).encode(), step) for step in steps]

    def as_numpy_iterator(self):
        return iter(self._elements)


@pytest.mark.parametrize(
    'steps, lost',
    [
        ([0, 1, 2, 3, 4], 0),
        ([2, 0, 1, 4, 3], 0),
        ([1, 3, 4], 2),
        ([*range(1, 30), 0], 1),  # Too late.
    ],
)
def test_batches_come_in_order_and_lost_ones_are_made_here(
    tmp_path, monkeypatch, caplog, steps, lost
):
    source = flat_dataset(tmp_path / 'd', 9, num_frames=9)
    monkeypatch.setattr(library, '_check_answers', lambda address: None)
    monkeypatch.setattr(library, '_distributed', lambda *args: _Arrivals(source, steps))
    count = max(steps) + 1
    options = dict(**OPTIONS, start_step=0, num_steps=count)
    batches = service_batches('nowhere:1', [source], **options, max_bad_records=0)
    assert_equal_batches(batches, train_batches([source], **OPTIONS, num_steps=count))
    assert caplog.text.count('was lost with a worker') == lost


def test_nobody_at_the_address(tmp_path):
    source = flat_dataset(tmp_path / 'd', 2)
    options = dict(**OPTIONS, start_step=0, num_steps=1, max_bad_records=0)
    for address in ('localhost:1', 'localhost', 'grpc://localhost:x'):
        with pytest.raises(ValueError, match='no tf.data service at .localhost.*HOST:PORT'):
            service_batches(address, [source], **options)
    assert service.main(['worker', '--dispatcher=localhost:1']) == 2
