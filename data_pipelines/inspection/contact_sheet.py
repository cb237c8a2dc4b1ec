"""A picture of sample clips of a dataset: frames in a row, class names, boxes on key frames."""

from collections.abc import Sequence
import textwrap

import cv2
import numpy as np

from data_pipelines.clip import decode
from data_pipelines.datasets.stored import RecordFrames, frames_of
from data_pipelines.inspection.drawing import (
    COLOURS,
    FONT,
    INK,
    PAPER,
    draw_box,
    draw_tag,
    draw_text,
)
from data_pipelines.inspection.report import RecordFacts, Report
from data_pipelines.storage import regions
from data_pipelines.storage.reader import ShardReader
from data_pipelines.storage.sequence_example import decode_clip

_CELL = 160  # pixels: height of a frame
_KEY_CELL = 270  # pixels: height of a key frame; the other frames stand beside it in two lines
_TEXT_WIDTH = 270  # pixels
_CHARACTERS = 36  # in a line of that width
_GAP = 4  # pixels
_PROPOSALS = 10  # drawn on a key frame
_FAINT = (110, 110, 110)


def contact_sheet(report: Report, *, clips: int = 16, frames: int = 6, seed: int = 0) -> np.ndarray:
    """Draws sample clips, u8 [H, W, 3], RGB.

    Args:
      report: of the directory; only good records are shown.
      clips: rows, shared by the splits and spread over the classes.
      frames: per row, equally spaced from the first to the last; a localisation record also shows
        its key frame, with boxes and actions (a detector's ten best proposals in thin white).
      seed: another one, other clips.

    Raises:
      ValueError: there is no good record.
    """
    samples = {
        split: _sample(found.records, max(1, clips // len(report.splits)), seed)
        for split, found in report.splits.items()
    }
    if not any(samples.values()):
        raise ValueError(f'{report.directory}: no good record to draw')
    rows = []
    for split, chosen in samples.items():
        reader = ShardReader(report.directory, report.splits[split].index)
        try:
            rows += [_row(reader, split, facts, report, frames) for facts in chosen]
        finally:
            reader.close()
    width = max(row.shape[1] for row in rows)
    rows = [_pad(row, row.shape[0] + _GAP, width) for row in rows]
    return np.concatenate([_title(report, width), *rows])


def _sample(found: Sequence[RecordFacts], count: int, seed: int) -> list[RecordFacts]:
    """Records of as many classes as possible, in the order of the classes."""
    rng = np.random.default_rng(seed)
    by_class: dict[int, list[RecordFacts]] = {}
    for facts in rng.permutation(np.arange(len(found))).tolist():
        labels = found[facts].labels or (-1,)
        by_class.setdefault(labels[int(rng.integers(len(labels)))], []).append(found[facts])
    chosen: list[RecordFacts] = []
    while by_class and len(chosen) < count:
        for label in rng.permutation(sorted(by_class)).tolist():
            if len(chosen) < count:
                chosen.append(by_class[label].pop())
            if not by_class[label]:
                del by_class[label]
    return sorted(chosen, key=lambda facts: (facts.labels, facts.number))


def _row(
    reader: ShardReader, split: str, facts: RecordFacts, report: Report, count: int
) -> np.ndarray:
    example = decode_clip(reader.read(facts.number), facts.file)
    stored = frames_of(example, facts.file, report.video_root)
    numbers = np.linspace(0, len(stored) - 1, min(count, len(stored))).round().astype(int)
    if facts.actions is None:
        cells = [_frame(stored, number, facts, _CELL) for number in numbers.tolist()]
        return _beside([_describe(split, facts, report, None, _CELL), *cells])
    classes = max(report.classes, default=0) + 1
    key_frame = regions.regions(example, classes, facts.file)
    image = _scaled(stored, key_frame.key_frame, _KEY_CELL)
    image = _with_boxes(image, key_frame, report.classes)
    _stamp(image, 'key frame', facts, key_frame.key_frame)
    height = (_KEY_CELL - _GAP) // 2
    cells = [_frame(stored, number, facts, height) for number in numbers.tolist()]
    half = -(-len(cells) // 2)
    lines = [_beside(line) for line in (cells[:half], cells[half:]) if line]
    width = max(line.shape[1] for line in lines)
    lines = [_pad(line, height + _GAP, width) for line in lines]
    grid = _pad(np.concatenate(lines)[:_KEY_CELL], _KEY_CELL, width)
    return _beside([_describe(split, facts, report, key_frame, _KEY_CELL), image, grid])


def _frame(stored: RecordFrames, number: int, facts: RecordFacts, height: int) -> np.ndarray:
    image = _scaled(stored, number, height)
    _stamp(image, '', facts, number)
    return image


def _beside(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of the same height in a line, with gaps after them."""
    gap = np.full((images[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for image in images for part in (image, gap)], axis=1)


def _scaled(stored: RecordFrames, number: int, height: int) -> np.ndarray:
    """A frame of the given height, or lower where it would be wider than 16:9."""
    image = decode.decode_frame(stored.fetch([number]), number)
    scale = min(height / image.shape[0], height * 16 / 9 / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return _pad(cv2.resize(image, size, interpolation=method), height, size[0], 225)


def _pad(image: np.ndarray, height: int, width: int, value: int = 255) -> np.ndarray:
    out = np.full((height, width, 3), value, np.uint8)
    out[: image.shape[0], : image.shape[1]] = image
    return out


def _with_boxes(
    image: np.ndarray, key_frame: regions.Regions, classes: dict[int, str]
) -> np.ndarray:
    """Draws the best proposals, boxes, and the names of the actions at the boxes."""
    image = np.ascontiguousarray(image)
    best = np.argsort(-key_frame.scores, kind='stable')[:_PROPOSALS]
    for box in key_frame.proposals[best]:
        draw_box(image, box, PAPER, 1)
    corners = [
        draw_box(image, box, COLOURS[number % len(COLOURS)])
        for number, box in enumerate(key_frame.boxes)
    ]
    for number, ((x, y), labels) in enumerate(zip(corners, key_frame.labels)):
        for label in np.flatnonzero(labels).tolist():
            name = classes.get(label, str(label))
            y += draw_tag(image, name, x, y, COLOURS[number % len(COLOURS)])
    return image


def _stamp(image: np.ndarray, text: str, facts: RecordFacts, number: int) -> None:
    """Says in the corner which moment of the clip a frame shows."""
    when = f'{number / facts.frame_rate:.2f} s' if facts.frame_rate else f'frame {number}'
    text = f'{text} {when}'.strip()
    (width, height), below = cv2.getTextSize(text, FONT, 0.35, 1)
    corner = image[-height - below - 4 :, : width + 6]
    corner[:] = corner // 3
    draw_text(image, text, 3, image.shape[0] - below - 1, PAPER, 0.35)


def _describe(
    split: str, facts: RecordFacts, report: Report, key_frame: regions.Regions | None, height: int
) -> np.ndarray:
    """The text at the left of a row."""
    names = [report.classes.get(label, f'class {label}') for label in facts.labels]
    lines = [(line, INK, 0.45) for name in names for line in _wrap(name, _CHARACTERS - 4)]
    lines = lines or [('(no class)', INK, 0.45)]
    room = (height - 70) // 17
    if len(lines) > room:
        lines = [*lines[: room - 1], (f'... {len(names)} classes', INK, 0.45)]
    name = facts.key[0].decode(errors='replace') if len(facts.key) == 3 else 'no name'
    rate = f', {facts.frame_rate:.3g} per s' if facts.frame_rate else ''
    details = [split, *_wrap(name, _CHARACTERS)[-2:], f'{facts.frames} frames{rate}']
    details[-1] += f', {facts.size[0]}x{facts.size[1]}'
    if key_frame is not None:
        details.append(f'{len(key_frame.boxes)} boxes, {len(key_frame.proposals)} proposals')
    image = np.full((height, _TEXT_WIDTH, 3), 255, np.uint8)
    y = 0
    for text, colour, scale in [*lines, *((text, _FAINT, 0.36) for text in details)]:
        y += 17 if scale > 0.4 else 14
        draw_text(image, text, 4, y, colour, scale)
    return image


def _title(report: Report, width: int) -> np.ndarray:
    counts = [f'{len(found.records)} {split}' for split, found in report.splits.items()]
    name = report.info.name if report.info is not None else report.directory
    image = np.full((30, width, 3), 255, np.uint8)
    text = f'{name}: {" + ".join(counts)} records, {len(report.classes)} classes'
    draw_text(image, text, 4, 20, INK, 0.55)
    return image


def _wrap(text: str, width: int) -> list[str]:
    return list(textwrap.wrap(text, width)) or ['']
