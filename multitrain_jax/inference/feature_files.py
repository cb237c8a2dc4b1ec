"""Embeddings of videos in files: one for each video, and a table of all.

What is done already is left alone when the same call is made again: `index.csv` says which videos
are, `features.json` how they were made. A video that has changed since is done anew.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
import csv
import json
import os
from pathlib import Path
import typing
from typing import Any

import numpy as np

from multitrain_jax.atomic import complete_or_absent
from multitrain_jax.errors import UserError, first_line
from multitrain_jax.inference import stream
from multitrain_jax.inference.model import Model
from multitrain_jax.inference.stream import End, Seen

if typing.TYPE_CHECKING:
    from data_pipelines.videos.video_list import Video

INDEX, SETTINGS = 'index.csv', 'features.json'
FORMATS = ('npz', 'npy')
_COLUMNS = ('video', 'file', 'rows', 'seconds', 'damage', 'error')


class FeatureFiles:
    """A folder of such files."""

    def __init__(
        self,
        folder: str | os.PathLike,
        videos: Sequence['Video'],
        settings: dict[str, Any],
        *,
        form: str = 'npz',
    ):
        """
        Args:
            folder: is made where it is missing.
            videos: all that are to be in it.
            settings: what the features follow from, see `settings_of`.
            form: of `FORMATS`; npy has nothing but embeddings, and times in a file beside.

        Raises:
            UserError: the folder cannot be made, or has features that follow from something else.
        """
        self._folder, self._form, self._videos = Path(folder).expanduser(), form, videos
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'{folder}: cannot be made ({error.strerror})') from error
        self._settle(settings | {'format': form})
        self._files = _files_of([video.name for video in videos], form)
        self._rows = self._read()
        self._write_index()
        self.todo = [video for video in videos if not self._is_done(video)]

    def _settle(self, settings: dict[str, Any]) -> None:
        path = self._folder / SETTINGS
        if path.exists():
            try:
                stored = dict(json.loads(path.read_text('utf-8')))
            except (ValueError, TypeError, RecursionError) as error:
                raise UserError(f'{path}: damaged ({error}); remove its folder') from error
            for name, value in settings.items():
                if stored.get(name) != value:
                    raise UserError(
                        f'{self._folder}: holds features of {name} {stored.get(name)}, not '
                        f'{value}; give another --output'
                    )
            return
        if any(self._folder.iterdir()):
            raise UserError(
                f'{self._folder}: holds something else than features; give another --output'
            )
        with complete_or_absent(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + '\n', 'utf-8')

    def add(self, video: 'Video', arrays: dict[str, np.ndarray], end: End) -> None:
        """Writes what has been seen of a video, and its line of the table."""
        name = self._files[video.name]
        if end.error is None:
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._form == 'npy':
                self._save(path, np.save, arrays['embedding'])
                self._save(path.with_suffix('.times.npy'), np.save, arrays['times'])
            else:
                self._save(path, np.savez, **arrays)
            line = [name, len(arrays['embedding']), f'{end.seconds:.3f}', end.damage, '']
        else:
            line = ['', 0, '', '', first_line(end.error)]
        self._rows[video.name] = dict(zip(_COLUMNS, [video.name, *map(str, line)]))
        with open(self._folder / INDEX, 'a', encoding='utf-8', newline='') as file:
            _writer(file).writerow(self._rows[video.name])

    def close(self) -> None:
        """Sorts the table as the videos were given."""
        self._write_index()

    def _is_done(self, video: 'Video') -> bool:
        row = self._rows.get(video.name)
        if row is None or row['error'] or row['file'] != self._files[video.name]:
            return False
        try:
            made = os.path.getmtime(self._folder / row['file'])
            return not os.path.exists(video.path) or os.path.getmtime(video.path) <= made
        except OSError:
            return False

    def _read(self) -> dict[str, dict[str, str]]:
        path = self._folder / INDEX
        try:
            with open(path, encoding='utf-8', newline='') as file:
                reader = csv.DictReader(file)
                # A line that was being written when the computer stopped is shorter.
                rows = [row for row in reader if None not in row.values() and None not in row]
                if reader.fieldnames not in (None, list(_COLUMNS)):
                    raise UserError(f'{path}: damaged; remove its folder')
        except FileNotFoundError:
            return {}
        return {row['video']: row for row in rows}

    def _write_index(self) -> None:
        order = {video.name: number for number, video in enumerate(self._videos)}
        with (
            complete_or_absent(self._folder / INDEX) as temporary,
            open(temporary, 'w', encoding='utf-8', newline='') as file,
        ):
            writer = _writer(file)
            writer.writeheader()
            writer.writerows(
                sorted(self._rows.values(), key=lambda row: order.get(row['video'], len(order)))
            )

    @staticmethod
    def _save(path: Path, save: Callable, *arrays: np.ndarray, **named: np.ndarray) -> None:
        with complete_or_absent(path) as temporary, open(temporary, 'wb') as file:
            save(file, *arrays, **named)


def settings_of(model: Model, **asked: Any) -> dict[str, Any]:
    """What features follow from: the model's numbers and how videos are shown to it."""
    return {
        'model': f'{model.checksum:08x}',
        **{name: value if value is None else str(value) for name, value in asked.items()},
    }


