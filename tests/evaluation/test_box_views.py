"""Boxes scored over views: the figures are those of the csv files,
and the step's scores those of the head.
"""

import csv
import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax import ava_eval
from multitrain_jax.evaluation import views
from multitrain_jax.evaluation.box_metrics import OFFICIAL, per_action, summarise_boxes
from multitrain_jax.evaluation.files import write_detections
from multitrain_jax.evaluation.metrics import accuracy_table
from multitrain_jax.evaluation.results import scalars
from multitrain_jax.evaluation.views import score_boxes
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import data_mesh, replicate
from tests.helpers import tiny, tiny_boxes
from tests.helpers.average_precision import average_precision_by_loops
from tests.helpers.tiny import quick_compile  # noqa: F401

RECORDS, VIEWS = 6, 2  # the loops know six key frames


class Source(tiny_boxes.BoxSource):
    """Candidates are shifted truth, partly too far;
    each is seen in the views that its place says.
    """

    def evaluation_batches(self, dataset):
        for batch in super().evaluation_batches(dataset):
            if 'candidate' not in batch:
                yield batch
                continue
            rng = np.random.default_rng([6, dataset])
            shift = rng.normal(scale=0.05, size=(RECORDS, tiny_boxes.MOST_BOXES, 4)).astype(
                np.float32
            )
            candidate = batch['candidate'] + shift[batch['record']]
            box_mask = batch['box_mask'].copy()
            box_mask[:, 1] *= batch['view'] == 1  # the second candidate is in the second view only
            box_mask[batch['record'] == 5, 2] = 0  # one is in none
            yield {**batch, 'candidate': candidate, 'boxes': candidate, 'box_mask': box_mask}


@pytest.fixture(scope='module')
def source():
    return Source(tiny_boxes.config(), evaluation_records=RECORDS, views=VIEWS)


def stub(params, share):
    """Scores that the boxes tell, f32[1, B, M, A]; what the video shows makes no difference."""
    boxes = np.asarray(share['boxes'])
    flat = boxes.reshape(1, -1, boxes.shape[-2], 4)
    return jax.numpy.asarray(
        np.stack([np.modf(flat.sum(-1) * (7 + action))[0] ** 2 for action in range(4)], -1)
    )


@pytest.fixture(scope='module')
def found(source):
    driver = Pmap(data_mesh(jax.devices()[:1]))
    return score_boxes(stub, None, source, tiny_boxes.SCENES, driver)


def test_equal_to_the_definition(source, found):
    spec = source.datasets[tiny_boxes.SCENES]
    expected_rows, truth = [], []
    for batch in source.evaluation_batches(tiny_boxes.SCENES):
        scores = np.asarray(stub(None, batch))[0]
        for row in np.flatnonzero(batch['weight']):
            if batch['view'][row] == 0:
                truth += [
                    (batch['record'][row], action, *batch['truth_box'][row, m])
                    for m in range(3)
                    for action in range(3)
                    if batch['truth_label'][row, m, action]
                ]
            else:
                expected_rows += [
                    (
                        batch['record'][row],
                        action,
                        *batch['candidate'][row, m],
                        scores[row, m, action],
                    )
                    for m in range(3)
                    if batch['candidate_mask'][row, m] and (batch['record'][row], m) != (5, 2)
                    for action in range(3)
                ]
    detections = found.detections
    rows = np.column_stack(
        [detections.key_frame, detections.action, detections.box, detections.score]
    )
    np.testing.assert_allclose(rows, np.array(expected_rows), rtol=1e-5)
    rows = np.column_stack([found.truth.key_frame, found.truth.action, found.truth.box])
    np.testing.assert_allclose(rows, np.array(truth), rtol=1e-6)
    assert found.unseen == 1 and found.name[3] == 'clip3,903'

    precision = [
        average_precision_by_loops(found.truth, detections, action, OFFICIAL, range(3))
        for action in range(3)
    ]
    assert 0.05 < min(precision) < max(precision) < 0.95
    result = summarise_boxes(found, spec)
    assert result.mean_average_precision == pytest.approx(np.mean(precision))
    # train_counts are 10, 11, 12
    assert (result.rare, result.middle, result.frequent) == pytest.approx(precision)
    assert [action.average_precision for action in per_action(found, spec)] == pytest.approx(
        precision
    )
    assert scalars({'scenes': result})['evaluation/scenes/rare'] == pytest.approx(precision[0])
    assert f'{100 * result.rare:.1f}' in accuracy_table({'scenes': result}).splitlines()[2].split()


