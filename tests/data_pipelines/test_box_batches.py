"""Boxes in batches: the rectangle of a box's colour must be where the box says."""

import logging

import numpy as np
import pytest

from data_pipelines.clip import crops
from data_pipelines.clip.boxes import overlaps
from data_pipelines.datasets.records import RecordDataset
from data_pipelines.options import BoxOptions, Source
from tests.helpers.batches import evaluation_batches, train_batches, view_spec
from tests.helpers.box_records import (
    SIZE,
    box_dataset,
    normalised,
    picture,
    seen_rectangle,
)
from tests.helpers.tiny_records import flat_dataset

RECORDS = [
    [(10, 10, 60, 50), (90, 60, 150, 110)],
    [(0, 0, 40, 120), (70, 20, 110, 60), (120, 70, 160, 120)],
    [],
    [(60, 40, 100, 80)],
]
SPEC = dict(num_frames=2, crop_size=64, short_side=(72, 96))
TEST_SPEC = dict(num_frames=2, crop_size=64, short_side=72)
TOLERANCE = 1.2 / 64  # bilinear edges, JPEG, and windows of whole stored pixels


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return box_dataset(tmp_path_factory.mktemp('boxes') / 'boxes', RECORDS)


def with_boxes(source, **options):
    return Source(**{**vars(source), 'boxes': BoxOptions(**options)})


# --- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize('reduced', [False, True])
def test_boxes_are_where_their_pixels_are(source, reduced):
    """Every box, by the colour of its action, over many crops and both directions."""
    # At half size the crop holds at least as many pixels as asked for, so that decoding is reduced.
    options = dict(num_frames=2, crop_size=24, short_side=(30, 40)) if reduced else SPEC
    tolerance = 1.7 / 24 if reduced else TOLERANCE
    batches = train_batches(
        [with_boxes(source, max_boxes=4, min_visible=0.25)],
        **options,
        batch_size=16,
        num_steps=12,
        reduced_decoding=reduced,
    )
    checked, mirrored, missing, empty = 0, 0, 0, 0
    for batch in batches:
        assert batch['boxes'].shape == (16, 4, 4) and batch['box_label'].shape == (16, 4, 5)
        assert {batch[name].dtype for name in ('boxes', 'box_label', 'box_mask')} == {
            np.dtype('float32')
        }
        assert batch['label'].dtype == np.int32 and not batch['label'].any()
        assert (batch['weight'] == 1).all()
        for row in range(16):
            real = batch['box_mask'][row] == 1
            assert not batch['boxes'][row, ~real].any() and not batch['box_label'][row, ~real].any()
            np.testing.assert_array_equal(batch['box_label'][row, real].sum(1), 1)
            found = dict(
                zip(batch['box_label'][row, real].argmax(1), batch['boxes'][row, real], strict=True)
            )
            for colour in range(3):
                rectangle = seen_rectangle(batch['video'][row, 1], colour)
                if colour in found:
                    np.testing.assert_allclose(found[colour], rectangle, atol=tolerance)
                    checked += 1
                elif rectangle is not None:  # too little of it is left
                    missing += 1
            if {0, 1} <= set(found):
                mirrored += found[0][0] > found[1][0]  # red is left of green
            empty += not real.any()
    assert checked > 120 and mirrored > 10 and missing > 5 and empty > 20


def test_source_without_flip_never_mirrors(source):
    plain = Source(**{**vars(source), 'flip': False})
    for batch in train_batches([plain], **SPEC, batch_size=16, num_steps=4):
        red, green = ((batch['box_label'][..., k] * batch['boxes'][..., 0]).max(1) for k in (0, 1))
        both = batch['box_label'][..., :2].any(1).all(1)
        assert (red < green)[both].all() and both.any()


