"""Frames found in place against a full parse of the same bytes."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from data_pipelines.storage import lazy_frames, sequence_example
from data_pipelines.storage.lazy_frames import EncodedFrames
from data_pipelines.storage.sequence_example import (
    IMAGE_ENCODED,
    LABEL_INDEX,
    VIDEO_FILENAME,
    RecordError,
    decode_clip,
    decode_sequence_example,
    encode_sequence_example,
    encoded_frames,
)

_FRAMES = st.lists(st.binary(max_size=300), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(_FRAMES, st.dictionaries(st.sampled_from(['audio', 'z']), _FRAMES))
def test_equal_to_a_full_parse(images, others):
    context = {LABEL_INDEX: [3], VIDEO_FILENAME: ['a']}
    data = encode_sequence_example(context, {IMAGE_ENCODED: images, **others})
    example = decode_clip(memoryview(data))
    found = encoded_frames(example)
    assert isinstance(found, EncodedFrames)
    assert [bytes(frame) for frame in found] == images
    assert example.context == decode_sequence_example(data).context


@settings(max_examples=200, deadline=None)
@given(_FRAMES, st.data())
def test_damaged_bytes_never_give_other_frames_than_a_full_parse(images, data):
    """Whatever is read from bytes with one change is what protobuf reads, or an error."""
    content = bytearray(encode_sequence_example({'a': [1]}, {IMAGE_ENCODED: images}))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = encoded_frames(decode_clip(memoryview(content).toreadonly()))
        found = [bytes(frame) for frame in found]
    except ValueError:
        return
    try:
        expected = encoded_frames(decode_sequence_example(bytes(content)))
    except RecordError:
        return  # Stricter: it looks at every frame, at UTF-8, ...
    assert found == list(expected)


def test_unusual_layouts_are_parsed_in_full():
    """Context after the feature lists, and a feature list given in two parts."""
    first, second = (
        encode_sequence_example({'a': [1]}, {IMAGE_ENCODED: [image]}) for image in (b'one', b'two')
    )
    example = decode_clip(memoryview(first + second))
    assert encoded_frames(example) == [b'two']  # As protobuf merges maps.
    context = encode_sequence_example({'a': [1]}, {})
    lists = encode_sequence_example({}, {IMAGE_ENCODED: [b'one']})
    example = decode_clip(memoryview(lists + context))
    assert [bytes(frame) for frame in example.feature_lists[IMAGE_ENCODED]] == [b'one']
    assert example.context['a'].tolist() == [1]


def test_a_step_without_exactly_one_image_is_an_error_when_it_is_asked_for():
    example = sequence_example._SequenceExample()
    steps = example.feature_lists.feature_list[IMAGE_ENCODED].feature
    steps.add().bytes_list.value.append(b'one')
    steps.add().bytes_list.value.extend([b'two', b'three'])
    steps.add().int64_list.value.append(7)
    steps.add()
    example.context.feature['a'].int64_list.value.append(1)
    frames = decode_clip(memoryview(example.SerializeToString())).feature_lists['image/encoded']
    assert bytes(frames[0]) == b'one'
    for number in (1, 2, 3):
        with pytest.raises(ValueError, match=f'step {number} does not hold exactly one image'):
            frames[number]
    with pytest.raises(IndexError):
        frames[4]


def test_a_frame_is_a_view():
    data = encode_sequence_example({'a': [1]}, {IMAGE_ENCODED: [b'x' * 1000]})
    frame = decode_clip(memoryview(data)).feature_lists[IMAGE_ENCODED][0]
    assert np.shares_memory(np.frombuffer(frame, np.uint8), np.frombuffer(data, np.uint8))
    with pytest.raises(lazy_frames.UnusualLayout):
        lazy_frames.split_example(memoryview(data), b'audio')
