"""A trained model to use: embeddings, logits, predictions for clips and for video files.

import multitrain_jax as mt
model = mt.load('runs/quickstart')
model.embed('video.mp4')              # f32 [D]; of ['a.mp4', 'b.mp4'] f32 [2, D]
model.embed(clips)                    # clips u8 [B, T, H, W, 3] -> f32 [B, D]
model.logits(clips)                   # {dataset: f32 [B, C]}
model.localise(clips, boxes)          # {dataset: f32 [B, M, A]}, of datasets whose clips have boxes
model.features(clips)                 # f32 [B, t, h, w, D], the grid of tokens
model.predict('video.mp4')            # {dataset: [(class name, score), ...]}
mt.read_clips('video.mp4', model=model)  # u8 [V, T, H, W, 3], the views that these are of

Whatever takes clips also takes a video, or a list of videos: any file that FFmpeg decodes. Its
result is then the mean over the video's views, as the model is tested with. Clips may have another
size and number of frames than those that the model was trained on: its positions are interpolated.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import functools
import math
import os
from typing import Any, NamedTuple
import warnings

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.augment.pipeline import prepare_eval
from multitrain_jax.batch import classifying, localising
from multitrain_jax.checkpoints.checksums import array_checksums, text_checksum
from multitrain_jax.checkpoints.exports import ModelInfo
from multitrain_jax.checkpoints.trained_model import TrainedModel, open_trained
from multitrain_jax.errors import UserError
from multitrain_jax.inference import stream
from multitrain_jax.inference.grad_cam import forward_with_heat
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import data_mesh, replicate
from multitrain_jax.parallel.prefetch import prefetch

Video = str | os.PathLike
Clips = np.ndarray | Video | Sequence[Video]

_WHOLE_FRAME = (0.0, 0.0, 1.0, 1.0)
# Multiplications that one call of the program is to have at least, where a batch can be so large.
_WORK = {'cpu': 2**36}
_WORK_OF_ACCELERATORS = 2**42
_LARGEST_BATCH = 64  # clips of a device
_BOX_PLACES = 8  # boxes are padded to a multiple of it: few shapes to compile


def load(
    path: str | os.PathLike, step: int | None = None, *, batch_size: int | None = None
) -> 'Model':
    """Loads a trained model.

    Args:
        path: an export, an import, a run (its workdir) or one of its checkpoints.
        step: which checkpoint of a run; None: the newest.
        batch_size: clips that all devices see at a time; None: by the size of the model.

    Raises:
        UserError: `path` holds none.
    """
    return Model(open_trained(path, step), batch_size=batch_size)


def read_clips(
    videos: Video | Sequence[Video],
    model: 'Model',
    *,
    dataset: str | None = None,
    temporal_views: int | None = None,
    spatial_views: int | None = None,
) -> np.ndarray:
    """The clips of videos that a model is shown.

    Args:
        videos: a video, or several.
        model: whose clips they are to be.
        dataset: the dataset whose rule samples the frames; None: the model's first.
        temporal_views: clips along the video, of which uniform sampling has one; None: as many as
            the model is tested with.
        spatial_views: crops of each clip, 1 or 3; None: likewise.

    Returns:
        u8[V, T, H, W, 3], V temporal times spatial views; of several videos u8[N, V, T, H, W, 3].

    Raises:
        ValueError: a video cannot be read.
        UserError: no such dataset.
    """
    from data_pipelines.videos.video_views import whole_video

    name = model.sampled_like(dataset)
    rules = stream.view_rules(model, [name], temporal_views, spatial_views)

    def read(video: Video) -> np.ndarray:
        found = whole_video(video, rules, threads=0)
        _warn_of_damage(video, found.damage)
        return found.views[0].clips

    if _is_video(videos):
        return read(videos)
    return np.stack([read(video) for video in videos])


def make_forward(info: ModelInfo, graphdef: nnx.GraphDef) -> Callable:
    """`forward(params, clips, boxes or None) -> (embedding, logits, actions)`."""

    def forward(params, video, boxes):
        outputs = nnx.merge(graphdef, params)(
            prepare_eval(video, mean=info.mean, std=info.std), boxes
        )
        return outputs.embedding, outputs.logits, outputs.actions

    return forward


class Outputs(NamedTuple):
    """What the program gives for a batch.

    Attributes:
        embedding: f32[B, D].
        logits: {dataset: f32[B, C]}, of those whose clips have labels.
        actions: {dataset: f32[B, M, A]}, logits, of those whose clips have boxes.
        heat: {dataset: f32[B, t, h, w]}, of those of which it was wanted.
    """

    embedding: Any
    logits: Mapping[str, Any]
    actions: Mapping[str, Any]
    heat: Mapping[str, Any] = {}


class Model:
    """A trained model, ready to be used, on all devices of this machine.

    Attributes:
        info: architecture, datasets with class names, preprocessing.
        devices: of this machine, all of which it uses.
        batch_size: clips that they see at a time.
    """

    def __init__(self, trained: TrainedModel, *, batch_size: int | None = None):
        """
        Raises:
            UserError: `batch_size` does not divide over the devices.
        """
        trained = trained.for_inference()
        self.info = trained.info
        self._graphdef = trained.graphdef
        self._driver = Pmap(data_mesh(jax.local_devices()))
        self.devices = len(jax.local_devices())
        self._params = replicate(trained.params, self._driver.mesh)
        specs = tuple(self.info.datasets.values())
        self._classifying = [spec.name for spec in classifying(specs)]
        self._localising = [spec.name for spec in localising(specs)]
        if batch_size is None:
            batch_size = self.devices * _share(self.info)
        elif batch_size < 1 or batch_size % self.devices:
            raise UserError(
                f'batch_size={batch_size} does not divide over {self.devices} devices: give a '
                'multiple of them'
            )
        self.batch_size = batch_size
        self._step = self._driver.eval_step(self._outputs)
        # Of this model alone: a cache of the class would keep every model.
        self.heat_step = functools.cache(self.heat_step)
        self._token_step = functools.cache(self._token_step)

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3) of the clips that it was trained on."""
        backbone = self.info.model.backbone
        return (backbone.num_frames, backbone.image_size, backbone.image_size, 3)

    def embed(self, clips: Clips) -> np.ndarray:
        """Clip embeddings.

        Args:
            clips: u8, or f32 already normalised, [B, T, H, W, 3]; or a video; or several. Of
                videos, frames are sampled by the rule of the model's first dataset.

        Returns:
            f32[B, D]; of a video f32[D].

        Raises:
            UserError: clips of another shape or type.
            ValueError: a video cannot be read.
        """
        if _is_videos(clips):
            return self._of_videos(
                clips, lambda seen: seen.embedding, [self.sampled_like(None)], np.stack
            )
        return self._run(clips).embedding

    def logits(self, clips: Clips) -> dict[str, np.ndarray]:
        """Logits of every classifying dataset's head, before softmax or sigmoid.

        Args:
            clips: as for `embed`; of videos, frames are sampled by each dataset's own rule.

        Returns:
            {dataset: f32[B, C]}; of a video {dataset: f32[C]}.

        Raises: as `embed`.
        """
        if _is_videos(clips):
            return self._of_videos(clips, self._classified, self._classifying, _stacked)
        logits = self._run(clips).logits
        return {name: logits[name] for name in self._classifying}

    def scores(self, clips: Clips) -> dict[str, np.ndarray]:
        """Softmax (multi-label: sigmoid) scores, as `logits`; of videos, the views' mean."""
        if _is_videos(clips):
            return self._of_videos(
                clips,
                lambda seen: self.activated(self._classified(seen)),
                self._classifying,
                _stacked,
            )
        return self.activated(self.logits(clips))

    def features(self, clips: Clips, layer: int | None = None) -> np.ndarray:
        """The grid of tokens, without a class token.

        Args:
            clips: as for `embed`.
            layer: the block after which they are taken, from 1, or from the end: -1 is the last;
                0: before the first. None: after the final norm, what embeddings are made of.

        Returns:
            f32[B, t, h, w, D]; of a video f32[V, t, h, w, D], of its views; of several
            f32[N, V, t, h, w, D].

        Raises:
            UserError: no such layer; or as `embed`.
            ValueError: a video cannot be read.
        """
        blocks = None if layer is None else self._blocks(layer)
        if _is_videos(clips):
            clips = read_clips(clips, self)
            tokens = self.features(clips.reshape(-1, *clips.shape[-4:]), layer)
            return tokens.reshape(*clips.shape[:-4], *tokens.shape[1:])
        return self._run(clips, step=self._token_step(blocks))

    def localise(
        self, clips: Clips, boxes: Any, *, seconds: float | None = None
    ) -> dict[str, np.ndarray]:
        """What is done in boxes on the clips' central frames, by every localising dataset's head.

        Args:
            clips: u8, or f32 already normalised, [B, T, H, W, 3]; or a video; or several.
            boxes: f[B, M, 4], x1, y1, x2, y2 as shares of the clip's width and height. Of a video
                f[M, 4], as shares of the whole frame; of several a list of these.
            seconds: of videos, when the frame with the boxes is on screen, since their beginning;
                None: their middle.

        Returns:
            {dataset: f32[B, M, A]}, a probability (sigmoid) of each action; of a video
            {dataset: f32[M, A]}, NaN for a box that no view shows; of several a list of these.

        Raises:
            UserError: clips or boxes of another shape or type, or a model without localising
                datasets.
            ValueError: a video cannot be read.
        """
        if not self._localising:
            raise UserError(
                f'no head takes boxes: the datasets {", ".join(self.info.datasets)} have labels of '
                'whole clips'
            )
        if _is_videos(clips):
            from multitrain_jax.inference import boxes as of_videos

            if not _is_video(clips):
                if len(boxes) != len(clips):
                    raise UserError(f'boxes of {len(boxes)} videos for {len(clips)} videos')
                return [self.localise(*pair, seconds=seconds) for pair in zip(clips, boxes)]
            checked = self._checked_boxes(np.asarray(boxes, np.float32)[None], 1)[0]
            return of_videos.at_moment(self, clips, checked, seconds)
        boxes = self._checked_boxes(boxes, len(clips))
        count = boxes.shape[1]
        padded = np.zeros((len(boxes), -(-count // _BOX_PLACES) * _BOX_PLACES, 4), np.float32)
        padded[:, :count] = boxes
        actions = self._run(clips, boxes=padded).actions
        return {name: _sigmoid(actions[name][:, :count]) for name in self._localising}

    def heat(
        self,
        clips: Clips,
        dataset: str | None = None,
        classes: str | Sequence[str] | None = None,
        *,
        layer: int | None = None,
    ) -> np.ndarray:
        """How much each token speaks for a class, see `inference.grad_cam`.

        Args:
            clips: as for `embed`.
            dataset: of the class; None: the first.
            classes: a name for all clips, or one for each; None: each clip's best.
            layer: as for `features`; None: what enters the last stage.

        Returns:
            f32[B, t, h, w], at least 0, in units of the logit; of videos as `features`.

        Raises:
            UserError: no such dataset, class or layer; or as `embed`.
            ValueError: a video cannot be read.
        """
        self.check_heads()
        name = self.sampled_like(dataset)
        classes = [classes] if isinstance(classes, str) else classes
        if _is_videos(clips):
            clips = read_clips(clips, self, dataset=name)
            heat = self.heat(clips.reshape(-1, *clips.shape[-4:]), name, classes, layer=layer)
            return heat.reshape(*clips.shape[:-4], *heat.shape[1:])
        extra = {}
        if classes is not None:
            known = self.info.datasets[name].classes
            for label in classes:
                if label not in known:
                    raise UserError(f'{label!r}: dataset {name} has no such class')
            numbers = np.array([known.index(label) for label in classes], np.int32)
            if len(numbers) not in (1, len(clips)):
                raise UserError(f'{len(numbers)} classes for {len(clips)} clips')
            extra['label'] = np.broadcast_to(numbers, len(clips))
        return self._run(clips, step=self.heat_step((name,), layer), **extra).heat[name]

    def predict(self, clips: Clips, *, top: int = 5) -> Any:
        """The best classes for every dataset; of a video, scores are averaged over several views.

        A localising dataset's head takes the whole frame as the box.

        Args:
            clips: as for `embed`; of videos, frames are sampled by each dataset's own rule.
            top: how many classes.

        Returns:
            Of a video {dataset: [(class name, score), ...]} by falling score; of several, or of
            clips [B, T, H, W, 3], a list of these.

        Raises:
            UserError: the model has no heads; or as `embed`.
            ValueError: a video cannot be read.
        """
        self.check_heads()
        if _is_video(clips):
            return self.predict([clips], top=top)[0]
        if _is_videos(clips):
            scores = self._of_videos(
                clips, lambda seen: self.activated(seen.logits), list(self.info.datasets), list
            )
            return [self.best(own, top) for own in scores]
        outputs = self._run(clips)
        scores = self.activated(self.named(outputs))
        return [
            self.best({name: own[row] for name, own in scores.items()}, top)
            for row in range(len(clips))
        ]

    @functools.cached_property
    def checksum(self) -> int:
        """A number below 2^32 of parameters, architecture and preprocessing."""
        return text_checksum([array_checksums(self._params), str(self.info)])

    def check_heads(self) -> None:
        """
        Raises:
            UserError: the model has none.
        """
        if not self.info.datasets:
            raise UserError(
                'this model is a backbone without heads: it gives embeddings; train heads on it, '
                'with config.init_from'
            )

    def sampled_like(self, dataset: str | None) -> str | None:
        """The dataset whose rule samples the frames of embeddings: this one, or the first.

        Raises:
            UserError: no such dataset.
        """
        names = list(self.info.datasets)
        if dataset is not None and dataset not in names:
            raise UserError(f'dataset {dataset!r}: the model has only {", ".join(names) or "none"}')
        return dataset or next(iter(names), None)

    def best(
        self, scores: Mapping[str, np.ndarray], top: int
    ) -> dict[str, list[tuple[str, float]]]:
        """{dataset: [(class name, score), ...]} by falling score, of f32[C] each."""
        found = {}
        for name, own in scores.items():
            classes = self.info.datasets[name].classes
            order = np.argsort(-own, kind='stable')[:top]
            found[name] = [(classes[c], float(own[c])) for c in order]
        return found

    def activated(self, logits: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Softmax scores; of multi-label and of localising datasets sigmoid ones."""
        specs = self.info.datasets
        return {
            name: _sigmoid(own)
            if specs[name].multi_label or specs[name].localisation
            else np.asarray(jax.nn.softmax(own, axis=-1))
            for name, own in logits.items()
        }

    def inputs(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """A batch of clips, with the box that is the whole frame where some head takes boxes."""
        if not self._localising:
            return {'video': clips}
        return {'video': clips, 'boxes': np.tile(np.float32([[_WHOLE_FRAME]]), (len(clips), 1, 1))}

    def named(self, outputs: Outputs) -> dict[str, np.ndarray]:
        """{dataset: f32[B, C]}, logits, of localising datasets for the one box."""
        boxes = {name: own[:, 0] for name, own in outputs.actions.items()}
        return {name: (boxes | outputs.logits)[name] for name in self.info.datasets}

    def forward(
        self,
        batches: Iterable[tuple[Any, Mapping[str, np.ndarray] | None]],
        step: Callable | None = None,
        *,
        ahead: bool = True,
    ) -> Iterator[tuple[Any, Any]]:
        """Runs batches: (tag, batch) -> (tag, its outputs as NumPy arrays), in order.

        Args:
            batches: arrays whose first axis the devices divide; None: nothing to run.
            step: of `Driver.eval_step`; None: that of `Outputs`.
            ahead: the next batch is made and copied while one runs; False: each is answered before
                the next is asked for.
        """
        step = step or self._step

        def placed(entry):
            tag, batch = entry
            return tag, None if batch is None else self._driver.to_devices(batch)

        def fetched(entry):
            tag, outputs = entry
            return tag, jax.tree.map(self._driver.local_rows, outputs)

        waiting = None
        for tag, batch in prefetch(iter(batches), placed) if ahead else map(placed, batches):
            entry = tag, None if batch is None else step(self._params, batch)
            if not ahead:
                yield fetched(entry)
                continue
            if waiting is not None:
                yield fetched(waiting)
            waiting = entry
        if waiting is not None:
            yield fetched(waiting)

    def _outputs(self, params, batch) -> Outputs:
        forward = make_forward(self.info, self._graphdef)
        return self._by_dataset(*forward(params, batch['video'], batch.get('boxes')))

    def _by_dataset(self, embedding, logits, actions) -> Outputs:
        classes = {name: len(self.info.datasets[name].classes) for name in self._classifying}
        return Outputs(
            embedding,
            {name: logits[n, :, :count] for n, (name, count) in enumerate(classes.items())},
            dict(zip(self._localising, actions or ())),
        )

    def heat_step(self, datasets: tuple[str, ...], layer: int | None = None) -> Callable:
        """Of `forward`: `Outputs` with the heat of these datasets, see `heat`."""
        run = forward_with_heat(
            self.info,
            self._graphdef,
            lambda outputs: self._by_dataset(outputs.embedding, outputs.logits, outputs.actions),
            datasets,
            None if layer is None else self._blocks(layer),
        )

        def outputs(params, batch):
            found, heat = run(params, batch)
            return found._replace(heat=heat)

        return self._driver.eval_step(outputs)

    def _token_step(self, blocks: int | None) -> Callable:
        def tokens(params, batch):
            video = prepare_eval(batch['video'], mean=self.info.mean, std=self.info.std)
            backbone = nnx.merge(self._graphdef, params).backbone
            x, thw = backbone.begin(video)
            x, thw = backbone.run(x, thw, slice(blocks))
            if blocks is None:
                x = backbone.pool(x, thw).tokens
            x = x[:, x.shape[1] - math.prod(thw) :]
            return x.reshape(len(x), *thw, -1).astype(jnp.float32)

        return self._driver.eval_step(tokens)

    def _blocks(self, layer: int) -> int:
        depth = self.info.model.backbone.depth
        if not -depth <= layer <= depth:
            raise UserError(f'layer={layer}: this model has {depth} blocks')
        return layer if layer >= 0 else depth + 1 + layer

    def _run(self, clips: Any, step: Callable | None = None, **others: np.ndarray):
        """What a step gives for any number of clips; without a step, `Outputs`."""
        batch = self.inputs(self._checked(clips)) | others
        rows = len(clips)
        pieces = -(-rows // self.devices)
        size = min(self.batch_size, self.devices * 2 ** (pieces - 1).bit_length())
        chunks = (
            (min(size, rows - start), {k: _rows(v, start, size) for k, v in batch.items()})
            for start in range(0, rows, size)
        )
        parts = [
            jax.tree.map(lambda array: array[:count], outputs)
            for count, outputs in self.forward(chunks, step)
        ]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def _classified(self, seen: stream.Seen) -> dict[str, np.ndarray]:
        return {name: seen.logits[name] for name in self._classifying}

    def _of_videos(
        self,
        videos: Video | Sequence[Video],
        value: Callable[[stream.Seen], Any],
        datasets: Sequence[str | None],
        join: Callable[[list[Any]], Any],
    ) -> Any:
        """The mean over the views of what `value` makes of each video, joined."""
        several = [videos] if _is_video(videos) else list(videos)
        found: list[Any] = [None] * len(several)
        for event in stream.see(self, several, datasets=datasets):
            if isinstance(event, stream.Seen):
                found[event.video] = jax.tree.map(lambda views: views.mean(0), value(event))
            elif event.error is not None:
                raise event.error
            else:
                _warn_of_damage(several[event.video], event.damage)
        return found[0] if _is_video(videos) else join(found)

    def _checked(self, clips: Any) -> np.ndarray:
        clips = np.asarray(clips)
        if clips.ndim != 5 or clips.shape[-1] != 3 or not len(clips):
            example = ', '.join(map(str, self.clip_shape))
            raise UserError(
                f'clips of shape {list(clips.shape)}: must be [B, T, H, W, 3], B at least 1; this '
                f'model was trained on [B, {example}]'
            )
        if clips.dtype not in (np.uint8, np.float32):
            raise UserError(
                f'clips of type {clips.dtype}: must be uint8 (0..255), or float32 already '
                'normalised'
            )
        least = self.info.model.backbone.patch_stride
        if any(size < stride for size, stride in zip(clips.shape[1:4], least)):
            raise UserError(
                f'clips of shape {list(clips.shape)}: too small; a token is made of '
                f'{least[0]} frames of {least[1]} x {least[2]} pixels'
            )
        return clips

    def _checked_boxes(self, boxes: Any, clips: int) -> np.ndarray:
        boxes = np.asarray(boxes, np.float32)
        if boxes.ndim != 3 or boxes.shape[0] != clips or boxes.shape[2] != 4:
            raise UserError(
                f'boxes of shape {list(boxes.shape)}: must be [{clips}, M, 4], M boxes for every '
                'clip'
            )
        if not ((boxes >= 0) & (boxes <= 1)).all():
            raise UserError(
                'boxes must be x1, y1, x2, y2 within 0 to 1, shares of width and height '
                '(not pixels)'
            )
        return boxes


def _share(info: ModelInfo) -> int:
    """Clips of one device's batch: so many that starting the program does not count."""
    work = _WORK.get(jax.default_backend(), _WORK_OF_ACCELERATORS)
    fitting = max(1, work // info.model.backbone.multiplications())
    return min(_LARGEST_BATCH, 2 ** (fitting.bit_length() - 1))


def _is_video(clips: Any) -> bool:
    return isinstance(clips, (str, os.PathLike))


def _is_videos(clips: Any) -> bool:
    """Whether these are a video, or several, instead of clips."""
    if isinstance(clips, (list, tuple)):
        if not clips:
            raise UserError('no videos: the list is empty')
        kinds = set(map(_is_video, clips))
        if len(kinds) > 1:
            raise UserError('a list of both videos and clips: give each in a call of its own')
        return kinds.pop()
    return _is_video(clips)


def _warn_of_damage(video: Video, damage: str) -> None:
    if damage:
        warnings.warn(f'{os.fspath(video)}: damaged, {damage}', stacklevel=3)


def _rows(array: np.ndarray, start: int, size: int) -> np.ndarray:
    """Rows from `start` on, zeros where there are no more."""
    part = array[start : start + size]
    if len(part) == size:
        return part
    return np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])


def _stacked(found: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([own[name] for own in found]) for name in found[0]}


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.sigmoid(logits))
