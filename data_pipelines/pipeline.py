"""Records -> batches of NumPy arrays, for training and for testing.

What a batch holds follows from (seed, step) and the damaged records alone, never from the number of
threads, of hosts or from timing. A batch is a flat dict; B is the host's share of the batch, and a
training batch has ::

    video    u8[B, T, H, W, 3]   RGB
    dataset  i32[B]              place of the source in `sources`
    label    i32[B]              class number; where any source is multi-label: f32[B, C],
                                 multi-hot, C the largest number of classes
    weight   f32[B]              1; 0 marks padding (testing only)

and a test batch also ::

    record   i32[B]              record number within the split, -1 for padding
    view     i32[B]              temporal clip * spatial crops + spatial crop
    name     object[B]           str, what the record calls its video; empty for padding

Clips of a dataset that localises have boxes instead of a label, which stays 0. With such a source
every training batch also has, for all its clips ::

    boxes      f32[B, M, 4]      x1, y1, x2, y2 in the clip, 0 to 1; 0 for padding
    box_label  f32[B, M, A]      multi-hot, A the largest number of actions of a source
    box_mask   f32[B, M]         1 for a box that exists

and a test batch, which then has no label, ::

    boxes            f32[B, M, 4]  the boxes to test, in the view, clipped
    box_mask         f32[B, M]     1 where the view shows enough of the box
    candidate        f32[B, M, 4]  the same boxes in the whole frame
    candidate_score  f32[B, M]     the detector's; 1 for annotated boxes
    candidate_mask   f32[B, M]     1 for a box that exists
    truth_box        f32[B, G, 4]  all annotated boxes in the whole frame; G: as many as needed
    truth_label      f32[B, G, A]
    truth_mask       f32[B, G]

Its views are numbered ((short side * mirrored or not) * temporal clip) * spatial crops + crop.
"""

from collections.abc import Sequence
import itertools
import logging
import os

from data_pipelines import batch_arrays
from data_pipelines.cores import available_cores
from data_pipelines.datasets.open import OTHERS
from data_pipelines.options import ClipSize, InputOptions, OrderOptions, Source, ViewOptions
from data_pipelines.plans import EvaluationPlan, TrainingPlan
from data_pipelines.workers import Batch, Batches, Filler, Threads

# What `num_processes=None` means. One process is about as fast as it gets with so many threads; two
# threads fill each other's pauses; starting a process costs what a thread needs for some clips.
_THREADS_WORTH_PROCESSES = 8
_THREADS_OF_A_PROCESS = 2
_CLIPS_OF_A_PROCESS = 256


