"""A run that trains probes on a frozen backbone: features, probes, figures, exports."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import logging
import os
from pathlib import Path
import time
from typing import Any

from flax import nnx
import jax
import numpy as np

from multitrain_jax import config_reading, record_data
from multitrain_jax.augment.pipeline import prepare_eval
from multitrain_jax.batch import DatasetSpec, localising
from multitrain_jax.checkpoints import exports
from multitrain_jax.checkpoints.checksums import array_checksums
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.config import Config
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation.metrics import describe
from multitrain_jax.models.multitrain import MultiTrainConfig, abstract_model
from multitrain_jax.parallel.compilation_cache import keep_compiled
from multitrain_jax.probing import features, probes
from multitrain_jax.probing.features import Features
from multitrain_jax.reporting.progress import duration, timed
from multitrain_jax.training.workdir import write_request
from multitrain_jax.weights import warm_start

_log = logging.getLogger('multitrain_jax')

RESULTS_FILE = 'probe.json'


def run(config: Config, workdir: str | os.PathLike) -> dict[str, probes.Outcome]:
    """Trains the probes that `config.probe` describes, on one process; writes what came out.

    `workdir` gets `probe.json`, every figure, `export/DATASET`, the backbone with the best probe,
    and what was asked for.

    Raises:
        UserError: a mistake in the config, the data or the weights.
    """
    workdir = Path(workdir)
    keep_compiled(config.compilation_cache_dir)
    if config.init_from is None:
        raise UserError('config.probe needs config.init_from, whose backbone is probed')
    if jax.process_count() > 1:
        raise UserError('probes are trained by one process')
    backbone = config.model.backbone
    try:
        probed = backbone.with_attentive_pooling(config.probe.blocks)
    except ValueError as error:
        raise UserError(f'config.probe: {error}') from error
    specs = record_data.RecordData(config).datasets
    if localising(specs):
        raise UserError(
            f'config.datasets.{localising(specs)[0].name}: has boxes; probes are of whole clips: '
            'set its task="classification"'
        )
    if (workdir / 'checkpoints').is_dir():
        raise UserError(f'--workdir={workdir}: has a training run in it; give probes another one')
    params = _frozen(config)
    write_request(workdir, config)
    split_features = {
        split: [_features(config, specs, n, split, params) for n in range(len(specs))]
        for split in ('train', 'evaluation')
    }
    with timed(f'{len(config.probe.learning_rates)} probes of each of {len(specs)} datasets'):
        outcomes = probes.train(
            specs,
            split_features['train'],
            split_features['evaluation'],
            probed,
            config.optimizer,
            learning_rates=config.probe.learning_rates,
            epochs=config.epochs,
            batch_size=config.batch_size,
            label_smoothing=config.objective.label_smoothing,
            seed=config.seed,
            report=functools.partial(_log.info, 'probes: step %d of %d, loss %.4f'),
        )
    named = {spec.name: outcome for spec, outcome in zip(specs, outcomes)}
    for line in table(config, named):
        _log.info('%s', line)
    _save(workdir / RESULTS_FILE, config, named)
    for spec in specs:
        _export(workdir / 'export' / spec.name, config, spec, probed, params, named[spec.name])
    return named


def table(config: Config, outcomes: Mapping[str, probes.Outcome]) -> list[str]:
    """Lines: the figure of every learning rate, the best marked."""
    lines = []
    for name, outcome in outcomes.items():
        for n, (rate, result) in enumerate(zip(config.probe.learning_rates, outcome.results)):
            mark = '  best' if n == outcome.best else ''
            lines.append(f'{name}: learning rate {rate:g}: {describe(result)}{mark}')
    return lines


def models(workdir: str | os.PathLike, outcomes: Mapping[str, probes.Outcome]) -> list[str]:
    """Lines: where the model of each dataset is, and how to predict with it."""
    places = [f'{workdir}/export/{name}' for name in outcomes]
    return [
        *(
            f'export   {p}  python -m multitrain_jax.predict --checkpoint={p} VIDEO...'
            for p in places
        ),
        f'results  {workdir}/{RESULTS_FILE}',
    ]


def _frozen(config: Config) -> dict[str, Any]:
    """Parameters of the backbone."""
    model = MultiTrainConfig(config.model.backbone, (), projections=False, expander=False)
    shapes = abstract_model(model)[1]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    trained = open_trained(config.init_from, argument='config.init_from')
    mean, std = config.augment.mean, config.augment.std
    filled, report = warm_start.fill(zeros, model, (), trained, mean=mean, std=std)
    fresh = [row.name for row in report.rows if row.outcome == 'fresh']
    if fresh:
        raise UserError(f'config.init_from={config.init_from}: has no {fresh[0]}, which is probed')
    for line in report.differences:
        _log.info('%s', line)
    return filled['backbone']


def _features(
    config: Config,
    specs: tuple[DatasetSpec, ...],
    number: int,
    split: str,
    params: Mapping[str, Any],
) -> Features:
    spec = specs[number]
    entry = config.datasets[spec.name]
    evaluation = config.evaluation
    if split == 'train':
        entry = dataclasses.replace(entry, evaluation_split=entry.train_split)
        views = dict(temporal_views=config.probe.train_views, spatial_views=1)
        evaluation = dataclasses.replace(evaluation, **views)
    backbone = config.model.backbone.for_inference()
    data = record_data.EvaluationData(
        specs,
        record_data.evaluation_sources({spec.name: entry}, config.data_root, None),
        record_data.clip_size(config),
        evaluation,
        config.input,
    )
    own = data.datasets[number]
    model = MultiTrainConfig(backbone, (), projections=False, expander=False)
    graphdef = abstract_model(model)[0]
    mean, std = config.augment.mean, config.augment.std

    @jax.jit
    def tokens(params, video):
        pixels = prepare_eval(video, mean=mean, std=std)
        return nnx.merge(graphdef, {'backbone': params}).backbone(pixels).tokens

    clip = (evaluation.batch_size, backbone.num_frames, backbone.image_size, backbone.image_size, 3)
    size = jax.eval_shape(tokens, params, jax.ShapeDtypeStruct(clip, np.uint8)).shape[1:]
    path = os.path.join(os.path.expanduser(config.data_root), entry.path)
    settings = {
        'weights': array_checksums({'backbone': params}),
        'backbone': config_reading.to_dict(backbone),
        'mean': mean,
        'std': std,
        'dataset': config_reading.to_dict(entry),
        'files': features.files_of(path),
        'classes': spec.classes,
        'views': (own.views, evaluation.temporal_views, evaluation.spatial_views),
        'short_side': evaluation.short_side,
        'reduced_decoding': config.input.reduced_decoding,
        'batch_size': evaluation.batch_size,
    }
    started = time.monotonic()

    def report(done: int, of: int) -> None:
        left = (time.monotonic() - started) / done * (of - done)
        _log.info('features of %s: %d of %d clips, %s left', spec.name, done, of, duration(left))

    return features.cached(
        config.probe.cache_dir,
        f'{spec.name}-{entry.evaluation_split}',
        settings,
        shape=(own.evaluation_records, own.views, *size),
        labels=((len(spec.classes),), 'float32') if spec.multi_label else ((), 'int32'),
        batches=lambda: data.evaluation_batches(number),
        compute=lambda video: tokens(params, video),
        most_gib=config.probe.cache_gib,
        report=report,
    )


def _save(path: Path, config: Config, outcomes: Mapping[str, probes.Outcome]) -> None:
    rates = config.probe.learning_rates
    content = {
        name: {
            'best_learning_rate': rates[outcome.best],
            'results': [
                {'learning_rate': rate, **dataclasses.asdict(result)}
                for rate, result in zip(rates, outcome.results)
            ],
        }
        for name, outcome in outcomes.items()
    }
    path.write_text(json.dumps(content, indent=1) + '\n')


def _export(
    output: Path,
    config: Config,
    spec: DatasetSpec,
    backbone: Any,
    params: Mapping[str, Any],
    outcome: probes.Outcome,
) -> None:
    """The backbone with the best probe as its pooling, and a linear head."""
    form = dict(head_hidden=0, projections=False, expander=False)
    model = MultiTrainConfig(backbone.for_inference(), (len(spec.classes),), **form)
    info = dataclasses.replace(exports.model_info(config, [spec]), model=model)
    kept = {path: array for path, array in params.items() if path != 'pooler'}
    tree = {
        'backbone': {**kept, 'pooler': outcome.params['pooler']},
        'heads': {name: outcome.params[name][None] for name in ('kernel', 'bias')},
    }
    exports.write_export(output, info, tree)