def test_the_csv_gives_the_same_figure(source, found, tmp_path):
    spec = dataclasses.replace(source.datasets[tiny_boxes.SCENES], action_ids=(4, 7, 80))
    write_detections(tmp_path / 'detections.csv', found, spec)
    with open(tmp_path / 'truth.csv', 'w', newline='') as file:
        csv.writer(file).writerows(
            (*found.name[frame].split(','), *box, spec.action_ids[action])
            for frame, box, action in zip(
                found.truth.key_frame, found.truth.box, found.truth.action
            )
        )
    labelmap = ''.join(
        f'item {{ name: "{name}" id: {number} }}\n'
        for name, number in zip(spec.classes, spec.action_ids)
    )
    (tmp_path / 'actions.pbtxt').write_text(labelmap)
    official = ava_eval.evaluate_files(
        tmp_path / 'truth.csv', tmp_path / 'detections.csv', tmp_path / 'actions.pbtxt'
    )
    assert official['map'] == pytest.approx(
        summarise_boxes(found, spec).mean_average_precision, abs=1e-6
    )
    assert official['detections'] == 3 * len(found.box)


def test_nothing_matches_is_said_and_is_no_figure(source, found):
    pixels = dataclasses.replace(found, box=found.box * 320)
    result = summarise_boxes(pixels, source.datasets[tiny_boxes.SCENES])
    assert result.mean_average_precision is None and 'seem to be pixels' in result.problem
    assert scalars({'scenes': result}) == {} and '-' in accuracy_table({'scenes': result})
    none = dataclasses.replace(
        found, frame=found.frame[:0], box=found.box[:0], score=found.score[:0]
    )
    result = summarise_boxes(none, source.datasets[tiny_boxes.SCENES])
    assert result.boxes == 0 and 'candidates=ground_truth' in result.problem


def test_scores_are_those_of_the_own_head_on_any_number_of_devices(source):
    config = tiny_boxes.config()
    graphdef, _ = tiny.abstract(config, source.datasets)
    model = tiny.model(config, source.datasets, 0)
    params = nnx.to_pure_dict(nnx.state(model))
    scores = {}
    for devices in (1, 4):
        driver = Pmap(data_mesh(jax.devices()[:devices]))
        step = views.make_eval_step(graphdef, source.datasets, config.augment, driver)
        on_devices = replicate(params, driver.mesh)
        scores[devices] = score_boxes(
            step, on_devices, source, tiny_boxes.SCENES_MORE, driver
        ).score
        labels = views.score_dataset(step, on_devices, source, 3, driver)
        np.testing.assert_allclose(labels.score.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(scores[1], scores[4], rtol=1e-4)
    batch = next(iter(source.evaluation_batches(tiny_boxes.SCENES_MORE)))
    row = int(np.flatnonzero((batch['record'] == 1) & (batch['view'] == 0))[0])
    total = 0
    for view in range(VIEWS):
        pick = slice(row + view, row + view + 1)
        video = jnp.asarray(batch['video'][pick])
        normalised = views.prepare_eval(video, mean=config.augment.mean, std=config.augment.std)
        total += jax.nn.sigmoid(model(normalised, batch['boxes'][pick]).actions[1][0, 0])
    np.testing.assert_allclose(scores[1][0], total / VIEWS, rtol=1e-4)
