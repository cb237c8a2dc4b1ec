"""Two synthetic datasets, a small MViTv2, MultiTrain's objective: the whole path, on a CPU.

    python run.py --config=configs/quickstart.py --workdir=runs/quickstart

Renders and converts the videos the first time (they are kept under `data_root`).
Hardware and time: 2 CPU cores, about a minute.
Expected accuracy: top-1 of 85 to 98 % on both validation sets; chance is 10 %.
"""

import ml_collections

from multitrain_jax.config import SyntheticConfig, config_tree, defaults, strided, uniform
from multitrain_jax.own_data import small_model


def get_config() -> ml_collections.ConfigDict:
    config = defaults()
    config.data_root = 'data/quickstart'
    config.epochs = 14.0
    config.log_every_steps = 50
    config.synthetic = config_tree(SyntheticConfig(train_videos=400, validation_videos=100))
    config.datasets = dict(
        motions=strided('motions', stride=2, target_frame_rate=15.0),
        directions=uniform('directions'),  # left and right matter
    )
    small_model(config, image_size=64)
    # The paper's 0.1 hurts small models that start at random (experiments/DIAGNOSE.md).
    config.objective.lambda_inf = 0.003
    config.input.update(short_side=(64, 76), max_bad_records=10)
    return config
