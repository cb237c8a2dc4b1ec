"""What MultiTrain's two losses do to a small model, from a random and from a pre-trained start.

    python experiments/diagnose.py --output=runs/diagnose [--page_only]

Two synthetic datasets ("directions" and "motions"), 80 videos of each. By start, batch, lambda_inf
(0, 0.003, ... 0.1), its warm-up, its two terms alone and accumulation: accuracy on training and
validation, and for some trainings, all along:

    gradient shares   of the norms of the gradients of cross-entropy, projection loss, variance and
                      covariance term, each with its weight, at the parameters of the backbone
    spectrum          of the embedding and of its expansion, over all validation clips: effective
                      rank (exponential of the entropy of the covariance's eigenvalues), mean
                      standard deviation of the dimensions, and the part of the variance that is
                      between classes

Larger batches have fewer updates, but more clips: updates go with batch ** -1/2, learning rates
with batch ** 1/4. Every finished training is a line of OUTPUT/diagnose.jsonl: started again, the
command goes on where it stopped; started several times at once, the processes share the trainings.
In the end it writes experiments/DIAGNOSE.md, its plots and a copy of these lines.
"""

from collections.abc import Iterator, Mapping, Sequence
import functools
from pathlib import Path
import sys
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from experiments import diagnose_page, related_data, setup  # noqa: E402
from experiments.arrays import ArrayData  # noqa: E402
from experiments.ledger import Ledger  # noqa: E402
from experiments.trainer import Program, Trainer  # noqa: E402
from multitrain_jax.augment.pipeline import prepare_eval  # noqa: E402
from multitrain_jax.config import Config, read_config  # noqa: E402
from multitrain_jax.errors import run_command  # noqa: E402
from multitrain_jax.training.train_step import OBJECTIVE  # noqa: E402

DATASETS = ('directions', 'motions')
TRAIN_VIDEOS = 80  # of each dataset
PIECE = 16
UPDATES = {'random': 800, 'pretrained': 400}  # at batch 16
RATES = {'random': 2e-3, 'pretrained': 1e-3}  # at batch 16
SEEDS = {16: 5, 64: 3, 256: 3}  # trainings, by batch
PLAIN = {'lambda_proj': 0.0, 'ramp': 0.0, 'accumulation': 'two_pass', 'part': 'both'}
PARTS = {'both': (1.0, 1.0), 'std': (1.0, 0.0), 'covariance': (0.0, 1.0)}
WATCHED = 10  # times along a training


def conditions(batch: int) -> Iterator[dict[str, Any]]:
    """What is trained with this batch."""
    lambdas = {16: (0.0, 0.003, 0.01, 0.03, 0.1), 64: (0.0, 0.1), 256: (0.0, 0.01, 0.1)}[batch]
    # From a random start a batch of 256 takes too long for several seeds.
    for start in ('pretrained',) if batch == 256 else tuple(UPDATES):
        base = {'start': start, 'batch': batch, 'lambda_inf': 0.1, **PLAIN}
        for lam in lambdas:
            yield base | {'lambda_inf': lam}
        if batch > PIECE:
            yield base | {'accumulation': 'plain'}
            continue
        yield base | {'ramp': 0.5}
        for part in ('std', 'covariance'):
            yield base | {'part': part}
        for lam in (0.0, 0.01):
            yield base | {'lambda_inf': lam, 'lambda_proj': 1.0}


def watched() -> Iterator[dict[str, Any]]:
    """The trainings that are looked at all along."""
    for batch in (16, 256):
        for start in UPDATES:
            for lam in (0.1, 0.01):
                both = {**PLAIN, 'lambda_proj': 1.0, 'watched': True}
                yield {'start': start, 'batch': batch, 'lambda_inf': lam, **both}


