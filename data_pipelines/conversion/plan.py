"""What is to be converted and what is there already."""

from collections.abc import Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import math
import os
import pathlib
import re

from data_pipelines import files
from data_pipelines.annotations import Annotations, Clip, KeyFrame
from data_pipelines.conversion.options import LATER, Options, Storage
from data_pipelines.datasets.dataset_info import (
    FILE_NAME,
    DatasetInfo,
    SplitInfo,
    load_dataset_info,
    save_dataset_info,
)
from data_pipelines.settings import check_name
from data_pipelines.storage.frame_index import frame_index_path
from data_pipelines.storage.label_index import label_index_path
from data_pipelines.storage.record_index import SHARD_NAME, shard_name

NOTES = '.convert'  # folder beside the shards: what is known of finished ones, for restarts
_VERSION = 2  # raise it when the same arguments come to give other shards
_STAT_THREADS = 16
_STAT_BLOCK = 256  # files that a thread asks for at a time
_SPLIT_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]*')


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """One shard to be written."""

    split: str
    name: str
    clips: tuple[Clip, ...]
    classes: Mapping[int, str]  # those that its clips have
    fingerprint: str
    identity: str  # the fingerprint but for the video files
    sizes: tuple[int | None, ...]  # bytes of each clip's file; None: not there

    def job(self, output: pathlib.Path, options: Storage) -> dict:
        """The job of `worker.main`."""
        return {
            'path': str(output / self.name),
            'clips': [dataclasses.asdict(clip) for clip in self.clips],
            'classes': self.classes,
            'options': dataclasses.asdict(options),
            'frames_path': frames_path(output, self.name),
            'known_failures': {},
        }

    def noted(self) -> dict:
        """What a note says of the plan."""
        return {'fingerprint': self.fingerprint, 'identity': self.identity, 'sizes': self.sizes}

    def finished_result(self, output: pathlib.Path, video_timeout: float) -> dict | None:
        """The result, if an earlier run has finished this very shard.

        Not if videos failed for a reason that may be gone, see `workers.run_jobs`.
        """
        note = read_note(output, self.name)
        if note is None or note['fingerprint'] != self.fingerprint:
            return None
        retry_above = note['result']['retry_above']
        retry = retry_above is not None and video_timeout > retry_above
        return None if retry else note['result']


def frames_path(output: pathlib.Path, shard: str) -> str:
    """Where the frame index of one shard is kept."""
    return str(output / NOTES / f'{shard}.frames')


def write_note(shard: pathlib.Path, noted: dict, result: dict) -> None:
    """Notes that a shard is finished: how it was planned (`ShardPlan.noted`), and the result."""
    note = {**noted, 'bytes': shard.stat().st_size, 'result': result}
    path = shard.parent / NOTES / f'{shard.name}.json'
    files.write_atomically(path, json.dumps(note).encode())


def read_note(output: pathlib.Path, shard: str) -> dict | None:
    """What was noted of a shard, if that is there as it was written."""
    try:
        note = json.loads((output / NOTES / f'{shard}.json').read_bytes())
        return note if (output / shard).stat().st_size == note['bytes'] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def plan_split(
    split: str, clips: Sequence[Clip], classes: Sequence[str], options: Options
) -> Iterator[ShardPlan]:
    """Deals the clips of a split to its shards: clip i to shard i mod the number of shards."""
    shards = options.shards
    if shards is None:
        shards = min(1024, max(16, math.ceil(len(clips) / 128)))
    shards = min(shards, len(clips))
    found = sizes_and_times(clips)
    for number in range(shards):
        own = tuple(clips[number::shards])
        names = {label: classes[label] for clip in own for label in clip.labels}
        head = [_VERSION, options.as_storage.as_json(), sorted(names.items())]
        clips_alone = [_identity(clip, options) for clip in own]
        stored = [found.get(clip.path) for clip in own]
        yield ShardPlan(
            split,
            shard_name(split, number, shards),
            own,
            names,
            fingerprint=_digest([*head, *zip(clips_alone, stored)]),
            identity=_digest([*head, *clips_alone]),
            sizes=tuple(size_and_time and size_and_time[0] for size_and_time in stored),
        )


def plan_all(output: pathlib.Path, annotations: Annotations, options: Options) -> list[ShardPlan]:
    """The shards of all splits.

    Raises:
      ValueError: without `options.replace`, a finished split of other videos, classes or options
        would be replaced.
    """
    splits = annotations.splits.items()
    plans = [p for s, clips in splits for p in plan_split(s, clips, annotations.classes, options)]
    if not options.replace:
        _check_replaces_nothing(output, annotations, options, plans)
    return plans


