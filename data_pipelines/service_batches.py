"""Training batches that other machines make, over TensorFlow's tf.data service.

A batch is a function of its step, so the dataset that is distributed is a range of steps, mapped by
a function that makes a step's batch. The dispatcher deals the steps out; here the batches are put
back in order. So the batches are those that would have been made here, however many workers there
are; and a step that is lost with its worker is made here.
"""

from collections.abc import Sequence
import concurrent.futures
import dataclasses
import functools
import json
import logging
import os
import queue
import socket
import threading
from typing import Any

import cv2
import numpy as np

from data_pipelines.cores import available_cores
from data_pipelines.datasets.open import dataset_path
from data_pipelines.options import (
    BoxOptions,
    ClipSize,
    InputOptions,
    OrderOptions,
    ScheduleOptions,
    Source,
)
from data_pipelines.plans import TrainingPlan
from data_pipelines.tensorflow_import import import_tensorflow
from data_pipelines.workers import Batch, BatchIterator, Damage, fill

# TensorFlow's name for the first Python function that a process registers. A graph can only name
# Python functions of the process that runs it, so workers register ours before anything else.
_TOKEN = 'pyfunc_0'
_MAX_AHEAD = 16  # batches that may come before the one that is next; then that one counts as lost
_PATIENCE = 60.0  # seconds without a batch before a warning


def _encode_plan(
    sources: Sequence[Source],
    size: ClipSize,
    order: OrderOptions,
    options: InputOptions,
    **hosts: int,
) -> str:
    """The arguments of `TrainingPlan` as text; paths are made absolute: workers run elsewhere."""

    def path(source: Source) -> str:
        return dataset_path(os.getcwd(), os.fspath(source.path))

    def of_workers(source: Source) -> dict[str, Any]:
        root = source.video_root and os.path.abspath(source.video_root)
        return {**dataclasses.asdict(source), 'path': path(source), 'video_root': root}

    content = {
        'sources': [of_workers(source) for source in sources],
        'size': dataclasses.asdict(size),
        'order': dataclasses.asdict(order),
        'options': dataclasses.asdict(options),
        'hosts': hosts,
    }
    return json.dumps(content, sort_keys=True)


@functools.lru_cache(maxsize=8)
def _plan(text: str) -> TrainingPlan:
    content = json.loads(text)
    sources, order = content['sources'], content['order']
    return TrainingPlan(
        [Source(**{**source, 'boxes': BoxOptions(**source['boxes'])}) for source in sources],
        ClipSize(**content['size']),
        OrderOptions(**{**order, 'schedule': ScheduleOptions(**order['schedule'])}),
        InputOptions(**content['options']),
        **content['hosts'],
    )


def _fill(
    plan: TrainingPlan, step: int, pool: concurrent.futures.Executor
) -> tuple[Batch, list[Damage]]:
    batch, jobs = plan.batch(step)
    done = pool.map(functools.partial(fill, plan), jobs)
    return batch, [damage for found in done for damage in found]


# The training process.