def run_config(condition: Mapping[str, Any], seed: int, start: str | None) -> Config:
    """Of one training."""
    config, batch = related_data.base_config(DATASETS), condition['batch']
    config.seed, config.init_from = seed, start
    config.batch_size, config.accumulation_steps = batch, batch // PIECE
    config.accumulation = condition['accumulation']
    steps = round(UPDATES[condition['start']] * (batch / PIECE) ** -0.5)
    config.epochs = steps * batch / (len(DATASETS) * TRAIN_VIDEOS)
    setup.set_rates(config, RATES[condition['start']] * (batch / PIECE) ** 0.25, steps=steps)
    setup.set_losses(
        config, lambda_inf=condition['lambda_inf'], lambda_proj=condition['lambda_proj']
    )
    return read_config(config)


class Experiment:
    """Trainings of this page and their lines."""

    def __init__(self, output: Path):
        self.ledger = Ledger(output / 'diagnose.jsonl')
        self._output, self._trainer = output, Trainer()

    def run(self, batches: Sequence[int], seeds: int) -> None:
        trainings = [(condition, 0) for condition in watched()]
        trainings += [
            ({**condition, 'watched': False}, seed)
            for batch in batches
            for seed in range(min(seeds, SEEDS[batch]))
            for condition in conditions(batch)
        ]
        self.ledger.spread(
            [
                functools.partial(
                    self.ledger.ensure,
                    {**condition, 'seed': seed},
                    functools.partial(self._train, condition, seed),
                )
                for condition, seed in trainings
            ]
        )

    def experiment(self, condition: Mapping[str, Any], seed: int) -> tuple[Config, ArrayData]:
        start = None
        if condition['start'] == 'pretrained':
            start = related_data.pretrained(self._output, seed % related_data.STARTS, self._trainer)
        config, cache = run_config(condition, seed, start), self._output / 'clips'
        count = related_data.VALIDATION_VIDEOS
        return config, ArrayData(
            config,
            related_data.specs(DATASETS),
            related_data.clips(DATASETS, 'train', TRAIN_VIDEOS, seed, cache),
            related_data.clips(DATASETS, 'validation', count, 999, cache),
        )

    def _train(self, condition: Mapping[str, Any], seed: int) -> dict[str, Any]:
        config, source = self.experiment(condition, seed)
        total = round(config.epochs * source.samples_per_epoch / config.batch_size)
        watch = Watch(config, source, total) if condition.get('watched') else None
        outcome = self._trainer.train(
            config,
            source,
            ramp=round(condition['ramp'] * total),
            parts=PARTS[condition['part']],
            watch=watch,
        )
        top1 = {name: round(one.top1, 4) for name, one in outcome.accuracy.items()}
        line = {
            'top1': top1,
            'average': float(np.mean(list(top1.values()))),
            'train_top1': float(np.mean([outcome.training[f'top1/{name}'] for name in DATASETS])),
            'cross_entropy': float(
                np.mean([outcome.training[f'classification/{name}'] for name in DATASETS])
            ),
            'seconds': round(outcome.seconds, 1),
        }
        return line if watch is None else {**line, 'trace': watch.trace}


class Watch:
    """Gradient shares and spectra, some times along a training.

    Attributes:
        trace: what was seen, in order of steps.
    """

    def __init__(self, config: Config, source: ArrayData, total: int):
        self._config, self._clips = config, list(_validation_clips(source))
        self._groups = np.concatenate([group for _, group in self._clips])
        # Close at first, where most changes.
        self._steps = {round(total * (i / WATCHED) ** 2) for i in range(WATCHED + 1)}
        self._programs = None
        self.trace: list[dict[str, float]] = []

    def __call__(self, step: int, state, batch, program: Program) -> None:
        if step not in self._steps:
            return
        if self._programs is None:
            self._programs = _gradient_norms(program, self._config), _spectrum(program)
        norms, spectrum = self._programs
        videos = [video for video, _ in self._clips]
        found = norms(state, batch) | spectrum(state.params, videos, self._groups)
        self.trace.append({'step': step, **{name: float(value) for name, value in found.items()}})


