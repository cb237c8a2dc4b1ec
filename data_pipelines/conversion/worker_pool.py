"""Worker processes of the converter: hands out jobs, survives a decoder that crashes or hangs."""

from collections.abc import Callable, Sequence
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from typing import Any

_ROOT = pathlib.Path(__file__).parents[2]  # where the package data_pipelines lies


def run_jobs(
    jobs: Sequence[tuple[Any, dict]],
    workers: int,
    on_clip: Callable[[int, int], None],
    on_result: Callable[[Any, dict], None],
    *,
    video_timeout: float,
) -> None:
    """Runs jobs of `worker.main` in worker processes.

    A video that crashes a worker, or keeps it too long, counts as a failure; its shard is begun
    anew without it. A result gets `retry_above`, the `video_timeout` beyond which it is worth
    trying again what failed so (0 where memory may have run out), else None.

    Args:
      jobs: (tag, job) pairs.
      workers: processes at most.
      on_clip: called with (clips done, failures among them) as these change; negative where a shard
        is begun anew. One call at a time.
      on_result: called with (tag, result) of each job. One call at a time.
      video_timeout: seconds that one clip may take.

    Raises:
      OSError: a shard cannot be written, or the workers do not start. The other workers are ended.
    """
    waiting = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    lock = threading.Lock()
    errors: list[BaseException] = []
    running: list[_Worker] = []

    def report_clip(count: int, failures: int) -> None:
        with lock:
            on_clip(count, failures)

    def serve() -> None:
        worker = _Worker(video_timeout)
        with lock:
            running.append(worker)
        try:
            while not errors:
                try:
                    tag, job = waiting.get_nowait()
                except queue.Empty:
                    break
                result = worker.run(job, report_clip)
                with lock:
                    on_result(tag, result)
        except BaseException as error:  # handed to the caller below
            errors.append(error)
            with lock:
                for other in running:
                    other.end()
        finally:
            worker.end()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(workers, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C: end the workers, then let it through
        errors.append(KeyboardInterrupt())
        with lock:
            for worker in running:
                worker.end()
        raise
    if errors:
        raise errors[0]


class _Worker:
    """One process of `conversion.worker`; started when first needed and again after its death."""

    def __init__(self, video_timeout: float):
        self._video_timeout = video_timeout
        self._process: subprocess.Popen | None = None
        self._ended = False

    def run(self, job: dict, on_clip: Callable[[int, int], None]) -> dict:
        """Runs one job to its end; returns its result."""
        known_failures = dict(job['known_failures'])
        retry_above = None
        while True:
            done, failed, current, result = 0, 0, None, None
            process = self._started()
            try:
                process.stdin.write(json.dumps({**job, 'known_failures': known_failures}) + '\n')
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it has died; the loop below finds no event and says so
            with _TimeLimit(self._video_timeout, process) as limit:
                for line in process.stdout:
                    event = json.loads(line)
                    if 'clip' in event:
                        current = event['clip']
                        limit.start(current)
                    elif 'stored' in event:
                        limit.stop()
                        done += 1
                        failed += not event['stored']
                        on_clip(1, int(not event['stored']))
                    elif 'error' in event:
                        raise OSError(event['error'])
                    else:
                        result = event['result']
                        break
            if result is not None and limit.exceeded_by is None:
                return {**result, 'retry_above': retry_above}
            code = process.wait()
            self._process = None
            if self._ended:
                raise OSError(f'{job["path"]}: conversion was ended')
            if limit.exceeded_by is not None:
                known_failures[limit.exceeded_by] = (
                    f'took longer than {self._video_timeout:g} s (the limit, video_timeout)'
                )
                retry_above = max(retry_above or 0, self._video_timeout)
            elif current is None or current in known_failures:
                raise OSError(
                    f'{job["path"]}: a worker process ended with code {code}; see its message above'
                )
            else:  # the worker died on a video, of a fault in a decoder or for want of memory
                known_failures[current] = f'the worker process died on it ({_describe_exit(code)})'
                if code == -signal.SIGKILL and retry_above is None:
                    retry_above = 0
            on_clip(-done, -failed)

    def end(self) -> None:
        """Ends the process, at once."""
        self._ended = True
        process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def _started(self) -> subprocess.Popen:
        if self._ended:
            raise OSError('conversion was ended')
        if self._process is None:
            path = os.environ.get('PYTHONPATH')
            self._process = subprocess.Popen(
                # -P: this package, not one that happens to lie in the current directory.
                [sys.executable, '-P', '-m', 'data_pipelines.conversion.worker'],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding='ascii',
                env={
                    **os.environ,
                    'PYTHONPATH': f'{_ROOT}{os.pathsep}{path}' if path else str(_ROOT),
                },
                start_new_session=True,  # Ctrl-C is for the parent, which then ends the workers
            )
        return self._process


class _TimeLimit:
    """Kills a worker process that is too long at one clip.

    Attributes:
      exceeded_by: the number of the clip that it was killed for.
    """

    def __init__(self, seconds: float, process: subprocess.Popen):
        self._seconds = min(seconds, threading.TIMEOUT_MAX)
        self._process = process
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self.exceeded_by: int | None = None

    def __enter__(self) -> '_TimeLimit':
        return self

    def __exit__(self, *unused) -> None:
        self.stop()

    def start(self, clip: int) -> None:
        """The process begins with a clip."""
        self._timer = threading.Timer(self._seconds, self._expire, (clip,))
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """The process is done with it."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _expire(self, clip: int) -> None:
        with self._lock:
            if self._timer is threading.current_thread():  # not stopped meanwhile
                self.exceeded_by = clip
                self._process.kill()


def _describe_exit(code: int) -> str:
    return f'signal {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'