def _digest(content: list) -> str:
    text = json.dumps(content, default=_key_frame_as_json)
    return hashlib.sha256(text.encode()).hexdigest()


def _key_frame_as_json(key_frame: KeyFrame) -> dict:
    content = dataclasses.asdict(key_frame)
    if key_frame.listed:  # earlier versions had no such field
        del content['listed']
    return content


def _identity(clip: Clip, options: Options) -> dict:
    """All that decides a record; the videos may move, unless they are linked to."""
    content = {key: value for key, value in vars(clip).items() if key != 'path'}
    if clip.images is None:  # earlier versions had no such field
        del content['images']
    if options.storage == 'link':
        content['path'] = os.path.relpath(os.path.abspath(clip.path), options.video_root)
    return content


def sizes_and_times(clips: Sequence[Clip]) -> dict[str, tuple[int, int]]:
    """Bytes and time of change (ns) of each video file that exists, by its path.

    They tell a replaced video from the one that was converted. Asked for by many threads, for file
    systems that are far away.
    """
    paths = sorted({clip.path for clip in clips})
    with concurrent.futures.ThreadPoolExecutor(_STAT_THREADS) as pool:
        blocks = [paths[at : at + _STAT_BLOCK] for at in range(0, len(paths), _STAT_BLOCK)]
        return dict(itertools.chain.from_iterable(pool.map(_sizes_and_times, blocks)))


def _sizes_and_times(paths: Sequence[str]) -> list[tuple[str, tuple[int, int]]]:
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        found.append((path, (status.st_size, status.st_mtime_ns)))
    return found


def output_directory(output: str | os.PathLike) -> pathlib.Path:
    """The absolute path of a directory to convert to, which need not be there.

    Raises:
      ValueError: it is a file, or remote.
    """
    if not os.fspath(output):
        raise ValueError('the name of the output directory is empty')
    if files.is_remote(output):
        raise ValueError(
            f'{output}: records are converted to a local or mounted directory; copy them there '
            'afterwards (training reads them there)'
        )
    output = pathlib.Path(os.path.abspath(output))
    if output.exists() and not output.is_dir():
        raise ValueError(f'{output}: exists and is no directory; choose another output')
    return output


def check_is_ours(output: pathlib.Path, annotations: Annotations) -> None:
    """
    Raises:
      ValueError: shards that no conversion to this directory wrote would be overwritten.
    """
    if not output.is_dir() or (output / NOTES).is_dir():
        return
    for path in sorted(output.iterdir()):
        match = SHARD_NAME.fullmatch(path.name)
        if match is not None and match['split'] in annotations.splits:
            raise ValueError(
                f'{path}: a shard that this command did not write; '
                'choose another output, or move it away'
            )


def check_annotations(annotations: Annotations) -> None:
    classes = annotations.classes
    if len(set(classes)) != len(classes):
        raise ValueError('the annotations name a class twice')
    for name in classes:
        check_name('class', name)
    if not annotations.splits:
        raise ValueError('the annotations hold no split')
    for split, clips in annotations.splits.items():
        if not _SPLIT_NAME.fullmatch(split) or '-of-' in split:
            raise ValueError(f'split {split!r}: the name must be made of letters, digits and _ . -')
        if not clips:
            raise ValueError(f'split {split!r}: no videos in it')
        keys = set()
        for clip in clips:
            if clip.key in keys:
                raise ValueError(f'split {split!r}: two clips are called {clip.key!r}')
            keys.add(clip.key)
            unlabelled = not clip.labels and clip.key_frame is None
            if unlabelled or not all(0 <= label < len(classes) for label in clip.labels):
                raise ValueError(
                    f'split {split!r}: {clip.key!r} has the classes {clip.labels}, '
                    f'wanted at least one, each 0 to {len(classes) - 1}'
                )


@contextlib.contextmanager
def locked(output: pathlib.Path) -> Iterator[None]:
    """Keeps a second conversion out of the same directory."""
    with open(output / NOTES / 'lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f'{output}: another conversion is writing here; wait for it'
            ) from error
        yield


