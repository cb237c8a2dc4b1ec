"""A trained model to use: embeddings, logits, predictions for video files.

import multitrain_jax as mt
model = mt.load('runs/quickstart/export')
model.embed(clips)            # clips u8 [B, T, H, W, 3] -> f32 [B, D]
model.logits(clips)           # {dataset: f32 [B, C]}
model.localise(clips, boxes)  # {dataset: f32 [B, M, A]}, of datasets whose clips have boxes
model.predict('video.mp4')    # {dataset: [(class name, score), ...]}
"""

from collections.abc import Callable, Mapping
import functools
import os

from flax import nnx
import jax
import numpy as np

from multitrain_jax.augment.pipeline import prepare_eval
from multitrain_jax.checkpoints.exports import ModelInfo
from multitrain_jax.checkpoints.trained_model import TrainedModel, open_trained
from multitrain_jax.errors import UserError


def load(path: str | os.PathLike, step: int | None = None) -> 'Model':
    """Loads a trained model.

    Args:
        path: an export, an import, a run or one of its checkpoints.
        step: which checkpoint of a run; None: the newest.

    Raises:
        UserError: `path` holds none.
    """
    return Model(open_trained(path, step))


def make_forward(info: ModelInfo, graphdef: nnx.GraphDef) -> Callable:
    """`forward(params, clips, boxes or None) -> (embedding, logits, actions)`, as in `models.multitrain.Outputs`."""

    def forward(params, video, boxes):
        outputs = nnx.merge(graphdef, params)(
            prepare_eval(video, mean=info.mean, std=info.std), boxes
        )
        return outputs.embedding, outputs.logits, outputs.actions

    return forward


