"""SequenceExamples in the DMVR / MediaSequence layout, read and written without TensorFlow.

The messages (those of TensorFlow's example.proto and feature.proto) are declared here, in a
descriptor pool of their own, so that TensorFlow may live in the same process.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
import numpy as np

from data_pipelines.storage import lazy_frames

# Feature list: one JPEG, or one H.264 packet, per stored frame.
IMAGE_ENCODED = 'image/encoded'
# Context features of a clip.
LABEL_INDEX = 'clip/label/index'  # int64, one or many
LABEL_TEXT = 'clip/label/text'  # bytes (UTF-8), as many
VIDEO_FILENAME = 'video/filename'  # bytes (UTF-8): relative path, the record's key
CLIP_START = 'clip/start/timestamp'  # int64, microseconds
CLIP_END = 'clip/end/timestamp'  # int64, microseconds
IMAGE_FRAME_RATE = 'image/frame_rate'  # float, stored frames per second
IMAGE_HEIGHT = 'image/height'  # int64, pixels
IMAGE_WIDTH = 'image/width'  # int64, pixels
IMAGE_FORMAT = 'image/format'  # bytes, how frames are stored; missing: JPEG (or PNG)
KEY_FRAME_INTERVAL = 'image/key_frame_interval'  # int64, of H.264: every so many frames a key frame
# Values of IMAGE_FORMAT; LINK: no frames are stored, see `datasets.videos`.
FORMAT_JPEG, FORMAT_H264, FORMAT_LINK = 'JPEG', 'H264', 'LINK'
# Context features of a link.
DATA_PATH = 'clip/data_path'  # bytes: path relative to a root
LINK_SIZE = 'link/size'  # int64, bytes; of a folder of images: of each frame's
LINK_MTIME = 'link/mtime'  # int64, ns; likewise
LINK_IMAGES = 'link/image/name'  # bytes, of a folder of images: of each frame's
FRAME_TIMES = 'link/frame/timestamp'  # int64, microseconds, one per frame
KEY_FRAME_TIMES = 'link/key_frame/timestamp'  # int64, microseconds


class RecordError(ValueError):
    """A record, shard or index cannot be read; the text names file and byte offset."""


# TensorFlow's messages: names and types of their fields, in the order of their numbers.
_MESSAGES = {
    'BytesList': {'value': 'repeated bytes'},
    'FloatList': {'value': 'repeated float'},
    'Int64List': {'value': 'repeated int64'},
    'Feature': {'bytes_list': 'BytesList', 'float_list': 'FloatList', 'int64_list': 'Int64List'},
    'Features': {'feature': 'repeated Features.FeatureEntry'},
    'Features.FeatureEntry': {'key': 'string', 'value': 'Feature'},
    'FeatureList': {'feature': 'repeated Feature'},
    'FeatureLists': {'feature_list': 'repeated FeatureLists.FeatureListEntry'},
    'FeatureLists.FeatureListEntry': {'key': 'string', 'value': 'FeatureList'},
    'SequenceExample': {'context': 'Features', 'feature_lists': 'FeatureLists'},
}


def _declare_messages() -> type[message.Message]:
    """Declares `_MESSAGES`; gives SequenceExample."""
    field, package = descriptor_pb2.FieldDescriptorProto, 'data_pipelines.records'
    file = descriptor_pb2.FileDescriptorProto(
        name='data_pipelines/records.proto', package=package, syntax='proto3'
    )
    for name, fields in _MESSAGES.items():
        if '.' in name:  # an entry of the map that was declared last
            declared = file.message_type[-1].nested_type.add(name=name.partition('.')[2])
            declared.options.map_entry = True
        else:
            declared = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields.items(), start=1):
            added = declared.field.add(name=field_name, number=number, label=field.LABEL_OPTIONAL)
            if kind.startswith('repeated '):
                added.label, kind = field.LABEL_REPEATED, kind.removeprefix('repeated ')
            if kind.islower():
                added.type = field.Type.Value(f'TYPE_{kind.upper()}')
            else:
                added.type, added.type_name = field.TYPE_MESSAGE, f'.{package}.{kind}'
            if name == 'Feature':
                added.oneof_index = 0
        if name == 'Feature':
            declared.oneof_decl.add(name='kind')
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f'{package}.SequenceExample'))


_SequenceExample = _declare_messages()


@dataclasses.dataclass(frozen=True)
class Example:
    """One decoded SequenceExample.

    Attributes:
      context: feature name -> list of bytes, int64 array or float32 array, by the feature's kind.
      feature_lists: name -> one entry per step: bytes where a step holds exactly one bytes value
        (as frames do), else what `context` would hold.
    """

    context: dict[str, list[bytes] | np.ndarray]
    feature_lists: dict[str, list]


def encode_sequence_example(
    context: Mapping[str, Sequence], feature_lists: Mapping[str, Sequence[bytes]]
) -> bytes:
    """Serialises one record. Equal input gives equal bytes (maps are written in the order of their
    keys).

    Args:
      context: feature name -> list of int, of float, or of str/bytes, or a 1-D NumPy array (which
        may be empty).
      feature_lists: name -> one bytes value per step, for example the JPEG of each frame.

    Raises:
      ValueError: a value has a kind that a record cannot hold, or the record exceeds 2 GiB.
    """
    example = _SequenceExample()
    for name, values in context.items():
        _fill_feature(example.context.feature[name], name, values)
    for name, steps in feature_lists.items():
        target = example.feature_lists.feature_list[name].feature
        for step in steps:
            target.add().bytes_list.value.append(step)
    try:
        return example.SerializeToString(deterministic=True)
    except message.EncodeError as error:
        raise ValueError(f'record too large to be written (the limit is 2 GiB): {error}') from error


def _fill_feature(feature: message.Message, name: str, values: Sequence) -> None:
    if isinstance(values, (str, bytes)):
        raise ValueError(
            f'feature {name!r}: wants a list of values, not one {type(values).__name__}'
        )
    if all(isinstance(value, (str, bytes)) for value in values) and len(values):
        feature.bytes_list.value.extend(v.encode() if isinstance(v, str) else v for v in values)
        return
    if not isinstance(values, np.ndarray) and not len(values):
        raise ValueError(
            f'feature {name!r}: an empty list has no kind; give an empty int64 or float32 NumPy '
            'array'
        )
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in 'biuf':
        raise ValueError(
            f'feature {name!r}: wants a 1-D list of int, float, str or bytes, got {array.dtype} '
            f'{array.shape}'
        )
    if array.dtype.kind == 'f':
        feature.float_list.value.extend(array.tolist())
        feature.float_list.SetInParent()
    else:
        feature.int64_list.value.extend(array.astype(np.int64).tolist())
        feature.int64_list.SetInParent()


def decode_clip(data: memoryview, where: str = 'record') -> Example:
    """Parses one record, the context only: frames become views of `data` when they are asked for.

    Other feature lists than the frames may be left out. Ten times as fast as
    `decode_sequence_example`, where few of many frames are wanted.

    Raises:
      RecordError: the bytes are not a SequenceExample.
    """
    try:
        (start, end), frames = lazy_frames.split_example(data, IMAGE_ENCODED.encode())
    except lazy_frames.UnusualLayout:
        return decode_sequence_example(data, where)
    example = decode_sequence_example(data[start:end], where)
    return Example(example.context, {IMAGE_ENCODED: frames})


def decode_sequence_example(data: bytes | memoryview, where: str = 'record') -> Example:
    """Parses one record.

    Args:
      data: the serialised SequenceExample.
      where: what to call the record in an error, for example `reader.where(i)`.

    Raises:
      RecordError: the bytes are not a SequenceExample.
    """
    try:
        parsed = _SequenceExample.FromString(bytes(data))
    except message.DecodeError as error:
        raise RecordError(f'{where}: not a tf.train.SequenceExample ({error})') from error
    context = {name: _feature_values(feature) for name, feature in parsed.context.feature.items()}
    lists = {
        name: [_step_value(feature) for feature in steps.feature]
        for name, steps in parsed.feature_lists.feature_list.items()
    }
    return Example(context, lists)


def _feature_values(feature: message.Message) -> list[bytes] | np.ndarray:
    kind = feature.WhichOneof('kind')
    if kind == 'int64_list':
        return np.array(feature.int64_list.value[:], np.int64)  # A list: five times as fast.
    if kind == 'float_list':
        return np.array(feature.float_list.value[:], np.float32)
    return list(feature.bytes_list.value)


def _step_value(feature: message.Message):
    values = _feature_values(feature)
    return values[0] if isinstance(values, list) and len(values) == 1 else values


def encoded_frames(example: Example, where: str = 'record') -> Sequence[bytes | memoryview]:
    """The encoded frames of a clip, in order of time; at least one.

    Raises:
      RecordError: the record has no frames, or is no clip at all.
    """
    frames = example.feature_lists.get(IMAGE_ENCODED)
    if frames is None:
        if not example.feature_lists and IMAGE_ENCODED in example.context:
            raise RecordError(
                f'{where}: a tf.train.Example with a single image, where a SequenceExample is '
                'wanted'
            )
        raise RecordError(f'{where}: no feature list {IMAGE_ENCODED!r}, so no frames')
    if not frames:
        raise RecordError(
            f'{where}: the feature list {IMAGE_ENCODED!r} is empty, so there are no frames'
        )
    # Frames that are not in memory yet are checked when they are asked for.
    if isinstance(frames, list) and not all(isinstance(frame, bytes) for frame in frames):
        raise RecordError(f'{where}: {IMAGE_ENCODED!r} does not hold exactly one image per step')
    return frames


def image_format(example: Example, where: str = 'record') -> str:
    """How the frames of a clip are stored: one of the FORMAT_s.

    Raises:
      RecordError: in another way.
    """
    stored = example.context.get(IMAGE_FORMAT)
    if stored is None:
        return FORMAT_JPEG
    known = {name: name for name in (FORMAT_JPEG, FORMAT_H264, FORMAT_LINK)}
    known['PNG'] = FORMAT_JPEG
    name = stored[0] if isinstance(stored, list) and len(stored) == 1 else b''
    name = name.decode(errors='replace').upper()
    if name not in known:
        raise RecordError(
            f'{where}: frames stored as {name!r} ({IMAGE_FORMAT!r}), wanted {", ".join(known)}'
        )
    return known[name]


def num_frames(example: Example, where: str = 'record') -> int:
    """How many frames a clip has.

    Raises:
      RecordError: none.
    """
    if image_format(example, where) == FORMAT_LINK:
        return len(int_list_feature(example, FRAME_TIMES, where))
    return len(encoded_frames(example, where))


def int_list_feature(example: Example, name: str, where: str = 'record') -> np.ndarray:
    """A context feature, int64 [n]; empty where it is missing.

    Raises:
      RecordError: it is of another kind.
    """
    values = example.context.get(name)
    if values is None or not len(values):
        return np.zeros(0, np.int64)
    if not isinstance(values, np.ndarray) or values.dtype != np.int64:
        raise RecordError(f'{where}: the context feature {name!r} is not of int64 values')
    return values


def int_feature(example: Example, name: str, where: str = 'record') -> int:
    """A context feature that is one positive number.

    Raises:
      RecordError: it is missing, or something else.
    """
    values = int_list_feature(example, name, where)
    if len(values) != 1 or values[0] < 1:
        raise RecordError(f'{where}: no context feature {name!r} of one positive number')
    return int(values[0])


def label_indices(example: Example, where: str = 'record') -> np.ndarray:
    """The class numbers of a clip, int64 [number of labels]; at least one.

    Raises:
      RecordError: the record carries no class number.
    """
    labels = example.context.get(LABEL_INDEX)
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or not len(labels):
        raise RecordError(f'{where}: no class number (context feature {LABEL_INDEX!r})')
    return labels
