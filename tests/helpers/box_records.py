"""Records with boxes that can be seen: each box is a rectangle of its own colour."""

import dataclasses
import pathlib

import numpy as np

from data_pipelines.annotations import KeyFrame
from data_pipelines.datasets import dataset_info
from data_pipelines.options import Source
from data_pipelines.storage import regions
from tests.helpers.tiny_records import jpeg, write_records

COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)], np.uint8)
SIZE = (120, 160)  # height, width


def picture(rectangles) -> np.ndarray:
    """u8[H, W, 3] with the rectangles, in whole pixels (left,
    top, right, bottom), in their colours.
    """
    image = np.zeros((*SIZE, 3), np.uint8)
    for (left, top, right, bottom), colour in zip(rectangles, COLOURS, strict=False):
        image[top:bottom, left:right] = colour
    return image


def normalised(rectangle) -> tuple[float, ...]:
    left, top, right, bottom = rectangle
    return left / SIZE[1], top / SIZE[0], right / SIZE[1], bottom / SIZE[0]


def box_dataset(
    directory: pathlib.Path,
    records,
    *,
    proposals=None,
    num_frames=6,
    num_classes=5,
    split='train',
    **fields,
) -> Source:
    """A record for each list of rectangles; rectangle number k has action k; they are seen all the
    time.

    `proposals`: for each record (boxes, scores).
    """
    clips, contexts = [], []
    for number, rectangles in enumerate(records):
        clips.append([jpeg(picture(rectangles))] * num_frames)
        boxes = tuple(normalised(rectangle) for rectangle in rectangles)
        count = range(len(boxes))
        found, scores = proposals[number] if proposals else ((), ())
        key_frame = KeyFrame(1.0, boxes, tuple(count), tuple(count), tuple(found), tuple(scores))
        contexts.append(regions.region_features(key_frame, num_frames // 2))
    write_records(
        directory,
        clips,
        [[]] * len(clips),
        num_classes=num_classes,
        split=split,
        localisation=True,
        contexts=contexts,
    )
    return Source(directory, directory.name, split, sampling='key_frame', **fields)


def write_scenes(root: pathlib.Path) -> pathlib.Path:
    """A dataset `scenes` with proposals, 12 key frames to train on and 6 to test on;
    a third of them has no boxes.
    """
    rectangles = [[(10, 10, 60, 50), (90, 60, 150, 110)], [(20, 0, 60, 120)], []]
    splits = {}
    for split, records in (('train', rectangles * 4), ('validation', rectangles * 2)):
        proposals = [
            ([normalised(box) for box in record], [0.9] * len(record)) for record in records
        ]
        box_dataset(root / 'scenes', records, proposals=proposals, split=split, num_classes=3)
        splits |= dataset_info.load_dataset_info(root / 'scenes').splits
    splits['train'] = dataclasses.replace(
        splits['train'], class_counts=(8, 4, 0), box_counts=(8, 4, 0)
    )
    info = dataset_info.load_dataset_info(root / 'scenes')
    info = dataclasses.replace(info, splits=splits, arguments={'action_ids': [4, 9, 80]})
    dataset_info.save_dataset_info(root / 'scenes', info)
    return root


def seen_rectangle(image: np.ndarray, colour: int) -> np.ndarray | None:
    """x1, y1, x2, y2 of a colour's pixels, shares of the picture; None: there are none."""
    distance = np.abs(image.astype(int) - COLOURS[colour]).max(-1)
    rows, columns = (np.flatnonzero((distance < 128).any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    height, width = image.shape[:2]
    return np.array(
        [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
    )
