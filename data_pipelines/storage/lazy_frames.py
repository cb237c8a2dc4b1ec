"""The frames of a record, found without being copied: a clip needs few of the many that are stored.

Parsing a whole SequenceExample copies every frame twice. Here the frames' places are found by
stepping over them in the serialised bytes (https://protobuf.dev/programming-guides/encoding), and
only the asked ones are cut out.
"""

from collections.abc import Sequence

_FIRST = 0x0A  # tag of field 1 where it holds bytes or a message
_SECOND = 0x12  # tag of field 2


class UnusualLayout(Exception):
    """The bytes may well be valid, but not as writers commonly lay them out: parse them in full."""


class EncodedFrames(Sequence):
    """Encoded frames that lie in one buffer: `frames[i]` is a view of frame `i`, not a copy."""

    def __init__(self, data: memoryview, starts: list[int], ends: list[int]):
        """`starts`, `ends`: of each frame's serialised tf.train.Feature in `data`."""
        self._data, self._starts, self._ends = data, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> memoryview:
        """Bytes of one frame; raises as `place`."""
        start, end = self.place(number)
        return self._data[start:end]

    def place(self, number: int) -> tuple[int, int]:
        """Where the bytes of one frame begin and end in the buffer.

        Raises:
            ValueError: the step does not hold exactly one value of bytes.
        """
        data, position, end = self._data, self._starts[number], self._ends[number]
        for _ in range(2):  # Feature.bytes_list, then BytesList.value
            tag = data[position] if position < end else None
            length, position = _varint(data, position + 1) if tag == _FIRST else (0, position)
            if tag != _FIRST or position + length != end:
                raise ValueError(f'step {number} does not hold exactly one image')
        return position, end


def split_example(data: memoryview, list_name: bytes) -> tuple[tuple[int, int], EncodedFrames]:
    """Finds the context and one feature list in the bytes of a tf.train.SequenceExample.

    Args:
        data: the serialised SequenceExample.
        list_name: of the feature list.

    Returns:
        context: where the bytes begin and end that are a SequenceExample with nothing but the
            context.
        frames: the steps of the feature list.

    Raises:
        UnusualLayout: the bytes are damaged, hold no such list, or hold something more than once.
    """
    try:
        return _split(data, list_name)
    except IndexError as error:  # past the end
        raise UnusualLayout from error


def _split(data: memoryview, list_name: bytes) -> tuple[tuple[int, int], EncodedFrames]:
    context = frames = None
    position, size = 0, len(data)
    while position < size:
        tag, begin = data[position], position
        length, position = _varint(data, position + 1)
        end = position + length
        if end > size:
            raise UnusualLayout
        if tag == _FIRST and context is None:
            context = begin, end
        elif tag == _SECOND and frames is None:
            frames = _find_list(data, position, end, list_name)
        else:
            raise UnusualLayout
        position = end
    if context is None or frames is None:
        raise UnusualLayout
    return context, frames


def _find_list(data: memoryview, position: int, end: int, name: bytes) -> EncodedFrames:
    """Looks through the entries of FeatureLists.feature_list."""
    found = None
    while position < end:
        position, entry_end = _content(data, position, _FIRST)
        key_begin, key_end = _content(data, position, _FIRST)
        position, value_end = _content(data, key_end, _SECOND)
        if not key_end < entry_end == value_end <= end:
            raise UnusualLayout
        if data[key_begin:key_end] == name:
            if found is not None:
                raise UnusualLayout
            found = EncodedFrames(data, *_steps(data, position, entry_end))
        position = entry_end
    if found is None:
        raise UnusualLayout
    return found


def _content(data: memoryview, position: int, tag: int) -> tuple[int, int]:
    """Where the content of the field with this tag begins and ends."""
    if data[position] != tag:
        raise UnusualLayout
    length, position = _varint(data, position + 1)
    return position, position + length


def _steps(data: memoryview, position: int, end: int) -> tuple[list[int], list[int]]:
    """Starts and ends of the messages FeatureList.feature.

    Runs once per stored frame, so in line.
    """
    starts, ends = [], []
    while position < end:
        if data[position] != _FIRST:
            raise UnusualLayout
        length, shift, position = 0, 0, position + 1
        while (byte := data[position]) & 0x80:
            length |= (byte & 0x7F) << shift
            shift += 7
            position += 1
        position += 1
        starts.append(position)
        position += length | byte << shift
        ends.append(position)
    if position != end:
        raise UnusualLayout
    return starts, ends


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A variable-length number and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
