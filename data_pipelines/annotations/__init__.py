"""Readers of annotation formats: each returns `Annotations`, what the converter takes."""

from collections.abc import Mapping
import dataclasses
from typing import Any

Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax: shares of the frame, 0 to 1


@dataclasses.dataclass(frozen=True)
class KeyFrame:
    """Who does what on one frame of a clip, for localisation.

    Attributes:
      time: seconds since the beginning of the video file; what is on screen then is the key frame.
      boxes: one for each pair of a person and an action: a person who does two things has two.
      actions: class number of each pair.
      persons: a number of each pair's person, the same for a person on all key frames of a video;
        -1 where unknown.
      proposals: boxes of a person detector.
      scores: their scores, 0 to 1.
      listed: whether the annotation lists the key frame, be it without boxes; if not, nobody knows
        who is on it, and no box is tested there.
    """

    time: float
    boxes: tuple[Box, ...] = ()
    actions: tuple[int, ...] = ()
    persons: tuple[int, ...] = ()
    proposals: tuple[Box, ...] = ()
    scores: tuple[float, ...] = ()
    listed: bool = True


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip to convert.

    Attributes:
      path: the video file, or a folder of images.
      key: what the record calls it (`video/filename`), unique within its split.
      labels: class numbers, one or (multi-label) several; none only where a key frame shows nobody.
      start: seconds at which the clip starts; None: where the video does.
      end: seconds at which it ends, exclusive; None: where the video does.
      key_frame: of a dataset for localisation; None for others.
      images: of a folder of images: how many there should be; None: as many as there are.
    """

    path: str
    key: str
    labels: tuple[int, ...]
    start: float | None = None
    end: float | None = None
    key_frame: KeyFrame | None = None
    images: int | None = None


@dataclasses.dataclass(frozen=True)
class Annotations:
    """All clips of a dataset.

    Attributes:
      classes: class names, one list for all splits; a class's number is its place.
      splits: split name -> clips, in an order that depends on nothing but the annotations.
      multi_label: whether a clip may carry several classes.
      localisation: whether every clip has a key frame with boxes.
      details: what else `dataset.json` shall say about where they come from; JSON values.
      notes: what whoever converts them is to be told, one line each.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Clip, ...]]
    multi_label: bool = False
    localisation: bool = False
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