def write_features(
    model: Model,
    files: FeatureFiles,
    *,
    dataset: str | None = None,
    logits: bool = False,
    report: Callable[[Seen | End], None] = lambda event: None,
    **cutting: Any,
) -> int:
    """Sees the videos that are not done yet.

    The arrays of a file: `embedding` f32[N, D], `times` f64[N, 2] in seconds, of a whole video's N
    views, or of N windows, each the mean of its views; with `logits` `logits/DATASET` f32[N, C], of
    a whole video of the views that the dataset's own sampling gives.

    Args:
        model: that sees.
        files: where to.
        dataset: whose sampling embeddings follow; None: the model's first.
        logits: whether to keep these, too.
        report: gets what was seen, as it comes.
        **cutting: of `stream.see`.

    Returns:
        How many videos cannot be read.
    """
    first = model.sampled_like(dataset)
    others = [name for name in model.info.datasets if name != first] if logits else []
    whole = cutting.get('window') is None
    found: dict[int, list[dict[str, np.ndarray]]] = {}
    unreadable = 0
    paths = [video.path for video in files.todo]
    for event in stream.see(model, paths, datasets=[first, *others], **cutting):
        if isinstance(event, Seen):
            found.setdefault(event.video, []).append(_arrays(event, whole=whole, logits=logits))
        else:
            windows = found.pop(event.video, [])
            unreadable += event.error is not None
            arrays = {
                name: np.concatenate([own[name] for own in windows])
                for name in (windows or [{}])[0]
            }
            files.add(files.todo[event.video], arrays, event)
        report(event)
    files.close()
    return unreadable


def _arrays(seen: Seen, *, whole: bool, logits: bool) -> dict[str, np.ndarray]:
    def kept(views: np.ndarray) -> np.ndarray:
        return views if whole else views.mean(0, keepdims=True)

    arrays = {
        'embedding': kept(seen.embedding),
        'times': seen.times if whole else np.array([[seen.start, seen.end]]),
    }
    if logits:
        arrays |= {f'logits/{name}': kept(own) for name, own in seen.logits.items()}
    return arrays


def _files_of(names: Iterable[str], form: str) -> dict[str, str]:
    """File of each video: another suffix, or a further one where two would be alike."""
    names = list(names)
    stems = [os.path.splitext(name)[0] for name in names]
    twice = {stem for stem, count in Counter(stems).items() if count > 1}
    return {name: f'{name if stem in twice else stem}.{form}' for name, stem in zip(names, stems)}


def _writer(file: typing.TextIO) -> csv.DictWriter:
    return csv.DictWriter(file, _COLUMNS, lineterminator='\n')
