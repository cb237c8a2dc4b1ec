"""Where a run's metrics are written: TensorBoard files, the log, CSV, Weights & Biases."""

from collections.abc import Callable, Mapping, Sequence
import concurrent.futures
import csv
import functools
import importlib
import importlib.util
import logging
import os
import time
from typing import Any
import uuid

import numpy as np

from multitrain_jax.errors import UserError

_log = logging.getLogger('multitrain_jax')
_log_of_metrics = logging.getLogger('multitrain_jax.metrics')  # to log.txt, not to the terminal

CSV_FILE = 'metrics.csv'


def import_writers() -> str:
    """Imports what writes TensorBoard files, which takes seconds for the first of these.

    Returns:
        'clu' where it and TensorFlow are installed, else 'tensorboard', whose own writer needs no
        TensorFlow, else 'log'.
    """
    if all(importlib.util.find_spec(name) for name in ('clu', 'tensorflow')):
        quieten_tensorflow()
        importlib.import_module('clu.metric_writers')
        # JAX has the accelerators; the first operation of a TensorFlow that sees a GPU takes all of
        # its memory.
        importlib.import_module('tensorflow').config.set_visible_devices([], 'GPU')
        return 'clu'
    if importlib.util.find_spec('tensorboard'):
        importlib.import_module('tensorboard.summary')
        return 'tensorboard'
    return 'log'


def quieten_tensorflow() -> None:
    """Before its import: it talks much, of oneDNN each time, and nothing here computes with it."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')


def open_writer(workdir: str, *, is_main_host: bool, also: Sequence[str] = ()):
    """The writer of a run's metrics: TensorBoard files in `workdir`, all values also in the log.

    It is clu's where clu and TensorFlow are installed, else TensorBoard's own, which writes the
    same tags as the same kind of summary. Without either, metrics go to the log only, and a warning
    says so.

    Args:
        workdir: of the run.
        is_main_host: the others write to their logs only.
        also: of `WRITERS`, which get the same.

    Raises:
        UserError: the package of one of those is missing.
    """
    more = [WRITERS[name](workdir) for name in also] if is_main_host else []
    writer = _tensorboard_writer(workdir, is_main_host)
    return Fanout([writer, *more]) if more else writer


def _tensorboard_writer(workdir: str, is_main_host: bool):
    kind = import_writers()
    if kind == 'clu':
        from clu import metric_writers

        return metric_writers.create_default_writer(workdir, just_logging=not is_main_host)
    if kind == 'log':
        _log.warning(
            'no TensorBoard files: tensorboard is not installed; metrics go to the log only'
        )
    return EventWriter(workdir) if kind == 'tensorboard' and is_main_host else LogWriter()


class OpeningWriter:
    """The writer that `open_writer` gives in another thread; the first call of a method waits for
    it.
    """

    def __init__(self, opening: concurrent.futures.Future):
        self._opening = opening

    def __getattr__(self, name: str) -> Callable:
        return lambda *args, **kwargs: getattr(self._opening.result(), name)(*args, **kwargs)


class LogWriter:
    """The part of clu's MetricWriter that training uses, writing to the log."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        _log_of_metrics.info(
            '[%d] %s',
            step,
            ', '.join(f'{name}={value:.5g}' for name, value in sorted(scalars.items())),
        )

    def _pass_over(self, *args: Any) -> None:
        """What is no scalar; there is nothing to flush or to close either."""

    write_images = write_texts = write_hparams = flush = close = _pass_over


class EventWriter(LogWriter):
    """Writes to the log and to TensorBoard files, without TensorFlow."""

    def __init__(self, workdir: str):
        from tensorboard import summary

        self._events, self._workdir = summary.Writer(workdir), workdir

    @functools.cached_property
    def _others(self):
        """A file of its own for what is no scalar, of which `summary.Writer` knows nothing."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        return EventFileWriter(self._workdir)

    def _add(self, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._others.add_event(Event(step=step, wall_time=time.time(), summary=summary))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        super().write_scalars(step, scalars)
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.image import metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        about = metadata.create_summary_metadata(display_name='', description='')
        for name, many in images.items():
            height, width = many.shape[1:3]
            parts = [str(width).encode(), str(height).encode(), *map(png, many)]
            summary = Summary()
            summary.value.add(
                tag=name, metadata=about, tensor=make_tensor_proto(parts, dtype=np.object_)
            )
            self._add(summary, step)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        for name, text in texts.items():
            self._add(text_pb(name, text), step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        self._add(hparams_pb(dict(hparams)), 0)

    def flush(self) -> None:
        self._events.flush()
        if '_others' in vars(self):
            self._others.flush()

    def close(self) -> None:
        self._events.close()
        if '_others' in vars(self):
            self._others.close()


class CsvWriter(LogWriter):
    """Appends `step,name,value` lines to `WORKDIR/metrics.csv`."""

    def __init__(self, workdir: str):
        self._file = open(os.path.join(workdir, CSV_FILE), 'a', newline='', encoding='utf-8')
        self._lines = csv.writer(self._file)
        if not self._file.tell():
            self._lines.writerow(['step', 'name', 'value'])

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._lines.writerows((step, name, float(value)) for name, value in scalars.items())

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class WandbWriter(LogWriter):
    """Writes to Weights & Biases, as its own environment variables say (`WANDB_PROJECT`,
    `WANDB_MODE`, ...).

    A run that goes on is the same one there.
    """

    def __init__(self, workdir: str):
        try:
            import wandb
        except ImportError as error:
            raise UserError("config.writers: 'wandb' needs: pip install wandb") from error
        place = os.path.realpath(workdir)
        name, number = os.path.basename(place), uuid.uuid5(uuid.NAMESPACE_URL, place).hex
        self._wandb, self._run = wandb, wandb.init(dir=place, name=name, id=number, resume='allow')

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({name: float(value) for name, value in scalars.items()}, step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        pictures = {name: [self._wandb.Image(one) for one in many] for name, many in images.items()}
        self._run.log(pictures, step=step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._run.config.update(dict(hparams), allow_val_change=True)

    def close(self) -> None:
        self._run.finish()


class Fanout:
    """Several writers as one."""

    def __init__(self, writers: Sequence[Any]):
        self._writers = writers

    def __getattr__(self, name: str):
        def call(*args):
            for writer in self._writers:
                getattr(writer, name)(*args)

        return call


WRITERS = {'csv': CsvWriter, 'wandb': WandbWriter}


def png(image: np.ndarray) -> bytes:
    """u8[H, W, 3], RGB, as a file."""
    import cv2

    return cv2.imencode('.png', image[..., ::-1])[1].tobytes()