def splits_to_keep(
    output: pathlib.Path, annotations: Annotations, options: Storage
) -> dict[str, SplitInfo]:
    """Splits of an earlier conversion that this one does not replace."""
    if not (output / FILE_NAME).exists():
        return {}
    info = load_dataset_info(output)
    kept = {s: split for s, split in info.splits.items() if s not in annotations.splits}
    if kept:
        here = f'{output}: holds the split {next(iter(kept))!r} already,'
        here_kind = info.classes, info.multi_label, info.localisation
        if here_kind != (annotations.classes, annotations.multi_label, annotations.localisation):
            raise ValueError(
                f'{here} with other classes than these videos have; all splits need the same: '
                'convert them together, or choose another output'
            )
        if info.frame_rate != options.frame_rate:
            raise ValueError(
                f'{here} with {_describe_rate(info.frame_rate)}, not '
                f'{_describe_rate(options.frame_rate)}; convert both alike, or choose another '
                'output'
            )
    return kept


def _describe_rate(frame_rate: float | None) -> str:
    return "each video's own frame rate" if frame_rate is None else f'{frame_rate:g} frames/s'


def _check_replaces_nothing(
    output: pathlib.Path, annotations: Annotations, options: Options, plans: Sequence[ShardPlan]
) -> None:
    if not (output / FILE_NAME).exists():
        return
    info = load_dataset_info(output)
    for split in annotations.splits:
        if split in info.splits:
            own = [plan for plan in plans if plan.split == split]
            difference = _difference(output, info, annotations, options, split, own)
            if difference is not None:
                raise ValueError(
                    f'{output}: holds a finished split {split!r} {difference}; --replace converts '
                    'it anew, or choose another output'
                )


def _difference(
    output: pathlib.Path,
    info: DatasetInfo,
    annotations: Annotations,
    options: Options,
    split: str,
    plans: Sequence[ShardPlan],
) -> str | None:
    """How a finished split differs from what is planned, in words; None: a restart may go on."""
    if info.classes != annotations.classes:
        pairs = itertools.zip_longest(info.classes, annotations.classes)
        was, now = next(pair for pair in pairs if pair[0] != pair[1])
        return f'of other classes ({was!r}, now {now!r})'
    if (info.multi_label, info.localisation) != (annotations.multi_label, annotations.localisation):
        return 'of another kind (labels or boxes)'
    planned = options.as_storage.as_json()
    for name in (field.name for field in dataclasses.fields(Storage)):
        was, now = (values.get(name, LATER.get(name)) for values in (info.arguments, planned))
        if was != now:
            return f'with {name}={was}, not {now}'
    there, now = info.splits[split], len(annotations.splits[split])
    if there.records + len(there.failures) != now:
        return f'of other videos ({there.records + len(there.failures)} clips, now {now})'
    if there.shards != len(plans):
        return f'in {there.shards} shards, not {len(plans)}'
    unsound = {key for key, _ in (*there.failures, *there.damaged)}  # may have been mended
    for plan in plans:
        note = read_note(output, plan.name)
        if note is None or note['fingerprint'] == plan.fingerprint:
            continue
        if note.get('identity') != plan.identity:
            return 'of other videos or labels'
        for clip, was, size in zip(plan.clips, note['sizes'], plan.sizes):
            if was != size and clip.key not in unsound:
                return f'of other videos ({clip.key!r} had {was} bytes, now {size or "none"})'
    return None


def remove_leftovers(
    output: pathlib.Path, annotations: Annotations, plans: Sequence[ShardPlan]
) -> None:
    """Removes unfinished files, and shards that an earlier conversion dealt differently."""
    planned = {plan.name for plan in plans}
    for split in annotations.splits:
        ours = re.compile(re.escape(split) + r'-\d{5,}-of-\d{5,}')
        unfinished = re.compile(r'\.?' + ours.pattern + r'\.[0-9a-f]{32}\.tmp')
        for path in output.iterdir():
            if unfinished.fullmatch(path.name):
                path.unlink()
            elif ours.fullmatch(path.name) and path.name not in planned:
                note = output / NOTES / f'{path.name}.json'
                if not note.exists():
                    raise ValueError(
                        f'{path}: a shard that this command did not write; '
                        'choose another output, or move it away'
                    )
                path.unlink()
                note.unlink()
                pathlib.Path(frames_path(output, path.name)).unlink(missing_ok=True)


def forget(output: pathlib.Path, annotations: Annotations, kept: Mapping[str, SplitInfo]) -> None:
    """Takes back what was said about splits whose shards are about to change."""
    for split in annotations.splits:
        (output / f'{split}.index').unlink(missing_ok=True)
        pathlib.Path(frame_index_path(output, split)).unlink(missing_ok=True)
        pathlib.Path(label_index_path(output, split)).unlink(missing_ok=True)
    if kept:
        info = load_dataset_info(output)
        save_dataset_info(output, dataclasses.replace(info, splits=kept))
    else:
        (output / FILE_NAME).unlink(missing_ok=True)