class Model:
    """A trained model, ready to be used.

    Attributes:
        info: architecture, datasets with class names, preprocessing.
    """

    def __init__(self, trained: TrainedModel):
        trained = trained.for_inference()
        self.info = trained.info
        self._params = jax.device_put(trained.params)
        self._forward = jax.jit(make_forward(trained.info, trained.graphdef))

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3) of the clips it takes."""
        backbone = self.info.model.backbone
        return (backbone.num_frames, backbone.image_size, backbone.image_size, 3)

    def embed(self, clips: np.ndarray) -> np.ndarray:
        """Clip embeddings.

        Args:
            clips: u8, or f32 already normalised, [B, T, H, W, 3].

        Returns:
            f32[B, D].

        Raises:
            UserError: clips of another shape or type.
        """
        return np.asarray(self._run(clips)[0])

    def logits(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """Logits of every classifying dataset's head, before softmax or sigmoid.

        Args:
            clips: as for `embed`.

        Returns:
            {dataset: f32[B, C]}.

        Raises:
            UserError: clips of another shape or type.
        """
        return self._by_dataset(self._run(clips)[1])

    def localise(self, clips: np.ndarray, boxes: np.ndarray) -> dict[str, np.ndarray]:
        """What is done in boxes on the clips' central frames, by every localising dataset's head.

        Args:
            clips: as for `embed`.
            boxes: f[B, M, 4], x1, y1, x2, y2 as shares of the clip's width and height.

        Returns:
            {dataset: f32[B, M, A]}, a probability (sigmoid) of each action.

        Raises:
            UserError: clips or boxes of another shape or type, or a model without localising datasets.
        """
        if not any(dataset.localisation for dataset in self.info.datasets.values()):
            raise UserError(
                f'no head takes boxes: the datasets {", ".join(self.info.datasets)} have labels of whole clips'
            )
        boxes = np.asarray(boxes, np.float32)
        if boxes.ndim != 3 or boxes.shape[0] != len(clips) or boxes.shape[2] != 4:
            raise UserError(
                f'boxes of shape {list(boxes.shape)}: must be [{len(clips)}, M, 4], M boxes for every clip'
            )
        if not ((boxes >= 0) & (boxes <= 1)).all():
            raise UserError(
                'boxes must be x1, y1, x2, y2 within 0 to 1, shares of width and height (not pixels)'
            )
        return self._by_box(self._run(clips, boxes)[2])

    def scores(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """Softmax (multi-label datasets: sigmoid) scores, {dataset: f32[B, C]}."""
        return self._activated(self.logits(clips))

    def predict(
        self, video: str | os.PathLike, *, top: int = 5
    ) -> dict[str, list[tuple[str, float]]]:
        """The best classes of a video file for every dataset; scores are averaged over several views.

        A localising dataset's head takes the whole frame as the box.

        Args:
            video: any file that PyAV decodes.
            top: how many classes.

        Returns:
            {dataset: [(class name, score), ...]} by falling score.

        Raises:
            ValueError: the video cannot be read.
        """
        return self.predict_with_damage(video, top=top)[0]

    def predict_with_damage(
        self, video: str | os.PathLike, *, top: int = 5
    ) -> tuple[dict[str, list[tuple[str, float]]], str]:
        """As `predict`, and what of the video could not be decoded (empty: nothing)."""
        from data_pipelines.videos.video_views import video_views

        if not self.info.datasets:
            raise UserError(
                'this model is a backbone without heads: it gives embeddings; train heads on it, '
                'with config.init_from'
            )
        backbone = self.info.model.backbone

        @functools.cache  # datasets that sample alike share the clips and the forward pass
        def scores_of(
            sampling: str, stride: int, target_frame_rate: float | None
        ) -> tuple[Mapping, str]:
            clips, damage = video_views(
                video,
                sampling=sampling,
                stride=stride,
                target_frame_rate=target_frame_rate,
                num_frames=backbone.num_frames,
                crop_size=backbone.image_size,
                short_side=self.info.short_side,
                temporal_views=self.info.temporal_views,
                spatial_views=self.info.spatial_views,
            )
            # One view at a time: one shape to compile, whatever the number of views.
            views = [self._scores_with_whole_frame(view[None]) for view in clips]
            return {
                name: np.mean([view[name][0] for view in views], axis=0) for name in views[0]
            }, damage

        best, damage = {}, ''
        for name, dataset in self.info.datasets.items():
            # Of a video no frame is known as the key frame.
            sampling = 'strided' if dataset.sampling == 'key_frame' else dataset.sampling
            scores, damage = scores_of(sampling, dataset.stride, dataset.target_frame_rate)
            order = np.argsort(-scores[name], kind='stable')[:top]
            best[name] = [(dataset.classes[c], float(scores[name][c])) for c in order]
        return best, damage

    def _scores_with_whole_frame(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """f32[B, C] of every dataset, of the localising ones for the box that is the whole frame."""
        if self.info.model.num_actions is None:
            return self.scores(clips)
        _, logits, actions = self._run(
            clips, np.tile(np.array([0, 0, 1, 1], np.float32), (len(clips), 1, 1))
        )
        whole = {name: own[:, 0] for name, own in self._by_box(actions).items()}
        return {**self._activated(self._by_dataset(logits)), **whole}

    def _by_dataset(self, logits: jax.Array | None) -> dict[str, np.ndarray]:
        """Of every classifying dataset its rows of [N, B, C]."""
        classifying = {name: d for name, d in self.info.datasets.items() if not d.localisation}
        return {
            name: own[:, : len(dataset.classes)]
            for own, (name, dataset) in zip(
                np.asarray(logits) if classifying else (), classifying.items()
            )
        }

    def _by_box(self, actions: tuple[jax.Array, ...]) -> dict[str, np.ndarray]:
        names = [name for name, dataset in self.info.datasets.items() if dataset.localisation]
        return {
            name: np.asarray(jax.nn.sigmoid(own)) for name, own in zip(names, actions, strict=True)
        }

    def _activated(self, logits: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            name: _activate(own, self.info.datasets[name].multi_label)
            for name, own in logits.items()
        }

    def _run(self, clips: np.ndarray, boxes: np.ndarray | None = None):
        if clips.ndim != 5 or clips.shape[1:] != self.clip_shape:
            raise UserError(
                f'clips of shape {list(clips.shape)}: this model takes [B, {", ".join(map(str, self.clip_shape))}]'
            )
        if clips.dtype not in (np.uint8, np.float32):
            raise UserError(
                f'clips of type {clips.dtype}: must be uint8 (0..255), or float32 already normalised'
            )
        return self._forward(self._params, clips, boxes)


def _activate(logits: np.ndarray, multi_label: bool) -> np.ndarray:
    return np.asarray(jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits, axis=-1))
