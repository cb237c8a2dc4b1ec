import numpy as np
import pytest

from data_pipelines.annotations import KeyFrame
from data_pipelines.storage import regions
from data_pipelines.storage.sequence_example import (
    IMAGE_ENCODED,
    LABEL_INDEX,
    Example,
    RecordError,
    decode_sequence_example,
    encode_sequence_example,
)

A, B = (0.1, 0.2, 0.5, 0.75), (0.0, 0.0, 1.0, 1.0)
KEY_FRAME = KeyFrame(
    time=1.25,
    boxes=(A, B, A, A, A),
    actions=(2, 0, 1, 2, 2),
    persons=(4, 5, 4, 4, 6),
    proposals=(B, A),
    scores=(0.5, 0.25),
)


def example(key_frame=KEY_FRAME, index=1, frames=3, **changes):
    """The record of a key frame, with changed (or, by None, missing) features."""
    context = {**regions.region_features(key_frame, index), **changes}
    context = {name: value for name, value in context.items() if value is not None}
    data = encode_sequence_example(context, {IMAGE_ENCODED: [b'jpeg'] * frames})
    return decode_sequence_example(data)


def test_pairs_become_boxes():
    """Pairs of the same box and person are one row; two persons in one box are two."""
    found = regions.regions(example(), 4, 'here')
    assert (found.key_frame, found.timestamp) == (1, 1_250_000)
    np.testing.assert_array_equal(found.boxes, np.array([A, B, A], np.float32))
    assert found.labels.dtype == np.float32
    np.testing.assert_array_equal(found.labels, [[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0]])
    assert found.persons.tolist() == [4, 5, 6]
    np.testing.assert_array_equal(found.proposals, np.array([B, A], np.float32))
    np.testing.assert_array_equal(found.scores, np.array([0.5, 0.25], np.float32))


@pytest.mark.parametrize('left_out', [False, True])
def test_nobody(left_out):
    """Also as a writer may put it that leaves empty features out."""
    empty = KeyFrame(0.0)
    missing = [name for name in regions.region_features(empty, 0) if 'region' in name]
    found = regions.regions(example(empty, 0, **{n: None for n in missing if left_out}), 80)
    assert found.boxes.shape == (0, 4) and found.boxes.dtype == np.float32
    assert found.labels.shape == (0, 80) and found.persons.shape == (0,)
    assert found.proposals.shape == (0, 4) and found.scores.shape == (0,)


def test_which_records_have_regions():
    assert regions.has_regions(example())
    assert not regions.has_regions(Example({LABEL_INDEX: np.array([1])}, {}))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'clip/key_frame/index': None}, "no context feature 'clip/key_frame/index'"),
        ({'clip/key_frame/index': [3]}, 'the key frame is number 3 of 3 frames'),
        ({'clip/key_frame/index': [-1]}, 'the key frame is number -1 of 3 frames'),
        ({'clip/key_frame/index': [0, 1]}, 'has 2 entries where 1 belong'),
        ({'clip/key_frame/timestamp': [1.5]}, 'of int64 values'),
        ({'region/label/index': [0, 1, 2, 3, 4]}, 'is not one of the 4 classes'),
        ({'region/label/index': [0, 1]}, 'has 5 entries where 2 belong'),
        ({'region/bbox/xmin': None}, "no context feature 'region/bbox/xmin'"),
        ({'region/bbox/xmin': [0.6] * 5}, 'outside the frame, or one without an area'),
        ({'region/bbox/ymax': [1.5] * 5}, 'outside the frame, or one without an area'),
        ({'region/bbox/ymax': [float('nan')] * 5}, 'outside the frame'),
        ({'region/track/index': [1, 2]}, 'has 2 entries where 5 belong'),
        ({'predicted/region/score': [1.0]}, 'has 2 entries where 1 belong'),
    ],
)
def test_damaged_records(changes, message):
    with pytest.raises(RecordError, match=f'^shard 7: .*{message}'):
        regions.regions(example(**changes), 4, 'shard 7')


def test_record_without_frames():
    with pytest.raises(RecordError, match='no frames'):
        regions.regions(example(frames=0), 4)
