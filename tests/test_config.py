"""Every config file is complete and is read, and its training step has shapes that fit."""

from collections.abc import Iterator, Mapping
import dataclasses
import inspect
import json
import pathlib
import typing
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import pytest

from data_pipelines.settings import Range, comments, settings
from multitrain_jax import config_reading, experiment
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.config import (
    Config,
    DatasetConfig,
    defaults,
    describe,
    read_config,
    read_stored_config,
    strided,
)
from multitrain_jax.errors import UserError
from multitrain_jax.models.vit import ViTConfig
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import check_divides, data_mesh
from tests.helpers import tiny, tiny_config
from tests.helpers.shipped_configs import CONFIGS, DIRECTORY, load


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
    'name',
    [
        # Larger clips and backbones of the same form: a slow test of each.
        pytest.param(name, marks=pytest.mark.slow)
        if name.partition(':')[2] in ('312p', '16x4', 'imagenet', 'k710', 'vjepa2_l')
        else name
        for name in CONFIGS
        if name != 'multitrain.py:k700'  # whose shapes are as without
    ],
)
def test_the_training_step_has_shapes_that_fit(name):
    """Traced on abstract arrays for 8 devices: nothing is computed or allocated."""
    config = read_config(load(name))
    numbers = (400, 305, 174, 200, 51, 101)
    datasets = [
        DatasetSpec(name, tuple(map(str, range(count))))
        for name, count in zip(config.datasets, numbers)
    ]
    driver = Pmap(data_mesh(jax.devices()[:8]))
    length = experiment.Length(round(100 * config.epochs), per_epoch=100)
    prepared = experiment.prepare(config, datasets, driver, length)
    state = prepared.shapes
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
    after, metrics = jax.eval_shape(prepared.train_step, state, batch)
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
        (
            {'datasets__shades': {'sampling': 'uniform'}},
            'config.datasets.shades.path: missing; it needs a value of type str',
        ),
        (
            {'localisation': {'max_boxes': 4, 'proposal_iou': 1.5}},
            'config.localisation: proposal_iou=1.5 must be in .0, 1.',
        ),
        (
            {'localisation': {'max_boxes': 4, 'test_short_sides': (8, 20)}},
            'test_short_sides=.8, 20. must not be below',
        ),
        (
            {'localisation': {'max_boxes': 4, 'head': {'dropout': 1.0}}},
            'config.localisation.head: dropout=1.0 must be in .0, 1.',
        ),
        ({'model__num_actions': (3,)}, 'config.model.num_actions: unknown field'),
    ):
        with pytest.raises(UserError, match=message):
            tiny.config(**changes)


# Every field of the whole tree: declared once, described, and open to the command line.

FROM_DATA = ('model.num_classes', 'model.num_actions', 'model.localisation_head')


def fields_below(cls: type, where: str = '') -> Iterator[tuple[str, type, Any]]:
    """(path, dataclass, declared type) of all fields; of the datasets, those of "scenes"."""
    declared = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        path, expected = f'{where}{field.name}', declared[field.name]
        if path in FROM_DATA:
            continue
        yield path, cls, expected
        if path == 'datasets':
            expected, path = typing.get_args(expected)[1], 'datasets.scenes'
        for kind in (expected, *typing.get_args(expected)):
            if inspect.isclass(kind) and dataclasses.is_dataclass(kind):
                yield from fields_below(kind, f'{path}.')


PLAIN = "--config.model.backbone={'blocks': 2, 'num_frames': 8, 'image_size': 64, 'heads': 4}"
PRINTED = {
    flags: describe(read_config(load('quickstart_cofinetune.py', *flags))).splitlines()
    for flags in ((), (PLAIN,))
}
FIELDS = {(path, cls.__name__): (cls, expected) for path, cls, expected in fields_below(Config)}


def backbone_of(cls: type) -> tuple[str, ...]:
    """What makes the config's backbone one of this class; none where it is not asked for."""
    return (PLAIN,) if cls is ViTConfig else ()


def parts(expected: Any) -> Iterator[Any]:
    """A declared type and all that it is made of."""
    yield expected
    for part in typing.get_args(expected):
        yield from parts(part)


def has_groups(expected: Any) -> bool:
    return any(inspect.isclass(one) and dataclasses.is_dataclass(one) for one in parts(expected))


