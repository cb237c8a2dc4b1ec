"""Work that a thread does ahead of its use."""

from collections.abc import Callable, Iterator
import queue
import threading
from typing import Any


def prefetch(
    items: Iterator[Any], transform: Callable[[Any], Any], depth: int = 2
) -> Iterator[Any]:
    """`transform(item)` for every item, made up to `depth` items ahead of their use by a thread.

    With a driver's `to_devices` as the transform, copies to the devices overlap the computation. An
    error in the thread is raised where the item would have come.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()
    end = object()

    def put(entry: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in items:
                if not put((transform(item), None)):
                    return
            put((end, None))
        except BaseException as error:  # handed over, whatever it is
            put((None, error))

    thread = threading.Thread(target=run, name='prefetch', daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()
        close = getattr(items, 'close', None)
        if close is not None:
            close()
