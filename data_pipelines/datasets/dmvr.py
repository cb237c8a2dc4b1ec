"""Datasets that a DMVR factory of the user's own reads: `dmvr:MODULE:FUNCTION`.

DMVR (https://github.com/google-deepmind/dmvr) describes by a `BaseVideoDatasetFactory` how a
record becomes a clip. `FUNCTION` of the importable `MODULE` configures one for us ::

    def hmdb(*, split, training, num_frames, crop_size, short_side, temporal_views):
        factory = HMDB51Factory('/data/hmdb', subset=split).configure(
            is_training=training, num_frames=num_frames, crop_size=crop_size,
            min_resize=short_side, num_test_clips=temporal_views)
        return DmvrClips(factory, classes=CLASSES)

The factory decides all that lies between the serialised record and the clip. Which record comes
when is decided here, as for our own records (a permutation for every epoch, resumed at any step,
every test video once): of the factory's shards an index is made in memory, and each record is put
through the factory's parse, sample, decode, preprocess and postprocess functions. A record that a
filter of the factory refuses counts as damaged. Random frames and crops come from TensorFlow's
generator: they are not reproducible.
"""

from collections.abc import Sequence
import dataclasses
import importlib
import importlib.util
import inspect
import os
import sys
import types

import numpy as np

from data_pipelines.datasets.base import (
    ClipDataset,
    TestSpec,
    TrainingSpec,
    Views,
    boxes_are_not_read,
)
from data_pipelines.options import Source
from data_pipelines.storage.reader import ShardReader
from data_pipelines.storage.record_index import RecordIndex, index_files
from data_pipelines.storage.sequence_example import RecordError
from data_pipelines.tensorflow_import import import_tensorflow

# Not on the package index; its own requirements ask for what is not needed here.
_DMVR = 'git+https://github.com/google-deepmind/dmvr@77ccedaa084d29239eaeafddb0b2e83843b613a1'
# What DMVR imports for its text modality alone.
_TEXT_MODULES = ('clip', 'clip.simple_tokenizer', 'tensorflow_text', 'sentencepiece')
_TOLERANCE = 1e-3  # of the range 0 to 1


@dataclasses.dataclass(frozen=True)
class DmvrClips:
    """What the user's function returns.

    Attributes:
        factory: a configured `BaseVideoDatasetFactory` over uncompressed TFRecords, whose clips
            are 'image', float32 0 to 1 or uint8, and 'label', class numbers or one-hot/multi-hot.
        classes: class names, in the order of their numbers.
        multi_label: whether a clip may carry several classes.
    """

    factory: object
    classes: Sequence[str]
    multi_label: bool = False


def import_dmvr() -> types.ModuleType:
    """The module `dmvr`. Packages that it imports only for text are stood in for if absent.

    Raises:
        ValueError: it is not installed.
    """
    import_tensorflow()
    if importlib.util.find_spec('dmvr') is None:
        raise ValueError(
            'datasets named dmvr:... need the DMVR library, which cannot be imported; '
            f'pip install --no-deps {_DMVR}'
        )
    for name in _TEXT_MODULES:
        package = name.partition('.')[0]
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            sys.modules[package] = types.ModuleType(package, 'Not installed: text is not read.')
        if '.' in name and not hasattr(sys.modules.get(package), '__path__'):
            sys.modules.setdefault(name, types.ModuleType(name))
            setattr(sys.modules[package], name.partition('.')[2], sys.modules[name])
    return importlib.import_module('dmvr')