class TrainBatches(Batches):
    """Training batches; see `train_batches`.

    Attributes:
        samples_per_epoch: clips of one epoch: all records of all sources, times `repeats`.
        step: number of the batch that `next()` returns next.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        start_step: int,
        num_steps: int | None,
        filler: Filler,
        *,
        prefetch: int,
    ):
        steps = itertools.islice(itertools.count(start_step), num_steps)
        super().__init__(plan, map(plan.batch, steps), filler, prefetch=prefetch)
        self.samples_per_epoch, self.step = plan.samples_per_epoch, start_step

    def __next__(self) -> Batch:
        batch = super().__next__()
        self.step += 1
        return batch


class EvaluationBatches(Batches):
    """Evaluation batches; see `evaluation_batches`.

    Attributes:
        num_records: records of the split, on all hosts.
        views: clips per record.
        num_batches: batches that every host runs.
    """

    def __init__(self, plan: EvaluationPlan, source: Source, filler: Filler, *, prefetch: int):
        super().__init__(plan, plan.batches(), filler, prefetch=prefetch)
        self.num_records, self.views = plan.num_records, plan.views
        self.num_batches = plan.num_batches
        self._source, self._given = source, 0
        self._counts = batch_arrays.CandidateCounts()

    def __next__(self) -> Batch:
        batch, counts = batch_arrays.finish(super().__next__())
        self._given += 1
        self._counts = batch_arrays.CandidateCounts(*map(sum, zip(self._counts, counts)))
        if self._given == self.num_batches and 'candidate' in batch:
            self._report_candidates()
        return batch

    def _report_candidates(self) -> None:
        name, options = self._source.name, self._source.boxes
        records, candidates, dropped = self._counts
        if dropped:
            logging.warning(
                '%s: max_boxes=%d leaves out %d of %d candidate boxes, those of the lowest scores',
                name,
                options.max_boxes,
                dropped,
                candidates + dropped,
            )
        if records and not candidates:
            logging.warning(
                '%s: no candidate boxes to test in any of %d records (candidates=%r, '
                'min_candidate_score=%g); were proposals given to the conversion?',
                name,
                records,
                options.candidates,
                options.min_candidate_score,
            )

    def __len__(self) -> int:
        return self.num_batches


def train_batches(
    sources: Sequence[Source],
    size: ClipSize,
    order: OrderOptions,
    options: InputOptions = InputOptions(),
    *,
    start_step: int = 0,
    num_steps: int | None = None,
    host: int = 0,
    num_hosts: int = 1,
    prefetch: int = 2,
) -> TrainBatches:
    """This host's share of the training batches `start_step, start_step + 1, ...`, in order.

    Without a schedule, samples come from the union of the sources in proportion to size, in a new
    random order each epoch; every record is visited once per epoch (`repeats` times, in the same
    batch), see `epochs.TrainingOrder`. Each clip: frames by the source's rule; short side resized
    to a random size, random square crop, random mirroring; boxes go with the pixels (`boxes.py`).

    A damaged record is replaced by the next one of the epoch's order, with weight 1, and counted.
    Where a schedule decides which dataset fills a place, it is replaced by one of the same dataset.

    Args:
        sources: the datasets; their order numbers them.
        size: T, H and W; the short sides hold H.
        order: batch size over all hosts, a multiple of `options.repeats`; seed of the order and of
            everything random in a clip; schedule, with which B may differ from batch to batch.
        options: how clips are read, and how many damaged records this host bears with.
        start_step: first batch; any step costs the same to start from.
        num_steps: how many batches; None: without end.
        host: number of this host.
        num_hosts: divides every batch.
        prefetch: batches decoded ahead of the one being returned.

    Raises:
        ValueError: an argument, a dataset directory or a sampling rule that does not fit.
        RecordError: (while iterating) too many damaged records; the text names file and record.
    """
    plan = TrainingPlan(sources, size, order, options, host=host, num_hosts=num_hosts)
    clips = None if num_steps is None else num_steps * order.batch_size // num_hosts
    filler = _filler(plan, sources, options, clips)
    return TrainBatches(plan, start_step, num_steps, filler, prefetch=prefetch)


def evaluation_batches(
    source: Source,
    size: ClipSize,
    views: ViewOptions,
    options: InputOptions = InputOptions(),
    *,
    dataset: int = 0,
    host: int = 0,
    num_hosts: int = 1,
    prefetch: int = 2,
) -> EvaluationBatches:
    """This host's share of the test clips of a dataset: each view of each record exactly once.

    Views of a record follow one another, temporal clip by temporal clip, and may run on into the
    next batch. All hosts run equally many batches of one shape; missing rows are padding (weight 0,
    record -1, black). So are the rows of a damaged record, which is counted.

    Args:
        source: the dataset. With boxes it may have more short sides and mirrored views, see
            `BoxOptions`.
        size: T, H and W; the short side holds H.
        views: of each record; batch size over all hosts.
        options: reduced decoding, threads, and how many damaged records this host bears with.
        dataset: the number to write as `dataset`.
        host, num_hosts, prefetch: as in `train_batches`.

    Raises: as `train_batches`.
    """
    plan = EvaluationPlan(
        source, size, views, options, dataset=dataset, host=host, num_hosts=num_hosts
    )
    clips = plan.num_records * plan.views // num_hosts
    filler = _filler(plan, [source], options, clips)
    return EvaluationBatches(plan, source, filler, prefetch=prefetch)


def _filler(
    plan: TrainingPlan | EvaluationPlan,
    sources: Sequence[Source],
    options: InputOptions,
    clips: int | None,
) -> Filler:
    """`clips`: how many there are to make; None: nobody knows."""
    threads, count = options.num_threads or available_cores(), options.num_processes
    if count is None:
        # TensorFlow, which reads others than records, has threads of its own.
        records = not any(os.fspath(source.path).startswith(OTHERS) for source in sources)
        count = 0
        if threads >= _THREADS_WORTH_PROCESSES and records:
            count = threads // _THREADS_OF_A_PROCESS
            if clips is not None:
                count = min(count, clips // _CLIPS_OF_A_PROCESS)
            count = 0 if count == 1 else count
    if not count:
        return Threads(plan, threads)
    from data_pipelines.processes import Processes  # Not needed by others.

    return Processes(plan, count, threads=max(1, threads // count))
