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


@dataclasses.dataclass(frozen=True)
class Left:
    size: int = 1
    left: float = 1.0


@dataclasses.dataclass(frozen=True)
class Right:
    size: int = 2
    right: float = 2.0


@dataclasses.dataclass(frozen=True)
class Either:
    side: Left | Right = Left()
    other: Left | Right | None = None


@pytest.mark.parametrize(
    ('side', 'expected'),
    [
        ({}, Left()),
        ({'size': 5}, Left(size=5)),
        ({'left': 3.0}, Left(left=3.0)),
        ({'right': 3, 'size': 5}, Right(size=5, right=3.0)),
        (Right(), Right()),
    ],
)
def test_of_several_groups_that_is_read_which_has_the_fields(side, expected):
    assert config_reading.build(Either, {'side': side, 'other': side}) == Either(expected, expected)
    again = config_reading.to_dict(Either(expected, expected))
    assert config_reading.build(Either, again) == Either(expected, expected)


@pytest.mark.parametrize(
    ('side', 'message'),
    [
        (
            {'size': 1, 'right': 1.0, 'left': 1.0},
            'config.side.right: unknown field of Left; known fields: left, size',
        ),
        (
            {'rihgt': 1.0, 'right': 1.0},
            'config.side.rihgt: unknown field of Right; did you mean config.side.right?',
        ),
        ({'right': 'far'}, "config.side.right='far': must be of type float, is str"),
        (3, 'config.side=3: must be a group of fields (Left or Right)'),
    ],
)
def test_mistakes_in_one_of_several_groups(side, message):
    with pytest.raises(UserError) as error:
        config_reading.build(Either, {'side': side})
    assert str(error.value) == message


@pytest.fixture
def file(tmp_path):
    """A config file whose `side` is a Right, and `other` None."""
    path = tmp_path / 'mine.py'
    path.write_text(
        'from multitrain_jax.config_reading import config_tree\n'
        'from tests.test_config_reading import Either, Right\n'
        'def get_config(size="4"):\n'
        '    return config_tree(Either(side=Right(size=int(size))))\n'
    )
    return path


def read(file, *arguments):
    own, others = config_reading.split_arguments([f'--config={file}', *arguments])
    assert others == []
    return config_reading.build(Either, config_reading.load_config_file(own, Either).to_dict())


def test_overrides_go_to_the_group_that_is_there(file):
    assert read(f'{file}:7') == Either(Right(7, 2.0))
    assert read(file, '--config.side.right', '3') == Either(Right(4, 3.0))
    assert read(file, "--config.side={'left': 2}") == Either(Left(left=2.0))
    assert read(file, '--config.other.left=2', '--config.other.size=3').other == Left(3, 2.0)
    with pytest.raises(UserError, match='--config.side.left: unknown field of Right; known fields'):
        read(file, '--config.side.left=3')
    with pytest.raises(UserError, match=r'config.side.size.big: unknown field; .* no group'):
        read(file, '--config.side.size.big=3')


def test_the_order_of_a_command_line():
    arguments = [
        '--config',
        'a.py:b',
        '--workdir=w',
        '-config.x',
        '3',
        '--noconfig.y',
        '--config.z',
    ]
    own, others = config_reading.split_arguments(arguments)
    assert own == ['--config=a.py:b', '--config.x=3', '--config.y=False', '--config.z']
    assert others == ['--workdir=w']


def test_the_last_of_two_values_holds_and_entries_of_a_tuple_add_up(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        'import ml_collections\n'
        'def get_config():\n'
        '    config = ml_collections.ConfigDict(dict(count=2, inner=dict(size=(1, 2))))\n'
        '    config.blocks, config.name = (), None\n'
        '    config.rate = config.get_ref("count") * 2\n'  # follows it
        '    return config\n'
    )
    flags = [
        '--config.count=4',
        '--config.count=9',
        '--config.blocks=3',
        '--config.blocks=5',
        '--config.on',
    ]
    got = config_reading.build(
        Outer, config_reading.load_config_file([f'--config={path}', *flags], Outer).to_dict()
    )
    assert (got.count, got.rate, got.blocks, got.on) == (9, 18.0, (3, 5), True)
