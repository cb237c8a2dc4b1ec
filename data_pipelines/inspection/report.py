"""What is found out about a directory of records: problems, facts of every record, counts."""

from collections import Counter
import dataclasses
import os

from data_pipelines.datasets.dataset_info import DatasetInfo
from data_pipelines.storage.record_index import RecordIndex


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
      file: path of the file.
      offset: byte at which the record begins in it; None: of the file as a whole.
      message: what is wrong.
    """

    file: str
    offset: int | None
    message: str

    def __str__(self) -> str:
        place = '' if self.offset is None else f': record at byte {self.offset}'
        return f'{self.file}{place}: {self.message}'


@dataclasses.dataclass(frozen=True, slots=True)
class RecordFacts:
    """One good record.

    Attributes:
      file, offset: where it is.
      number: its number in the split.
      key: what it calls itself (`video/filename`), and start and end of its clip.
      frames: stored frames.
      size: (width, height) of a frame in pixels.
      frame_rate: frames per second; None if it does not say.
      seconds: length; None if it does not say.
      labels: its class numbers.
      names: their names, as it says; may be empty.
      actions: of a localisation record, the class of each pair of a box and an action; else None.
      boxes, proposals: of a localisation record, how many there are.
      covered: boxes that some proposal meets with an IoU of 0.5.
    """

    file: str
    offset: int
    number: int
    key: tuple
    frames: int
    size: tuple[int, int]
    frame_rate: float | None
    seconds: float | None
    labels: tuple[int, ...]
    names: tuple[str, ...]
    actions: tuple[int, ...] | None
    boxes: int = 0
    proposals: int = 0
    covered: int = 0


@dataclasses.dataclass
class SplitReport:
    """One split.

    Attributes:
      shards: its files, those that are there.
      size: their bytes.
      index: where its records are, good and bad; None where no shard is left.
      records: good ones, in the order of the shards.
      problems: everything that is wrong.
      notes: what is not wrong, but worth knowing.
    """

    shards: list[str] = dataclasses.field(default_factory=list)
    size: int = 0
    index: RecordIndex | None = None
    records: list[RecordFacts] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def scanned(self) -> int:
        """Records that were found, good and bad."""
        return 0 if self.index is None else len(self.index.offsets)

    def class_counts(self) -> Counter:
        """Class number -> records of it."""
        return Counter(label for record in self.records for label in set(record.labels))

    def box_counts(self) -> Counter:
        """Class number -> boxes with that action."""
        return Counter(action for record in self.records for action in record.actions or ())


@dataclasses.dataclass
class Report:
    """A directory.

    Attributes:
      directory: its path.
      info: its `dataset.json`; None where there is none.
      classes: class number -> name: of `dataset.json`, else as the records say.
      splits: by name.
      problems: what is wrong with the directory as a whole.
      video_root: the directory of the videos that records link to.
    """

    directory: str
    info: DatasetInfo | None
    classes: dict[int, str]
    splits: dict[str, SplitReport]
    problems: list[Problem] = dataclasses.field(default_factory=list)
    video_root: str | os.PathLike | None = None

    def all_problems(self) -> list[Problem]:
        return [p for split in self.splits.values() for p in split.problems] + self.problems


def problem_of(file: str, offset: int | None, error: Exception) -> Problem:
    """A problem from an error whose text may name the place once more."""
    text = ' '.join(str(error).split()).removeprefix(f'{file}: ')
    return Problem(file, offset, text.replace(f' of the record at byte {offset}', ''))