def _validation_clips(source: ArrayData) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Clips, and a number for each dataset and class."""
    for number in range(len(source.datasets)):
        for batch in source.evaluation_batches(number):
            real = batch['weight'] > 0
            yield batch['video'][real], 1000 * number + batch['label'][real]


@functools.lru_cache
def _norms_program(program: Program):
    """(state, batch) -> gradients of the backbone by term, each term of weight 1."""
    off = dict(lambda_inf=0.0, lambda_proj=0.0, learned_informative_weights=False)
    alone = {
        'std': {**off, 'lambda_inf': 1.0, 'std_weight': 1.0, 'covariance_weight': 0.0},
        'covariance': {**off, 'lambda_inf': 1.0, 'std_weight': 0.0, 'covariance_weight': 1.0},
        'projection': {**off, 'lambda_proj': 1.0},
    }

    def gradients(state, share):
        def of(**objective):
            return program.replica_step(**objective).gradients(state, share)[0]['backbone']

        cross_entropy = of(**off)
        parts = {
            name: jax.tree.map(jnp.subtract, of(**objective), cross_entropy)
            for name, objective in alone.items()
        }
        return {'cross_entropy': cross_entropy, **parts}

    return jax.jit(program.mapped(gradients))


def _gradient_norms(program: Program, config: Config):
    weights = {
        'cross_entropy': 1.0,
        'std': config.objective.lambda_inf * config.objective.std_weight,
        'covariance': config.objective.lambda_inf * config.objective.covariance_weight,
        'projection': config.objective.lambda_proj,
    }

    def norms(state, batch):
        found = _norms_program(program)(state, batch)
        flat = {
            name: weights[name]
            * np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(tree))])
            for name, tree in found.items()
        }
        norm = {name: float(np.linalg.norm(vector)) for name, vector in flat.items()}
        informative = flat['std'] + flat['covariance']
        cosine = flat['cross_entropy'] @ informative
        cosine /= max(norm['cross_entropy'] * np.linalg.norm(informative), 1e-12)
        return {f'gradient/{name}': value for name, value in norm.items()} | {
            'gradient/informative': float(np.linalg.norm(informative)),
            'gradient/cosine': float(cosine),
        }

    return norms


@functools.lru_cache
def _forward(program: Program):
    def forward(params, video):
        model = nnx.merge(program.wired.graphdef, params)
        config = program.wired.config.augment
        outputs = model(prepare_eval(video, mean=config.mean, std=config.std), training=True)
        return outputs.embedding, outputs.expanded

    return jax.jit(forward)


def _spectrum(program: Program):
    def spectrum(params, videos, groups):
        params = {name: part for name, part in params.items() if name != OBJECTIVE}
        parts = [jax.device_get(_forward(program)(params, video)) for video in videos]
        found = {}
        for name, arrays in zip(('embedding', 'expanded'), zip(*parts)):
            whole = np.concatenate(arrays).astype(np.float64)
            values = np.linalg.eigvalsh(np.cov(whole.T))
            share = np.maximum(values, 0) / values.sum()
            entropy = -(share * np.log(np.maximum(share, 1e-30))).sum()
            found[f'{name}/effective_rank'] = np.exp(entropy)
            found[f'{name}/deviation'] = whole.std(0, ddof=1).mean()
            found[f'{name}/between_classes'] = between_classes(whole, groups)
        return found

    return spectrum


def between_classes(embedding: np.ndarray, groups: np.ndarray) -> float:
    """The part of the variance f[n, D] that the means of the groups i[n] have."""
    means = np.stack([embedding[groups == group].mean(0) for group in groups])
    return float(means.var(0).sum() / embedding.var(0).sum())


def main() -> int:
    parser = setup.parser('diagnose', __doc__)
    parser.add_argument(
        '--batches', nargs='+', type=int, choices=tuple(SEEDS), default=tuple(SEEDS)
    )
    parser.add_argument('--seeds', type=int, default=max(SEEDS.values()), help='at most')
    args = parser.parse_args()
    experiment = Experiment(setup.output(args))
    if not args.page_only:
        experiment.run(args.batches, args.seeds)
        checked = {'start': 'pretrained', 'batch': 16, 'lambda_inf': 0.1, **PLAIN}
        setup.check(experiment.ledger, *experiment.experiment(checked, 0))
    diagnose_page.write(args.page, experiment.ledger)
    return 0


if __name__ == '__main__':
    run_command(main)
