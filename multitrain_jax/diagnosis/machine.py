"""What `multitrain_jax.doctor` finds out about the machine."""

from collections.abc import Iterator
import glob
import importlib.metadata
import importlib.util
import math
import os
from pathlib import Path
import platform
import re
import resource
import shutil
import sys
import tempfile
import time
import tomllib

import numpy as np
from packaging.requirements import Requirement

from multitrain_jax.diagnosis.check import Check, warn_if

_ROOT = Path(__file__).resolve().parent.parent.parent
_OLDEST_PYTHON = (3, 11)
# Distributions that hold the same package.
_SAME = {
    'opencv-python-headless': (
        'opencv-python',
        'opencv-contrib-python-headless',
        'opencv-contrib-python',
    ),
}
# Of the dependencies, what training itself can do without, and what for it is.
_SERVES = {
    'tensorboard': 'TensorBoard files; without it metrics go to the log only',
    'av': 'reading videos: conversion and prediction',
    'simplejpeg': 'reading records',
    'opencv-python-headless': 'reading records and videos',
    'protobuf': 'reading records',
    'google-crc32c': 'reading records',
    'tqdm': 'conversion',
    'etils': 'datasets in object stores',
    'matplotlib': 'heat maps',
}
_OPTIONAL = (
    ('clu', "metrics through clu's writers, with TensorFlow", 'pip install clu tensorflow-cpu'),
    ('torch', 'importing PyTorch checkpoints', 'pip install torch pyyaml'),
    (
        'tensorflow-datasets',
        'datasets of TFDS',
        'pip install tensorflow-datasets array-record importlib-resources',
    ),
    ('dmvr', 'datasets of DMVR factories', 'see docs/data.md'),
    ('apache-beam', 'conversion on a cluster', 'pip install apache-beam'),
)
_ACCELERATORS = (
    ('NVIDIA GPU', '/dev/nvidia[0-9]*', 'jax[cuda12]'),
    ('TPU', '/dev/accel[0-9]*', 'jax[tpu]'),
)
# Open at once: a reader holds up to 128 shards of each split, Orbax some hundreds more.
_LEAST_FILES = 1024
_LEAST_MEMORY, _LEAST_DISK = 4 << 30, 2 << 30  # bytes


def packages() -> Iterator[Check]:
    """Python, what the project depends on, and what is optional."""
    python = platform.python_version()
    if sys.version_info[:2] >= _OLDEST_PYTHON:
        yield Check('ok', 'Python', f'{python}, {sys.executable}')
    else:
        remedy = (
            f'make a virtual environment of Python {".".join(map(str, _OLDEST_PYTHON))} or newer'
        )
        yield Check('fail', 'Python', f'{python} is too old', remedy)
    good, problems = [], []
    for requirement in _requirements():
        name, wanted = requirement.name, requirement.specifier
        have, serves = _version(name), _SERVES.get(name)
        severity, remedy = 'warn' if serves else 'fail', f"pip install '{name}{wanted}'"
        if have is None:
            text = f'not installed; it is for {serves}' if serves else 'not installed'
            problems.append(Check(severity, name, text, remedy))
        elif not wanted.contains(have, prereleases=True):
            problems.append(Check(severity, name, f'{have} is there, {wanted} is needed', remedy))
        else:
            good.append(f'{name} {have}')
    yield Check('ok', 'required', ', '.join(good))
    yield from problems
    jax, jaxlib = _version('jax'), _version('jaxlib')
    if jax != jaxlib:
        remedy = f"pip install 'jaxlib=={jax}' (or the extra of jax)"
        yield Check('fail', 'jaxlib', f'{jaxlib} does not belong to jax {jax}', remedy)
    there, missing = [], []
    for name, purpose, remedy in _OPTIONAL:
        if version := _version(name):
            there.append(f'{name} {version}')
        else:
            missing.append(f'{name} ({purpose}: {remedy})')
    parts = ', '.join(there), f'not installed: {", ".join(missing)}' if missing else ''
    yield Check('ok', 'optional', '; '.join(filter(None, parts)))


def _requirements() -> Iterator[Requirement]:
    """What the project needs on this system, as installed; in a clone, as pyproject.toml says."""
    try:
        lines = importlib.metadata.requires('multitrain_jax') or []
    except importlib.metadata.PackageNotFoundError:
        with open(_ROOT / 'pyproject.toml', 'rb') as file:
            lines = tomllib.load(file)['project']['dependencies']
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({'extra': ''}):
            yield requirement