class DmvrDataset(ClipDataset):
    """The records of a DMVR factory's shards, made into clips by the factory's functions.

    `sampling`, `stride`, `target_frame_rate` and `flip` of the source have no effect.
    """

    def __init__(self, source: Source, spec: TrainingSpec | TestSpec):
        """Calls the user's function and builds the factory's functions.

        Raises:
            ValueError: DMVR is not installed, there is no such function, or what it returns does
                not fit.
        """
        import_dmvr()
        self.source, self._spec = source, spec
        made = _call(source, spec)
        self.classes, self.multi_label = tuple(made.classes), made.multi_label
        self._tf = import_tensorflow()
        self._reader = ShardReader('', _index(made.factory, source))
        self._clip = _clip_function(self._tf, made.factory, source)
        self.num_records = len(self._reader)
        self.views = 1 if isinstance(spec, TrainingSpec) else self._count_views()

    def write_training_clip(self, record, rng, out):
        return self._write(record, [out])

    def write_views(self, record, out):
        return Views(self._write(record, out), self.where(record))

    def where(self, record: int) -> str:
        return self._reader.where(record)

    def close(self) -> None:
        self._reader.close()

    def _count_views(self) -> int:
        """Test clips of a record, from the first one that can be read."""
        for record in range(self.num_records):
            try:
                return len(self._run(record)[0])
            except RecordError:
                continue
        return 1

    def _run(self, record: int) -> tuple[np.ndarray, np.ndarray]:
        """Clips [V, T, H, W, 3] as the factory gives them, and the label."""
        tf, where = self._tf, self.where(record)
        try:
            image, label, kept = self._clip(bytes(self._reader.read(record)))
        except tf.errors.OpError as error:
            raise RecordError(f'{where}: {str(error.message).splitlines()[0]}') from error
        if not kept.numpy():
            raise RecordError(f'{where}: a filter of the factory refuses it')
        return image.numpy(), label.numpy()

    def _write(self, record: int, out: Sequence[np.ndarray]) -> np.ndarray:
        clips, label = self._run(record)
        wanted = (len(out), *out[0].shape)
        if clips.shape != wanted:
            raise ValueError(
                f'{self.source.name}: the DMVR factory gives clips {list(clips.shape)}, wanted are '
                f'{list(wanted)} (views, frames, height, width, channels); configure it so'
            )
        if clips.dtype != np.uint8:
            if clips.min() < -_TOLERANCE or clips.max() > 1 + _TOLERANCE:
                raise ValueError(
                    f'{self.source.name}: the DMVR factory gives pixels from {clips.min():g} to '
                    f'{clips.max():g}, wanted are 0 to 1: no zero_centering_image, no normalisation'
                )
            clips = np.rint(clips * 255).astype(np.uint8)
        for target, clip in zip(out, clips, strict=True):
            target[...] = clip
        return self._labels(label, self.where(record))

    def _labels(self, label: np.ndarray, where: str) -> np.ndarray:
        """i64[number of labels] from [1, C] one-hot or multi-hot, or from [1, k] class numbers."""
        count = len(self.classes)
        if label.dtype.kind == 'f':
            if label.shape[-1] != count:
                raise ValueError(
                    f'{self.source.name}: the DMVR factory gives labels of {label.shape[-1]} '
                    f'classes, but {count} are named'
                )
            numbers = np.flatnonzero(label.reshape(-1, count)[0])
        else:
            numbers = label.reshape(-1).astype(np.int64)
            numbers = numbers[numbers >= 0]
        if not len(numbers) or numbers.max() >= count or len(numbers) > 1 and not self.multi_label:
            raise RecordError(
                f'{where}: labels {numbers.tolist()} in a dataset of {count} classes, '
                f'{"several" if self.multi_label else "one"} per clip'
            )
        return numbers


def _call(source: Source, spec: TrainingSpec | TestSpec) -> DmvrClips:
    module_name, colon, function_name = os.fspath(source.path).removeprefix('dmvr:').rpartition(':')
    if not colon:
        raise ValueError(f'{source.path}: write dmvr:MODULE:FUNCTION')
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f'{source.path}: {error}; is its folder on PYTHONPATH?') from error
    training = isinstance(spec, TrainingSpec)
    arguments = dict(
        split=source.split,
        training=training,
        num_frames=spec.size.num_frames,
        crop_size=spec.size.crop_size,
        short_side=sum(spec.input.short_side) // 2 if training else spec.views.short_side,
        temporal_views=1 if training else spec.views.temporal_views,
    )
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f'{source.path}: must take the keywords {", ".join(arguments)} ({error})'
        ) from error
    made = function(**arguments)
    if not isinstance(made, DmvrClips):
        raise ValueError(f'{source.path}: must return a DmvrClips, not {type(made).__name__}')
    return made


def _index(factory, source: Source) -> RecordIndex:
    from dmvr import sources

    kind = getattr(factory, '_source', None)
    if type(kind) is not sources.TFRecordsSource or kind._compression_type:
        raise ValueError(f'{source.path}: only factories over uncompressed TFRecords can be read')
    return index_files('', [os.fspath(shard) for shard in factory._shards])


def _clip_function(tf, factory, source: Source):
    """serialised record -> (clips [V, T, H, W, 3], label [1, ...], whether all filters keep it)."""
    from dmvr import builders

    phases = [
        (factory.parser_builder.build(), builders.Phase.PARSE),
        (factory.sampler_builder.build(), builders.Phase.SAMPLE),
        (factory.decoder_builder.build(), builders.Phase.DECODE),
        (factory.preprocessor_builder.build(), builders.Phase.PREPROCESS),
    ]
    postprocess = factory.postprocessor_builder.build()
    filters = {phase: factory.filter_builder.build(phase) for phase in builders.Phase}
    names = builders.IMAGE_FEATURE_NAME, builders.LABEL_INDEX_FEATURE_NAME

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def run(features):
        kept = tf.constant(True)
        for function, phase in phases:
            features = function(features)
            kept &= filters[phase](features)
        if missing := [name for name in names if name not in features]:
            raise ValueError(f'the DMVR factory gives no {" and no ".join(missing)}')
        if source.task == 'auto' and any('bbox' in name or 'boxes' in name for name in features):
            raise ValueError(boxes_are_not_read(source.path))
        # Postprocessing is written for batches: here, of one.
        features = postprocess({name: features[name][tf.newaxis] for name in names})
        kept &= filters[builders.Phase.POSTPROCESS](features)
        return *(features[name] for name in names), kept

    return run
