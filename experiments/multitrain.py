"""MultiTrain's claim, small: a pre-trained model is fine-tuned on related datasets at once.

    python experiments/multitrain.py --output=runs/method [--stage=search] [--page_only]

A small MViTv2 is pre-trained on one large synthetic dataset ("Kinetics") and fine-tuned on 2, 4 or
8 small related ones (`experiments.related`): other renderers, cameras and
granularities of labels. The arms:

    single       a model for each dataset, in batches of 16, the other heads idle
    joint        one model, cross-entropy of all datasets
    informative  and the informative loss
    projection   and the projection loss
    both         and both: MultiTrain
    both_plain   the same with plain accumulation: the informative loss of every 16 clips by itself
    maps         joint, where the relations of the classes are known: a clip is also an example for
                 those heads of whose classes its own implies one (the ceiling of what relations
                 between classes can give)

Equal between arms: videos, clips of each dataset, batches (128 clips; two-pass accumulation, 8 x
16, where a loss looks at the whole batch), warm-up, and how hyper-parameters are found: learning
rate first, then the weight of each loss that the arm has, then the learning rate beside them, on
two seeds and validation videos that are not reported, with four datasets. A seed is another draw of
the training videos, of the pre-trained model (of two) and of everything else that is random.

Every finished training is a line of OUTPUT/multitrain.jsonl: started again, the command goes on
where it stopped; started several times at once, the processes share the trainings. In the end it
writes experiments/MULTITRAIN.md, its plots and a copy of these lines.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from pathlib import Path
import sys
from typing import Any

import ml_collections
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from experiments import (  # noqa: E402
    multitrain_page,
    related,  # noqa: E402
    related_data,
    setup,
)
from experiments.arrays import ArrayData  # noqa: E402
from experiments.ledger import Ledger  # noqa: E402
from experiments.trainer import Outcome, Trainer  # noqa: E402
from multitrain_jax.checkpoints.trained_model import TrainedModel  # noqa: E402
from multitrain_jax.config import Config, read_config  # noqa: E402
from multitrain_jax.errors import run_command  # noqa: E402
from multitrain_jax.reporting.projections import agreement, projections_of  # noqa: E402

# Those of two and four datasets are the first ones of eight.
DATASETS = tuple(related.RELATED)
COUNTS = (2, 4, 8)
ARMS = ('single', 'joint', 'informative', 'projection', 'both', 'both_plain', 'maps')
SEARCHED = 4  # datasets of the search
TRAIN_VIDEOS = 24  # of each dataset
# Of each dataset that a training sees, by number of datasets: with two, 3072 would be 48 updates.
CLIPS = {2: 6144, 4: 3072, 8: 3072}
BATCH, PIECE = 128, 16
SEEDS = tuple(range(8))
SEARCH_SEEDS = (100, 101)
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
LAMBDAS = {'lambda_inf': (0.003, 0.01, 0.1), 'lambda_proj': (0.1, 0.3, 1.0)}
FIRST = {'lambda_inf': 0.01, 'lambda_proj': 1.0}  # while the learning rate is searched
GROWTH = (12, 24, 48, 96)  # training videos, for the projections


@dataclasses.dataclass(frozen=True)
class Arm:
    """What an arm trains with."""

    losses: tuple[str, ...] = ()
    accumulation: str = 'two_pass'
    batch: int = BATCH
    maps: bool = False


SPECIFIED = {
    'single': Arm(batch=PIECE),
    'joint': Arm(),
    'informative': Arm(('lambda_inf',)),
    'projection': Arm(('lambda_proj',)),
    'both': Arm(('lambda_inf', 'lambda_proj')),
    'both_plain': Arm(('lambda_inf', 'lambda_proj'), accumulation='plain'),
    'maps': Arm(maps=True),
}


def set_arm(
    config: ml_collections.ConfigDict,
    arm: str,
    names: Sequence[str],
    settings: Mapping[str, float],
    videos: int,
    clips: int,
) -> Config:
    """Makes `config` that of one training on the datasets `names`.

    Args:
        config: of the model and the data.
        arm: sets batch, accumulation, losses.
        names: of the datasets.
        settings: learning `rate`, and the weights of the losses.
        videos: of each dataset.
        clips: of each dataset that the training sees.
    """
    one = SPECIFIED[arm]
    config.batch_size, config.accumulation_steps = one.batch, one.batch // PIECE
    config.accumulation = one.accumulation
    config.epochs = clips / videos
    setup.set_rates(config, settings['rate'], steps=clips * len(names) / one.batch)
    setup.set_losses(config, **{name: settings[name] for name in one.losses})
    return read_config(config)


class Experiment:
    """Trainings of this page and their lines.

    Attributes:
        datasets: all; a smaller number is of the first ones.
        counts: numbers of datasets that are reported.
        clips: of each dataset that a training sees, by number of datasets.
        searched: number of datasets of the search.
        arms: that are compared.
        seeds: that are reported.
        videos: for training, of each dataset.
    """

    ledger_file = 'multitrain.jsonl'
    datasets: Sequence[str] = DATASETS
    counts: Sequence[int] = COUNTS
    clips: Mapping[int, int] = CLIPS
    searched = SEARCHED
    arms: Sequence[str] = ARMS
    seeds: Sequence[int] = SEEDS
    videos = TRAIN_VIDEOS

    def __init__(self, output: Path):
        self.ledger = Ledger(output / self.ledger_file)
        self.output, self.trainer = output, Trainer()

    def search(self) -> None:
        for arm in self.arms:
            self.best(arm)

    def best(self, arm: str) -> dict[str, float]:
        """Learning rate and weights of the losses that the search finds, one by one."""
        names = self.datasets[: self.searched]
        losses = SPECIFIED[arm].losses
        found = {name: FIRST[name] for name in losses}
        # The rate that is best beside the first weights need not be so beside those found.
        for name in ('rate', *losses, 'rate') if losses else ('rate',):
            found[name] = self.ledger.best(
                RATES if name == 'rate' else LAMBDAS[name],
                SEARCH_SEEDS,
                lambda value, seed, name=name: self.line(
                    arm, names, {**found, name: value}, seed, search=True
                )['average'],
            )
        return found

    def report(self) -> None:
        arms = {arm: self.best(arm) for arm in self.arms}
        self.ledger.spread(
            [
                functools.partial(self.line, arm, self.datasets[:count], arms[arm], seed)
                for seed in self.seeds
                for count in self.counts
                for arm in self.arms
            ]
        )

    def grow(self) -> None:
        """How well projections find the relations, by number of videos."""
        names = self.datasets[: self.searched]
        settings = self.best('projection')
        self.ledger.spread(
            [
                functools.partial(self.line, 'projection', names, settings, seed, videos=videos)
                for seed in self.seeds[:4]
                for videos in GROWTH
            ]
        )

    def check(self) -> None:
        checked = self.run(
            'both', self.datasets[:2], self.best('both'), self.seeds[0], clips=self.clips[2]
        )
        setup.check(self.ledger, *checked)

    def line(
        self,
        arm: str,
        names: Sequence[str],
        settings: Mapping[str, float],
        seed: int,
        *,
        videos: int | None = None,
        search: bool = False,
    ) -> Mapping[str, Any]:
        """The figures of one training; of the arm `single`, of one for each dataset."""
        videos = self.videos if videos is None else videos
        if arm == 'single':
            clips = self.clips[len(names)]
            lines = [self._single(name, settings, seed, videos, clips, search) for name in names]
            top1 = {name: line['top1'][name] for name, line in zip(names, lines)}
            return {'top1': top1, 'average': float(np.mean(list(top1.values())))}
        clips = self.clips[len(names)]
        key = dict(arm=arm, datasets=len(names), videos=videos, clips=clips, seed=seed, **settings)
        return self._ensure(key, names, settings, search)

    def _single(self, name: str, settings, seed: int, videos: int, clips: int, search: bool):
        key = dict(arm='single', dataset=name, videos=videos, clips=clips, seed=seed, **settings)
        return self._ensure(key, (name,), settings, search)

    def _ensure(self, key: Mapping[str, Any], names: Sequence[str], settings, search: bool):
        run = functools.partial(
            self._train,
            key['arm'],
            names,
            settings,
            key['seed'],
            videos=key['videos'],
            clips=key['clips'],
            search=search,
        )
        return self.ledger.ensure({**key, 'search': search}, run)

    def _train(
        self,
        arm: str,
        names: Sequence[str],
        settings: Mapping[str, float],
        seed: int,
        **options: Any,
    ) -> dict[str, Any]:
        config, source = self.run(arm, names, settings, seed, **options)
        outcome = self.trainer.train(config, source)
        top1 = {name: round(outcome.accuracy[name].top1, 4) for name in names}
        line = {
            'top1': top1,
            'average': float(np.mean(list(top1.values()))),
            'train_top1': float(np.mean([outcome.training[f'top1/{name}'] for name in names])),
            'seconds': round(outcome.seconds, 1),
        }
        return line | self.more(outcome, source)

    def more(self, outcome: Outcome, source: ArrayData) -> dict[str, Any]:
        """Further figures of a training."""
        if 'projections' not in outcome.trained.params:
            return {}
        return {'related': agreements(outcome.trained)}

    def run(
        self,
        arm: str,
        names: Sequence[str],
        settings: Mapping[str, float],
        seed: int,
        *,
        videos: int = TRAIN_VIDEOS,
        clips: int,
        search: bool = False,
    ) -> tuple[Config, ArrayData]:
        """Config and data of one training."""
        # Without projections between them, heads do not know of each other: those of all datasets,
        # some of them idle, are one program for any number of datasets.
        with_projections = 'lambda_proj' in SPECIFIED[arm].losses
        config = related_data.base_config(names if with_projections else self.datasets)
        config.seed, cache = seed, self.output / 'clips'
        config.init_from = related_data.pretrained(
            self.output, seed % related_data.STARTS, self.trainer
        )
        config = set_arm(config, arm, names, settings, videos, clips)
        tested = 998 if search else 999
        return config, ArrayData(
            config,
            related_data.specs(list(config.datasets)),
            related_data.clips(names, 'train', videos, seed, cache),
            related_data.clips(names, 'validation', related_data.VALIDATION_VIDEOS, tested, cache),
            related.label_maps(names) if SPECIFIED[arm].maps else None,
        )


def agreements(trained: TrainedModel) -> dict[str, list[float]]:
    """For each pair: best matches that are related, classes with related ones, chance."""
    known, found = related.relations([spec.name for spec in trained.datasets]), {}
    for one in projections_of(trained):
        agreed = agreement(one, known)
        found[one.name] = [agreed.right, agreed.classes, round(agreed.chance, 2)]
    return found


def run_stages(experiment: Experiment, stage: str, stages: Sequence[str]) -> None:
    """One of the stages, or all of them."""
    for one in stages if stage == 'all' else [stage]:
        getattr(experiment, one)()


def main() -> int:
    stages = ('search', 'report', 'grow', 'check')
    parser = setup.parser('multitrain', __doc__)
    parser.add_argument('--stage', choices=(*stages, 'all'), default='all')
    args = parser.parse_args()
    experiment = Experiment(setup.output(args))
    if not args.page_only:
        run_stages(experiment, args.stage, stages)
    multitrain_page.write(args.page, experiment.ledger, DATASETS)
    return 0


if __name__ == '__main__':
    run_command(main)
