"""Videos through a model: decoded by threads while devices compute, batched over windows, videos.

Every batch has the same shape, so that one program is compiled. What follows from a video comes in
its order; different videos' windows may come in turns.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import os
import queue
import threading
import typing
from typing import Any, NamedTuple

import jax
import numpy as np

if typing.TYPE_CHECKING:
    from data_pipelines.clip.frame_sampling import Sampling
    from data_pipelines.videos.video_views import ViewRules
    from data_pipelines.videos.windows import Length
    from multitrain_jax.inference.model import Model

Video = str | os.PathLike


class Seen(NamedTuple):
    """What a model says of a window of a video, or of a whole one; V views.

    Attributes:
        video: its number among those given.
        start, end: seconds since the beginning of the video.
        embedding: f32[V, D] of the clips of the first dataset's sampling.
        times: f64[V, 2], seconds at which the first and the last frame of each of these appear.
        logits: {dataset: f32[V, C]}; of a localising dataset for the box that is the whole frame.
        heat: {dataset: Heat}, where it was wanted.
        progress: share of the video that is done, by what its header says; 0: it does not say.
    """

    video: int
    start: float
    end: float
    embedding: np.ndarray
    times: np.ndarray
    logits: Mapping[str, np.ndarray]
    progress: float
    heat: Mapping[str, 'Heat']


class Heat(NamedTuple):
    """Where a model looked in a window, for each dataset's best class.

    Attributes:
        grid: f32[V, t, h, w], see `heat`.
        times: f64[V, 2], seconds at which the first and the last frame of each view appear.
    """

    grid: np.ndarray
    times: np.ndarray


class End(NamedTuple):
    """A video has been seen to its end, or cannot be read.

    Attributes:
        video: its number among those given.
        seconds: when it ends; NaN if it cannot be read.
        frame_rate: frames per second, NaN likewise.
        damage: empty, or one line saying what of it could not be decoded.
        error: why it cannot be read, or not any further; None: it can.
    """

    video: int
    seconds: float
    frame_rate: float
    damage: str
    error: Exception | None = None


_UNIFORM_SECONDS = 4.0  # as long as videos of Something-Something are
_WITHOUT_DATASETS = (4, 30.0)  # stride and rate of VideoMAE (arXiv 2203.12602)


def view_rules(
    model: 'Model',
    datasets: Sequence[str | None],
    temporal_views: int | None = None,
    spatial_views: int | None = None,
) -> 'ViewRules':
    """Which clips a model is shown of a video.

    Args:
        model: the model.
        datasets: whose samplings there are to be, each once; None: that of a model without
            datasets.
        temporal_views, spatial_views: None: as many as the model is tested with.
    """
    from data_pipelines.videos.video_views import ViewRules

    info = model.info
    return ViewRules(
        tuple(dict.fromkeys(_sampling(model, name) for name in datasets)),
        info.model.backbone.num_frames,
        info.model.backbone.image_size,
        info.short_side,
        temporal_views or info.temporal_views,
        spatial_views or info.spatial_views,
    )


def _sampling(model: 'Model', dataset: str | None) -> 'Sampling':
    from data_pipelines.clip.frame_sampling import Sampling

    if dataset is None:
        return Sampling('strided', *_WITHOUT_DATASETS)
    spec = model.info.datasets[dataset]
    if spec.sampling == 'uniform':
        return Sampling('uniform')
    # Of a video no frame is known as the key frame.
    return Sampling('strided', spec.stride, spec.target_frame_rate)


def clip_length(model: 'Model') -> 'Length':
    """The longest clip of the model's datasets: a window, when nobody says how long it is to be."""
    from data_pipelines.videos.windows import Length

    strided = [
        sampling
        for sampling in map(functools.partial(_sampling, model), model.info.datasets or [None])
        if sampling.rule == 'strided'
    ]
    if not strided:
        return Length(seconds=_UNIFORM_SECONDS)
    frames = model.info.model.backbone.num_frames
    timed = [s.stride * frames / s.target_frame_rate for s in strided if s.target_frame_rate]
    if timed:
        return Length(seconds=max(timed))
    return Length(frames=max(sampling.stride for sampling in strided) * frames)


