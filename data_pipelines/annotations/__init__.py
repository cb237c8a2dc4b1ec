"""Readers of annotation formats: each returns ``Annotations``, what the converter takes."""

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip to convert.

    Attributes:
      path: the video file.
      key: what the record calls it (``video/filename``), unique within its split.
      labels: class numbers, one or (multi-label) several.
      start: seconds at which the clip starts; None: where the video does.
      end: seconds at which it ends, exclusive; None: where the video does.
    """

    path: str
    key: str
    labels: tuple[int, ...]
    start: float | None = None
    end: float | None = None


@dataclasses.dataclass(frozen=True)
class Annotations:
    """All clips of a dataset.

    Attributes:
      classes: class names, one list for all splits; a class's number is its place.
      splits: split name -> clips, in an order that depends on nothing but the annotations.
      multi_label: whether a clip may carry several classes.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Clip, ...]]
    multi_label: bool = False
