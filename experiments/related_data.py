"""The model and the data that the experiments on related datasets share."""

from collections.abc import Callable, Mapping, Sequence
import functools
from pathlib import Path

import ml_collections
import numpy as np

from configs import quickstart
from experiments import related, setup
from experiments.arrays import ArrayData, Clips
from experiments.ledger import one_at_a_time
from experiments.trainer import Trainer
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.config import read_config

FRAMES = 8
SIDE = 24  # pixels that the model sees
MARGIN = 3  # more that clips have, for random crops
VALIDATION_VIDEOS = 400
STARTS = 2  # pre-trained models
PRETRAINING_VIDEOS, PRETRAINING_CLIPS = 4000, 120_000
FLIPS = ('axes', 'faint', 'motions', 'pretraining')  # mirrored videos keep their class


def base_config(names: Sequence[str]) -> ml_collections.ConfigDict:
    """quickstart's config with a coarser, thus cheaper model, for these datasets of arrays."""
    config = quickstart.get_config()
    entry = config.datasets.directions.to_dict()
    config.datasets = {
        name: {**entry, 'path': name, 'sampling': 'uniform', 'flip': name in FLIPS}
        for name in names
    }
    config.synthetic = None
    config.model.backbone.update(
        num_frames=FRAMES,
        image_size=SIDE,
        patch_kernel=(3, 7, 7),
        patch_stride=(2, 6, 6),
        kv_stride=(1, 1, 1),
    )
    config.input.short_side = (SIDE, SIDE)
    config.augment.update(color_jitter=0.0, mixup_alpha=0.2, mix_probability=0.2)
    config.evaluation.update(batch_size=100, short_side=SIDE, temporal_views=1, spatial_views=1)
    config.optimizer.update(warmup_epochs=0.0)
    config.compilation_cache_dir = None
    return config


def specs(names: Sequence[str]) -> list[DatasetSpec]:
    """Of these datasets, sorted by name."""
    return [DatasetSpec(name, tuple(related.DATASETS[name].actions)) for name in sorted(names)]


def clips(
    names: Sequence[str], split: str, count: int, seed: int, cache: Path
) -> Mapping[str, Clips]:
    """Clips of each dataset, rendered once and kept in `cache`."""
    return {name: _clips(name, split, count, seed, str(cache)) for name in names}


@functools.lru_cache(maxsize=64)
def _clips(name: str, split: str, count: int, seed: int, cache: str) -> Clips:
    path = Path(cache) / f'{name}_{split}_{seed}_{count}_{SIDE + MARGIN}.npz'
    return kept_clips(
        path,
        lambda: related.render_clips(
            name, split, count, seed, num_frames=FRAMES, side=SIDE + MARGIN
        ),
    )


def kept_clips(path: Path, make: Callable[[], Clips]) -> Clips:
    """The clips in `path`, made now unless they are there."""
    with one_at_a_time(path.with_suffix('.lock')):
        if not path.exists():
            made = make()
            unfinished = path.with_suffix('.tmp.npz')
            np.savez(unfinished, video=made.video, label=made.label)
            unfinished.replace(path)
    with np.load(path, allow_pickle=False) as arrays:
        return Clips(arrays['video'], arrays['label'])


def pretrained(output: Path, seed: int, trainer: Trainer) -> str:
    """The export of a model trained on "pretraining"; trained now unless it is there."""
    directory = output / f'pretrained_{seed}'
    with one_at_a_time(directory.with_suffix('.lock')):
        if not (directory / 'model.json').exists():
            _pretrain(seed, output / 'clips', trainer).export(directory)
    return str(directory)


def _pretrain(seed: int, cache: Path, trainer: Trainer) -> TrainedModel:
    names, batch = ('pretraining',), 64
    config = base_config(names)
    config.seed, config.batch_size = seed, batch
    config.epochs = PRETRAINING_CLIPS / PRETRAINING_VIDEOS
    setup.set_rates(config, 2e-3, steps=PRETRAINING_CLIPS / batch)
    setup.set_losses(config)
    config = read_config(config)
    source = ArrayData(
        config,
        specs(names),
        clips(names, 'train', PRETRAINING_VIDEOS, seed, cache),
        clips(names, 'validation', VALIDATION_VIDEOS, 999, cache),
    )
    return trainer.train(config, source).trained
