"""The figures of all datasets, and what came out of a run: `WORKDIR/results.json`, a table."""

from collections.abc import Callable, Mapping
import dataclasses
import json
import logging
import math
import os
from pathlib import Path

from multitrain_jax.atomic import complete_or_absent
from multitrain_jax.batch import BatchSource, DatasetSpec
from multitrain_jax.errors import UserError, naming
from multitrain_jax.evaluation import views
from multitrain_jax.evaluation.box_metrics import BoxScores, summary
from multitrain_jax.evaluation.metrics import (
    FIGURES,
    DatasetResult,
    Scores,
    accuracy_table,
    describe,
)
from multitrain_jax.parallel.drivers import Driver

_log = logging.getLogger('multitrain_jax')
_FILE = 'results.json'


@dataclasses.dataclass(frozen=True)
class RunResults:
    """The outcome of a finished run.

    Attributes:
        steps: updates done.
        accuracy: by dataset.
        clips_per_second: median training speed; NaN when no step was timed (a run resumed at its
            end).
        workdir: where everything is.
        best: (step, figure) of the best evaluation, where `checkpoint.keep_best` keeps its
            checkpoint.
    """

    steps: int
    accuracy: Mapping[str, DatasetResult]
    clips_per_second: float
    workdir: str
    best: tuple[int, float] | None = None


def evaluate(
    eval_step: Callable,
    params,
    source: BatchSource,
    driver: Driver,
    keep: Callable[[DatasetSpec, Scores | BoxScores], None] = lambda spec, scores: None,
) -> dict[str, DatasetResult]:
    """The figures of every dataset that has evaluation records; `keep` gets the scores."""
    results = {}
    for number, spec in enumerate(source.datasets):
        if not spec.evaluation_records:
            _log.warning('%s: no evaluation records', spec.name)
            continue
        scores = views.score(eval_step, params, source, number, driver)
        keep(spec, scores)
        result = results[spec.name] = summary(scores, spec)
        (_log.warning if result.problem else _log.info)('  %s: %s', spec.name, describe(result))
    return results


def scalars(accuracy: Mapping[str, DatasetResult]) -> dict[str, float]:
    """Figures for metric writers, `evaluation/NAME/...`; average and mean loss over datasets."""
    values = {}
    for name, result in accuracy.items():
        for figure in ('loss', *FIGURES):
            value = getattr(result, figure)
            if value is not None:
                values[f'evaluation/{name}/{figure}'] = value
    known = [result.primary for result in accuracy.values() if result.primary is not None]
    if known:
        values['evaluation/average'] = sum(known) / len(known)
    losses = [result.loss for result in accuracy.values() if result.loss is not None]
    if losses:
        values['evaluation/loss'] = sum(losses) / len(losses)
    return values


def figure(accuracy: Mapping[str, DatasetResult], which: str) -> float | None:
    """The figure that checkpoints are compared by, of a dataset or 'average'; None: no figure."""
    if which == 'average':
        return scalars(accuracy).get('evaluation/average')
    return accuracy[which].primary if which in accuracy else None


def save(workdir: str | os.PathLike, outcome: RunResults) -> None:
    """Writes `results.json`, atomically."""
    content = dataclasses.asdict(outcome)
    if math.isnan(outcome.clips_per_second):
        content['clips_per_second'] = None
    text = json.dumps(content, indent=1, ensure_ascii=False) + '\n'
    with complete_or_absent(Path(workdir) / _FILE) as temporary:
        temporary.write_text(text, encoding='utf-8')


def load(workdir: str | os.PathLike) -> RunResults | None:
    """Reads `results.json`; None when the run has not finished.

    Raises:
        UserError: it is not what `save` wrote.
    """
    path = Path(workdir) / _FILE
    if not path.exists():
        return None
    try:
        with naming(path):
            content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'{path}: damaged ({error}); delete it, then the same command evaluates and writes '
            'it anew'
        ) from error
    try:
        content['accuracy'] = {
            name: DatasetResult(**result) for name, result in content['accuracy'].items()
        }
        if content['clips_per_second'] is None:
            content['clips_per_second'] = float('nan')
        if content.get('best') is not None:
            content['best'] = tuple(content['best'])
        return RunResults(**content)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path}: not the results of a run; delete it, then the same command writes it anew'
        ) from error


def table(outcome: RunResults) -> str:
    """The closing table of a run."""
    workdir, best, speed = outcome.workdir, [], ''
    if outcome.best is not None:
        step, figure = outcome.best
        best.append(
            f'best         {workdir}/best          step {step}, {figure:.1%}: '
            f'python -m multitrain_jax.export {workdir} --best --output=DIR'
        )
    if not math.isnan(outcome.clips_per_second):
        speed = f', {outcome.clips_per_second:.0f} clips/s in training'
    return '\n'.join(
        [
            '',
            accuracy_table(outcome.accuracy),
            '',
            f'{outcome.steps} steps{speed}',
            f'export       {workdir}/export        python -m multitrain_jax.predict '
            f'--checkpoint={workdir}/export VIDEO...',
            f'checkpoints  {workdir}/checkpoints',
            f'metrics      {workdir}               tensorboard --logdir={workdir}',
            *best,
            f'results      {workdir}/results.json',
            f'config       {workdir}/config.json   to be used again: '
            f'--config={workdir}/config.json',
            f'log          {workdir}/log.txt',
        ]
    )
