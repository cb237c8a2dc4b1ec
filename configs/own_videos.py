"""Your own videos: converted datasets that the command line names, and a small model.

    multitrain convert folder --videos=VIDEOS --output=data/mine --validation_share=0.2
    multitrain train --config=own_videos:data/mine --workdir=runs/mine

`VIDEOS/CLASS/*.mp4` is a folder per class; docs/data.md has other formats. Several datasets train
together: `--config=own_videos:data/mine,data/other`. Each is called by the last part of its path.
Where left and right matter: --config.datasets.mine.flip=False

MultiTrain's two losses are off: docs/training.md, "What to set when", says when they may pay and
how they are turned on.

From published weights, S 16x4, B 32x3 or another size, as they were imported:

    multitrain import --checkpoint=MViTv2_S_16x4.pyth --output=imports/k400 --dataset=kinetics400
    multitrain train --config=own_videos:data/mine,from=imports/k400 --workdir=runs/mine

Hardware and time: 400 videos take about 5 minutes on 2 CPU cores; from weights, a GPU.
Expected accuracy: as hard as the classes are. Learning rates and epochs have not been tuned.
"""

import ml_collections

from multitrain_jax.config import strided
from multitrain_jax.own_data import small_or_from


def get_config(names: str = '') -> ml_collections.ConfigDict:
    return small_or_from(names, strided)
