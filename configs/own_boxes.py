"""Your own boxes: who does what, where. Datasets that the command line names, and a small model.

    multitrain convert ava --videos=VIDEOS --boxes train=train.csv --boxes validation=val.csv \\
      --actions=actions.pbtxt --output=data/mine
    multitrain train --config=own_boxes:data/mine --workdir=runs/mine
    multitrain predict --checkpoint=runs/mine/export --overlay=out.mp4 --boxes=val.csv \\
        VIDEOS/some.mp4

Lines of the csv files are `video,second,x1,y1,x2,y2,action,person`, sides as shares of width and
height; the actions are `label { name: "wave" label_id: 1 }`. Clips lie around the key frames that
have boxes. Tested are the labelled boxes; with a detector's (`--proposals` of the conversion):
--config.localisation.candidates=proposals. Where left and right matter:
--config.datasets.mine.flip=False

From published weights, S 16x4, B 32x3 or another size, as they were imported:

    multitrain train --config=own_boxes:data/mine,from=imports/k400 --workdir=runs/mine

Hardware and time: 1000 key frames take about 10 minutes on 2 CPU cores; from weights, a GPU.
Expected accuracy: as hard as the actions are. Learning rates and epochs have not been tuned.
"""

import ml_collections

from multitrain_jax.config import LocalisationConfig, config_tree, key_frame
from multitrain_jax.own_data import small_or_from


def get_config(names: str = '') -> ml_collections.ConfigDict:
    config = small_or_from(names, key_frame)
    config.localisation = config_tree(LocalisationConfig(jitter=0.05, candidates='ground_truth'))
    return config
