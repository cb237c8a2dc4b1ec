"""Clips -> shards, their index, `dataset.json`: the library of `data_pipelines.convert`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import os
import pathlib
from typing import Any

import tqdm

from data_pipelines import files
from data_pipelines.annotations import Annotations
from data_pipelines.conversion import plan as planning
from data_pipelines.conversion.beam import convert_on_beam, require_beam
from data_pipelines.conversion.link import with_video_root
from data_pipelines.conversion.options import Options
from data_pipelines.conversion.worker_pool import run_jobs
from data_pipelines.cores import available_cores
from data_pipelines.datasets.dataset_info import DatasetInfo, SplitInfo, save_dataset_info
from data_pipelines.storage.indexing import write_frame_index
from data_pipelines.storage.record_index import find_shards, index_files, save_index

FAILURES = 'failures.csv'
DAMAGED = 'damaged.csv'


def convert(
    annotations: Annotations,
    output: str | os.PathLike,
    options: Options = Options(),
    *,
    arguments: Mapping[str, Any] | None = None,
) -> DatasetInfo:
    """Converts videos to records.

    Restarting after an interruption keeps the shards that are finished, as long as videos,
    annotations and options are the same. The shards do not depend on the number of workers. Splits
    that an earlier call put into `output` stay, if they have the same classes and frame rate. A
    finished dataset of other videos, classes or options is replaced only with `options.replace`;
    what failed before is tried again where its file has changed.

    Args:
      annotations: the clips, for example from `annotations.folder.read_folder`.
      output: directory of the dataset; made if missing.
      options: how.
      arguments: what else to write into `dataset.json` about where the clips came from.

    Returns:
      What was written to `dataset.json`. Failed videos are listed there and in `failures.csv`,
      those stored in part in `damaged.csv`.

    Raises:
      ValueError: bad annotations, too many failures, an output that holds something else, or Beam
        is wanted but not installed.
      OSError: a shard cannot be written (disk full), or worker processes do not start.
    """
    planning.check_annotations(annotations)
    if options.beam is not None:
        require_beam()
    output = planning.output_directory(output)
    planning.check_is_ours(output, annotations)
    options = with_video_root(annotations, output, options)
    try:
        (output / planning.NOTES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f'{output}: cannot be made or written ({error.strerror})') from error

    with planning.locked(output):
        kept = planning.splits_to_keep(output, annotations, options)
        plans = planning.plan_all(output, annotations, options)
        planning.remove_leftovers(output, annotations, plans)
        results = {plan.name: plan.finished_result(output, options.video_timeout) for plan in plans}
        if None in results.values():
            planning.forget(output, annotations, kept)
        todo = [
            (plan, plan.job(output, options.as_storage))
            for plan in plans
            if results[plan.name] is None
        ]
        with _progress_bar(output, plans, results, options.progress) as on_clip:
            if options.beam is not None:
                convert_on_beam(output, todo, options.beam, on_clip, options.video_timeout)
                results = {plan.name: plan.finished_result(output, 0) for plan in plans}
            else:

                def on_result(plan: planning.ShardPlan, result: dict) -> None:
                    planning.write_note(output / plan.name, plan.noted(), result)
                    results[plan.name] = result

                workers = options.workers or available_cores()
                run_jobs(todo, workers, on_clip, on_result, video_timeout=options.video_timeout)
        splits = {
            split: _summarise(plans, results, split, annotations) for split in annotations.splits
        }
        everything = {**kept, **splits}
        _write_list(output / FAILURES, 'reason', {s: i.failures for s, i in everything.items()})
        _write_list(output / DAMAGED, 'damage', {s: i.damaged for s, i in everything.items()})
        _check_failures(output, splits, options.max_failures)
        for split in splits:
            index = index_files(output, find_shards(output, split))
            save_index(output, split, index)
            write_frame_index(
                output, split, index, known=functools.partial(planning.frames_path, output)
            )
        info = DatasetInfo(
            name=options.name or output.name,
            classes=annotations.classes,
            multi_label=annotations.multi_label,
            splits=everything,
            frame_rate=options.frame_rate,
            arguments={**annotations.details, **(arguments or {}), **options.as_storage.as_json()},
            localisation=annotations.localisation,
        )
        save_dataset_info(output, info)
        return info


@contextlib.contextmanager
def _progress_bar(
    output: pathlib.Path,
    plans: Sequence[planning.ShardPlan],
    results: Mapping[str, dict | None],
    progress: bool,
) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar; yields what is to be called with clips done and failures among them."""
    finished = [result for result in results.values() if result is not None]
    failed = sum(len(result['failures']) for result in finished)
    with tqdm.tqdm(
        total=sum(len(plan.clips) for plan in plans),
        initial=sum(len(plan.clips) for plan in plans if results[plan.name] is not None),
        desc=f'convert {output.name}',
        unit='clip',
        disable=not progress or len(finished) == len(plans),
    ) as bar:

        def on_clip(count: int, failures: int) -> None:
            nonlocal failed
            failed += failures
            bar.set_postfix(failed=failed, refresh=False)
            bar.update(count)

        yield on_clip


def _summarise(
    plans: Sequence[planning.ShardPlan],
    results: Mapping[str, dict],
    split: str,
    annotations: Annotations,
) -> SplitInfo:
    plans = [plan for plan in plans if plan.split == split]
    counts, box_counts = [0] * len(annotations.classes), [0] * len(annotations.classes)
    failures, damaged = [], []
    for plan in plans:
        result = results[plan.name]
        for label, count in result['class_counts'].items():
            counts[int(label)] += count
        for label, count in result['box_counts'].items():
            box_counts[int(label)] += count
        failures += [tuple(failure) for failure in result['failures']]
        damaged += [tuple(damage) for damage in result['damaged']]
    clips = sum(len(plan.clips) for plan in plans)
    return SplitInfo(
        records=clips - len(failures),
        shards=len(plans),
        class_counts=tuple(counts),
        failures=tuple(sorted(failures)),
        damaged=tuple(sorted(damaged)),
        box_counts=tuple(box_counts) if annotations.localisation else None,
        small=sum(results[plan.name].get('small', 0) for plan in plans),
    )


def _write_list(
    path: pathlib.Path, column: str, lists: Mapping[str, Sequence[tuple[str, str]]]
) -> None:
    """Writes a csv of (split, file, text); none if there is nothing to tell."""
    rows = [(split, file, text) for split, items in lists.items() for file, text in items]
    if rows:
        files.write_csv(path, [('split', 'file', column), *rows])
    else:
        path.unlink(missing_ok=True)


def _check_failures(
    output: pathlib.Path, splits: Mapping[str, SplitInfo], max_failures: float
) -> None:
    failed = sum(len(split.failures) for split in splits.values())
    total = failed + sum(split.records for split in splits.values())
    for name, split in splits.items():
        if not split.records:
            file, reason = split.failures[0]
            raise ValueError(
                f'{output}: all {len(split.failures)} videos of the split {name!r} failed; '
                f'the first: {file}: {reason}; the others: {output / FAILURES}'
                + ('; is it --videos, or --path_prefix?' if reason == 'no such file' else '')
            )
    if failed > max_failures * total:
        raise ValueError(
            f'{output}: {failed} of {total} videos failed, more than max_failures={max_failures:g} '
            f'allows; see {output / FAILURES}; mend them, or allow more, and run it again '
            '(what is done is kept)'
        )