def test_jitter_changes_boxes_and_not_pixels(source):
    options = dict(**SPEC, batch_size=16, num_steps=3, seed=5)
    still, again = (list(train_batches([with_boxes(source)], **options)) for _ in range(2))
    shaken = list(train_batches([with_boxes(source, jitter=0.05)], **options))
    for first, same, other in zip(still, again, shaken, strict=True):
        np.testing.assert_array_equal(first['boxes'], same['boxes'])
        for name in ('video', 'box_mask', 'box_label'):
            np.testing.assert_array_equal(first[name], other[name])
        moved = np.abs(first['boxes'] - other['boxes'])[first['box_mask'] == 1]
        assert 0 < moved.mean() < 0.05 and moved.max() < 0.3
        assert (other['boxes'] >= 0).all() and (other['boxes'] <= 1).all()


def test_boxes_beside_labels_of_another_dataset(source, tmp_path):
    """The label belongs to the classifying dataset alone, the boxes to the other."""
    classes = flat_dataset(tmp_path / 'flat', 9)
    batches = train_batches([classes, source], **SPEC, batch_size=13, num_steps=2)
    for batch in batches:
        flat = batch['dataset'] == 0
        assert flat.sum() == 9
        assert sorted(batch['label'][flat]) == list(range(9)) and not batch['label'][~flat].any()
        assert not batch['box_mask'][flat].any() and not batch['box_label'][flat].any()
        assert batch['box_mask'].sum() > 0
        assert batch['boxes'].shape == (13, 32, 4)


def test_multi_hot_labels_count_the_classes_of_classifying_datasets_only(source, tmp_path):
    clip_level = box_dataset(tmp_path / 'other', RECORDS, num_classes=3, task='classification')
    (batch,) = train_batches([source, clip_level], **SPEC, batch_size=8, num_steps=1)
    assert batch['label'].shape == (8, 3) and batch['label'].dtype == np.float32
    assert batch['box_label'].shape == (8, 32, 5)
    of_boxes = batch['dataset'] == 0
    assert not batch['label'][of_boxes].any() and not batch['box_mask'][~of_boxes].any()
    assert sorted(batch['label'][~of_boxes].sum(1)) == [0, 1, 2, 3]


def test_training_on_proposals(tmp_path):
    proposals = [(((0.05, 0.1, 0.36, 0.41), (0.5, 0.5, 0.6, 0.6)), (0.9, 0.9))]
    source = box_dataset(tmp_path / 'd', [RECORDS[0]], proposals=proposals)
    (batch,) = train_batches([with_boxes(source)], **SPEC, batch_size=32, repeats=32, num_steps=1)
    (more,) = train_batches(
        [with_boxes(source, train_on_proposals=True, proposal_iou=0.7)],
        **SPEC,
        batch_size=32,
        repeats=32,
        num_steps=1,
    )
    assert batch['box_label'][..., 0].sum(1).max() == 1
    assert (
        more['box_label'][..., 0].sum(1).max() == 2 and more['box_label'][..., 1].sum(1).max() == 1
    )


def test_resumed_and_shared_batches_are_the_same(source, tmp_path):
    sources = [flat_dataset(tmp_path / 'flat', 5), with_boxes(source, jitter=0.1, max_boxes=1)]
    options = dict(**SPEC, batch_size=6, seed=3)
    whole = list(train_batches(sources, **options, num_steps=6, num_threads=1))
    resumed = list(train_batches(sources, **options, start_step=4, num_steps=2, num_threads=3))
    for batch, other in zip(whole[4:], resumed, strict=True):
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])
    halves = [
        list(train_batches(sources, **options, num_steps=6, host=host, num_hosts=2))
        for host in (0, 1)
    ]
    for batch, *parts in zip(whole, *halves, strict=True):
        for name in batch:
            np.testing.assert_array_equal(
                batch[name], np.concatenate([part[name] for part in parts])
            )


# --- testing ----------------------------------------------------------------------------------


