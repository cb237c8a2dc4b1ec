"""Keep-best: the checkpoint of the state that was best in the evaluations of a run.

`WORKDIR/best` is to commands what a workdir is: `--workdir=WORKDIR/best`, `--config.init_from=WORKDIR/best`.
"""

from collections.abc import Mapping
import logging
from pathlib import Path
from typing import Any

from multitrain_jax.checkpoints.runs import RunCheckpoints
from multitrain_jax.evaluation import results
from multitrain_jax.evaluation.metrics import DatasetResult

_log = logging.getLogger('multitrain_jax')
_FIGURE = 'figure'  # in the checkpoint's description


class BestCheckpoint:
    """Keeps one checkpoint beside the newest ones."""

    def __init__(self, workdir: Path, keep_best: str):
        """Opens `WORKDIR/best`.

        Args:
            workdir: of the run.
            keep_best: 'average' of the datasets, or the name of one.

        Raises:
            UserError: its checkpoint is damaged.
        """
        self._saved = RunCheckpoints(workdir / 'best', keep=1)
        self._which = keep_best
        stored = self._saved.read_newest(self._saved.read_meta)
        self._best = float('-inf') if stored is None else stored[_FIGURE]

    def offer(
        self, step: int, state: Any, meta: Mapping[str, Any], accuracy: Mapping[str, DatasetResult]
    ) -> None:
        """Keeps the state if its evaluation is better than that of the one before."""
        if self._which == 'average':
            figure = results.scalars(accuracy).get('evaluation/average')
        else:
            figure = accuracy[self._which].primary if self._which in accuracy else None
        if figure is None or not figure > self._best:
            return
        self._best = figure
        self._saved.save(step, state, {**meta, _FIGURE: figure})
        _log.info(
            'best so far: step %d, %s %.1f%%; kept in %s',
            step,
            self._which,
            100 * figure,
            self._saved.directory.parent,
        )

    def close(self) -> None:
        """Waits until it is on disk."""
        self._saved.close()
