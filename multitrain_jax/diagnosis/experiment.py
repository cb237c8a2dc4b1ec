"""What `doctor` finds out about an experiment: config, data, batches, memory, where it starts."""

from collections.abc import Iterator
import dataclasses
import math
from typing import Any

import jax
import numpy as np

from multitrain_jax import experiment as wiring
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.config import Config, load_config
from multitrain_jax.diagnosis.check import Check, warn_if
from multitrain_jax.diagnosis.machine import available_memory, bytes_text, count, writable
from multitrain_jax.models.parameters import partition
from multitrain_jax.parallel.drivers import open_driver
from multitrain_jax.parallel.mesh import DATA_AXIS, ParallelConfig

_LOOK_AT = 3  # records of each split: first, middle, last
_MOST_COMPARED = 20_000  # clips, of which frames are looked at to find the same video
_ASSUMED_CLASSES = 400  # of datasets that cannot be opened yet


def experiment(config_arguments: list[str]) -> Iterator[Check]:
    """All about the config that the arguments name."""
    try:
        config = load_config(config_arguments)
    except ValueError as error:
        yield Check('fail', 'config', str(error), 'the config file comments every field')
        return
    datasets = f'{count(len(config.datasets), "dataset")} ({", ".join(config.datasets)})'
    yield Check('ok', 'config', f'{config_arguments[0].partition("=")[2]}: {datasets}')
    wanted, there = config.cpu_devices, jax.device_count()
    if wanted and jax.default_backend() == 'cpu' and there != wanted:
        text = f'run.py will split the CPU into {wanted}; here it counts as {there}'
        yield Check('ok', 'cpu_devices', text)
    if config.synthetic is not None:
        yield writable('data_root', config.data_root, 'set config.data_root to a disk with room')
    if config.compilation_cache_dir:
        remedy = 'set config.compilation_cache_dir to another directory'
        yield writable('compilation_cache_dir', config.compilation_cache_dir, remedy)
    specs = None
    if (yield from _datasets(config)):
        yield from _leakage(config)
        specs = yield from _batches(config)
    yield from _memory(config, specs)
    yield from _start(config)


def _datasets(config: Config) -> Iterator[Check]:
    """The splits of every dataset; returns whether a run could read them all now."""
    from data_pipelines import files

    whole = True
    for name, entry in config.datasets.items():
        place = files.join(files.expand_home(config.data_root), entry.path)
        made_by_run = (
            config.synthetic is not None and ':' not in entry.path and not files.is_directory(place)
        )
        if made_by_run:
            text = f'{place} is not there yet: the run renders and converts it first'
            yield Check('ok', name, text)
            whole = False
            continue
        checks = [_split(config, name, place, training) for training in (True, False)]
        whole &= all(check.state != 'fail' for check in checks)
        if checks[0].state == 'fail' and checks[0].text == checks[1].text:  # of the whole dataset
            checks = [dataclasses.replace(checks[0], name=name)]
        yield from checks
    return whole


def _leakage(config: Config) -> Iterator[Check]:
    """Videos that one dataset trains on and another (or the same) tests on."""
    from data_pipelines.cores import available_cores
    from data_pipelines.inspection import leakage
    from multitrain_jax.record_data import open_split

    wanted, total = {}, 0
    for name, entry in config.datasets.items():
        if entry.path.startswith(('tfds:', 'dmvr:')):
            continue  # their records have no names that others know
        for training in (True, False):
            with open_split(config, name, training=training) as dataset:
                source = dataset.source
                wanted[source.path, source.split, training] = source.video_root
                total += dataset.num_records
    contents = total <= _MOST_COMPARED
    reading = dict(contents=contents, threads=available_cores())
    splits = [
        (training, leakage.read_videos(path, split, video_root=video_root, **reading))
        for (path, split, training), video_root in wanted.items()
    ]
    what = f'names{" and contents" if contents else ""} of {total:,} clips'
    leaks = leakage.find_leaks(splits)
    if not leaks:
        yield Check('ok', 'leakage', f'no video is trained on and tested on ({what})')
    roots = {path: video_root or '' for (path, _, _), video_root in wanted.items()}
    given = set(filter(None, roots.values()))
    if len(given) > 1:  # of each directory in turn
        given = roots.values()
    places = ' '.join([*roots, *(f'--video_root={video_root}' for video_root in given)])
    inspect = f'python -m data_pipelines.inspect {places} --quick --no_sheet --leaks=leaks.csv'
    for leak in leaks:
        yield Check(
            'warn',
            'leakage',
            f'{leak.trained} trains on {len(leak.matches)} of {leak.clips} clips that '
            f'{leak.tested} tests on ({leak.count("name")} by name, {leak.count("content")} by '
            f'content), such as {leak.matches[0].tested}; compared: {what}',
            f'{inspect} lists them' if leak is leaks[-1] else '',
        )


