"""Making the frame index of records that are there: the library of `data_pipelines.index`."""

from collections.abc import Callable
import concurrent.futures
import os

import numpy as np

from data_pipelines.storage.frame_index import (
    FrameIndex,
    find_places,
    frame_index_path,
    save_frame_index,
)
from data_pipelines.storage.reader import ShardReader
from data_pipelines.storage.record_index import RecordIndex, by_shard
from data_pipelines.storage.sequence_example import RecordError


def write_frame_index(
    directory: str | os.PathLike,
    split: str,
    index: RecordIndex,
    *,
    known: Callable[[str], str] | None = None,
    threads: int = 1,
    on_progress: Callable[[int], None] = lambda size: None,
) -> None:
    """Writes `NAME.frames`. Damaged records get no places, so that whoever reads them meets the
    damage.

    Args:
        directory: where the shards are.
        split: their common name.
        index: of all of them.
        known: name of a shard -> path of its own frame index; where that fits, the shard is not
            read.
        threads: that read.
        on_progress: called with numbers of bytes as they are done.

    Raises:
        OSError: it cannot be written.
    """
    places = []
    with concurrent.futures.ThreadPoolExecutor(threads, 'index') as pool:
        for shard in by_shard(index):
            found = known and _stored_places(known(shard.shards[0]), shard)
            if found is None:
                reader = ShardReader(directory, shard)
                found = list(
                    pool.map(lambda number: _read_places(reader, number), range(len(reader)))
                )
                reader.close()
            places += found
            on_progress(shard.sizes[0])
    save_frame_index(frame_index_path(directory, split), index, places)


def _stored_places(path: str, shard: RecordIndex) -> list[np.ndarray] | None:
    """What the frame index of one shard says; None where it is not there or of something else."""
    try:
        stored = FrameIndex(path, shard)
        return [stored.places(number) for number in range(len(shard.offsets))]
    except (FileNotFoundError, RecordError):
        return None


def _read_places(reader: ShardReader, number: int) -> np.ndarray:
    try:
        return find_places(reader.read(number))
    except RecordError:
        return find_places(memoryview(b''))
