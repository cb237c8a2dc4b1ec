"""Metrics: (sum, count) pairs that merge over clips, steps and hosts, and where they are written."""

from collections.abc import Iterable, Mapping
import concurrent.futures
import importlib
import importlib.util
import logging
import os
from typing import Any

import numpy as np

_log = logging.getLogger('multitrain_jax')
_log_of_metrics = logging.getLogger('multitrain_jax.metrics')  # to log.txt, not to the terminal

Terms = Mapping[str, tuple[Any, Any]]


def merge(many: Iterable[Terms]) -> dict[str, float]:
    """Weighted means of (sum, count) terms over several steps; a term that was never counted is left out."""
    totals: dict[str, np.ndarray] = {}
    for terms in many:
        for name, pair in terms.items():
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    return {name: float(total / count) for name, (total, count) in totals.items() if count > 0}


def import_writers() -> str:
    """Imports what writes TensorBoard files, which takes seconds for the first of these.

    Returns:
        'clu' where it and TensorFlow are installed, else 'tensorboard', whose own writer needs no TensorFlow, else
        'log'.
    """
    if all(importlib.util.find_spec(name) for name in ('clu', 'tensorflow')):
        # TensorFlow is talkative; of its oneDNN it says so on every import, and nothing here computes with it.
        os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
        os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
        importlib.import_module('clu.metric_writers')
        # JAX has the accelerators; the first operation of a TensorFlow that sees a GPU takes all of its memory.
        importlib.import_module('tensorflow').config.set_visible_devices([], 'GPU')
        return 'clu'
    if importlib.util.find_spec('tensorboard'):
        importlib.import_module('tensorboard.summary')
        return 'tensorboard'
    return 'log'


def open_writer(workdir: str, *, is_main_host: bool):
    """The writer of a run's metrics: TensorBoard files in `workdir`, all values also in the log.

    It is clu's where clu and TensorFlow are installed, else TensorBoard's own, which writes the same tags as the same
    kind of summary. Without either, metrics go to the log only, and a warning says so.
    """
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
    """The writer that `open_writer` gives in another thread; its first use waits for it."""

    def __init__(self, opening: concurrent.futures.Future):
        self._opening = opening

    def __getattr__(self, name: str):
        return getattr(self._opening.result(), name)


class LogWriter:
    """The part of clu's MetricWriter that training uses, writing to the log."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        _log_of_metrics.info(
            '[%d] %s',
            step,
            ', '.join(f'{name}={value:.5g}' for name, value in sorted(scalars.items())),
        )

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class EventWriter(LogWriter):
    """Writes to the log and to a TensorBoard file, without TensorFlow."""

    def __init__(self, workdir: str):
        from tensorboard import summary

        self._events = summary.Writer(workdir)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        super().write_scalars(step, scalars)
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()
