"""Datasets of a few kilobytes whose pixels say which record and frame they come from."""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np
import simplejpeg

from data_pipelines.datasets.dataset_info import DatasetInfo, SplitInfo, save_dataset_info
from data_pipelines.options import Source
from data_pipelines.storage.reader import RecordReader
from data_pipelines.storage.record_index import shard_name
from data_pipelines.storage.sequence_example import (
    IMAGE_ENCODED,
    LABEL_INDEX,
    VIDEO_FILENAME,
    encode_sequence_example,
)
from data_pipelines.storage.tfrecord import RecordWriter


def jpeg(image: np.ndarray) -> bytes:
    """u8[H, W, 3] or [H, W, 1] -> JPEG bytes, nearly lossless."""
    image = np.ascontiguousarray(image)
    space = 'RGB' if image.shape[-1] == 3 else 'GRAY'
    return simplejpeg.encode_jpeg(image, quality=100, colorspace=space, colorsubsampling='444')


def smooth_image(height: int, width: int, phase: float = 0.0) -> np.ndarray:
    """u8[H, W, 3], different at every place, without hard edges."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [np.sin(x / 9 + phase), np.cos(y / 7 + phase), np.sin((x + y) / 11)]
    return np.round(127.5 + 120 * np.stack(channels, -1)).astype(np.uint8)


def flat_frame(record: int, frame: int, height: int = 20, width: int = 28) -> bytes:
    """One colour: red tells the record, green the frame."""
    colour = np.array([10 + 4 * record, 10 + 12 * frame, 100], np.uint8)
    return jpeg(np.broadcast_to(colour, (height, width, 3)))


def video_name(number: int) -> str:
    """What record `number` calls its video."""
    return f'videos/{number:03d}.mp4'


def write_records(
    directory: pathlib.Path,
    clips: Sequence[Sequence[bytes]],
    labels: Sequence[Sequence[int]],
    *,
    num_classes: int,
    split: str = 'train',
    num_shards: int = 2,
    multi_label: bool = False,
    frame_rate: float | None = 10.0,
    localisation: bool = False,
    contexts: Sequence[Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Writes clips (each a list of encoded frames), in order, as shards and dataset.json.

    `contexts`: more context features of each record.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for shard, numbers in enumerate(np.array_split(np.arange(len(clips)), num_shards)):
        path = directory / shard_name(split, shard, num_shards)
        with RecordWriter(path) as writer:
            for number in numbers:
                context = {
                    LABEL_INDEX: np.array(labels[number], np.int64),
                    VIDEO_FILENAME: [video_name(number)],
                }
                context.update(contexts[number] if contexts else {})
                frames = {IMAGE_ENCODED: list(clips[number])}
                writer.write(encode_sequence_example(context, frames))
    splits = {split: SplitInfo(len(clips), num_shards, (0,) * num_classes)}
    classes = tuple(f'class {number}' for number in range(num_classes))
    info = DatasetInfo(
        directory.name, classes, multi_label, splits, frame_rate, localisation=localisation
    )
    save_dataset_info(directory, info)


def flat_dataset(
    directory: pathlib.Path, num_records: int, num_frames: int = 6, **source_fields
) -> Source:
    """Records whose label is their own number and whose frames are `flat_frame`."""
    clips = [[flat_frame(r, f) for f in range(num_frames)] for r in range(num_records)]
    labels = [[r] for r in range(num_records)]
    write_records(directory, clips, labels, num_classes=num_records)
    return Source(directory, directory.name, 'train', **source_fields)


def two_flat_datasets(directory: pathlib.Path) -> list[Source]:
    """7 and 4 records, sampled in two ways."""
    return [
        flat_dataset(directory / 'strided', 7, num_frames=9, stride=2),
        flat_dataset(directory / 'uniform', 4, num_frames=6, sampling='uniform', flip=False),
    ]


def flip_byte(directory: pathlib.Path, record: int) -> None:
    """Damages a record of the split `train`."""
    reader = RecordReader(directory, 'train')
    path = directory / reader.shard_of(record)
    data = bytearray(path.read_bytes())
    data[int(reader.index.offsets[record]) + 40] ^= 1
    path.write_bytes(data)