def _version(name: str) -> str | None:
    for same in (name, *_SAME.get(name, ())):
        try:
            return importlib.metadata.version(same)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def devices() -> Iterator[Check]:
    """What JAX computes on, and that TensorFlow leaves it alone."""
    import jax

    try:
        found = jax.devices()
    except RuntimeError as error:
        remedy = 'JAX_PLATFORMS=cpu runs on the CPU; accelerators want jax[cuda12] or jax[tpu]'
        yield Check('fail', 'JAX', ' '.join(str(error).split()), remedy)
        return
    for kind in dict.fromkeys((device.platform, device.device_kind) for device in found):
        alike = [device for device in found if (device.platform, device.device_kind) == kind]
        memory = (alike[0].memory_stats() or {}).get('bytes_limit') if kind[0] != 'cpu' else None
        each = f', {bytes_text(memory)} each' if memory else ''
        yield Check('ok', kind[0].upper(), count(len(alike), kind[1]) + each)
    unset = ' (and leave JAX_PLATFORMS unset)' if os.environ.get('JAX_PLATFORMS') else ''
    for name, pattern, extra in _ACCELERATORS if found[0].platform == 'cpu' else ():
        if glob.glob(pattern):
            remedy = f"pip install '{extra}'{unset}"
            yield Check('warn', name, 'this machine has one that JAX does not use', remedy)
    yield _tensorflow()


def _tensorflow() -> Check:
    """TensorFlow as training imports it, behind TensorBoard's writer."""
    from multitrain_jax.reporting import writers

    kind = writers.import_writers()
    if kind != 'clu':
        where = 'go to the log only' if kind == 'log' else "are written by TensorBoard's own writer"
        return Check('ok', 'TensorFlow', f'not used, metrics {where}')
    seen = sys.modules['tensorflow'].config.get_visible_devices('GPU')
    if seen:
        text = f'takes memory of {len(seen)} GPUs that JAX needs'
        remedy = 'pip uninstall tensorflow && pip install tensorflow-cpu'
        return Check('fail', 'TensorFlow', text, remedy)
    return Check('ok', 'TensorFlow', 'writes TensorBoard files and keeps off the accelerators')


def system() -> Iterator[Check]:
    """Cores, memory, limits, disk."""
    from data_pipelines.cores import available_cores

    cores = available_cores()
    yield Check('ok', 'cores', f'{cores}, that read and decode')
    memory = available_memory()
    if memory is not None:
        text, remedy = f'{bytes_text(memory)} available', 'end other programs, or lower batch_size'
        yield warn_if(memory < _LEAST_MEMORY, 'memory', text, remedy)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _LEAST_FILES if most == resource.RLIM_INFINITY else min(4 * _LEAST_FILES, most)
    yield _limit('open files', files, 'at once', _LEAST_FILES, f'ulimit -n {wanted}')
    if hasattr(resource, 'RLIMIT_NPROC'):
        threads, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        yield _limit('threads', threads, 'of this user', 64 * cores, f'ulimit -u {256 * cores}')
    yield writable('temporary files', tempfile.gettempdir(), 'set TMPDIR to a directory with room')


def _limit(name: str, limit: int, what: str, least: int, remedy: str) -> Check:
    """A limit of the system, which should be no less."""
    if limit == resource.RLIM_INFINITY:
        return Check('ok', name, 'no limit')
    return warn_if(limit < least, name, f'{limit} {what}', remedy)


def available_memory() -> int | None:
    """Bytes; None where the system does not say."""
    try:
        found = re.search(r'^MemAvailable: *(\d+)', Path('/proc/meminfo').read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) << 10 if found else None


def writable(name: str, directory: str | os.PathLike, remedy: str) -> Check:
    """Whether a directory, or the nearest one above it that exists, is writable and has room."""
    place = Path(directory).expanduser().resolve()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            pass
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check('fail', name, f'{directory}: cannot be written ({error.strerror})', remedy)
    text = f'{directory}: writable, {bytes_text(free)} free'
    return warn_if(free < _LEAST_DISK, name, text, remedy)


def count(number: int, what: str) -> str:
    return f'{number} {what}{"" if number == 1 else "s"}'


def bytes_text(count: float) -> str:
    """Bytes in words."""
    from data_pipelines.inspection import text

    return text.bytes_text(count)


