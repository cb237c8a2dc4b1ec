"""MultiTrain's arms on real videos: a folder for each dataset, in it a folder for each class.

    python experiments/real_video.py --output=runs/method --videos fights=DIR words=DIR

    DIR/CLASS/*.mp4 (or .avi, .mov, .mkv, .webm)

The arms are those of `experiments/multitrain.py` without "maps", and so is all that is equal
between them. Half of every class's videos, drawn by the seed, are for training, the others for
testing; hyper-parameters are found on two splits that are not reported. The model is that of the
synthetic experiments on clips of 36 px, from their pre-trained start.

Every finished training is a line of OUTPUT/real_video.jsonl: started again, the command goes on
where it stopped; started several times at once, the processes share the trainings. In the end it
writes experiments/REAL_VIDEO.md, its plot and a copy of these lines; of the videos only numbers are
in them.

Of UCF101 or HMDB51, at full size and on an accelerator, see docs/training.md.
"""

import argparse
from collections.abc import Mapping, Sequence
import functools
from pathlib import Path
import sys
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data_pipelines.clip.frame_sampling import uniform_frames  # noqa: E402
from data_pipelines.videos.video_file import FrameStream  # noqa: E402
from experiments import (  # noqa: E402
    multitrain,
    multitrain_page,
    related,  # noqa: E402
    related_data,
    setup,
)
from experiments.arrays import ArrayData, Clips  # noqa: E402
from experiments.trainer import Outcome  # noqa: E402
from multitrain_jax.batch import DatasetSpec  # noqa: E402
from multitrain_jax.config import Config  # noqa: E402
from multitrain_jax.errors import UserError, run_command  # noqa: E402

SIDE, MARGIN = 36, 4  # pixels
SUFFIXES = ('.avi', '.mkv', '.mov', '.mp4', '.webm')
# That a training sees: of each dataset so many, but no fewer of all. Two with 3072 would be 48
# updates.
CLIPS, ALL_CLIPS = 3072, 12288


class Experiment(multitrain.Experiment):
    """The trainings on folders of videos."""

    ledger_file = 'real_video.jsonl'
    arms = tuple(arm for arm in multitrain.ARMS if arm != 'maps')
    seeds = tuple(range(5))
    videos = 0  # as many as there are

    def __init__(self, output: Path, folders: Mapping[str, Path]):
        super().__init__(output)
        self.datasets = tuple(sorted(folders))
        self.counts = (len(folders),)
        self.searched = len(folders)
        self.clips = {len(folders): max(CLIPS, ALL_CLIPS // len(folders))}
        self._all = {name: read_clips(name, folders[name], output) for name in self.datasets}

    def run(
        self,
        arm: str,
        names: Sequence[str],
        settings: Mapping[str, float],
        seed: int,
        *,
        videos: int = 0,
        clips: int,
        search: bool = False,
    ) -> tuple[Config, ArrayData]:
        """Config and data of one training."""
        config = related_data.base_config(self.datasets)
        config.seed = seed
        config.model.backbone.image_size = config.evaluation.short_side = SIDE
        config.input.short_side = (SIDE, SIDE)
        for name in self.datasets:
            config.datasets[name].flip = True
        config.init_from = related_data.pretrained(
            self.output, seed % related_data.STARTS, self.trainer
        )
        splits = {name: split(self._all[name][0], seed) for name in self.datasets}
        # Of each dataset the same number of clips, though their numbers of videos differ.
        if len(names) > 1:
            weights = dict.fromkeys(self.datasets, 1 / len(names))
            config.schedule = {'kind': 'weighted', 'by': 'example', 'weights': weights}
        mean = np.mean([len(splits[name][0].label) for name in names])
        config = multitrain.set_arm(config, arm, names, settings, float(mean), clips)
        return config, ArrayData(
            config,
            [DatasetSpec(name, self._all[name][1]) for name in self.datasets],
            {name: splits[name][0] for name in names},
            {name: splits[name][1] for name in names},
        )

    def described(self) -> str:
        """The datasets and their numbers of videos and classes."""
        return ', '.join(
            f'"{name}": {len(clips.label)} videos of {len(classes)} classes'
            for name, (clips, classes) in self._all.items()
        )

    def more(self, outcome: Outcome, source: ArrayData) -> dict[str, Any]:
        return {}  # nobody knows how the classes are related


@functools.lru_cache
def read_clips(name: str, folder: Path, output: Path) -> tuple[Clips, tuple[str, ...]]:
    """All videos of DIR/CLASS/, and the classes; read once and kept in OUTPUT/clips.

    Raises:
        UserError: no such folder, or fewer than two classes of at least four videos.
    """
    if not folder.is_dir():
        raise UserError(f'--videos {name}={folder}: no such directory')
    paths = {
        entry.name: sorted(path for path in entry.iterdir() if path.suffix.lower() in SUFFIXES)
        for entry in sorted(folder.iterdir())
        if entry.is_dir()
    }
    classes = tuple(title for title, videos in paths.items() if len(videos) >= 4)
    if len(classes) < 2:
        raise UserError(
            f'--videos {name}={folder}: needs two or more folders, one for each class, with at '
            f'least 4 videos ({", ".join(SUFFIXES)}) in each'
        )

    def read() -> Clips:
        video, label = [], []
        for number, title in enumerate(classes):
            for path in paths[title]:
                frames = [
                    related.into_square(frame, SIDE + MARGIN) for _, frame in FrameStream(path)
                ]
                chosen = uniform_frames(len(frames), related_data.FRAMES)
                video.append(np.stack([frames[place] for place in chosen]))
                label.append(number)
        return Clips(np.stack(video), np.array(label, np.int32))

    kept = output / 'clips' / f'real_{name}_{SIDE + MARGIN}.npz'
    return related_data.kept_clips(kept, read), classes


def split(clips: Clips, seed: int) -> tuple[Clips, Clips]:
    """Half of every class for training, the rest for testing."""
    rng, train = np.random.default_rng(seed), []
    for label in np.unique(clips.label):
        own = rng.permutation(np.flatnonzero(clips.label == label))
        train += own[: len(own) // 2].tolist()
    rows = np.isin(np.arange(len(clips.label)), train)
    return tuple(Clips(clips.video[which], clips.label[which]) for which in (rows, ~rows))


def _folder(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition('=')
    if not name or not folder:
        raise argparse.ArgumentTypeError(f'{text!r} is not NAME=DIR')
    return name, Path(folder).expanduser().resolve()


def main() -> int:
    stages = ('search', 'report')
    parser = setup.parser('real_video', __doc__)
    parser.add_argument('--videos', nargs='+', type=_folder, required=True, metavar='NAME=DIR')
    parser.add_argument('--stage', choices=(*stages, 'all'), default='all')
    args = parser.parse_args()
    if len(args.videos) < 2:
        parser.error('--videos: needs at least two datasets')
    experiment = Experiment(setup.output(args), dict(args.videos))
    if not args.page_only:
        multitrain.run_stages(experiment, args.stage, stages)
    multitrain_page.write(
        args.page,
        experiment.ledger,
        experiment.datasets,
        title='Real video',
        note=f'{experiment.described()}. Half of the videos of every class are for training, half '
        'for testing.',
        command='python experiments/real_video.py --output=runs/method --videos '
        + ' '.join(f'{name}=DIR' for name in experiment.datasets),
    )
    return 0


if __name__ == '__main__':
    run_command(main)
