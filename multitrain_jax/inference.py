"""A trained model to use: embeddings, logits, predictions for video files.

    import multitrain_jax as mt
    model = mt.load('runs/quickstart/export')
    model.embed(clips)            # clips u8 [B, T, H, W, 3] -> f32 [B, D]
    model.logits(clips)           # {dataset: f32 [B, C]}
    model.predict('video.mp4')    # {dataset: [(class name, score), ...]}
"""

from collections.abc import Mapping
import functools
import os

from flax import nnx
import jax
import numpy as np

from multitrain_jax.augment.pipeline import prepare_eval
from multitrain_jax.errors import UserError
from multitrain_jax.export import ExportInfo, read_export


def load(path: str | os.PathLike) -> 'Model':
    """Loads an export.

    Raises:
        UserError: `path` holds none.
    """
    return Model(*read_export(path))


class Model:
    """An export in memory.

    Attributes:
        info: architecture, datasets with class names, preprocessing.
    """

    def __init__(self, info: ExportInfo, graphdef: nnx.GraphDef, params):
        self.info = info
        self._params = jax.device_put(params)

        @jax.jit
        def forward(params, video):
            outputs = nnx.merge(graphdef, params)(prepare_eval(video, mean=info.mean, std=info.std))
            return outputs.embedding, outputs.logits

        self._forward = forward

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
        """Logits of every dataset's head, before softmax or sigmoid.

        Args:
            clips: as for `embed`.

        Returns:
            {dataset: f32[B, C]}.

        Raises:
            UserError: clips of another shape or type.
        """
        logits = np.asarray(self._run(clips)[1])  # [N, B, C]
        return {
            name: own[:, : len(dataset.classes)] for own, (name, dataset) in zip(logits, self.info.datasets.items())
        }

    def scores(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """Softmax (multi-label datasets: sigmoid) scores, {dataset: f32[B, C]}."""
        return {name: _activate(own, self.info.datasets[name].multi_label) for name, own in self.logits(clips).items()}

    def predict(self, video: str | os.PathLike, *, top: int = 5) -> dict[str, list[tuple[str, float]]]:
        """The best classes of a video file for every dataset; scores are averaged over several views.

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
        from data_pipelines.video_views import video_views

        backbone = self.info.model.backbone

        @functools.cache  # datasets that sample alike share the clips and the forward pass
        def scores_of(sampling: str, stride: int, target_frame_rate: float | None) -> tuple[Mapping, str]:
            clips, damage = video_views(
                video, sampling=sampling, stride=stride, target_frame_rate=target_frame_rate,
                num_frames=backbone.num_frames, crop_size=backbone.image_size, short_side=self.info.short_side,
                temporal_views=self.info.temporal_views, spatial_views=self.info.spatial_views,
            )  # fmt: skip
            # One view at a time: one shape to compile, whatever the number of views.
            views = [self.scores(view[None]) for view in clips]
            return {name: np.mean([view[name][0] for view in views], axis=0) for name in views[0]}, damage

        best, damage = {}, ''
        for name, dataset in self.info.datasets.items():
            scores, damage = scores_of(dataset.sampling, dataset.stride, dataset.target_frame_rate)
            order = np.argsort(-scores[name], kind='stable')[:top]
            best[name] = [(dataset.classes[c], float(scores[name][c])) for c in order]
        return best, damage

    def _run(self, clips: np.ndarray):
        if clips.ndim != 5 or clips.shape[1:] != self.clip_shape:
            raise UserError(f'clips of shape {list(clips.shape)}: this model takes [B, {", ".join(map(str, self.clip_shape))}]')
        if clips.dtype not in (np.uint8, np.float32):
            raise UserError(f'clips of type {clips.dtype}: must be uint8 (0..255), or float32 already normalised')
        return self._forward(self._params, clips)


def _activate(logits: np.ndarray, multi_label: bool) -> np.ndarray:
    return np.asarray(jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits, axis=-1))
