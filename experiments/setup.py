"""What the experiments' commands share: arguments, settings of an arm, a check of the trainer."""

import argparse
from collections.abc import Mapping
import dataclasses
import logging
import os
from pathlib import Path
import tempfile
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments.arrays import ArrayData
from experiments.ledger import Ledger
from experiments.trainer import Trainer
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.config import Config
from multitrain_jax.reporting import progress
from multitrain_jax.train import train_and_evaluate

WARMUP = 0.1  # of all updates


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The arguments that all commands have."""
    made = argparse.ArgumentParser(
        prog=f'python experiments/{name}.py',
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        '--output', required=True, help='directory of clips, models, finished trainings'
    )
    page = Path(__file__).with_name(f'{name.upper()}.md')
    made.add_argument('--page', type=Path, default=page, help='(default: %(default)s)')
    made.add_argument(
        '--page_only', action='store_true', help='train nothing; write the page of what is finished'
    )
    return made


def output(args: argparse.Namespace) -> Path:
    """The output directory; also turns on logging, and keeps compiled programs between calls."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    progress.set_up_logging()
    logging.getLogger('multitrain_jax').setLevel(logging.INFO)
    directory = Path(args.output).expanduser().resolve()
    directory.mkdir(parents=True, exist_ok=True)
    jax.config.update('jax_compilation_cache_dir', str(directory / 'xla'))
    return directory


def set_rates(config: ml_collections.ConfigDict, peak: float, *, steps: float) -> None:
    """Peak learning rate, a warm-up of a tenth of the updates, both ends at a hundredth of it."""
    config.optimizer.update(
        peak_learning_rate=peak,
        warmup_start_learning_rate=peak / 100,
        end_learning_rate=peak / 100,
        warmup_epochs=0.0,
        warmup_steps=max(1, round(WARMUP * steps)),
    )


def set_losses(
    config: ml_collections.ConfigDict, *, lambda_inf: float = 0.0, lambda_proj: float = 0.0
) -> None:
    """MultiTrain's losses, and the parts of the model that they need."""
    config.objective.update(lambda_inf=lambda_inf, lambda_proj=lambda_proj)
    config.model.update(expander=lambda_inf > 0, projections=lambda_proj > 0)


def check(ledger: Ledger, config: Config, source: ArrayData) -> Mapping[str, Any]:
    """Trains a tenth as long, by `Trainer` and by `train_and_evaluate`, on the same batches; the
    line of how far apart their parameters are. Later, rounding has grown too much to compare.
    """
    optimizer = config.optimizer
    config = dataclasses.replace(
        config,
        epochs=config.epochs / 10,
        optimizer=dataclasses.replace(
            optimizer,
            warmup_steps=optimizer.warmup_steps and optimizer.warmup_steps // 10,
            warmup_epochs=optimizer.warmup_epochs / 10,
        ),
    )

    def run() -> dict[str, Any]:
        outcome = Trainer().train(config, source)
        with tempfile.TemporaryDirectory() as workdir:
            train_and_evaluate(config, workdir, source=source)
            params = open_trained(workdir).params
        mine, theirs = (jax.tree.leaves(tree) for tree in (outcome.trained.params, params))
        distance = sum(float(np.square(a - b).sum()) for a, b in zip(mine, theirs, strict=True))
        size = sum(float(np.square(b).sum()) for b in theirs)
        return {'relative_distance': (distance / size) ** 0.5}

    return ledger.ensure({'check': 'train_and_evaluate, a tenth'}, run)
