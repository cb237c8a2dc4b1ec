"""Datasets and weights of one's own, as a config file takes them from the command line.

`--config=own_videos:data/a,data/b,from=imports/k400` hands `data/a,data/b,from=imports/k400` to the
file's `get_config`.
"""

from collections.abc import Callable
from pathlib import PurePosixPath
import re

import ml_collections

from multitrain_jax.checkpoints.start_from import start_from
from multitrain_jax.config import config_tree, defaults
from multitrain_jax.errors import UserError
from multitrain_jax.models import variants

_START = 'from='


def split_names(names: str) -> tuple[dict[str, str], str | None]:
    """The paths of datasets by name, and the model to start from.

    A dataset is called by the last part of its path (`data/my-videos`: `my_videos`), or as
    `NAME=PATH` says.

    Args:
        names: paths with commas between them, and at most once `from=MODEL`.

    Raises:
        UserError: no dataset, or two of one name.
    """
    paths: dict[str, str] = {}
    start = None
    for word in filter(None, names.split(',')):
        if word.startswith(_START):
            start = word.removeprefix(_START)
            continue
        name, equals, path = word.partition('=')
        path = path if equals else word
        last = PurePosixPath(path.partition(':')[2] or path).parts[-1:] or ('',)
        name = name if equals else re.sub(r'\W', '_', last[0])
        if not name.isidentifier():
            raise UserError(f'{word!r}: no name can be made of it; give NAME=PATH')
        if name in paths:
            raise UserError(
                f'{paths[name]} and {path} are both called {name!r}; give one of them as NAME=PATH'
            )
        paths[name] = path
    if not paths:
        raise UserError('names no dataset; write :data/mine after it, or :data/a,data/b')
    return paths, start


def small_or_from(
    names: str, dataset: Callable[..., ml_collections.ConfigDict]
) -> ml_collections.ConfigDict:
    """An experiment on the named datasets: a small model, or one that starts from the named
    weights.

    Args:
        names: see `split_names`.
        dataset: `config.strided` or `config.key_frame`.

    Raises:
        UserError: as `split_names`; no such model to start from.
    """
    paths, start = split_names(names)
    config = defaults()
    config.data_root = '.'
    config.input.max_bad_records = 10
    (_small if start is None else _from)(config, start)
    frames = config.model.backbone.num_frames
    # 8 frames of 2.1 s, 16 of 2.1, 32 of 3.2
    stride = 8 if frames <= 8 else 4 if frames <= 16 else 3
    config.datasets = {name: dataset(path, stride=stride) for name, path in paths.items()}
    # Of one dataset nothing can be projected; between few small ones neither loss gained anything
    # (experiments/MULTITRAIN.md, DIAGNOSE.md).
    config.model.update(projections=False, expander=False)
    config.objective.update(lambda_proj=0.0, lambda_inf=0.0)
    return config


def _small(config: ml_collections.ConfigDict, start: None) -> None:
    small_model(config, image_size=112)
    config.epochs = 40.0
    config.input.short_side = (112, 136)


def small_model(config: ml_collections.ConfigDict, image_size: int) -> None:
    """A model that starts at random, and how it is trained: minutes on a CPU."""
    config.batch_size = 16
    config.accumulation = 'two_pass'
    config.model.backbone = config_tree(variants.mvit_tiny(image_size=image_size))
    config.model.update(head_hidden=128, head_dropout=0.1, logit_dropout=0.0, expander_hidden=256)
    config.augment.update(color_jitter=0.4, mixup_alpha=0.2, mix_probability=0.2)
    config.optimizer.update(
        peak_learning_rate=2e-3,
        warmup_start_learning_rate=1e-5,
        end_learning_rate=1e-5,
        warmup_epochs=1.0,
    )
    config.evaluation.update(batch_size=64, short_side=image_size)
    config.checkpoint.update(every_steps=250, keep=2)


def _from(config: ml_collections.ConfigDict, start: str) -> None:
    """Fine-tuning on an accelerator: architecture, normalisation and parameters are the model's."""
    config.model.backbone.update(stochastic_depth=0.1, dtype='bfloat16')
    start_from(config, start)
    config.epochs = 20.0
    config.batch_size = 16
    config.accumulation = 'two_pass'
    config.model.head_hidden = 0  # linear heads: there are few videos
    config.augment.update(color_jitter=0.4, mixup_alpha=0.2)
    config.optimizer.update(
        peak_learning_rate=1e-4,
        warmup_start_learning_rate=1e-6,
        end_learning_rate=1e-6,
        warmup_epochs=2.0,
        layer_decay=0.75,
    )
    config.evaluation.update(batch_size=32)
    config.checkpoint.update(every_steps=500, keep=2)
