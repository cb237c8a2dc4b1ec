"""The model and the data of the co-finetuning experiment."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
import functools
from pathlib import Path

import cv2
import ml_collections
import numpy as np

from data_pipelines.clip.frame_sampling import key_frame_clip
from data_pipelines.synthetic import layers, localisation
from experiments import related
from experiments.arrays import Clips
from multitrain_jax.batch import DatasetSpec

FRAMES = 4
SIDE = 48  # pixels that the model sees
MARGIN = 6  # more that clips have, for random crops
MAX_BOXES = 3
CLIP_SECONDS = Fraction(16, 15)  # of "scenes", about the key frame
VALIDATION_VIDEOS = 300


def make_small(config: ml_collections.ConfigDict) -> None:
    """quickstart_cofinetune's model on fewer and smaller frames; datasets of arrays."""
    config.synthetic = None
    config.model.backbone.update(
        num_frames=FRAMES, image_size=SIDE, patch_kernel=(3, 7, 7), patch_stride=(2, 6, 6)
    )
    config.input.short_side = (SIDE, SIDE)
    for entry in config.datasets.values():
        entry.flip = False
    config.augment.update(color_jitter=0.0, mixup_alpha=0.2, mix_probability=0.2)
    config.localisation.update(max_boxes=MAX_BOXES, candidates='ground_truth')
    config.evaluation.update(batch_size=100, short_side=SIDE, temporal_views=1, spatial_views=1)
    config.compilation_cache_dir = None


def specs(names: Sequence[str], train: Mapping[str, Clips]) -> list[DatasetSpec]:
    """Of these datasets, sorted by name."""
    found = []
    for name in sorted(names):
        boxes = train[name].box_label
        if boxes is None:
            found.append(DatasetSpec(name, tuple(related.DATASETS[name].actions)))
        else:
            counts = tuple(int(count) for count in boxes.sum((0, 1)))
            actions = tuple(localisation.ACTIONS)
            found.append(DatasetSpec(name, actions, localisation=True, train_counts=counts))
    return found


@functools.lru_cache(maxsize=64)
def clips(name: str, split: str, count: int, seed: int, cache: Path) -> Clips:
    """Clips of one dataset, rendered once and kept in `cache`."""
    path = cache / f'{name}_{split}_{seed}_{count}_{FRAMES}x{SIDE + MARGIN}.npz'
    if not path.exists():
        if name == 'scenes':
            made = _scenes(split, count, seed)
        else:
            those = related.render_clips(
                name, split, count, seed, num_frames=FRAMES, side=SIDE + MARGIN
            )
            made = {'video': those.video, 'label': those.label}
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix('.tmp.npz')
        np.savez(unfinished, **made)
        unfinished.replace(path)
    with np.load(path, allow_pickle=False) as arrays:
        return Clips(**arrays)


def _scenes(split: str, count: int, seed: int) -> dict[str, np.ndarray]:
    side, actions = SIDE + MARGIN, list(localisation.ACTIONS)
    arrays = {
        'video': np.zeros((count, FRAMES, side, side, 3), np.uint8),
        'label': np.zeros(count, np.int32),
        'boxes': np.zeros((count, MAX_BOXES, 4), np.float32),
        'box_label': np.zeros((count, MAX_BOXES, len(actions)), np.float32),
        'box_mask': np.zeros((count, MAX_BOXES), np.float32),
    }
    for index in range(count):
        crowd = localisation.Video(split, index, seed).crowd()
        scene, rate = crowd.scene, crowd.scene.frame_rate
        key = min(round(localisation.KEY_FRAME_SECONDS * rate), scene.num_frames - 1)
        frames = key_frame_clip(key, float(CLIP_SECONDS * rate), FRAMES, scene.num_frames)
        # The whole frame, squeezed: boxes are shares of its sides.
        arrays['video'][index] = [
            cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
            for frame in layers.render(related.at_frames(scene, frames))
        ]
        for place, box in enumerate(crowd.boxes()):
            arrays['boxes'][index, place] = box.corners
            arrays['box_mask'][index, place] = 1
            for action in box.actions:
                arrays['box_label'][index, place, actions.index(action)] = 1
    return arrays
