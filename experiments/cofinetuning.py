"""Co-finetuning's claim, small: a starving downstream set beside upstream data, or after them.

    python experiments/cofinetuning.py --output=runs/method [--stage=search] [--page_only]

Downstream is "scenes", boxes with actions, long-tailed, of which there are few training videos;
upstream are "directions" and "motions", which show related movements. The arms:

    alone        "scenes" only
    transfer     two trainings: upstream, then "scenes" from its backbone, each with a warm-up and
                 a cosine of its own
    weighted     together, every clip drawn by the datasets' weights
    by_batch     together, every batch of one dataset, drawn by the same weights
    accumulated  together, every update of a batch of each dataset whose mean gradients are summed
    multitrain   as weighted, with MultiTrain's two losses on top

Equal between arms: videos, clips seen and updates in total, model, augmentation, and how
hyper-parameters are found: learning rate first, then the part of the clips that is of "scenes" (of
transfer: the part of the updates), on two seeds and validation videos that are not reported. A seed
is another draw of the training videos and of everything else that is random. Average precision at
0.5 intersection over union, boxes given; all actions equally frequent in validation.

Every finished training is a line of OUTPUT/cofinetuning.jsonl: started again, the command goes on
where it stopped; started several times at once, the processes share the trainings. In the end it
writes experiments/COFINETUNING.md, its plot and a copy of these lines.
"""

from collections.abc import Mapping, Sequence
import functools
from pathlib import Path
import sys
import tempfile
from typing import Any

import ml_collections
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from configs import quickstart_cofinetune  # noqa: E402
from experiments import cofinetuning_page, scene_data, setup  # noqa: E402
from experiments.arrays import ArrayData  # noqa: E402
from experiments.ledger import Ledger  # noqa: E402
from experiments.trainer import Outcome, Trainer  # noqa: E402
from multitrain_jax.config import Config, read_config  # noqa: E402
from multitrain_jax.errors import run_command  # noqa: E402

UPSTREAM = ('directions', 'motions')
DOWNSTREAM = 'scenes'
ARMS = ('alone', 'transfer', 'weighted', 'by_batch', 'accumulated', 'multitrain')
VIDEOS = {'directions': 200, 'motions': 200, DOWNSTREAM: 40}  # training
BATCH, UPDATES = 16, 500
SEEDS = tuple(range(8))
SEARCH_SEEDS = (100, 101)
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
PARTS = (0.25, 0.5, 0.75)  # of "scenes"
FIRST_PART = 0.5  # while the learning rate is searched
LAMBDAS = {'lambda_inf': 0.003, 'lambda_proj': 0.3}  # of `multitrain`: found by multitrain.py


def run_config(
    arm: str,
    names: Sequence[str],
    rate: float,
    part: float,
    seed: int,
    updates: int,
    start: str | None,
) -> Config:
    """Of one training, of the datasets `names`."""
    config = quickstart_cofinetune.get_config()
    scene_data.make_small(config)
    config.seed, config.init_from, config.batch_size = seed, start, BATCH
    for name in set(config.datasets) - set(names):
        del config.datasets[name]
    config.epochs = updates * BATCH / sum(VIDEOS[name] for name in names)
    setup.set_rates(config, rate, steps=updates)
    setup.set_losses(config, **(LAMBDAS if arm == 'multitrain' else {}))
    config.schedule = _schedule(arm, names, part)
    if arm == 'accumulated':
        for name, weight in _weights(names, part).items():
            config.datasets[name].batch_size = round(BATCH * weight)
    if DOWNSTREAM not in names:
        config.localisation = None
    return read_config(config)


def _weights(names: Sequence[str], part: float) -> dict[str, float]:
    others = (1 - part) / (len(names) - 1)
    return {name: part if name == DOWNSTREAM else others for name in names}


def _schedule(arm: str, names: Sequence[str], part: float) -> ml_collections.ConfigDict:
    if arm == 'accumulated':
        schedule = {'kind': 'accumulated'}
    elif arm in ('weighted', 'by_batch', 'multitrain'):
        by = 'batch' if arm == 'by_batch' else 'example'
        schedule = {'kind': 'weighted', 'by': by, 'weights': _weights(names, part)}
    else:
        schedule = {'kind': 'concatenate'}
    return ml_collections.ConfigDict(schedule)