def see(
    model: 'Model',
    videos: Sequence[Video],
    *,
    window: 'Length | None' = None,
    stride: 'Length | None' = None,
    temporal_views: int | None = None,
    spatial_views: int | None = None,
    datasets: Sequence[str | None] | None = None,
    heat: bool = False,
    silence: float | None = None,
    threads: int | None = None,
) -> Iterator[Seen | End]:
    """Shows videos to a model.

    Args:
        model: the model.
        videos: files, or what else `data_pipelines.videos.sources` opens.
        window: length of the windows; None: each video is seen as a whole.
        stride: from one window to the next; None: as long as a window.
        temporal_views: of each window or video; None: 1 of a window, of a whole video as many as
            the model is tested with.
        spatial_views: likewise.
        datasets: whose logits are wanted; None: all. The first one's sampling is that of the
            embeddings.
        heat: whether it is wanted, of all these datasets.
        silence: seconds after which videos that are still being made have ended; what comes is
            answered at once. None: videos are complete.
        threads: that decode; None: one for each core.

    Yields:
        Seen of every window, then End, of every video.
    """
    from data_pipelines.cores import available_cores
    from data_pipelines.videos.video_views import whole_video
    from data_pipelines.videos.windows import Window, Windows, check_units

    chosen = list(datasets or model.info.datasets or [None])
    if window is not None:
        check_units(window, stride or window)
        temporal_views, spatial_views = temporal_views or 1, spatial_views or 1
    rules = view_rules(model, chosen, temporal_views, spatial_views)
    place = {name: rules.samplings.index(_sampling(model, name)) for name in chosen if name}
    cores = threads or available_cores()
    workers = len(videos) if silence is not None else min(cores, len(videos))

    def read(video: Video) -> Iterator['Window | _Stated']:
        # Several threads of a decoder give frames later.
        decoding = dict(threads=1 if silence is not None else max(1, cores // workers))
        if window is None:
            whole = whole_video(video, rules, **decoding)
            yield Window(whole.start, whole.end, whole.views)
            yield _Stated(whole.end, whole.frame_rate, whole.damage)
            return
        found = Windows(video, rules, window, stride, silence=silence, **decoding)
        for part in found:
            yield _Stated(found.stated_seconds)
            yield part
        yield _Stated(found.end, found.frame_rate, found.damage)

    batches = _batches(model, videos, read, workers, silence is not None)
    with contextlib.closing(batches):
        step = model.heat_step(tuple(place)) if heat else None
        if silence is not None:  # a stream does not wait until the program is compiled
            nothing = model.inputs(np.zeros((model.devices, *model.clip_shape), np.uint8))
            list(model.forward([(None, nothing)], step, ahead=False))
        for entries, outputs in model.forward(batches, step, ahead=silence is None):
            row = 0
            for entry in entries:
                if isinstance(entry, End):
                    yield entry
                    continue
                entry.job.fill(entry, jax.tree.map(lambda array: array[row], outputs))
                row += 1
                if entry.job.is_complete():
                    yield entry.job.seen(model, place)


class _Stated(NamedTuple):
    """What a video says of itself: seconds by its header; once it has ended, all that is true."""

    seconds: float | None
    frame_rate: float = float('nan')
    damage: str = ''


class _Row(NamedTuple):
    """A clip to be shown: view number `view` of sampling number `sampling`."""

    job: '_Job'
    sampling: int
    view: int
    clip: np.ndarray


class _Job:
    """A window whose clips are under way."""

    def __init__(self, video: int, part: Any, stated: float | None):
        self._video, self._start, self._end = video, part.start, part.end
        self._times = [own.times for own in part.views]
        self._progress = min(1.0, part.end / stated) if stated else 0.0
        self._outputs: list[list[Any]] = [[None] * len(own.clips) for own in part.views]
        self._missing = sum(map(len, self._outputs))

    def rows(self, part: Any) -> Iterator[_Row]:
        for sampling, own in enumerate(part.views):
            for view, clip in enumerate(own.clips):
                yield _Row(self, sampling, view, clip)

    def fill(self, row: _Row, outputs: Any) -> None:
        self._outputs[row.sampling][row.view] = outputs
        self._missing -= 1

    def is_complete(self) -> bool:
        return not self._missing

    def seen(self, model: 'Model', place: Mapping[str, int]) -> Seen:
        by_sampling = [jax.tree.map(lambda *rows: np.stack(rows), *own) for own in self._outputs]
        named = [model.named(outputs) for outputs in by_sampling]
        return Seen(
            self._video,
            self._start,
            self._end,
            by_sampling[0].embedding,
            self._times[0],
            {name: named[number][name] for name, number in place.items()},
            self._progress,
            {
                name: Heat(by_sampling[number].heat[name], self._times[number])
                for name, number in place.items()
                if name in by_sampling[number].heat
            },
        )


def _batches(
    model: 'Model',
    videos: Sequence[Video],
    read: Callable[[Video], Iterator[Any]],
    workers: int,
    at_once: bool,
) -> Iterator[tuple[list[_Row | End], dict[str, np.ndarray] | None]]:
    """(clips and ends in order, batch of these clips; None: there is none).

    `at_once`: a batch does not wait until it is full.
    """
    size, shape = model.devices if at_once else model.batch_size, model.clip_shape
    entries: list[_Row | End] = []
    video = np.zeros((size, *shape), np.uint8)
    filled = 0
    with contextlib.closing(_decoded(videos, read, workers, 2 * size, at_once)) as decoded:
        for entry in decoded:
            if entry is not None:
                entries.append(entry)
                if isinstance(entry, _Row):
                    video[filled] = entry.clip
                    filled += 1
            if filled == size or (entry is None and entries):
                yield entries, model.inputs(video) if filled else None
                entries, video, filled = [], np.zeros((size, *shape), np.uint8), 0
    if entries:
        yield entries, model.inputs(video) if filled else None


def _decoded(
    videos: Sequence[Video],
    read: Callable[[Video], Iterator[Any]],
    workers: int,
    most_waiting: int,
    at_once: bool,
) -> Iterator[_Row | End | None]:
    """Clips and ends as threads make them; None: no more is waiting (only `at_once`)."""
    waiting: queue.Queue = queue.Queue(maxsize=most_waiting)
    stop = threading.Event()
    numbers = iter(range(len(videos)))
    lock = threading.Lock()

    def put(entry: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(entry, timeout=0.1)
                return
        raise _Stopped

    def decode(number: int) -> None:
        stated: _Stated = _Stated(None)
        try:
            for part in read(videos[number]):
                if isinstance(part, _Stated):
                    stated = part
                    continue
                for row in _Job(number, part, stated.seconds).rows(part):
                    put(row)
            put(End(number, *stated))
        except (ValueError, OSError) as error:
            put(End(number, float('nan'), float('nan'), '', error))

    def work() -> None:
        try:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return put(None)
                decode(number)
        except _Stopped:
            pass
        except BaseException as error:  # handed over, whatever it is
            with contextlib.suppress(_Stopped):
                put(error)

    threads = [
        threading.Thread(target=work, name=f'decode {n}', daemon=True) for n in range(workers)
    ]
    for thread in threads:
        thread.start()
    running = workers
    try:
        while running:
            if at_once and waiting.empty():
                yield None
            entry = waiting.get()
            if entry is None:
                running -= 1
            elif isinstance(entry, BaseException):
                raise entry
            else:
                yield entry
    finally:
        stop.set()
        if not at_once:  # else one may be waiting for what never comes
            for thread in threads:
                thread.join()


class _Stopped(Exception):
    """Nobody wants what is decoded any more."""
