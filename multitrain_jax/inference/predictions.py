"""What is said of videos, in words: tables, JSON, csv; as it comes."""

from collections.abc import Iterable, Iterator, Mapping
import csv
import json
from typing import Any, NamedTuple, TextIO

import numpy as np

from data_pipelines.settings import spelt_out
from multitrain_jax.errors import first_line
from multitrain_jax.inference.model import Model
from multitrain_jax.inference.stream import End, Heat, Seen

_WIDEST_NAME = 32  # letters of a class's name in a table of windows


class Answer(NamedTuple):
    """What is said of a window of a video, or of a whole one.

    Attributes:
        start, end: seconds.
        scores: {dataset: f32[C]}, means over the views.
        heat: {dataset: where it looked}, where that was wanted.
    """

    start: float
    end: float
    scores: Mapping[str, np.ndarray]
    heat: Mapping[str, Heat] = {}


class Told(NamedTuple):
    """What is said of a video once it has ended.

    Attributes:
        mean: {dataset: f32[C]}, of its windows; empty if it cannot be read.
        end: how it ended.
    """

    mean: Mapping[str, np.ndarray]
    end: End


def divided(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For which time each window stands: where two overlap, each for its half of the overlap.

    Args:
        starts, ends: f64[N], seconds, rising.

    Returns:
        When the windows' own times begin and end, f64[N] each.
    """
    middles = (starts[1:] + ends[:-1]) / 2
    lefts = np.concatenate([starts[:1], np.maximum(starts[1:], middles)])
    return lefts, np.concatenate([np.minimum(ends[:-1], middles), ends[-1:]])


class Output:
    """Gets what is said of one video after the other; what it does not want is passed over."""

    def window(self, video: str, answer: Answer) -> None:
        """Gets windows, as time goes."""

    def video(self, video: str, told: Told) -> None:
        """Gets the rest, once a video has ended."""

    def close(self) -> None:
        """Is told that there is no more."""


def tell(
    model: Model, videos: list[str], seen: Iterable[Seen | End], outputs: Iterable[Output]
) -> int:
    """Passes on what a model sees, in the order of the videos.

    Args:
        model: that sees.
        videos: their names.
        seen: of `stream.see`.
        outputs: that get it.

    Returns:
        How many videos cannot be read.
    """
    outputs, unreadable = list(outputs), 0
    total: dict[str, np.ndarray] = {}
    windows = 0
    for event in _in_order(seen):
        if isinstance(event, Seen):
            scores = {name: views.mean(0) for name, views in model.activated(event.logits).items()}
            total = {name: total.get(name, 0) + np.float64(own) for name, own in scores.items()}
            windows += 1
            for output in outputs:
                output.window(
                    videos[event.video], Answer(event.start, event.end, scores, event.heat)
                )
            continue
        unreadable += event.error is not None
        told = Told({name: np.float32(own / windows) for name, own in total.items()}, event)
        for output in outputs:
            output.video(videos[event.video], told)
        total, windows = {}, 0
    return unreadable


def _in_order(events: Iterable[Seen | End]) -> Iterator[Seen | End]:
    """By video; those of the first that has not ended are passed on at once."""
    waiting: dict[int, list[Seen | End]] = {}
    current = 0
    for event in events:
        if event.video != current:
            waiting.setdefault(event.video, []).append(event)
            continue
        yield event
        while isinstance(event, End) and event.video == current:
            current += 1
            for event in waiting.pop(current, []):
                yield event


def complaint(video: str, end: End) -> str:
    """A line on what of a video could not be read; empty: everything could."""
    if end.error is not None:
        return spelt_out(f'error: {first_line(end.error)}')
    return spelt_out(f'warning: {video}: damaged, {end.damage}') if end.damage else ''


class Complaints(Output):
    """Says on a stream what cannot be read, and what is damaged."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def video(self, video: str, told: Told) -> None:
        if text := complaint(video, told.end):
            print(text, file=self._stream, flush=True)


class VideoTable(Output):
    """Prints the best classes of each video."""

    def __init__(self, model: Model, top: int):
        self._model, self._top = model, top

    def video(self, video: str, told: Told) -> None:
        if told.end.error is not None:
            return
        best = self._model.best(told.mean, self._top)
        print(spelt_out(video))
        width = max(len(label) for pairs in best.values() for label, _ in pairs)
        for name, pairs in best.items():
            for rank, (label, score) in enumerate(pairs):
                print(
                    f'  {name if rank == 0 else "":<{max(map(len, best))}}  {label:<{width}}  '
                    f'{100 * score:5.1f} %'
                )
        print()


class WindowTable(Output):
    """Prints a line for each window, with the best class of every dataset."""

    def __init__(self, model: Model):
        self._model = model
        self._begun: str | None = None
        self._widths = {
            name: max(len(name), min(_WIDEST_NAME, max(map(len, spec.classes))) + 8)
            for name, spec in model.info.datasets.items()
        }

    def window(self, video: str, answer: Answer) -> None:
        if self._begun != video:
            self._begun = video
            print(spelt_out(video))
            names = (f'{name:<{width}}' for name, width in self._widths.items())
            print(f'  {"seconds":<19}  ' + '  '.join(names).rstrip())
        cells = []
        for name, ((label, score),) in self._model.best(answer.scores, 1).items():
            width = self._widths[name]
            cells.append(f'{label[: width - 8]:<{width - 8}} {100 * score:5.1f} %')
        print(f'  {answer.start:8.2f} - {answer.end:8.2f}  ' + '  '.join(cells), flush=True)

    def video(self, video: str, told: Told) -> None:
        self._begun = None
        if told.end.error is None:
            print()


class Json(Output):
    """Prints one list with an entry for each video, once all are done."""

    def __init__(self, model: Model, top: int, *, windows: bool):
        self._model, self._top, self._windows = model, top, windows
        self._everything: list[dict[str, Any]] = []
        self._own: list[dict[str, Any]] = []

    def window(self, video: str, answer: Answer) -> None:
        if self._windows:
            self._own.append(_entry(self._model, answer, self._top))

    def video(self, video: str, told: Told) -> None:
        entry: dict[str, Any] = {'video': video}
        if told.end.error is not None:
            entry['error'] = str(told.end.error)
        else:
            entry['damage'] = told.end.damage
            entry['predictions'] = _named(self._model, told.mean, self._top)
        if self._own:
            entry['windows'] = self._own
        self._own = []
        self._everything.append(entry)

    def close(self) -> None:
        print(json.dumps(self._everything, indent=1, ensure_ascii=False))


class JsonLines(Output):
    """Prints a line for each window, as it comes."""

    def __init__(self, model: Model, top: int):
        self._model, self._top = model, top

    def window(self, video: str, answer: Answer) -> None:
        entry = {'video': video, **_entry(self._model, answer, self._top)}
        print(json.dumps(entry, ensure_ascii=False), flush=True)

    def video(self, video: str, told: Told) -> None:
        if told.end.error is not None:
            line = {'video': video, 'error': str(told.end.error)}
            print(json.dumps(line, ensure_ascii=False), flush=True)


class Csv(Output):
    """Writes `video,start,end,dataset,rank,class,score`, a line for each of the best classes."""

    def __init__(self, model: Model, file: TextIO, top: int):
        self._model, self._file, self._top = model, file, top
        self._writer = csv.writer(file, lineterminator='\n')
        self._writer.writerow(['video', 'start', 'end', 'dataset', 'rank', 'class', 'score'])

    def window(self, video: str, answer: Answer) -> None:
        for name, pairs in self._model.best(answer.scores, self._top).items():
            for rank, (label, score) in enumerate(pairs, start=1):
                times = f'{answer.start:.3f}', f'{answer.end:.3f}'
                self._writer.writerow([video, *times, name, rank, label, f'{score:.6f}'])
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _entry(model: Model, answer: Answer, top: int) -> dict[str, Any]:
    return {
        'start': round(answer.start, 3),
        'end': round(answer.end, 3),
        'predictions': _named(model, answer.scores, top),
    }


def _named(model: Model, scores: Mapping[str, np.ndarray], top: int) -> dict[str, Any]:
    return {
        name: [{'class': label, 'score': score} for label, score in pairs]
        for name, pairs in model.best(scores, top).items()
    }
