"""The figures of all datasets that a run is evaluated on."""

from collections.abc import Callable
import logging

from multitrain_jax.batch import BatchSource
from multitrain_jax.evaluation.box_results import summarise_boxes
from multitrain_jax.evaluation.box_views import score_boxes
from multitrain_jax.evaluation.metrics import DatasetResult, describe, summarise
from multitrain_jax.evaluation.views import score_dataset
from multitrain_jax.parallel.drivers import Driver

_log = logging.getLogger('multitrain_jax')


def evaluate(
    eval_step: Callable, params, source: BatchSource, driver: Driver
) -> dict[str, DatasetResult]:
    """Accuracy, or mean average precision, on every dataset that has evaluation records."""
    results = {}
    for number, spec in enumerate(source.datasets):
        if not spec.evaluation_records:
            _log.warning('%s: no evaluation records', spec.name)
            continue
        if spec.localisation:
            result = summarise_boxes(score_boxes(eval_step, params, source, number, driver), spec)
        else:
            result = summarise(score_dataset(eval_step, params, source, number, driver), spec)
        results[spec.name] = result
        (_log.warning if result.problem else _log.info)('  %s: %s', spec.name, describe(result))
    return results
