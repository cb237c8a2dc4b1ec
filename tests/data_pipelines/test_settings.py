"""Fields say their range beside their type: every kind of field, what is told, and the comments."""

from collections.abc import Mapping
import dataclasses
import math
import subprocess
import sys
from typing import Annotated, Literal

import pytest

from data_pipelines.settings import (
    AnyFloat,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    comments,
    narrowed,
    settings,
)


def _low_is_below_high(group):
    if group.low >= group.high:
        raise ValueError(f'low={group.low} must be below high={group.high}')


@settings(rules=_low_is_below_high)
class Base:
    """A base."""

    low: int = 0  # of two
    # on a line above,
    # and another
    high: int = 9


@settings
class Group(Base):
    count: PositiveInt = 1  # at least one
    more: NonNegativeInt = 0
    rate: PositiveFloat | None = None  # a line; and
    share: Fraction = 0.5
    drop: Annotated[float, Range(ge=0, lt=1)] = 0.0
    overlap: Annotated[float, Range(gt=0, le=1)] = 1.0
    pair: Annotated[int, Range(ge=2, remedy='a clip and its partner')] = 2
    any: AnyFloat = 0.0
    kind: Literal['a', 'b'] = 'a'
    sides: tuple[PositiveInt, ...] = ()
    strides: tuple[tuple[PositiveInt, PositiveInt], ...] = ()
    weights: Mapping[str, NonNegativeFloat] | None = None
    name: str = ''


GOOD = dict(
    count=3,
    more=0,
    rate=1e-9,
    share=1.0,
    drop=0.0,
    overlap=1.0,
    pair=2,
    any=-1e300,
    kind='b',
    sides=(1, 2),
    strides=((1, 2),),
    weights={'x': 0.0},
)


@pytest.mark.parametrize(('name', 'value'), GOOD.items())
def test_values_within_their_ranges(name, value):
    assert getattr(Group(**{name: value}), name) == value


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('count', 0, 'count=0 must be at least 1'),
        ('more', -1, 'more=-1 must not be negative'),
        ('rate', 0.0, 'rate=0.0 must be positive, or None'),
        ('rate', math.nan, 'rate=nan must be positive, or None'),
        ('rate', math.inf, 'rate=inf must be positive, or None'),
        ('share', 1.1, 'share=1.1 must be between 0 and 1'),
        ('drop', 1.0, 'drop=1.0 must be in [0, 1)'),
        ('overlap', 0, 'overlap=0 must be in (0, 1]'),
        ('pair', 1, 'pair=1 must be at least 2; a clip and its partner'),
        ('any', math.inf, 'any=inf must be a finite number'),
        ('kind', 'c', "kind='c' must be one of 'a', 'b'"),
        ('sides', (3, 0), 'sides=(3, 0): each must be at least 1'),
        ('strides', ((1, 2), (1, 0)), 'strides=((1, 2), (1, 0)): each must be at least 1'),
        ('weights', {'x': -1}, "weights={'x': -1}: each must not be negative, or None"),
        ('high', 0, 'low=0 must be below high=0'),  # the rule of the base class
    ],
)
def test_what_is_told_of_other_values(name, value, message):
    with pytest.raises(ValueError) as error:
        Group(**{name: value})
    assert str(error.value) == message


def test_an_instance_is_frozen_and_so_is_what_is_made_of_it():
    group = Group()
    with pytest.raises(dataclasses.FrozenInstanceError):
        group.count = 2
    with pytest.raises(ValueError, match='count=0'):
        dataclasses.replace(group, count=0)


def test_the_part_of_a_base_class():
    assert narrowed(Group(low=3, high=4, count=7), Base) == Base(low=3, high=4)


def test_comments_come_from_the_source():
    found = comments(Group)
    assert found['low'] == 'of two' and found['high'] == 'on a line above, and another'
    assert found['count'] == 'at least one' and found['rate'] == 'a line; and'
    assert found['more'] == '' == found['name']


def test_a_class_without_source_has_no_comments():
    namespace = {'settings': settings}
    exec('@settings\nclass Made:\n    x: int = 1  # a number\n', namespace)
    assert comments(namespace['Made']) == {}


def test_settings_and_options_need_numpy_at_most():
    """`multitrain_jax.config` is made of them where neither video nor JPEG can be read."""
    code = (
        'import sys; import data_pipelines.options; '
        'print(*sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    foreign = set(done.stdout.split()) - {'data_pipelines', 'numpy', '__main__'}
    assert not {name for name in foreign if not name.startswith('_')}, foreign
