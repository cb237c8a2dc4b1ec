from collections import Counter
import json
import shutil
import threading

import numpy as np
import pytest

from data_pipelines.annotations import KeyFrame
from data_pipelines.clip import decode
from data_pipelines.datasets.records import RecordDataset
from data_pipelines.options import Source
from data_pipelines.order import epochs
from data_pipelines.storage import regions
from data_pipelines.storage.record_index import shard_name
from data_pipelines.storage.sequence_example import VIDEO_FILENAME, RecordError
from tests.helpers.batches import assert_equal_batches, evaluation_batches, train_batches, view_spec
from tests.helpers.golden import shared_path
from tests.helpers.read_records import flip_record_byte
from tests.helpers.tiny_records import (
    flat_dataset,
    flat_frame,
    jpeg,
    smooth_image,
    two_flat_datasets,
    video_name,
    write_records,
)

SPEC = dict(num_frames=3, crop_size=16, short_side=(16, 20))
TEST_SPEC = dict(num_frames=3, crop_size=16, short_side=16)


@pytest.fixture(scope='module')
def two_sources(tmp_path_factory):
    return two_flat_datasets(tmp_path_factory.mktemp('two'))


@pytest.fixture
def decode_threads():
    """Those that a test has begun and not ended."""
    before = threading.enumerate()
    return lambda: [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith('decode') and thread not in before
    ]


