"""What a user of DMVR writes: factories for the tests, and for `dmvr:MODULE:FUNCTION`."""

import glob
import os

from data_pipelines.datasets.dmvr import DmvrClips, import_dmvr

import_dmvr()

from dmvr import builders, modalities, video_dataset  # noqa: E402

CLASSES = tuple(f'class {number}' for number in range(5))


class Factory(video_dataset.BaseVideoDatasetFactory):
    """Images and labels, as in DMVR's own HMDB example."""

    def _build(self, *, one_hot=True, multi_label=False, zero_centering_image=False, **image):
        modalities.add_image(
            self.parser_builder,
            self.sampler_builder,
            self.decoder_builder,
            self.preprocessor_builder,
            self.postprocessor_builder,
            zero_centering_image=zero_centering_image,
            **image,
        )
        modalities.add_label(
            self.parser_builder,
            self.decoder_builder,
            self.preprocessor_builder,
            num_classes=len(CLASSES),
            one_hot_label=one_hot,
            is_multi_label=multi_label,
        )


def shards(split):
    return sorted(glob.glob(os.path.join(os.environ['DMVR_TEST_DATA'], f'{split}-?????-of-?????')))


def make_factory(split, training, num_frames, crop_size, short_side, temporal_views, **more):
    return Factory(shards(split)).configure(
        is_training=training,
        num_frames=num_frames,
        stride=2,
        crop_size=crop_size,
        min_resize=short_side,
        num_test_clips=temporal_views,
        **more,
    )


def plain(**arguments):
    return DmvrClips(make_factory(**arguments), CLASSES)


def numbers(**arguments):
    return DmvrClips(make_factory(**arguments, one_hot=False), CLASSES)


def centred(**arguments):
    return DmvrClips(make_factory(**arguments, zero_centering_image=True), CLASSES)


def filtered(**arguments):
    """Without the videos of class 1."""
    factory = make_factory(**arguments)
    factory.filter_builder.add_filter_fn(
        lambda features: features['label'][..., 1] < 1, builders.Phase.PREPROCESS
    )
    return DmvrClips(factory, CLASSES)


def wrong_size(num_frames, **arguments):
    return DmvrClips(make_factory(num_frames=num_frames + 1, **arguments), CLASSES)


def no_clips(**arguments):
    return make_factory(**arguments)


def other_arguments(path):
    return path


def with_boxes(**arguments):
    """As a factory of a dataset with boxes does."""
    factory = make_factory(**arguments)
    factory.preprocessor_builder.add_fn(
        lambda features: {**features, 'bbox': features['label']}, fn_name='boxes'
    )
    return DmvrClips(factory, CLASSES)
