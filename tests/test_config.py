"""Every config file is complete and is read, and its training step has shapes that fit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from multitrain_jax import optimizer
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.config import read_config
from multitrain_jax.errors import UserError
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import check_divides, data_mesh
from multitrain_jax.training import train_step
from tests.helpers import tiny, tiny_config
from tests.helpers.shipped_configs import CONFIGS, load


@pytest.mark.parametrize('name', CONFIGS)
def test_every_field_is_listed(name):
    """A reader of the file sees all that can be changed; nothing is left to defaults."""

    def check(value, given, where):
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                if where == 'config.model' and field.name in (
                    'num_classes',
                    'num_actions',
                    'localisation_head',
                ):
                    continue  # from the data, and from config.localisation
                assert field.name in given, f'{where}.{field.name} is not listed'
                check(getattr(value, field.name), given[field.name], f'{where}.{field.name}')
        elif isinstance(value, dict):
            for name, entry in value.items():
                check(entry, given[name], f'{where}.{name}')

    values = load(name).to_dict()
    check(read_config(values), values, 'config')


@pytest.mark.parametrize(
    'name', [name for name in CONFIGS if name != 'multitrain.py:k700']
)  # whose shapes are as without
def test_the_training_step_has_shapes_that_fit(name):
    """Traced on abstract arrays for 8 devices: nothing is computed or allocated."""
    config = read_config(load(name))
    numbers = (400, 305, 174, 200, 51, 101)
    datasets = [
        DatasetSpec(name, tuple(map(str, range(count))))
        for name, count in zip(config.datasets, numbers)
    ]
    graphdef, params = train_step.abstract_model(config, datasets)
    schedule = optimizer.learning_rate_schedule(
        config.optimizer, steps_per_epoch=100, total_steps=100 * config.epochs
    )
    tx = optimizer.build_optimizer(config.optimizer, schedule, params, config.model.backbone)
    state = jax.eval_shape(functools.partial(train_step.init_state, config, datasets, tx))
    driver = Pmap(data_mesh(jax.devices()[:8]))
    clips = check_divides(config.batch_size, driver.mesh, 'batch_size', config.accumulation_steps)
    config.augment.check_batch(clips)
    check_divides(config.evaluation.batch_size, driver.mesh, 'evaluation.batch_size')
    share = clips * config.accumulation_steps
    backbone = config.model.backbone
    batch = {
        'video': (
            (share, backbone.num_frames, backbone.image_size, backbone.image_size, 3),
            jnp.uint8,
        ),
        'dataset': ((share,), jnp.int32),
        'label': ((share,), jnp.int32),
        'weight': ((share,), jnp.float32),
    }
    batch = {
        name: jax.ShapeDtypeStruct((8, *shape), dtype) for name, (shape, dtype) in batch.items()
    }
    step = driver.train_step(train_step.make_train_step(config, datasets, graphdef, tx))
    after, metrics = jax.eval_shape(step, state, batch)
    describe = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert describe(after) == describe(state)
    assert metrics['loss'][0].shape == ()
    for name in config.datasets:
        assert f'classification/{name}' in metrics
        assert (f'projection/{name}' in metrics) == (config.objective.lambda_proj > 0)
    assert ('informative/std' in metrics) == (config.objective.lambda_inf > 0)


def test_numbers_of_classes_are_not_for_the_user():
    values = tiny_config.get_config()
    values.model.num_classes = (3, 5)
    with pytest.raises(UserError, match='config.model.num_classes: unknown field; .* dataset.json'):
        read_config(values)


def test_heads_are_in_the_order_of_the_names():
    values = tiny_config.get_config()
    values.datasets.aaa = values.datasets.shades
    assert list(read_config(values).datasets) == ['aaa', 'colours', 'shades']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(datasets={}), 'datasets is empty'),
        (dict(batch_size=0), 'batch_size=0 must be at least 1'),
        (dict(accumulation_steps=0), 'accumulation_steps=0'),
        (dict(input=dict(short_side=(8, 20))), 'input.short_side=.*image_size=16'),
        (dict(input=dict(short_side=(20, 16))), 'smallest, largest'),
        (dict(input=dict(repeats=3)), 'batch_size=16 must be a multiple of input.repeats=3'),
        (dict(checkpoint=dict(every_steps=0)), 'every_steps=0'),
        (dict(evaluation=dict(every_epochs=-1.0)), 'every_epochs=-1.0'),
        (dict(optimizer=dict(warmup_epochs=1.0)), 'warmup_epochs=1.0 and warmup_steps=1'),
    ],
)
def test_values_that_do_not_fit_are_refused(change, message):
    values = tiny_config.get_config().to_dict()
    for name, value in change.items():
        values[name] = {**values[name], **value} if value and isinstance(value, dict) else value
    with pytest.raises(UserError, match=message):
        read_config(values)


def test_schedules_and_boxes_that_make_no_sense_are_refused():
    assert tiny.config(
        schedule={'kind': 'accumulated'}, datasets__shades__batch_size=4
    ).batch_sizes == {'colours': 16, 'shades': 4}
    weighted = {'kind': 'weighted', 'weights': {'colours': 0.9, 'shades': 0.1}}
    assert tiny.config(schedule=weighted).schedule.weights == {'colours': 0.9, 'shades': 0.1}
    for changes, message in (
        ({'datasets__shades__batch_size': 4}, 'datasets.shades.batch_size=4 has no effect'),
        (
            {'schedule': weighted, 'datasets__shades__batch_size': 4},
            'datasets.shades.batch_size=4 has no effect',
        ),
        (
            {'schedule': {'weights': {'colours': 1.0}}},
            'weights and size_power need kind="weighted"',
        ),
        (
            {'schedule': {'kind': 'weighted', 'weights': {'colours': 1.0}}},
            'schedule.weights names colours: must name each of',
        ),
        (
            {'schedule': {'kind': 'task_by_task', 'order': ('shades', 'shades')}},
            'schedule.order names shades, shades: must',
        ),
        (
            {'schedule': {'kind': 'random'}},
            "config.schedule.kind='random': must be one of 'concatenate'",
        ),
        (
            {
                'input__repeats': 2,
                'schedule': {'kind': 'uniform'},
                'datasets__shades__batch_size': 5,
            },
            'batch_size=5 must be a multiple',
        ),
        ({'localisation': {}}, 'config.localisation.max_boxes: missing'),
        (
            {'localisation': {'max_boxes': 4, 'proposal_iou': 1.5}},
            'proposal_iou=1.5 must be between 0 and 1',
        ),
        (
            {'localisation': {'max_boxes': 4, 'test_short_sides': (8, 20)}},
            'test_short_sides=.8, 20. must not be below',
        ),
        (
            {'localisation': {'max_boxes': 4, 'head': {'dropout': 1.0}}},
            'dropout = 1.0: use 0 <= rate < 1',
        ),
        ({'model__num_actions': (3,)}, 'config.model.num_actions: unknown field'),
    ):
        with pytest.raises(UserError, match=message):
            tiny.config(**changes)
