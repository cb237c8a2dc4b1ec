"""Memory for batches that is used again: asking the system for it anew costs a tenth of making a clip."""

import threading

import numpy as np

_MAX_IDLE = 4  # arrays kept for the next ones; more are under way or in use at the same time
_thread = threading.local()


class ArrayPool:
    """Gives arrays; the memory of one that nobody refers to any more, nor to a part of, is given again."""

    def __init__(self):
        self._idle: list[np.ndarray] = []
        self._lock = threading.Lock()  # Not for what leases give back: that may come at any moment.

    def empty(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """As `np.empty`."""
        array = None
        with self._lock:
            for number, candidate in enumerate(self._idle):
                if candidate.shape == shape and candidate.dtype == dtype:
                    array = self._idle.pop(number)
                    break
        if array is None:
            array = np.empty(shape, dtype)
        return np.asarray(_Lease(array, self._idle))


class _Lease:
    """What an array given away, and all views of it, keep alive; its end is theirs."""

    def __init__(self, array: np.ndarray, idle: list[np.ndarray]):
        self._array, self._idle = array, idle
        self.__array_interface__ = array.__array_interface__

    def __del__(self):
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(self._array)


def scratch(name: str, count: int) -> np.ndarray:
    """u8[count] of the calling thread, the same memory again at the next call of this `name`."""
    array = getattr(_thread, name, None)
    if array is None or len(array) < count:
        array = np.empty(count + count // 2, np.uint8)
        setattr(_thread, name, array)
    return array[:count]