@pytest.mark.parametrize(('path', 'name'), FIELDS)
def test_every_field_has_a_comment_and_every_number_a_range(path, name):
    cls, expected = FIELDS[path, name]
    if has_groups(expected):
        return  # a group has a docstring
    field = path.rpartition('.')[2]
    assert comments(cls)[field], f'{name}.{field} needs a comment'
    bare = [
        kind
        for kind in parts(expected)
        if typing.get_origin(kind) is not Annotated and set(typing.get_args(kind)) & {int, float}
    ]
    assert expected not in (int, float) and not bare, f'{name}.{field} needs a range'
    for kind in parts(expected):
        if typing.get_origin(kind) is Annotated:
            assert isinstance(kind.__metadata__[0], Range)


@pytest.mark.parametrize(('path', 'name'), FIELDS)
def test_every_field_is_printed_with_its_comment(path, name):
    cls, expected = FIELDS[path, name]
    if not has_groups(expected):
        comment = comments(cls)[path.rpartition('.')[2]]
        (line,) = (
            line for line in PRINTED[backbone_of(cls)] if line[2:].startswith(f'config.{path} = ')
        )
        assert line.endswith(f'# {comment}')


def test_groups_that_are_none_show_what_they_would_be():
    lines = describe(read_config(load('quickstart.py'))).splitlines()
    (line,) = (line for line in lines if 'config.localisation.proposal_iou' in line)
    assert line.startswith('- config.localisation.proposal_iou = 0.75 ')
    assert not [line for line in lines if 'num_classes' in line or 'localisation_head.' in line]


def test_what_differs_from_the_defaults_is_marked():
    config = read_config(load('quickstart_cofinetune.py', '--config.optimizer.clip_norm=2'))
    marked = {line.split(' = ')[0] for line in describe(config).splitlines() if line[0:1] == '*'}
    assert '* config.optimizer.clip_norm' in marked and '* config.epochs' in marked
    assert '* config.optimizer.b1' not in marked and '* config.localisation.test_flip' not in marked
    assert '* config.optimizer.clip_norm = 2.0  [1.0] ' in describe(config)