class ServiceBatches(BatchIterator):
    """The iterator that `pipeline.train_batches` returns, of batches that a service makes.

    Attributes:
        samples_per_epoch: see `TrainingPlan`.
        step: number of the batch that `next()` returns next.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        size: ClipSize,
        order: OrderOptions,
        options: InputOptions,
        *,
        start_step: int = 0,
        num_steps: int | None = None,
        host: int = 0,
        num_hosts: int = 1,
    ):
        """Asks the service at `options.tf_data_service` (HOST:PORT) for batches.

        The arguments are those of `pipeline.train_batches`.

        Raises:
            ValueError: nobody answers at the address, or an argument does not fit.
        """
        tf = import_tensorflow()
        text = _encode_plan(sources, size, order, options, host=host, num_hosts=num_hosts)
        self._local = _plan(text)
        super().__init__(self._local.element_spec, options.max_bad_records)
        self.samples_per_epoch = self._local.samples_per_epoch
        self.step, self._end = start_step, 2**62 if num_steps is None else start_step + num_steps
        self._early: dict[int, tuple[Batch, list[list[Damage]]]] = {}
        address = options.tf_data_service.removeprefix('grpc://')
        _check_answers(address)
        self._dataset = _distributed(tf, address, text, self.element_spec, self.step, self._end)
        self._queue: queue.Queue = queue.Queue(maxsize=1)
        self._closing, self._ended = threading.Event(), False
        self._thread = threading.Thread(target=self._receive, name='tf.data service', daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        """Runs in a thread: hands on what arrives, then None; or the exception that ended it."""
        end = None
        try:
            for *arrays, damage, step in self._dataset.as_numpy_iterator():
                batch = dict(zip(self.element_spec, arrays, strict=True))
                self._hand_on((int(step), batch, [Damage(*found) for found in json.loads(damage)]))
                if self._closing.is_set():
                    return
        except Exception as error:  # noqa: BLE001 (raised again by the thread that waits)
            end = error
        self._hand_on(end)

    def _hand_on(self, item) -> None:
        while not self._closing.is_set():
            try:
                return self._queue.put(item, timeout=1.0)
            except queue.Full:
                continue

    def __next__(self) -> Batch:
        batch = super().__next__()
        self.step += 1
        return batch

    def _next(self) -> tuple[Batch, list[list[Damage]]]:
        if self.step >= self._end or self._closing.is_set():
            raise StopIteration
        while not (self.step in self._early or len(self._early) >= _MAX_AHEAD or self._ended):
            received = self._wait()
            if isinstance(received, Exception):
                raise RuntimeError(f'the tf.data service failed: {received}') from received
            if received is None:
                self._ended = True
                break
            step, batch, damage = received
            if step >= self.step:  # Else it was given up, and made here.
                self._early[step] = batch, [damage]
        if self.step in self._early:
            return self._early.pop(self.step)
        logging.warning('the batch of step %d was lost with a worker; making it here', self.step)
        with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:
            batch, damage = _fill(self._local, self.step, pool)
            return batch, [damage]

    def _wait(self):
        while True:
            try:
                return self._queue.get(timeout=_PATIENCE)
            except queue.Empty:
                logging.warning(
                    'no batch from the tf.data service for %.0f s; does a worker run? (python -m '
                    'data_pipelines.service worker)',
                    _PATIENCE,
                )

    def close(self) -> None:
        """Asks for no more batches; iteration then ends. May be called again."""
        self._closing.set()
        self._early.clear()


def _distributed(tf, address: str, plan: str, element_spec, start: int, end: int):
    """A dataset of (a batch's arrays..., damage as JSON, step), in the order of their arrival."""
    kinds = [tf.as_dtype(kind) for _, kind in element_spec.values()]

    def make(step):
        *arrays, damage = tf.raw_ops.PyFunc(
            input=[tf.constant(plan), step], token=_TOKEN, Tout=[*kinds, tf.string]
        )
        for array, (shape, _) in zip(arrays, element_spec.values(), strict=True):
            array.set_shape(shape)
        damage.set_shape([])
        return *arrays, damage, step

    dataset = tf.data.Dataset.range(start, end).map(make, num_parallel_calls=2, deterministic=False)
    return dataset.apply(
        tf.data.experimental.service.distribute(
            tf.data.experimental.service.ShardingPolicy.DYNAMIC, f'grpc://{address}'
        )
    )


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(':')
    try:
        socket.create_connection((host, int(port)), timeout=20).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f'no tf.data service at {address!r} ({error}); the address is HOST:PORT of a running '
            '"python -m data_pipelines.service dispatcher"'
        ) from error


# Dispatcher and workers.


def _register(tf, num_threads: int) -> Any:
    """Makes the function that fills batches known under `_TOKEN`. Keep what it returns.

    Raises:
        RuntimeError: another Python function has been registered before.
    """
    cv2.setNumThreads(1)
    pool = concurrent.futures.ThreadPoolExecutor(num_threads, thread_name_prefix='decode')

    def fill(text: bytes, step: np.int64):
        batch, damage = _fill(_plan(text.decode()), int(step), pool)
        return [*batch.values(), json.dumps(damage).encode()]

    graph = tf.Graph()
    with graph.as_default():
        tf.numpy_function(fill, [tf.constant(''), tf.constant(0, tf.int64)], [tf.uint8, tf.string])
    token = next(op for op in graph.get_operations() if op.type == 'PyFunc').get_attr('token')
    if token.decode() != _TOKEN:
        raise RuntimeError(f'TensorFlow calls the function {token.decode()}, not {_TOKEN}')
    return graph  # It keeps the function alive.


def start_worker(
    dispatcher: str, *, port: int = 0, host: str | None = None, num_threads: int | None = None
):
    """Starts a worker in this process; returns an object to `join()` and to keep.

    Raises:
        ValueError: nobody answers at `dispatcher`.
    """
    tf = import_tensorflow()
    dispatcher = dispatcher.removeprefix('grpc://')
    _check_answers(dispatcher)
    graph = _register(tf, num_threads or available_cores())
    worker = tf.data.experimental.service.WorkerServer(
        tf.data.experimental.service.WorkerConfig(
            dispatcher_address=dispatcher,
            worker_address=f'{host or socket.gethostname()}:%port%',
            port=port,
        )
    )
    worker.keep_alive = graph
    return worker


def start_dispatcher(port: int):
    """Starts a dispatcher in this process; returns an object to `join()` and to keep."""
    tf = import_tensorflow()
    try:
        return tf.data.experimental.service.DispatchServer(
            tf.data.experimental.service.DispatcherConfig(port=port)
        )
    except RuntimeError as error:
        raise ValueError(f'port {port}: cannot be listened on ({error}); is it in use?') from error
