"""What a conversion would do: counts, missing files, and size and time measured on a sample."""

import collections
from collections.abc import Sequence
import dataclasses
import math
import os
import pathlib
import random
import shutil
import statistics
import tempfile

import tqdm

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.conversion import plan as planning
from data_pipelines.conversion.link import with_video_root
from data_pipelines.conversion.options import Options
from data_pipelines.conversion.worker_pool import run_jobs
from data_pipelines.cores import available_cores
from data_pipelines.inspection.text import bytes_text, duration_text, some, table

_MINIMUM_SAMPLE = 32  # clips
_CLIPS_PER_WORKER = 4  # at least so many, for a time that all workers have a share in


@dataclasses.dataclass(frozen=True)
class SplitCounts:
    """What a split has before conversion.

    Attributes:
      clips: those listed.
      class_counts: clips of each class.
      files: video files that are there.
      bytes: their size.
      missing: keys of the clips whose file is not there.
      finished: clips in shards that an earlier conversion has finished.
    """

    clips: int
    class_counts: tuple[int, ...]
    files: int
    bytes: int
    missing: tuple[str, ...]
    finished: int


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a conversion would do. Each estimate is a (value, standard error) pair.

    Attributes:
      splits: by name.
      sample: clips that were converted to measure.
      sample_failures: (key, reason) of those that failed.
      bytes: of all shards.
      seconds: of conversion, without shards that are finished; by `workers` processes.
      workers: processes.
      free: bytes free where the shards would be.
    """

    splits: dict[str, SplitCounts]
    sample: int
    sample_failures: tuple[tuple[str, str], ...]
    bytes: tuple[float, float]
    seconds: tuple[float, float]
    workers: int
    free: int

    @property
    def clips(self) -> int:
        """Those listed."""
        return sum(split.clips for split in self.splits.values())

    @property
    def missing(self) -> int:
        """Those whose file is not there."""
        return sum(len(split.missing) for split in self.splits.values())


def estimate(
    annotations: Annotations, output: str | os.PathLike, options: Options = Options()
) -> Estimate:
    """Counts, and converts a random sample of the clips to a temporary directory.

    Writes nothing to `output`. Takes arguments of `dataset.convert` and raises what it raises.
    """
    planning.check_annotations(annotations)
    output = planning.output_directory(output)
    options = with_video_root(annotations, output, options)
    planning.splits_to_keep(output, annotations, options)
    plans = planning.plan_all(output, annotations, options)
    workers = options.workers or available_cores()
    splits, present, remaining = {}, [], 0
    for split, clips in annotations.splits.items():
        found = planning.sizes_and_times(clips)
        finished = sum(
            len(plan.clips)
            for plan in plans
            if plan.split == split
            and plan.finished_result(output, options.video_timeout) is not None
        )
        class_counts = collections.Counter(label for clip in clips for label in clip.labels)
        missing = [clip for clip in clips if clip.path not in found]
        splits[split] = SplitCounts(
            clips=len(clips),
            class_counts=tuple(class_counts[n] for n in range(len(annotations.classes))),
            files=len(found),
            bytes=sum(size for size, _ in found.values()),
            missing=tuple(clip.key for clip in missing),
            finished=finished,
        )
        present += [clip for clip in clips if clip.path in found]
        remaining += max(0, len(clips) - len(missing) - finished)
    size = max(_MINIMUM_SAMPLE, _CLIPS_PER_WORKER * workers)
    sample = random.Random(0).sample(present, min(size, len(present)))
    measured = _convert_sample(sample, annotations.classes, options, workers)
    failures = tuple(tuple(f) for _, result in measured for f in result['failures'])
    seconds, error = _total([result['seconds'] for _, result in measured], remaining)
    return Estimate(
        splits=splits,
        sample=len(sample),
        sample_failures=failures,
        bytes=_total([size for size, _ in measured], len(present)),
        seconds=(seconds / workers, error / workers),
        workers=workers,
        free=shutil.disk_usage(next(p for p in (output, *output.parents) if p.exists())).free,
    )


def _convert_sample(
    sample: Sequence[Clip], classes: Sequence[str], options: Options, workers: int
) -> list[tuple[int, dict]]:
    """(bytes, result of `convert_shard`) of each clip."""
    measured = []
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm.tqdm(
            total=len(sample), desc='sample', unit='clip', disable=not (sample and options.progress)
        ) as bar,
    ):
        jobs, alone = [], dataclasses.replace(options, shards=1)
        for number, clip in enumerate(sample):
            (plan,) = planning.plan_split(f'clip{number}', [clip], classes, alone)
            jobs.append(
                (plan, {**plan.job(pathlib.Path(folder), options.as_storage), 'frames_path': None})
            )

        def on_result(plan: planning.ShardPlan, result: dict) -> None:
            path = pathlib.Path(folder) / plan.name
            measured.append((path.stat().st_size, result))
            path.unlink()

        run_jobs(
            jobs,
            workers,
            lambda count, _: bar.update(count),
            on_result,
            video_timeout=options.video_timeout,
        )
    return measured


def _total(values: Sequence[float], count: int) -> tuple[float, float]:
    """Sum over `count` clips from a sample of them, and its standard error."""
    if not values:
        return 0.0, 0.0
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean * count, mean * count
    # A sample of everything is no estimate.
    unknown = max(0.0, 1 - len(values) / count) if count else 0.0
    return mean * count, statistics.stdev(values) * math.sqrt(unknown / len(values)) * count


def describe(
    estimate: Estimate, classes: Sequence[str], output: str | os.PathLike, max_failures: float
) -> str:
    """The estimate as text for people: a table of classes, one of splits, size and time."""
    splits = estimate.splits
    counts = [
        [name, *(f'{split.class_counts[number]:,}' for split in splits.values())]
        for number, name in enumerate(classes)
    ]
    lines = table([['class', *splits], *counts])
    rows = [['split', 'clips', 'classes', 'missing', 'finished', 'files', 'on disk']]
    for name, split in splits.items():
        present = sum(count > 0 for count in split.class_counts)
        counts = split.clips, present, len(split.missing), split.finished, split.files
        rows.append([name, *(f'{count:,}' for count in counts), bytes_text(split.bytes)])
    lines += ['', *table(rows), '']
    for name, split in splits.items():
        if split.missing:
            lines.append(f'missing in {name}: {some(split.missing, 3)}')
    if estimate.missing > max_failures * estimate.clips:
        lines.append(
            f'{estimate.missing / estimate.clips:.1%} of the clips are missing, more than '
            f'max_failures={max_failures:g} allows'
        )
    for key, reason in estimate.sample_failures:
        lines.append(f'failed in the sample: {key}: {reason}')
    if not estimate.sample:
        return '\n'.join([*lines, 'no video file is there: no estimate'])
    lines.append(
        f'measured on {estimate.sample} clips: '
        f'{bytes_text(estimate.bytes[0])} (+- {bytes_text(estimate.bytes[1])}) of records; '
        f'{output} has {bytes_text(estimate.free)} free'
    )
    lines.append(
        f'time with {estimate.workers} workers: {duration_text(estimate.seconds[0])} '
        f'(+- {duration_text(estimate.seconds[1])})'
    )
    if estimate.bytes[0] > estimate.free:
        lines.append('THAT DOES NOT FIT: choose another output, or lower short_side or quality')
    return '\n'.join(lines)
