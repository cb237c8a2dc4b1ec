"""Datasets of a few videos that TFDS itself prepares."""

import numpy as np
import tensorflow_datasets as tfds


class TinyVideos(tfds.core.GeneratorBasedBuilder):
    """Frames of one colour: red tells the video, green the frame."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        names = tfds.features.ClassLabel(names=['walk', 'run', 'jump'])
        features = {
            'video': tfds.features.Video(shape=(None, 20, 28, 3)),
            'label': tfds.features.Sequence(names) if self.name == 'tiny_many' else names,
        }
        if self.name == 'tiny_unlabelled':
            del features['label']
        if self.name == 'tiny_boxes':
            features['actors'] = tfds.features.Sequence({'box': tfds.features.BBoxFeature()})
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({**features, 'id': np.int64})
        )

    def _split_generators(self, manager):
        return {'train': self._generate_examples(11), 'test': self._generate_examples(5)}

    def _generate_examples(self, count):
        for number in range(count):
            colours = [(10 + 4 * number, 10 + 12 * frame, 100) for frame in range(8)]
            video = [np.broadcast_to(np.uint8(colour), (20, 28, 3)) for colour in colours]
            example = {'video': video, 'id': number}
            if self.name == 'tiny_many':
                example['label'] = [number % 3, (number + 1) % 3]
            elif self.name != 'tiny_unlabelled':
                example['label'] = number % 3
            if self.name == 'tiny_boxes':
                example['actors'] = [{'box': tfds.features.BBox(0.0, 0.0, 0.5, 1.0)}]
            yield number, example


class TinyMany(TinyVideos):
    """Two labels per video."""


class TinyUnlabelled(TinyVideos):
    """None."""


class TinyBoxes(TinyVideos):
    """Boxes besides."""
