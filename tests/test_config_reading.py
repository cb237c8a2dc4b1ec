"""Dataclasses of nested mappings: types are checked, and every message says where."""

from collections.abc import Mapping
import dataclasses
from typing import Literal

import pytest

from multitrain_jax import config_reading
from multitrain_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Inner:
    size: tuple[int, int]
    kind: Literal['a', 'b'] = 'a'

    def __post_init__(self):
        if self.size[0] > self.size[1]:
            raise ValueError(f'size={self.size} must rise')


@dataclasses.dataclass(frozen=True)
class Outer:
    rate: float
    count: int
    inner: Inner
    on: bool = False
    many: Mapping[str, Inner] = dataclasses.field(default_factory=dict)
    blocks: tuple[int, ...] = ()
    name: str | None = None


GOOD = {'rate': 1, 'count': 2, 'inner': {'size': [1, 2]}}


def test_build_converts_and_fills_in():
    got = config_reading.build(Outer, GOOD | {'many': {'x': {'size': (3, 4)}}, 'blocks': [1, 2, 3]})
    assert got == Outer(1.0, 2, Inner((1, 2)), many={'x': Inner((3, 4))}, blocks=(1, 2, 3))
    assert isinstance(got.rate, float)


def test_to_dict_is_the_opposite():
    got = config_reading.build(Outer, GOOD | {'many': {'x': {'size': (3, 4), 'kind': 'b'}}})
    assert config_reading.build(Outer, config_reading.to_dict(got)) == got


def test_none_may_be_written_as_text():
    """On the command line, --config.name=None arrives as text where the config file has one."""
    assert config_reading.build(Outer, GOOD | {'name': 'None'}).name is None
    assert config_reading.build(Outer, GOOD | {'name': 'some'}).name == 'some'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'cuont': 3}, 'config.cuont: unknown field; did you mean config.count?'),
        ({'xyz': 3}, 'config.xyz: unknown field; known fields: blocks, count, inner'),
        (
            {'inner': {'size': (1, 2), 'knd': 'a'}},
            'config.inner.knd: unknown field; did you mean config.inner.kind?',
        ),
        ({'inner': {}}, 'config.inner.size: missing'),
        ({'inner': 3}, 'config.inner=3: must be a group of fields'),
        ({'count': 2.5}, 'config.count=2.5: must be of type int, is float'),
        ({'count': True}, 'config.count=True: must be of type int, is bool'),
        ({'on': 1}, 'config.on=1: must be of type bool, is int'),
        ({'rate': 'fast'}, "config.rate='fast': must be of type float, is str"),
        ({'rate': True}, 'config.rate=True: must be of type float, is bool'),
        ({'inner': {'size': (1,)}}, 'must have 2 entries, has 1'),
        ({'inner': {'size': 5}}, 'config.inner.size=5: must be a tuple'),
        ({'inner': {'size': (2, 1)}}, 'config.inner: size=(2, 1) must rise'),
        (
            {'inner': {'size': (1, 2), 'kind': 'c'}},
            "config.inner.kind='c': must be one of 'a', 'b'",
        ),
        ({'many': {'x': {'size': (1, 'q')}}}, "config.many.x.size[1]='q': must be of type int"),
        ({'many': 3}, 'config.many=3: must be a group of named entries'),
        ({'name': 3}, 'config.name=3: must be of type str'),
    ],
)
def test_mistakes_say_where(change, message):
    with pytest.raises(UserError) as error:
        config_reading.build(Outer, GOOD | change)
    assert message in str(error.value)
    assert '\n' not in str(error.value)