def given(expected: Any) -> Iterator[tuple[str, Any]]:
    """(text on the command line, value that it must become), for every kind of a declared type."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin is Annotated:
        yield from given(arguments[0])
    elif dataclasses.is_dataclass(expected):
        yield '{}', {}
    elif origin is typing.Literal:
        yield from ((str(one), one) for one in arguments)
    elif origin is tuple:
        entries = [next(given(one))[1] for one in arguments if one is not ...]
        yield repr(tuple(entries)), tuple(entries)
        if arguments[-1] is ...:
            yield '()', ()
            yield repr(entries * 3), tuple(entries * 3)
    elif inspect.isclass(origin) and issubclass(origin, Mapping):
        entry = next(given(arguments[1]))[1]
        yield repr({'a': entry, 'b': entry}), {'a': entry, 'b': entry}
    elif arguments:
        for one in arguments:
            yield from given(one)
    elif expected is type(None):
        yield from (('None', None), ('none', None))
    elif expected is bool:
        yield from (('True', True), ('false', False), ('1', True))
    elif expected in (int, float):
        yield from (('7', expected(7)), ('-3', expected(-3)))
        if expected is float:
            yield from (('1e-3', 0.001), ('.5', 0.5))
    else:
        yield 'some text', 'some text'


@pytest.mark.parametrize(('path', 'name'), FIELDS)
def test_every_field_can_be_set_on_the_command_line(path, name):
    """To every kind of value that it may have, whatever the file says: a number over None, ..."""
    cls, expected = FIELDS[path, name]
    texts = list(given(expected))
    assert texts
    for before in ('quickstart.py', 'quickstart_cofinetune.py'):  # without and with boxes
        if path.startswith('datasets.') and before == 'quickstart.py':
            continue
        for text, expected in texts:
            config = load(before, *backbone_of(cls), f'--config.{path}={text}')
            for part in path.split('.'):
                config = config[part]
            config = config.to_dict() if hasattr(config, 'to_dict') else config
            assert config == expected and type(config) is type(expected), (before, text)


def test_one_dataset_is_changed_and_not_its_neighbours():
    config = load(
        'quickstart_cofinetune.py',
        '--config.datasets.scenes.batch_size=3',
        '--config.datasets.scenes.target_frame_rate=None',
        '--config.datasets.directions.target_frame_rate=12.5',
        '--config.schedule.kind=alternating',
        '--config.schedule.size_power=1',
    )
    config = read_config(config)
    assert config.batch_sizes == {'directions': 16, 'motions': 16, 'scenes': 3}
    rates = {name: entry.target_frame_rate for name, entry in config.datasets.items()}
    assert rates == {'directions': 12.5, 'motions': 15.0, 'scenes': None}


def test_probabilities_may_be_given_one_by_one():
    names = ('motions', 'directions')
    flags = [f'--config.schedule.weights.{name}=0.{place}' for place, name in enumerate(names, 1)]
    config = read_config(load('quickstart.py', '--config.schedule.kind=weighted', *flags))
    assert config.schedule.weights == {'motions': 0.1, 'directions': 0.2}


def test_a_config_file_is_told_of_another_type_where_it_sets_it():
    """Of a field that is None, too: its type is known."""
    config = defaults()
    for field, value in (('init_from', 5), ('cpu_devices', 'two'), ('epochs', 'many')):
        with pytest.raises(TypeError, match=field):
            config[field] = value
    with pytest.raises(AttributeError, match='epoch'):
        config.lock().epoch = 3.0
    config.init_from, config.cpu_devices, config.epochs = 'runs/one', 2, 3
    config.datasets = {'one': strided('one', stride=2)}
    read = read_config(config)
    assert (read.init_from, read.cpu_devices, read.epochs) == ('runs/one', 2, 3.0)
    assert read.datasets == {
        'one': DatasetConfig('one', sampling='strided', stride=2, target_frame_rate=30.0)
    }


def test_a_field_is_not_undone_by_its_group():
    flags = '--config.localisation.max_boxes=5', '--config.localisation=None'
    with pytest.raises(UserError, match='=None: would undo --config.localisation.max_boxes'):
        load('quickstart.py', *flags)
    assert load('quickstart.py', '--config.localisation={}', flags[0]).localisation.max_boxes == 5


def test_a_group_that_is_none_begins_with_its_defaults():
    config = read_config(load('quickstart.py', '--config.localisation.max_boxes=5'))
    assert config.localisation.max_boxes == 5 and config.localisation.proposal_iou == 0.75
    config = read_config(load('quickstart_cofinetune.py', '--config.localisation=None'))
    assert config.localisation is None


@settings
class Warmer(Config):
    """An experiment with one field more: the line below is all that says so."""

    warmth: Annotated[float, Range(gt=0, lt=40)] = 20.0  # of the room, degrees Celsius


def test_a_new_field_is_one_line():
    def read(*flags):
        arguments = [f'--config={DIRECTORY / "quickstart.py"}', *flags]
        values = config_reading.load_config_file(arguments, Warmer).to_dict()
        return config_reading.build(
            Warmer, {**values, 'model': {**values['model'], 'num_classes': (2,)}}
        )

    assert read().warmth == 20.0 and read('--config.warmth=21').warmth == 21.0
    lines = config_reading.describe(read('--config.warmth=21'))
    (line,) = (line for line in lines if '.warmth' in line)
    assert line.split('  # ') == [
        f'{"* config.warmth = 21.0  [20.0]":<60}',
        'of the room, degrees Celsius',
    ]
    assert config_reading.config_tree(read()).warmth == 20.0
    stored = config_reading.to_dict(read())
    del stored['warmth']  # of a checkpoint from before
    assert config_reading.build(Warmer, stored).warmth == 20.0
    with pytest.raises(UserError, match=r'warmth=40.0 must be in \(0, 40\)'):
        read('--config.warmth=40')
    with pytest.raises(
        UserError, match='--config.warmht: unknown field; did you mean --config.warmth?'
    ):
        read('--config.warmht=21')


STORED = json.loads((pathlib.Path(__file__).parent / 'data' / 'stored_configs.json').read_text())


@pytest.mark.parametrize('name', STORED)
def test_configs_in_old_checkpoints_are_read(name):
    """As runs of November 2026 stored them, before settings were declared once."""
    again = config_reading.to_dict(read_stored_config(STORED[name]))

    def check(old, new, where):
        if isinstance(old, dict):
            for key, value in old.items():
                check(value, new[key], f'{where}.{key}')
        else:
            assert old == new, where

    # The numbers of classes are not read, but counted in the data.
    stored = {
        **STORED[name],
        'model': {**STORED[name]['model'], 'num_classes': [2] * len(again['datasets'])},
    }
    check(stored, again, name)
