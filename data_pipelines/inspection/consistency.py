"""What `dataset.json` says against what the records hold, and clips that are there twice."""

from collections import Counter
from collections.abc import Iterator

from data_pipelines import files
from data_pipelines.datasets.dataset_info import FILE_NAME, DatasetInfo, SplitInfo
from data_pipelines.inspection.report import Problem, RecordFacts, Report, SplitReport


class ClassNames:
    """Checks class numbers and names against `dataset.json`, or else against each other."""

    def __init__(self, info: DatasetInfo | None):
        self._info = info
        self._names = {} if info is None else dict(enumerate(info.classes))

    def check(self, record: RecordFacts) -> RecordFacts | Problem:
        """The record itself, if its classes are right."""
        message = None
        if record.names and len(record.names) != len(record.labels):
            message = f'{len(record.labels)} class numbers, but {len(record.names)} class names'
        elif self._info is not None and len(record.labels) > 1 and not self._info.multi_label:
            message = f'{len(record.labels)} labels in a dataset of one label per clip'
        elif self._info is not None and not all(label in self._names for label in record.labels):
            message = f'classes {list(record.labels)}, but {FILE_NAME} has {len(self._names)}'
        else:
            for label, name in zip(record.labels, record.names):
                known = self._names.setdefault(label, name)
                if known != name:
                    message = f'class {label} is called {name!r}, elsewhere {known!r}'
        return record if message is None else Problem(record.file, record.offset, message)

    def all(self) -> dict[int, str]:
        """Class number -> name."""
        return dict(sorted(self._names.items()))


def compare_with_info(report: Report, info: DatasetInfo) -> Iterator[Problem]:
    """What `dataset.json` says and the records do not."""
    path = files.join(report.directory, FILE_NAME)
    for split in sorted({*info.splits, *report.splits}):
        stated, found = info.splits.get(split), report.splits.get(split)
        if stated is None:
            yield Problem(path, None, f'does not know the split {split!r}')
        elif found is None:
            yield Problem(path, None, f'describes a split {split!r}, of which there is no shard')
        elif (stated.records, stated.shards) != (found.scanned, len(found.shards)):
            yield Problem(
                path,
                None,
                f'states {stated.records} records in {stated.shards} shards of {split!r}, there '
                f'are {found.scanned} in {len(found.shards)}',
            )
        elif len(found.records) == found.scanned:  # else the counts are bound to differ
            yield from _compare_counts(path, split, info, stated, found)


def _compare_counts(
    path: str, split: str, info: DatasetInfo, stated: SplitInfo, found: SplitReport
) -> Iterator[Problem]:
    for what, says, are in (
        ('records', stated.class_counts, found.class_counts()),
        ('boxes', stated.box_counts, found.box_counts()),
    ):
        wrong = [number for number, count in enumerate(says or ()) if count != are[number]]
        if wrong:
            first = wrong[0]
            yield Problem(
                path,
                None,
                f'states {says[first]} {what} of the class {info.classes[first]!r} in {split!r}, '
                f'there are {are[first]} ({len(wrong)} such classes)',
            )


def note_repeated_clips(splits: dict[str, SplitReport]) -> None:
    """Notes clips of the same video and times that are in a split twice, or in two splits."""
    seen: dict[tuple, str] = {}
    for split, found in splits.items():
        repeated: Counter = Counter()
        for record in found.records:
            if len(record.key) == 3:  # it has a name
                if record.key in seen:
                    repeated[seen[record.key]] += 1
                else:
                    seen[record.key] = split
        for other, count in sorted(repeated.items()):
            where = 'in it twice' if other == split else f'in {other!r} too'
            found.notes.append(f'{count} clips of {split!r} are {where} (same video, same times)')