# --- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize('num_hosts', [1, 3])
def test_every_record_once_per_epoch_over_hosts_and_sources(two_sources, num_hosts):
    """11 records x 2 repeats, batches of 6: 11 batches are exactly 3 epochs."""
    visits, pixels = Counter(), []
    for host in range(num_hosts):
        options = dict(
            batch_size=6, repeats=2, seed=4, num_steps=11, host=host, num_hosts=num_hosts
        )
        with train_batches(two_sources, **SPEC, **options, num_threads=2) as batches:
            assert batches.samples_per_epoch == 22
            for batch in batches:
                assert batch['video'].shape == (6 // num_hosts, 3, 16, 16, 3)
                assert batch['video'].dtype == np.uint8
                assert batch['dataset'].dtype == batch['label'].dtype == np.int32
                assert batch['weight'].dtype == np.float32 and (batch['weight'] == 1).all()
                visits.update(zip(batch['dataset'].tolist(), batch['label'].tolist(), strict=True))
                # The red level of the pixels tells the record, which here is the label.
                red = batch['video'][..., 0].mean((1, 2, 3))
                pixels.append(np.abs(red - (10 + 4 * batch['label'])).max())
            assert batches.bad_records == 0
    assert visits == {**{(0, r): 6 for r in range(7)}, **{(1, r): 6 for r in range(4)}}
    assert max(pixels) < 2


def test_hosts_share_the_batch_of_one_host(two_sources):
    options = dict(batch_size=6, repeats=2, seed=1, num_steps=5)
    whole = list(train_batches(two_sources, **SPEC, **options))
    shares = [
        list(train_batches(two_sources, **SPEC, **options, host=h, num_hosts=3)) for h in range(3)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_equal_batches(joined, whole)


def test_resumed_batches_equal_uninterrupted_ones(two_sources):
    options = dict(batch_size=4, seed=3)
    with train_batches(two_sources, **SPEC, **options) as batches:
        whole = [next(batches) for _ in range(9)]
        assert batches.step == 9
    with train_batches(two_sources, **SPEC, **options, start_step=5, num_steps=4) as batches:
        assert_equal_batches(list(batches), whole[5:])
        assert batches.step == 9


def test_threads_and_prefetching_change_nothing(two_sources):
    options = dict(batch_size=4, seed=3, num_steps=6)
    one = list(train_batches(two_sources, **SPEC, **options, num_threads=1, prefetch=0))
    four = list(train_batches(two_sources, **SPEC, **options, num_threads=4, prefetch=3))
    assert_equal_batches(one, four)


def test_seed_changes_order_and_clips(two_sources):
    first, other = (
        list(train_batches(two_sources, **SPEC, batch_size=11, num_steps=1, seed=seed))[0]
        for seed in (0, 1)
    )
    assert (first['label'] != other['label']).any()
    sort = [np.lexsort((batch['label'], batch['dataset'])) for batch in (first, other)]
    assert (first['video'][sort[0]] != other['video'][sort[1]]).any()


def test_repeats_and_epochs_show_different_clips(tmp_path):
    image = smooth_image(40, 60)
    write_records(tmp_path / 'one', [[jpeg(image)] * 4], [[0]], num_classes=1, num_shards=1)
    source = Source(tmp_path / 'one', 'one', 'train')
    batches = train_batches([source], **SPEC, batch_size=3, repeats=3, num_steps=2)
    videos = np.concatenate([batch['video'] for batch in batches])
    assert len({video.tobytes() for video in videos}) == 6


def test_frames_follow_the_source(tmp_path):
    """The green level tells the stored frame."""
    clip = [flat_frame(0, frame) for frame in range(20)]
    write_records(tmp_path / 'd', [clip], [[0]], num_classes=1, num_shards=1, frame_rate=10.0)

    def numbers(**fields):
        source = Source(tmp_path / 'd', 'd', 'train', **fields)
        batches = train_batches([source], **SPEC, batch_size=8, num_steps=4, num_threads=1)
        green = np.concatenate([batch['video'][..., 1].mean((2, 3)) for batch in batches])
        return np.round((green - 10) / 12).astype(int)  # [32, T]

    strided = numbers(stride=4)
    assert (np.diff(strided) >= 5).all() and (np.diff(strided) <= 6).all()  # 11 / 2, see clip rule
    assert len(set(strided[:, 0])) > 3
    # 4 frames of a 20 Hz video are 2 of this one.
    timed = numbers(stride=4, target_frame_rate=20.0)
    assert (np.diff(timed) >= 2).all() and (np.diff(timed) <= 3).all()
    uniform = numbers(sampling='uniform')
    low, high = np.array([0, 6, 13]), np.array([6, 13, 19])
    assert (uniform >= low).all() and (uniform <= high).all()
    assert len(set(uniform[:, 1])) > 3


def test_clips_around_the_key_frame(tmp_path):
    """AVA-like records: the clip surrounds the stored frame that the record names."""
    key_frames = [2, 9, 17]
    boxes = [((0.1, 0.2, 0.5, 0.9), (0.1, 0.2, 0.5, 0.9)), (), ((0.0, 0.0, 1.0, 0.5),)]
    actions, persons = [(1, 3), (), (2,)], [(0, 0), (), (7,)]
    clip = [flat_frame(0, frame) for frame in range(20)]
    contexts = [
        regions.region_features(KeyFrame(1.0, *annotation), index)
        for index, annotation in zip(key_frames, zip(boxes, actions, persons, strict=True))
    ]
    write_records(
        tmp_path, [clip] * 3, [[]] * 3, num_classes=4, localisation=True, contexts=contexts
    )
    source = Source(tmp_path, 'ava', 'train', sampling='key_frame', stride=2, task='classification')
    spec = dict(num_frames=4, crop_size=16)
    with evaluation_batches(source, **spec, short_side=16, batch_size=3, temporal_views=5) as tests:
        assert tests.views == 1
        (batch,) = tests
    assert batch['label'].tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    with train_batches([source], **spec, short_side=(16, 20), batch_size=3, num_steps=2) as batches:
        shown = [
            (batch, np.arange(3)),
            *((b, np.argsort(b['label'] @ [0, 1, 2, 1])) for b in batches),
        ]
    for batch, order in shown:
        green = batch['video'][..., 1].mean((2, 3))
        numbers = np.round((green - 10) / 12).astype(int)
        expected = np.clip(np.array(key_frames)[:, None] + [-4, -2, 0, 2], 0, 19)
        by_label = numbers[order] if batch is shown[0][0] else numbers[order][[1, 0, 2]]
        np.testing.assert_array_equal(by_label, expected)


def test_records_without_a_key_frame_are_sampled_around_their_middle(tmp_path):
    clip = [flat_frame(0, frame) for frame in range(20)]
    write_records(tmp_path, [clip], [[0]], num_classes=1, num_shards=1)
    source = Source(tmp_path, 'plain', 'train', sampling='key_frame', stride=3)
    (batch,) = evaluation_batches(source, num_frames=4, crop_size=16, short_side=16, batch_size=1)
    green = batch['video'][..., 1].mean((2, 3))
    assert np.round((green - 10) / 12).astype(int).tolist() == [[4, 7, 10, 13]]


def test_flip_follows_the_source(tmp_path):
    """A frame that is dark on the left: mirrored clips are dark on the right."""
    image = np.zeros((24, 24, 3), np.uint8)
    image[:, 12:] = 200
    write_records(tmp_path / 'd', [[jpeg(image)] * 3], [[0]], num_classes=1, num_shards=1)

    def mirrored(flip):
        source = Source(tmp_path / 'd', 'd', 'train', flip=flip)
        spec = dict(num_frames=2, crop_size=16, short_side=(16, 16))
        batches = train_batches([source], **spec, batch_size=20, num_steps=2)
        videos = np.concatenate([batch['video'] for batch in batches]).astype(int)
        return (
            videos[..., :8, :].mean((1, 2, 3, 4)) > videos[..., 8:, :].mean((1, 2, 3, 4))
        ).mean()

    assert mirrored(False) == 0
    assert 0.2 < mirrored(True) < 0.8


def test_multi_label_sources_give_multi_hot_labels(tmp_path):
    clips = [[flat_frame(r, f) for f in range(3)] for r in range(2)]
    write_records(tmp_path / 'many', clips, [[0, 4], [2]], num_classes=5, multi_label=True)
    single = flat_dataset(tmp_path / 'single', 3, num_frames=3)
    many = Source(tmp_path / 'many', 'many', 'train')
    (batch,) = train_batches([single, many], **SPEC, batch_size=5, num_steps=1)
    assert batch['label'].dtype == np.float32 and batch['label'].shape == (5, 5)
    labels = {
        (d, tuple(np.flatnonzero(y))) for d, y in zip(batch['dataset'], batch['label'], strict=True)
    }
    assert labels == {(0, (0,)), (0, (1,)), (0, (2,)), (1, (0, 4)), (1, (2,))}
    (batch,) = evaluation_batches(many, **TEST_SPEC, batch_size=3, dataset=1)
    assert batch['label'].tolist() == [[1, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]


# --- damaged records --------------------------------------------------------------------------


def test_damaged_records_are_replaced_the_same_way_by_any_number_of_threads(tmp_path, caplog):
    source = flat_dataset(tmp_path / 'd', 9)
    options = dict(batch_size=6, seed=2, num_steps=6)
    sound = list(train_batches([source], **SPEC, **options))
    for record in (3, 7):
        flip_record_byte(tmp_path / 'd', record, 28)
    runs = []
    for num_threads in (1, 4):
        with train_batches(
            [source], **SPEC, **options, num_threads=num_threads, max_bad_records=2
        ) as batches:
            runs.append(list(batches))
            assert batches.bad_records == 2
    assert_equal_batches(*runs)
    assert 'damaged record skipped' in caplog.text and 'train-0000' in caplog.text
    order = np.concatenate([batch['label'] for batch in sound])  # 4 epochs of 9
    for batch, before in zip(runs[0], sound, strict=True):
        assert (batch['weight'] == 1).all()
        intact = ~np.isin(before['label'], [3, 7])
        np.testing.assert_array_equal(batch['label'][intact], before['label'][intact])
        np.testing.assert_array_equal(batch['video'][intact], before['video'][intact])
    # Each place of a damaged record is taken by the next intact record of its epoch.
    got = np.concatenate([batch['label'] for batch in runs[0]]).reshape(4, 9)
    for epoch, expected in zip(got, order.reshape(4, 9), strict=True):
        for place in np.flatnonzero(np.isin(expected, [3, 7])):
            following = [r for r in np.roll(expected, -place) if r not in (3, 7)]
            assert epoch[place] == following[0]


def test_one_damaged_record_too_many_is_an_error_at_the_same_step(tmp_path, decode_threads):
    source = flat_dataset(tmp_path / 'd', 9)
    order = epochs.TrainingOrder([9], batch_size=3, seed=2)
    first_step = {s.record: step for step in range(3) for s in order.batch(step)}
    for record in (3, 7):
        flip_record_byte(tmp_path / 'd', record, 28)
    options = dict(batch_size=3, seed=2, num_steps=9, max_bad_records=1)
    for num_threads in (1, 4):
        batches = train_batches([source], **SPEC, **options, num_threads=num_threads)
        handed_out = 0
        with pytest.raises(RecordError, match=r'train-0000.*checksum.*max_bad_records=1'):
            for _ in batches:
                handed_out += 1
        # The second one may come early, as the stand-in that the first asked for.
        assert handed_out <= max(first_step[3], first_step[7])
        assert not decode_threads()
        assert list(batches) == []
        if num_threads == 1:
            expected = handed_out
    assert handed_out == expected


def test_a_source_of_damaged_records_only_is_an_error(tmp_path):
    source = flat_dataset(tmp_path / 'd', 2)
    for record in (0, 1):
        flip_record_byte(tmp_path / 'd', record, 28)
    with pytest.raises(RecordError, match='all 2 records are damaged.*checksum'):
        next(train_batches([source], **SPEC, batch_size=2, max_bad_records=10))


@pytest.mark.parametrize(
    'name, message',
    [
        ('no_frames', 'no frames'),
        ('empty_frame_list', 'no frames'),
        ('garbage_jpeg', 'frame [0-3] cannot be decoded'),
        ('truncated_jpeg', 'frame [0-3] cannot be decoded'),
        ('mixed_frame_sizes', 'frame [0-3] is .* px, other frames'),
        ('no_label_index', 'no class number'),
        ('bad_data_crc', 'checksum'),
        ('gray_jpeg', None),
        ('png_frames', None),
    ],
)
def test_faulty_records_of_other_writers(name, message, tmp_path):
    """Every fault costs exactly its own record, and is named; a gray frame is none."""
    write_records(tmp_path, [[flat_frame(0, 0)]], [[0]], num_classes=10, num_shards=1)
    info = json.loads((tmp_path / 'dataset.json').read_text())
    info['splits']['train']['records'] = 3
    (tmp_path / 'dataset.json').write_text(json.dumps(info))
    shutil.copy(shared_path(f'dmvr/bad/{name}'), tmp_path / shard_name('train', 0, 1))
    source = Source(tmp_path, 'foreign', 'train')
    spec = dict(num_frames=4, crop_size=32, short_side=40)
    with evaluation_batches(source, **spec, batch_size=3, max_bad_records=1) as batches:
        (batch,) = batches
    assert batches.bad_records == (message is not None)
    assert batch['weight'].tolist() == ([1, 1, 1] if message is None else [1, 0, 1])
    assert batch['record'].tolist() == ([0, 1, 2] if message is None else [0, -1, 2])
    if message is not None:
        assert (batch['video'][1] == 0).all()
        with pytest.raises(RecordError, match=f'foreign: .*train-00000.*{message}'):
            list(evaluation_batches(source, **spec, batch_size=3))


def test_wrong_labels_are_damage(tmp_path):
    clips = [[flat_frame(r, 0)] for r in range(3)]
    write_records(tmp_path, clips, [[1], [2], [0, 1]], num_classes=2, num_shards=1)
    dataset = RecordDataset(Source(tmp_path, 'd', 'train'), view_spec(**TEST_SPEC))
    assert dataset.load(0).labels.tolist() == [1]
    with pytest.raises(RecordError, match='class number .2. is not one of the 2 classes'):
        dataset.load(1)
    with pytest.raises(RecordError, match='several labels'):
        dataset.load(2)


# --- evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize('num_records, num_hosts', [(7, 1), (7, 2), (5, 3), (2, 4)])
@pytest.mark.parametrize('temporal_views, spatial_views', [(1, 1), (2, 3), (5, 1)])
def test_evaluation_covers_every_view_once(
    tmp_path, num_records, num_hosts, temporal_views, spatial_views
):
    source = flat_dataset(tmp_path / 'd', num_records, stride=2)
    views = temporal_views * spatial_views
    seen, counts = Counter(), set()
    for host in range(num_hosts):
        with evaluation_batches(
            source,
            **TEST_SPEC,
            batch_size=4 * num_hosts,
            temporal_views=temporal_views,
            spatial_views=spatial_views,
            dataset=5,
            host=host,
            num_hosts=num_hosts,
            num_threads=2,
        ) as batches:
            assert (batches.views, batches.num_records) == (views, num_records)
            expected, count = len(batches), 0
            for batch in batches:
                count += 1
                assert batch['video'].shape == (4, 3, 16, 16, 3)
                assert (batch['dataset'] == 5).all()
                real = batch['weight'] == 1
                assert set(batch['weight'].tolist()) <= {0.0, 1.0}
                assert (batch['record'][~real] == -1).all() and not batch['video'][~real].any()
                np.testing.assert_array_equal(batch['label'][real], batch['record'][real])
                names = [video_name(r) if r >= 0 else '' for r in batch['record'].tolist()]
                assert batch['name'].tolist() == names
                red = batch['video'][real][..., 0].mean((1, 2, 3))
                assert (np.abs(red - (10 + 4 * batch['record'][real])) < 2).all()
                seen.update(
                    zip(batch['record'][real].tolist(), batch['view'][real].tolist(), strict=True)
                )
            assert count == expected
            counts.add(count)
    assert len(counts) == 1
    assert seen == Counter((r, v) for r in range(num_records) for v in range(views))


def test_evaluation_views_are_the_reference_crops_of_the_reference_frames(tmp_path):
    images = [smooth_image(40, 60, phase) for phase in range(12)]
    write_records(tmp_path, [[jpeg(image) for image in images]], [[0]], num_classes=1, num_shards=1)
    source = Source(tmp_path, 'd', 'train', stride=2)
    (batch,) = evaluation_batches(
        source,
        batch_size=6,
        num_frames=3,
        crop_size=24,
        short_side=40,
        temporal_views=2,
        spatial_views=3,
    )
    # Clips of 6 frames from 0 and from 6, frames 0, 2.5, 5 after that; nothing is resized.
    for view, (start, left) in enumerate((s, x) for s in (0, 6) for x in (0, 18, 36)):
        for place, step in enumerate((0, 2, 5)):
            expected = images[start + step][8:32, left : left + 24]
            assert np.abs(batch['video'][view, place].astype(int) - expected).max() < 12
    assert batch['view'].tolist() == [0, 1, 2, 3, 4, 5]


def test_videos_without_a_name_are_called_after_their_place(tmp_path):
    no_name = {VIDEO_FILENAME: ['']}
    write_records(
        tmp_path, [[flat_frame(0, 0)]], [[0]], num_classes=1, num_shards=1, contexts=[no_name]
    )
    source = Source(tmp_path, 'd', 'train')
    (batch,) = evaluation_batches(source, **TEST_SPEC, batch_size=1)
    assert batch['name'].tolist() == [RecordDataset(source, view_spec(**TEST_SPEC)).where(0)]


def test_uniform_evaluation_has_one_temporal_view(two_sources):
    with evaluation_batches(
        two_sources[1], **TEST_SPEC, batch_size=4, temporal_views=3, spatial_views=3
    ) as batches:
        assert batches.views == 3
        real = np.concatenate([batch['weight'] for batch in batches])
    assert real.sum() == 4 * 3


def test_spatial_crops_share_their_decoding(two_sources, monkeypatch):
    calls = []
    original = decode._decode
    monkeypatch.setattr(
        decode, '_decode', lambda *args: (calls.append(args[1]), original(*args))[1]
    )
    # 4 clips a batch: the views of most records lie in two batches.
    list(evaluation_batches(two_sources[0], **TEST_SPEC, batch_size=4, spatial_views=3))
    assert len(calls) == 7 * 3  # records x frames


# --- the iterator -----------------------------------------------------------------------------


def test_closing_stops_the_threads_and_the_iteration(two_sources, decode_threads):
    batches = train_batches(two_sources, **SPEC, batch_size=4, num_threads=3)
    assert decode_threads()
    next(batches)
    assert batches.wait_seconds > 0
    batches.close()
    batches.close()
    assert not decode_threads()
    assert list(batches) == []


def test_a_programming_error_in_a_thread_reaches_the_consumer(
    two_sources, monkeypatch, decode_threads
):
    def fail(*args, **kwargs):
        raise ZeroDivisionError('oops')

    monkeypatch.setattr(decode, 'decode_window', fail)
    with pytest.raises(ZeroDivisionError):
        next(train_batches(two_sources, **SPEC, batch_size=4, max_bad_records=100))
    assert not decode_threads()


def test_an_unknown_frame_rate_is_the_users_to_mend(tmp_path):
    write_records(
        tmp_path, [[flat_frame(0, 0)]], [[0]], num_classes=1, num_shards=1, frame_rate=None
    )
    source = Source(tmp_path, 'mine', 'train', target_frame_rate=30.0)
    with pytest.raises(ValueError, match='mine .*target_frame_rate=30.0 needs it') as error:
        next(train_batches([source], **SPEC, batch_size=1, max_bad_records=9))
    assert not isinstance(error.value, RecordError)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(batch_size=5, repeats=2), 'repeats=2'),
        (dict(batch_size=6, num_hosts=4), 'num_hosts=4'),
        (dict(batch_size=6, short_side=(10, 20)), 'short_side'),
        (dict(batch_size=6, num_threads=0), 'num_threads'),
        (dict(batch_size=6, prefetch=-1), 'prefetch'),
    ],
)
def test_impossible_training_arguments_are_refused(two_sources, options, message):
    with pytest.raises(ValueError, match=message):
        train_batches(two_sources, **{**SPEC, **options})


def test_impossible_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match='no sources'):
        train_batches([], **SPEC, batch_size=2)
    with pytest.raises(
        ValueError, match="sampling='random' must be one of 'strided', 'uniform', 'key_frame'"
    ):
        Source('x', 'x', 'train', sampling='random')
    with pytest.raises(ValueError, match='stride=0 must be at least 1'):
        Source('x', 'x', 'train', stride=0)
    with pytest.raises(ValueError, match='target_frame_rate=0 must be positive, or None'):
        Source('x', 'x', 'train', target_frame_rate=0)
    source = flat_dataset(tmp_path / 'd', 2)
    with pytest.raises(ValueError, match="no split 'test', only train"):
        train_batches([Source(source.path, 'd', 'test')], **SPEC, batch_size=2)
    with pytest.raises(ValueError, match='spatial_views=2 must be one of 1, 3'):
        evaluation_batches(source, **TEST_SPEC, batch_size=2, spatial_views=2)
    with pytest.raises(ValueError, match='temporal_views=0 must be at least 1'):
        evaluation_batches(source, **TEST_SPEC, batch_size=2, temporal_views=0)
