"""The programs of a config, lowered for devices that are only described: their arrays are shapes,
no data is read.

`tpu_compile.py` and `gpu_compile.py` compile them; the datasets' numbers of classes are known here.
"""

import dataclasses
import sys
import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from multitrain_jax import experiment
from multitrain_jax.batch import DatasetSpec, localising
from multitrain_jax.checkpoints import exports
from multitrain_jax.config import Config, with_datasets
from multitrain_jax.evaluation import views
from multitrain_jax.inference import model
from multitrain_jax.models.multitrain import abstract_model
from multitrain_jax.parallel import layout
from multitrain_jax.parallel.drivers import Driver, ShardMap
from multitrain_jax.parallel.mesh import check_divides, over_data
from tools import profile_step

PROGRAMS = ('train', 'evaluate', 'predict')  # predict: of an export, one clip
CLASSES = dict(
    activitynet=200,
    kinetics400=400,
    kinetics600=600,
    kinetics700=700,
    moments_in_time=305,
    something_v2=174,
    ava=80,
    ava_kinetics=80,
)
BOXES = ('ava', 'ava_kinetics')
# Of a training split, in thousands: for the hours of a run.
THOUSAND_VIDEOS = dict(
    activitynet=10,
    kinetics400=240,
    kinetics600=370,
    kinetics700=530,
    moments_in_time=727,
    something_v2=169,
)


def lower(program: str, config: Config, mesh: Mesh) -> jax.stages.Lowered:
    """One of `PROGRAMS`, for the devices of a mesh, real or described."""
    return {'train': _train, 'evaluate': _evaluate, 'predict': _predict}[program](
        config, _datasets(config), ShardMap(mesh)
    )


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What the program of a training step tells of its speed on one chip.

    Attributes:
        clips: of a step on this chip.
        model_flops: of the model for them, multiplication and addition two, the backward pass twice
            the forward pass.
        least_ms: what FLOPs and bytes of the program take at the chip's rates, added up over
            operations.
        ceiling: the model's FLOPs in this time over the chip's rate: the most that can be used of
            it.
        run_clips: of the whole run, in millions; 0: not known.
    """

    clips: float
    model_flops: float
    least_ms: float
    ceiling: float
    run_clips: float


def bounds(text: str, config: Config, chips: int, flop_rate: float, bandwidth: float) -> Bounds:
    """Those of a compiled training step of `config` on so many chips."""
    clips = config.batch_size / chips
    flops = 6 * clips * config.model.backbone.multiplications()
    rows = profile_step.by_kind(profile_step.count(text, flop_rate, bandwidth)[0])
    least_ms = sum(row.roofline_ms for row in rows.values())
    videos = sum(THOUSAND_VIDEOS.get(name, 0) for name in config.datasets)
    run_clips = config.epochs * config.input.repeats * videos / 1000
    return Bounds(clips, flops, least_ms, 1000 * flops / least_ms / flop_rate, run_clips)


def hours(run_clips: float, clips: float, ms: float, chips: int) -> float:
    """Of a run of so many million clips, where each of the chips takes `ms` for `clips`."""
    return 1e6 * run_clips / (1000 * clips / ms) / chips / 3600


class Clock:
    """Says on stderr what is done, and after how long."""

    def __init__(self):
        self.start, self.before = time.monotonic(), time.process_time()
        self.compiling = 0.0  # processor seconds between the last two notes

    def __call__(self, text: str) -> None:
        now = time.process_time()
        self.compiling, self.before = round(now - self.before, 1), now
        print(
            f'[{time.monotonic() - self.start:5.0f} s, {now:5.0f} s busy] {text}',
            file=sys.stderr,
            flush=True,
        )


def _datasets(config: Config) -> list[DatasetSpec]:
    def spec(name: str) -> DatasetSpec:
        classes = tuple(map(str, range(CLASSES[name])))
        if name in BOXES and config.datasets[name].task == 'auto':
            return DatasetSpec(name, classes, localisation=True, train_counts=(1,) * len(classes))
        return DatasetSpec(name, classes)

    return [spec(name) for name in config.datasets]


def _batch(
    config: Config, datasets, size: int, *, training: bool
) -> dict[str, jax.ShapeDtypeStruct]:
    backbone = config.model.backbone
    video = (size, backbone.num_frames, backbone.image_size, backbone.image_size, 3)
    batch = dict(
        video=jax.ShapeDtypeStruct(video, jnp.uint8),
        dataset=jax.ShapeDtypeStruct((size,), jnp.int32),
    )
    if localising(datasets):
        most = config.localisation.max_boxes
        batch['boxes'] = jax.ShapeDtypeStruct((size, most, 4), jnp.float32)
    if training:
        batch |= dict(
            label=jax.ShapeDtypeStruct((size,), jnp.int32),
            weight=jax.ShapeDtypeStruct((size,), jnp.float32),
        )
        if localising(datasets):
            actions = max(len(spec.classes) for spec in localising(datasets))
            batch['box_label'] = jax.ShapeDtypeStruct((size, most, actions), jnp.float32)
            batch['box_mask'] = jax.ShapeDtypeStruct((size, most), jnp.float32)
    return batch


def _placed(tree, shardings):
    """Shapes that say where the arrays lie; one sharding for all of them, or one for each."""
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        shardings,
    )


def _train(config: Config, datasets, driver: Driver) -> jax.stages.Lowered:
    clips = check_divides(config.batch_size, driver.mesh, 'batch_size', config.accumulation_steps)
    config.augment.check_batch(clips)
    length = experiment.Length(100_000, per_epoch=2000)
    prepared = experiment.prepare(config, datasets, driver, length)
    batch = _batch(config, datasets, config.batch_size, training=True)
    state = _placed(prepared.shapes, prepared.shardings)
    return prepared.train_step.lower(state, _placed(batch, over_data(driver.mesh)))


def _evaluate(config: Config, datasets, driver: Driver) -> jax.stages.Lowered:
    check_divides(config.evaluation.batch_size, driver.mesh, 'evaluation.batch_size')
    graphdef, params = abstract_model(with_datasets(config, datasets))
    shardings = layout.state_shardings(params, driver.mesh, with_datasets(config, datasets))
    step = views.make_eval_step(graphdef, datasets, config.augment, driver)
    batch = _batch(config, datasets, config.evaluation.batch_size, training=False)
    return step.lower(_placed(params, shardings), _placed(batch, over_data(driver.mesh)))


def _predict(config: Config, datasets, driver: Driver) -> jax.stages.Lowered:
    """The forward pass of an export, on one chip and one clip."""
    info, _ = exports.for_inference(exports.model_info(config, datasets), {})
    graphdef, params = abstract_model(info.model)
    one_chip = SingleDeviceSharding(driver.mesh.devices.flat[0])
    params, batch = (
        _placed(params, one_chip),
        _placed(_batch(config, datasets, 1, training=False), one_chip),
    )
    return jax.jit(model.make_forward(info, graphdef)).lower(
        params, batch['video'], batch.get('boxes')
    )