class Experiment:
    """Trainings of this page and their lines."""

    def __init__(self, output: Path):
        self.ledger = Ledger(output / 'cofinetuning.jsonl')
        self._output, self._trainer = output, Trainer()

    def search(self) -> None:
        for arm in ARMS:
            self.best(arm)

    def best(self, arm: str) -> dict[str, float]:
        """Learning rate and part of "scenes" that the search finds, one after the other."""
        found = {'part': 1.0 if arm == 'alone' else FIRST_PART}
        grids = {'rate': RATES} if arm == 'alone' else {'rate': RATES, 'part': PARTS}
        for name, values in grids.items():
            found[name] = self.ledger.best(
                values,
                SEARCH_SEEDS,
                lambda value, seed, name=name: self.line(
                    arm, {**found, name: value}, seed, search=True
                )['mAP'],
            )
        return found

    def report(self) -> None:
        arms = {arm: self.best(arm) for arm in ARMS}
        self.ledger.spread(
            [functools.partial(self.line, arm, arms[arm], seed) for seed in SEEDS for arm in ARMS]
        )

    def check(self) -> None:
        names = (*UPSTREAM, DOWNSTREAM)
        setup.check(self.ledger, *self.run('multitrain', names, self.best('multitrain'), SEEDS[0]))

    def line(
        self, arm: str, settings: Mapping[str, float], seed: int, *, search: bool = False
    ) -> Mapping[str, Any]:
        """The figures of one arm."""
        key = dict(arm=arm, seed=seed, **settings, search=search)
        return self.ledger.ensure(key, functools.partial(self._train, arm, settings, seed, search))

    def _train(
        self, arm: str, settings: Mapping[str, float], seed: int, search: bool
    ) -> dict[str, Any]:
        if arm == 'alone':
            outcome = self._outcome(*self.run(arm, (DOWNSTREAM,), settings, seed, search))
        elif arm == 'transfer':
            outcome = self._transfer(settings, seed, search)
        else:
            names = (*UPSTREAM, DOWNSTREAM)
            outcome = self._outcome(*self.run(arm, names, settings, seed, search))
        result = outcome.accuracy[DOWNSTREAM]
        line = {
            'mAP': result.mean_average_precision,
            'frequent': result.frequent,
            'middle': result.middle,
            'rare': result.rare,
            'loss': outcome.training[f'localisation/{DOWNSTREAM}'],
            'seconds': round(outcome.seconds, 1),
        }
        upstream = [outcome.accuracy[name].top1 for name in UPSTREAM if name in outcome.accuracy]
        return line | ({'upstream': float(np.mean(upstream))} if upstream else {})

    def _outcome(self, config: Config, source: ArrayData) -> Outcome:
        return self._trainer.train(config, source)

    def _transfer(self, settings: Mapping[str, float], seed: int, search: bool) -> Outcome:
        after = round(UPDATES * settings['part'])
        config, source = self.run(
            'transfer', UPSTREAM, settings, seed, search, updates=UPDATES - after
        )
        first = self._outcome(config, source)
        with tempfile.TemporaryDirectory() as directory:
            first.trained.export(Path(directory) / 'upstream')
            second = self._outcome(
                *self.run(
                    'transfer',
                    (DOWNSTREAM,),
                    settings,
                    seed,
                    search,
                    updates=after,
                    start=str(Path(directory) / 'upstream'),
                )
            )
        return Outcome(
            {**first.accuracy, **second.accuracy},
            second.training,
            second.trained,
            first.seconds + second.seconds,
        )

    def run(
        self,
        arm: str,
        names: Sequence[str],
        settings: Mapping[str, float],
        seed: int,
        search: bool = False,
        *,
        updates: int = UPDATES,
        start: str | None = None,
    ) -> tuple[Config, ArrayData]:
        config = run_config(arm, names, settings['rate'], settings['part'], seed, updates, start)
        cache = self._output / 'clips'
        train = {name: scene_data.clips(name, 'train', VIDEOS[name], seed, cache) for name in names}
        validation = {
            name: scene_data.clips(
                name, 'validation', scene_data.VALIDATION_VIDEOS, 998 if search else 999, cache
            )
            for name in names
        }
        return config, ArrayData(config, scene_data.specs(names, train), train, validation)


def main() -> int:
    parser = setup.parser('cofinetuning', __doc__)
    parser.add_argument('--stage', choices=('search', 'report', 'check', 'all'), default='all')
    args = parser.parse_args()
    experiment = Experiment(setup.output(args))
    stages = {
        'search': experiment.search,
        'report': experiment.report,
        'check': experiment.check,
    }
    if not args.page_only:
        for stage in stages if args.stage == 'all' else [args.stage]:
            stages[stage]()
    cofinetuning_page.write(args.page, experiment.ledger)
    return 0


if __name__ == '__main__':
    run_command(main)