def decoding() -> Iterator[Check]:
    """JPEG and H.264 there and back, by the code that reads records and videos."""
    if importlib.util.find_spec('simplejpeg') is None or importlib.util.find_spec('cv2') is None:
        text = 'simplejpeg or OpenCV is missing, records cannot be read'
        yield Check('warn', 'JPEG', text, 'pip install simplejpeg opencv-python-headless')
        return
    import simplejpeg

    from data_pipelines.clip import decode
    from data_pipelines.videos import mp4, video_file

    y, x = np.mgrid[0:96, 0:128]
    picture = np.stack([2 * x, 2 * y, x + y], -1).astype(np.uint8)  # smooth: codecs keep it
    jpeg = simplejpeg.encode_jpeg(picture, 95, colorspace='RGB', colorsubsampling='444')
    began = time.perf_counter()
    decoded = decode.decode_frame([jpeg], 0)
    elapsed = time.perf_counter() - began
    by = f'simplejpeg {_version("simplejpeg")}, OpenCV {_version("opencv-python-headless")}'
    yield _same('JPEG', picture, decoded, by, elapsed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'video.mp4'
        mp4.write_video(path, [picture] * 8, 8)
        began = time.perf_counter()
        video = video_file.read_frames(path)
        elapsed, by = time.perf_counter() - began, f'PyAV {_version("av")}'
        yield _same('H.264', np.stack([picture] * 8), video.frames, by, elapsed)


def _same(name: str, wanted: np.ndarray, found: np.ndarray, by: str, seconds: float) -> Check:
    error = np.abs(wanted.astype(int) - found).mean() if wanted.shape == found.shape else math.inf
    if error > 4:
        remedy = 'pip install --force-reinstall simplejpeg opencv-python-headless av'
        return Check('fail', name, f'{by}: pixels come back wrong', remedy)
    frames = count(len(found) if found.ndim == 4 else 1, 'frame')
    return Check('ok', name, f'{by}: {frames} in {1e3 * seconds:.1f} ms')


# Of configs/quickstart.py, a model that compiles in seconds.
_TINY = (
    '--config.model.backbone.num_frames=4',
    '--config.model.backbone.image_size=16',
    '--config.model.backbone.width=8',
    '--config.model.backbone.heads=1',
    '--config.model.backbone.stage_blocks=(1,)',
    '--config.model.backbone.query_strides=((1, 1, 1),)',
    '--config.model.head_hidden=8',
    '--config.model.expander_hidden=8',
    '--config.input.short_side=(16, 20)',
    '--config.evaluation.short_side=16',
    '--config.optimizer.warmup_epochs=0.0',
    '--config.optimizer.warmup_steps=1',
    '--config.augment.rand_augment=',
)


def training_step() -> Iterator[Check]:
    """Two steps of a tiny model of the quickstart, on all devices, on noise."""
    import jax

    from multitrain_jax import experiment
    from multitrain_jax.batch import DatasetSpec
    from multitrain_jax.config import load_config
    from multitrain_jax.parallel.mesh import place

    clips = 2 * jax.device_count()
    sizes = (f'--config.batch_size={clips}', f'--config.evaluation.batch_size={clips}')
    config = load_config(['--config=quickstart', *_TINY, *sizes])
    datasets = [DatasetSpec(name, ('a', 'b', 'c')) for name in config.datasets]
    driver = experiment.open_devices(config)
    prepared = experiment.prepare(config, datasets, driver, experiment.Length(2, per_epoch=2))
    state = place(jax.jit(prepared.random_state)(), prepared.shardings)
    rng, local = np.random.default_rng(0), clips // jax.process_count()
    batch = driver.to_devices(
        {
            'video': rng.integers(0, 256, (local, 4, 16, 16, 3), np.uint8),
            'dataset': np.arange(local, dtype=np.int32) % len(datasets),
            'label': np.arange(local, dtype=np.int32) % 3,
            'weight': np.ones(local, np.float32),
        }
    )
    seconds, losses = [], []
    for _ in range(2):
        began = time.perf_counter()
        state, terms = prepared.train_step(state, batch)
        total, weight = jax.device_get(terms['loss'])
        losses.append(float(total / weight))
        seconds.append(time.perf_counter() - began)
    times = f'first step with compiling {seconds[0]:.1f} s, second {1e3 * seconds[1]:.0f} ms'
    if all(map(math.isfinite, losses)):
        then = f'loss {losses[0]:.3f}, then {losses[1]:.3f}; {times}'
        yield Check('ok', 'a tiny step', f'on {count(driver.mesh.size, "device")}: {then}')
    else:
        remedy = 'this should never be: please report it with this table'
        yield Check('fail', 'a tiny step', f'its loss is not finite: {losses}', remedy)