def read_views(source, batch_size=4, **changes):
    """All rows by (record, view), and the batches."""
    with evaluation_batches(source, **{**TEST_SPEC, **changes}, batch_size=batch_size) as opened:
        views, batches = opened.views, list(opened)
    rows = {}
    for batch in batches:
        for row in np.flatnonzero(batch['weight']):
            key = int(batch['record'][row]), int(batch['view'][row])
            assert key not in rows
            rows[key] = {name: array[row] for name, array in batch.items()}
    return rows, batches, views


def test_every_view_of_every_record_and_its_boxes(source):
    tested = with_boxes(
        source, candidates='ground_truth', max_boxes=3, test_short_sides=(66, 80), test_flip=True
    )
    rows, batches, views = read_views(tested, batch_size=5, spatial_views=3)
    assert views == 12
    assert set(rows) == {(record, view) for record in range(4) for view in range(12)}
    for batch in batches:
        assert 'label' not in batch
        places = batch['truth_mask'].shape[1]
        assert places == max(1, int(batch['truth_mask'].sum(1).max()))
        padding = batch['weight'] == 0
        for name in (
            'box_mask',
            'candidate_mask',
            'truth_mask',
            'boxes',
            'candidate',
            'truth_box',
            'truth_label',
        ):
            assert batch[name].dtype == np.float32 and not batch[name][padding].any()
    for (record, view), row in rows.items():
        truth = np.array([normalised(rectangle) for rectangle in RECORDS[record]]).reshape(-1, 4)
        count = len(truth)
        np.testing.assert_allclose(row['truth_box'][:count], truth, atol=1e-6)
        np.testing.assert_array_equal(row['truth_label'][:count], np.eye(5)[:count])
        np.testing.assert_array_equal(row['truth_mask'], np.arange(len(row['truth_mask'])) < count)
        np.testing.assert_allclose(row['candidate'][:count], truth, atol=1e-6)
        np.testing.assert_array_equal(row['candidate_mask'], np.arange(3) < count)
        np.testing.assert_array_equal(row['candidate_score'], np.arange(3) < count)
        side, mirrored, crop = (66, 80)[view // 6], view % 6 >= 3, view % 3
        height, width = crops.scaled_size(*SIZE, side)
        left = (0, -(-(width - 64) // 2), width - 64)[crop] / width
        for number in range(count):
            seen = seen_rectangle(row['video'][0], number)
            x1, _, x2, _ = truth[number]
            visible = max(0, min(x2, left + 64 / width) - max(x1, left)) / (x2 - x1)
            if abs(visible - 0.5) > 0.02 and (record, number) != (1, 1):
                assert row['box_mask'][number] == (visible > 0.5)
            if row['box_mask'][number]:
                np.testing.assert_allclose(row['boxes'][number], seen, atol=TOLERANCE)
            else:
                assert not row['boxes'][number].any()
        assert not row['box_mask'][count:].any()
        if mirrored:
            plain = rows[record, view - 3]
            np.testing.assert_array_equal(row['video'], plain['video'][:, :, ::-1])
            np.testing.assert_array_equal(row['box_mask'], plain['box_mask'])


def test_hosts_share_the_views_with_their_boxes(source, caplog):
    """Of five hosts one has no record, and does not complain about it."""
    tested = with_boxes(source, candidates='ground_truth')
    whole, _, views = read_views(tested, spatial_views=3)
    for hosts, size in ((2, 4), (5, 5)):
        parts = [
            read_views(tested, size, spatial_views=3, host=host, num_hosts=hosts)
            for host in range(hosts)
        ]
        assert len({len(batches) for _, batches, _ in parts}) == 1
        rows = {key: row for part, _, _ in parts for key, row in part.items()}
        assert (
            rows.keys() == whole.keys()
            and len(rows) == sum(len(part) for part, _, _ in parts) == 4 * views
        )
        for key, row in rows.items():
            for name in ('video', 'boxes', 'box_mask', 'candidate', 'candidate_mask'):
                np.testing.assert_array_equal(row[name], whole[key][name])
            places = min(len(row['truth_mask']), len(whole[key]['truth_mask']))
            np.testing.assert_array_equal(
                row['truth_box'][:places], whole[key]['truth_box'][:places]
            )
            assert row['truth_mask'].sum() == whole[key]['truth_mask'].sum()
    (warning,) = caplog.records  # by the host that has but the record without boxes
    assert 'no candidate boxes to test in any of 1 records' in warning.message


def test_a_candidate_that_no_view_shows_well_is_tested_where_most_of_it_is(tmp_path):
    """One central crop: of a box at the edge less than half is seen."""
    source = box_dataset(tmp_path / 'd', [[(2, 30, 34, 60), (0, 0, 5, 5)]])
    rows, _, views = read_views(
        with_boxes(source, candidates='ground_truth', test_short_sides=(66, 80))
    )
    assert views == 2
    masks = np.stack([rows[0, view]['box_mask'][:2] for view in range(2)])
    np.testing.assert_array_equal(
        masks, [(1, 0), (0, 0)]
    )  # the smaller picture shows more; the corner is never seen


def test_candidates_are_proposals(tmp_path, caplog):
    boxes = ((0.1, 0.1, 0.4, 0.4), (0.3, 0.3, 0.7, 0.9), (0.5, 0.1, 0.6, 0.4))
    proposals = [(boxes, (0.85, 0.95, 0.9)), (boxes[:1], (0.3,))]
    source = box_dataset(tmp_path / 'd', RECORDS[:2], proposals=proposals)
    with caplog.at_level(logging.WARNING):
        rows, _, _ = read_views(with_boxes(source, max_boxes=2))
    np.testing.assert_allclose(rows[0, 0]['candidate'], np.array(boxes)[[1, 2]], atol=1e-6)
    np.testing.assert_allclose(rows[0, 0]['candidate_score'], [0.95, 0.9])
    assert not rows[1, 0]['candidate_mask'].any() and rows[1, 0]['truth_mask'].sum() == 3
    assert [record.message for record in caplog.records] == [
        'd: max_boxes=2 leaves out 1 of 3 candidate boxes, those of the lowest scores'
    ]
    caplog.clear()
    read_views(with_boxes(source, min_candidate_score=0.99))
    assert 'no candidate boxes to test in any of 2 records' in caplog.text


def test_a_dataset_that_localises_and_the_same_for_classification(source):
    spec = view_spec(**TEST_SPEC)
    with_regions = RecordDataset(source, spec)
    assert with_regions.localises and with_regions.num_records == 4
    plain = RecordDataset(Source(**{**vars(source), 'task': 'classification'}), spec)
    assert not plain.localises and plain.multi_label
    rows, _, _ = read_views(Source(**{**vars(source), 'task': 'classification'}))
    assert [rows[record, 0]['label'].tolist() for record in range(4)] == [
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
    ]
    assert 'boxes' not in rows[0, 0]


def test_mistakes_are_named(source):
    with pytest.raises(ValueError, match="sampling='strided' may miss them"):
        read_views(Source(**{**vars(source), 'sampling': 'strided'}))
    with pytest.raises(ValueError, match="task='boxes' must be one of 'auto', 'classification'"):
        Source(**{**vars(source), 'task': 'boxes'})
    with pytest.raises(
        ValueError,
        match=r'test_short_sides=\(40,\) must not be below crop_size=64: crops would not fit',
    ):
        read_views(with_boxes(source, test_short_sides=(40,)))


def test_the_pictures_of_these_tests(source):
    """A rectangle is found where it was drawn."""
    image = picture(RECORDS[1])
    for number, rectangle in enumerate(RECORDS[1]):
        np.testing.assert_allclose(seen_rectangle(image, number), normalised(rectangle))
    assert seen_rectangle(image, 4) is None
    corners = np.array([normalised(rectangle) for rectangle in RECORDS[1]])
    assert not np.triu(overlaps(corners, corners), 1).any()
