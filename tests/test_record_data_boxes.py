"""Datasets with boxes, and schedules, as a config names them."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.datasets import dataset_info
from data_pipelines.options import ClipSize
from multitrain_jax.batch import DatasetSpec, check_batch
from multitrain_jax.record_data import EvaluationData, RecordData, evaluation_sources
from tests.helpers import tiny
from tests.helpers.box_records import box_dataset, normalised

RECTANGLES = [[(10, 10, 60, 50), (90, 60, 150, 110)], [(20, 0, 60, 120)], []]
SCENES = dict(path='scenes', sampling='key_frame', stride=1, target_frame_rate=None, flip=True)


@pytest.fixture(scope='module')
def root_with_boxes(tmp_path_factory):
    root = tiny.write_datasets(tmp_path_factory.mktemp('boxes'))
    splits = {}
    for split, records in (('train', RECTANGLES * 3), ('validation', RECTANGLES)):
        proposals = [
            ([normalised(rectangle) for rectangle in record], [0.9] * len(record))
            for record in records
        ]
        box_dataset(root / 'scenes', records, proposals=proposals, split=split, num_classes=3)
        splits |= dataset_info.load_dataset_info(root / 'scenes').splits
    info = dataset_info.load_dataset_info(root / 'scenes')
    splits['train'] = dataclasses.replace(
        splits['train'], class_counts=(6, 3, 0), box_counts=(7, 3, 0)
    )
    info = dataclasses.replace(info, splits=splits, arguments={'action_ids': [4, 9, 80]})
    dataset_info.save_dataset_info(root / 'scenes', info)
    return root


def config_with_boxes(root, **changes):
    defaults = dict(data_root=str(root), localisation={'max_boxes': 2}, datasets__scenes=SCENES)
    return tiny.config(**{**defaults, **changes})


def test_a_dataset_with_boxes_beside_others(root_with_boxes):
    config = config_with_boxes(root_with_boxes)
    data = RecordData(config)
    colours, scenes, shades = data.datasets
    assert scenes.localisation and not (colours.localisation or shades.localisation)
    assert scenes.classes == ('class 0', 'class 1', 'class 2') and not scenes.multi_label
    assert scenes.train_counts == (7, 3, 0) and scenes.action_ids == (4, 9, 80)
    assert (scenes.evaluation_records, scenes.views) == (3, 3)
    assert (data.samples_per_epoch, data.clips_per_step) == (49, 16)
    boxes = 0
    for batch in data.train_batches(0, 6):
        check_batch(batch, num_frames=4, image_size=16, datasets=data.datasets, max_boxes=2)
        boxes += batch['box_mask'][batch['dataset'] == 1].sum()
    assert boxes > 5


def test_boxes_of_evaluation_follow_the_config(root_with_boxes):
    config = config_with_boxes(
        root_with_boxes,
        localisation=dict(
            max_boxes=3, candidates='ground_truth', test_short_sides=(16, 20), test_flip=True
        ),
    )
    data = RecordData(config)
    assert [spec.views for spec in data.datasets] == [6, 12, 3]
    rows = 0
    for batch in data.evaluation_batches(1):
        real = batch['weight'] == 1
        rows += real.sum()
        assert batch['boxes'].shape[1] == 3
        count = np.array([len(rectangles) for rectangles in RECTANGLES])[batch['record'][real]]
        np.testing.assert_array_equal(batch['candidate_mask'][real].sum(1), count)
        np.testing.assert_array_equal(batch['truth_mask'][real].sum(1), count)
        places = min(3, batch['truth_box'].shape[1])
        np.testing.assert_array_equal(
            batch['candidate'][:, :places], batch['truth_box'][:, :places]
        )
    assert rows == 36


def test_options_of_boxes_reach_the_batches(root_with_boxes):
    def train(**options):
        config = config_with_boxes(root_with_boxes, localisation=dict(max_boxes=4, **options))
        batches = list(RecordData(config).train_batches(0, 6))
        return {
            name: np.concatenate([batch[name] for batch in batches])
            for name in ('boxes', 'box_mask')
        }

    plain = train()
    assert (train(jitter=0.1)['boxes'] != plain['boxes']).any()
    # Each proposal is one of the annotated boxes.
    assert train(train_on_proposals=True)['box_mask'].sum() == 2 * plain['box_mask'].sum() > 0
    assert train(min_visible=1.0)['box_mask'].sum() < plain['box_mask'].sum()


def test_the_same_records_once_with_boxes_and_once_with_labels(root_with_boxes):
    labels = {**SCENES, 'task': 'classification'}
    config = config_with_boxes(root_with_boxes, datasets__scene_labels=labels)
    data = RecordData(config)
    assert [(spec.name, spec.localisation, spec.multi_label) for spec in data.datasets] == [
        ('colours', False, False),
        ('scene_labels', False, True),
        ('scenes', True, False),
        ('shades', False, False),
    ]
    (batch,) = data.train_batches(0, 1)
    check_batch(batch, num_frames=4, image_size=16, datasets=data.datasets, max_boxes=2)
    assert batch['label'].shape == (16, 5)


@pytest.mark.parametrize(
    ('schedule', 'sizes', 'clips', 'tasks'),
    [
        (dict(kind='alternating'), {'scenes': 4}, 12, [{0}, {1}, {2}, {0}]),
        (dict(kind='accumulated'), {'scenes': 4, 'shades': 8}, 28, [{0, 1, 2}] * 4),
        (
            dict(kind='weighted', by='batch', weights=dict(colours=0, scenes=1, shades=0)),
            {'scenes': 4},
            4,
            [{1}] * 4,
        ),
        (dict(kind='weighted', weights=dict(colours=0, scenes=1, shades=1)), {}, 16, [{1, 2}] * 4),
        (
            dict(kind='task_by_task', order=('shades', 'scenes', 'colours')),
            {},
            16,
            [{2}, {2}, {2}, {2}],
        ),
        (dict(kind='uniform'), {}, 16, None),
    ],
)
def test_schedules_of_the_config(root_with_boxes, schedule, sizes, clips, tasks):
    datasets = {f'datasets__{name}__batch_size': size for name, size in sizes.items()}
    config = config_with_boxes(root_with_boxes, schedule=schedule, **datasets)
    data = RecordData(config)
    assert data.clips_per_step == pytest.approx(clips)
    made = list(data.train_batches(0, 4))
    for batch in made:
        check_batch(batch, num_frames=4, image_size=16, datasets=data.datasets, max_boxes=2)
    if tasks is not None:
        assert [set(batch['dataset'].tolist()) for batch in made] == tasks
    for host in (0, 1):
        shares = RecordData(config, host=host, num_hosts=2).train_batches(2, 2)
        for batch, share in zip(made[2:], shares, strict=True):
            half = len(batch['dataset']) // 2
            for name, array in share.items():
                np.testing.assert_array_equal(array, batch[name][host * half : (host + 1) * half])


def test_a_schedule_that_does_not_fit_is_refused_at_once(root_with_boxes):
    config = config_with_boxes(
        root_with_boxes, schedule=dict(kind='uniform'), datasets__scenes__batch_size=3
    )
    with pytest.raises(ValueError, match='batch_size=3 must be a positive multiple of num_hosts=2'):
        RecordData(config, num_hosts=2)


def test_boxes_for_a_trained_model_with_its_own_order_of_actions(root_with_boxes):
    config = config_with_boxes(root_with_boxes)
    head = DatasetSpec('scenes', ('class 2', 'more', 'class 1', 'class 0'), localisation=True)
    sources = evaluation_sources(config.datasets, config.data_root, config.localisation)
    reading = sources, ClipSize(4, 16), config.evaluation, config.input
    data = EvaluationData([head], *reading)
    assert (data.datasets[0].views, data.datasets[0].evaluation_records) == (3, 3)
    for batch in data.evaluation_batches(0):
        assert batch['truth_label'].shape[2] == 4
        first = batch['record'] == 0
        found = batch['truth_label'][first].any(1)
        np.testing.assert_array_equal(found, np.tile([0, 0, 1, 1], (first.sum(), 1)))
    with pytest.raises(
        ValueError, match='has boxes with actions, the head .* labels of whole videos; with task='
    ):
        EvaluationData([dataclasses.replace(head, localisation=False)], *reading)


def test_scenes_are_made_where_the_config_asks_for_them(tmp_path):
    synthetic = dict(
        train_videos=1, validation_videos=1, seed=0, scene_train_videos=2, scene_validation_videos=1
    )
    config = tiny.config(
        data_root=str(tmp_path),
        synthetic=synthetic,
        localisation={'max_boxes': 4},
        datasets__scenes=SCENES,
        datasets__colours__path='motions',
        datasets__shades__path='directions',
    )
    data = RecordData(config)
    scenes = data.datasets[1]
    assert scenes.localisation and 'stand still' in scenes.classes and sum(scenes.train_counts) >= 2
    assert data.samples_per_epoch == 4
    (batch,) = data.train_batches(0, 1)
    check_batch(batch, num_frames=4, image_size=16, datasets=data.datasets, max_boxes=4)
