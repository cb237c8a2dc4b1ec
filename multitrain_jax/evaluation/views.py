"""Multi-view test: scores of videos, or of key frames' boxes, are means over views, each once."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import logging
import time

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.augment.pipeline import prepare_eval
from multitrain_jax.batch import Batch, BatchSource, DatasetSpec, classifying
from multitrain_jax.evaluation.box_metrics import BoxScores, Rows
from multitrain_jax.evaluation.metrics import Scores
from multitrain_jax.parallel.drivers import Driver
from multitrain_jax.parallel.hosts import gather_names, gather_rows
from multitrain_jax.parallel.prefetch import prefetch
from multitrain_jax.reporting.progress import Countdown, duration

_log = logging.getLogger('multitrain_jax')
_SECONDS_BETWEEN_REPORTS = 5


def make_eval_step(
    graphdef: nnx.GraphDef, datasets: Sequence[DatasetSpec], augment_config, driver: Driver
) -> Callable:
    """`step(params, batch) -> scores`: of the head of the clip's own dataset.

    f32[B, C], softmax or sigmoid; where the batch has boxes, f32[B, M, A], sigmoid, of every box.
    `Driver.local_rows` of what the mapped step returns are those of the host's shard.
    """
    localises = np.array([dataset.localisation for dataset in datasets])
    multi_label = np.array([dataset.multi_label for dataset in classifying(datasets)])

    def step(params, batch):
        model, boxes = nnx.merge(graphdef, params), batch.get('boxes')
        video = prepare_eval(batch['video'], mean=augment_config.mean, std=augment_config.std)
        outputs = model(video, boxes)
        own = jax.nn.one_hot(batch['dataset'], len(datasets), axis=0)  # [N, B]
        if boxes is not None:
            own = own[np.flatnonzero(localises)]
            most = max(logits.shape[-1] for logits in outputs.actions)
            scores = [
                jnp.pad(jax.nn.sigmoid(x), ((0, 0), (0, 0), (0, most - x.shape[-1])))
                for x in outputs.actions
            ]
            return sum(one[:, None, None] * score for one, score in zip(own, scores))
        if localises.any():
            own = own[np.flatnonzero(~localises)]
        logits = (outputs.logits * own[..., None]).sum(axis=0)  # [B, C]
        is_multi_label = (own * multi_label[:, None]).sum(axis=0) > 0  # [B]
        return jnp.where(is_multi_label[:, None], jax.nn.sigmoid(logits), jax.nn.softmax(logits))

    return driver.eval_step(step)


def score(
    eval_step: Callable, params, source: BatchSource, dataset: int, driver: Driver
) -> Scores | BoxScores:
    """Runs all views of a dataset: `score_boxes` where it localises, else `score_dataset`."""
    form = score_boxes if source.datasets[dataset].localisation else score_dataset
    return form(eval_step, params, source, dataset, driver)


def score_dataset(
    eval_step: Callable, params, source: BatchSource, dataset: int, driver: Driver
) -> Scores:
    """Runs all views of a dataset and averages them per video, on every host for all hosts' videos.

    Raises:
        RuntimeError: a video got another number of views than the protocol has (a defect of the
            data source).
    """
    spec = source.datasets[dataset]
    classes = len(spec.classes)
    total: dict[int, np.ndarray] = {}
    views: dict[int, int] = {}
    labels: dict[int, np.ndarray] = {}
    names: dict[int, str] = {}

    def collect(batch, scores) -> None:
        for row in np.flatnonzero(batch['weight'] > 0):
            record = int(batch['record'][row])
            total[record] = total.get(record, 0) + scores[row, :classes].astype(np.float64)
            views[record] = views.get(record, 0) + 1
            labels[record] = batch['label'][row]
            names[record] = batch['name'][row] if 'name' in batch else str(record)

    run_views(eval_step, params, source, dataset, driver, collect)
    _check_even(spec, views)
    order = sorted(total)
    if order:
        label = np.stack([labels[record] for record in order])
    else:
        label = np.zeros((0, classes) if spec.multi_label else (0,))
    score = np.array([total[record] / views[record] for record in order], np.float32)
    return _gather_hosts(
        Scores(
            record=np.array(order, np.int64),
            score=score.reshape(-1, classes),
            label=label,
            name=tuple(names[record] for record in order),
        )
    )


def _check_even(spec: DatasetSpec, views: Mapping[int, int]) -> None:
    for record, count in views.items():
        if count != spec.views:
            raise RuntimeError(
                f'{spec.name}: record {record} has {count} views instead of {spec.views}'
            )


class _KeyFrame:
    """What the views of one key frame add up to."""

    def __init__(self, batch, row: int, actions: int):
        real, labelled = batch['candidate_mask'][row] > 0, batch['truth_mask'][row] > 0
        self.name = str(batch['name'][row]) if 'name' in batch else str(batch['record'][row])
        self.box = batch['candidate'][row][real]
        self.total, self.shown = np.zeros((real.sum(), actions)), np.zeros(real.sum())
        self.views = 0
        self.truth_box = batch['truth_box'][row][labelled]
        self.truth_label = batch['truth_label'][row][labelled, :actions] > 0

    def add(self, batch, row: int, scores: np.ndarray) -> None:
        real = batch['candidate_mask'][row] > 0
        seen = (batch['box_mask'][row][real] > 0).astype(np.float64)
        self.total += seen[:, None] * scores[real]
        self.shown += seen
        self.views += 1


def score_boxes(
    eval_step: Callable, params, source: BatchSource, dataset: int, driver: Driver
) -> BoxScores:
    """Runs all views of a localising dataset, on every host for all hosts' key frames.

    Raises:
        RuntimeError: a key frame got another number of views than the protocol has (a defect of the
            data source).
    """
    spec = source.datasets[dataset]
    actions = len(spec.classes)
    frames: dict[int, _KeyFrame] = {}

    def collect(batch, scores: np.ndarray) -> None:
        for row in np.flatnonzero(batch['weight'] > 0):
            record = int(batch['record'][row])
            if record not in frames:
                frames[record] = _KeyFrame(batch, row, actions)
            frames[record].add(batch, row, scores[row][:, :actions])

    run_views(eval_step, params, source, dataset, driver, collect)
    _check_even(spec, {record: frame.views for record, frame in frames.items()})
    order = sorted(frames)
    ours = [frames[record] for record in order]

    def joined(parts: list[np.ndarray], *shape: int, dtype=np.float32) -> np.ndarray:
        rows = np.concatenate(parts) if parts else np.zeros((0, *shape))
        return gather_rows(np.ascontiguousarray(rows, dtype))

    seen = [frame.shown > 0 for frame in ours]
    true = [np.nonzero(frame.truth_label) for frame in ours]  # (box, action) of each row
    all_records = gather_rows(np.array(order, np.int32)).astype(np.int64)
    number = dict(zip(all_records.tolist(), range(10**9)))

    def frame_numbers(counts) -> np.ndarray:
        parts = [np.full(count, record) for count, record in zip(counts, order)]
        records = joined(parts, dtype=np.int32)
        return np.array([number[record] for record in records.tolist()], np.int64)

    means = [frame.total[which] / frame.shown[which, None] for frame, which in zip(ours, seen)]
    unseen = np.array([sum(int((~which).sum()) for which in seen)], np.int32)
    return BoxScores(
        name=gather_names([frame.name for frame in ours]),
        frame=frame_numbers([which.sum() for which in seen]),
        box=joined([frame.box[which] for frame, which in zip(ours, seen)], 4),
        score=joined(means, actions),
        unseen=int(gather_rows(unseen).sum()),
        truth=Rows(
            frame_numbers([len(box) for box, _ in true]),
            joined([action for _, action in true], dtype=np.int32).astype(np.int64),
            joined([frame.truth_box[box] for frame, (box, _) in zip(ours, true)], 4),
        ),
        record=all_records,
    )


def run_views(
    eval_step: Callable,
    params,
    source: BatchSource,
    dataset: int,
    driver: Driver,
    collect: Callable[[Batch, np.ndarray], None],
) -> None:
    """Runs all views of a dataset that this host has: collect(batch, scores [B, ...]), in order."""
    spec = source.datasets[dataset]

    def collect_local(batch, scores: jax.Array) -> None:
        collect(batch, driver.local_rows(scores))

    clips = spec.evaluation_records * spec.views / jax.process_count()
    countdown, reported, done = Countdown(round(clips)), time.monotonic(), 0
    waiting = None
    batches = prefetch(
        source.evaluation_batches(dataset),
        lambda batch: (batch, driver.to_devices(model_inputs(batch))),
    )
    with contextlib.closing(batches):
        for batch, inputs in batches:
            scores = eval_step(params, inputs)
            if waiting is not None:  # the one before, while this one runs
                collect_local(*waiting)
            waiting = (batch, scores)
            first = not done
            done += int((batch['weight'] > 0).sum())
            if first:  # it was compiled, which says nothing of the views to come
                countdown.restart(done)
                reported = time.monotonic()
            if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                rate, left = countdown.update(done)
                _log.info(
                    '  %s: %d of %d views, %.0f views/s, %s left',
                    spec.name,
                    done,
                    clips,
                    rate,
                    duration(left),
                )
                reported = time.monotonic()
    if waiting is not None:
        collect_local(*waiting)


def model_inputs(batch) -> dict[str, np.ndarray]:
    """What the device needs of an evaluation batch."""
    return {name: batch[name] for name in ('video', 'dataset', 'boxes') if name in batch}


def _gather_hosts(scores: Scores) -> Scores:
    """All hosts' videos together."""
    if jax.process_count() == 1:
        return scores
    return Scores(
        gather_rows(scores.record.astype(np.int32)),
        gather_rows(scores.score),
        gather_rows(scores.label),
        gather_names(scores.name),
    )