def _split(config: Config, name: str, place: str, training: bool) -> Check:
    """Opens a split as a run does, and decodes a few of its records."""
    from data_pipelines import files
    from multitrain_jax.record_data import open_split

    entry, backbone = config.datasets[name], config.model.backbone
    title = f'{name}, {entry.train_split if training else entry.evaluation_split}'
    clip = (backbone.num_frames, backbone.image_size, backbone.image_size, 3)
    try:
        with open_split(config, name, training=training) as dataset:
            records = np.linspace(0, dataset.num_records - 1, _LOOK_AT).astype(int)
            for record in np.unique(records).tolist():
                if training:
                    out = np.empty(clip, np.uint8)
                    dataset.write_training_clip(record, np.random.default_rng(0), out)
                else:
                    dataset.write_views(record, np.empty((dataset.views, *clip), np.uint8))
            kinds = 'action' if dataset.localises else 'class'
            kinds = f'{len(dataset.classes)} {kinds}{"es" if kinds == "class" else "s"}'
            views = '' if training else f', {count(dataset.views, "view")} each'
            text = f'{count(dataset.num_records, "record")} of {kinds}{views}'
            text += '; first, middle and last decode'
            counts = dataset.class_counts or ()
            without = [label for label, number in zip(dataset.classes, counts) if not number]
            if training and any(counts) and without:
                text += f'; no record of {len(without)} of them, such as {without[0]!r}'
                return Check('warn', title, text, 'the model cannot learn these')
            return Check('ok', title, text)
    except (ValueError, OSError) as error:
        text = str(error).removeprefix(
            f'dataset {name} (config.datasets.{name}.path, under config.data_root): '
        )
        remedy = f'or set config.data_root and config.datasets.{name}.path to where it is'
        if ':' not in entry.path and files.is_directory(place):
            inspect = f'python -m data_pipelines.inspect {place}'
            remedy = f'{inspect} lists all that is wrong with the records'
        return Check('fail', title, text, remedy)


def _batches(config: Config) -> Iterator[Check]:
    """How batches divide, and how long the run is; returns what is known of the datasets."""
    from multitrain_jax.record_data import RecordData

    try:
        # Without `synthetic`: nothing is to be rendered here.
        source = RecordData(dataclasses.replace(config, synthetic=None))
        driver = wiring.open_devices(config)
        length = wiring.run_length(config, source)
        wiring.prepare(config, source.datasets, driver, length)
    except ValueError as error:
        yield Check('fail', 'batches', str(error))
        return None
    replicas = driver.mesh.shape[DATA_AXIS]
    pieces = f' in {config.accumulation_steps} parts' if config.accumulation_steps > 1 else ''
    yield Check(
        'ok',
        'batches',
        f'{source.clips_per_step:g} clips, {source.clips_per_step / replicas:g} on each of '
        f'{count(replicas, "replica")}{pieces}; '
        f'{source.samples_per_epoch} clips an epoch, {length.steps} steps',
    )
    return source.datasets


def _memory(config: Config, specs: tuple[DatasetSpec, ...] | None) -> Iterator[Check]:
    """Parameters, and what a training device must hold: from shapes, nothing is compiled."""
    assumed = ''
    if specs is None:
        specs = tuple(
            DatasetSpec(name, tuple(map(str, range(_ASSUMED_CLASSES)))) for name in config.datasets
        )
        config = dataclasses.replace(config, localisation=None)
        assumed = f'; with {_ASSUMED_CLASSES} classes in each dataset, which is not known'
    # Neither devices nor schedule matter for the shapes: there is room for any warm-up.
    length = wiring.Length(2**31, per_epoch=1.0)
    prepared = wiring.prepare(config, specs, open_driver(ParallelConfig()), length)
    params = prepared.abstract_params
    parts = {name: _numbers(branch) for name, branch in params.items()}
    listed = ', '.join(f'{name} {number:,}' for name, number in parts.items())
    yield Check('ok', 'parameters', f'{sum(parts.values()):,} ({listed}){assumed}')
    trainable, _ = partition(prepared.shapes.params, config.optimizer.frozen)
    fixed = _bytes(prepared.shapes) + _bytes(trainable)  # and a gradient of each
    shares = jax.device_count() // config.parallel.model * config.accumulation_steps
    clips = -(-config.batch_size // shares)
    kept = _kept_for_backward(config, prepared.graphdef, params, clips)
    text = (
        f'{bytes_text(fixed)} of parameters, optimizer and gradients, and at most '
        f'{bytes_text(kept)} of activations of {count(clips, "clip")}'
        f' (before the compiler leaves some out)'
    )
    device = jax.devices()[0]
    limit = available_memory()
    if device.platform != 'cpu':
        limit = (device.memory_stats() or {}).get('bytes_limit')
    yield warn_if(
        limit is not None and fixed + kept > limit,
        'memory of a device',
        text + (f'; there are {bytes_text(limit)}' if limit else ''),
        'if it does not fit: raise accumulation_steps, or set '
        'model.backbone.remat_attention=True, or remat=True',
    )


def _kept_for_backward(config: Config, graphdef: Any, params: Any, clips: int) -> int:
    """Bytes that the backward pass of so many clips reads, by JAX's own differentiation."""
    from flax import nnx

    backbone = config.model.backbone
    size = backbone.image_size
    video = jax.ShapeDtypeStruct((clips, backbone.num_frames, size, size, 3), np.float32)

    def backward(params, video):
        def forward(params):
            outputs = nnx.merge(graphdef, params)(video, key=jax.random.key(0), training=True)
            return outputs.embedding.sum() + sum(
                x.sum() for x in (outputs.logits, outputs.projected) if x is not None
            )

        return jax.vjp(forward, params)[1]

    return max(0, _bytes(jax.eval_shape(backward, params, video)) - _bytes(params))


def _numbers(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _bytes(tree: Any) -> int:
    return sum(
        math.prod(leaf.shape) * (leaf.dtype.itemsize if hasattr(leaf.dtype, 'itemsize') else 8)
        for leaf in jax.tree.leaves(tree)
    )


def _start(config: Config) -> Iterator[Check]:
    """What the first parameters come from."""
    if config.init_from is not None:
        try:
            source = open_trained(config.init_from, argument='config.init_from')
        except ValueError as error:
            yield Check('fail', 'init_from', str(error))
            return
        found = (
            f'{_numbers(source.params):,} parameters, heads of {", ".join(source.info.datasets)}'
        )
        yield Check('ok', 'init_from', f'{config.init_from}: {found}')
