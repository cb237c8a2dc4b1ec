"""How settings are declared: a frozen dataclass, with range, default and meaning of each field.

    @settings
    class Views:
        '''The test views of a video.'''

        temporal: PositiveInt = 1  # clips along the video
        overlap: Annotated[float, Range(ge=0, lt=1)] = 0.0  # of neighbouring clips

Whoever makes an instance, from Python, a config file or JSON, has it checked here and is told in
the same words. The comments are what `run.py --print_config` shows. This module needs the standard
library alone, because both packages declare with it.
"""

import ast
from collections.abc import Callable, Mapping
import dataclasses
import functools
import inspect
import io
import math
import re
import textwrap
import tokenize
import types
import typing
from typing import Annotated, Any, Literal, TypeVar

T = TypeVar('T')

# Control characters but tab and line feed, and what turns the direction of writing.
_STEERING = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]')


def spelt_out(text: str) -> str:
    """A text with names from outside in it, to be shown: what would steer a terminal is spelt."""
    return _STEERING.sub(lambda found: repr(found[0])[1:-1], text)


def check_name(what: str, name: str) -> None:
    """
    Raises:
        ValueError: a name holds characters that lines of text cannot show.
    """
    if '\n' in name or spelt_out(name) != name:
        raise ValueError(f'{what} {name!r}: a name must not hold control characters')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Which numbers a field takes.

    Attributes:
        gt, ge: greater than, or at least, so much.
        lt, le: less than, or at most, so much.
        remedy: what to do instead, for who gives another number.
    """

    gt: float = -math.inf
    ge: float = -math.inf
    lt: float = math.inf
    le: float = math.inf
    remedy: str = ''

    def __contains__(self, number: float) -> bool:
        return self.gt < number < self.lt and self.ge <= number <= self.le  # False for NaN

    def __str__(self) -> str:
        low, high = max(self.gt, self.ge), min(self.lt, self.le)
        left, right = '(['[self.ge == low], ')]'[self.le == high]
        if (low, high) == (-math.inf, math.inf):
            rule = 'must be a finite number'
        elif (low, high) == (0, math.inf):
            rule = 'must be positive' if left == '(' else 'must not be negative'
        elif high == math.inf:
            rule = f'must be {"above" if left == "(" else "at least"} {low}'
        elif (left, right) == ('[', ']'):
            rule = f'must be between {low} and {high}'
        else:
            rule = f'must be in {left}{low}, {high}{right}'
        return f'{rule}; {self.remedy}' if self.remedy else rule


PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, le=1)]
DropRate = Annotated[float, Range(ge=0, lt=1)]
AnyFloat = Annotated[float, Range()]


@typing.dataclass_transform(frozen_default=True)
def settings(cls: type | None = None, *, rules: Callable[[Any], None] | None = None):
    """Makes a frozen dataclass whose instances are checked, field by field, then by `rules`.

    Args:
        cls: the class.
        rules: of what no field can tell alone: raises a ValueError. Those of a base class hold,
            too.
    """

    def decorate(cls: type) -> type:
        cls.__post_init__, cls._rules = check, rules
        return dataclasses.dataclass(frozen=True)(cls)

    return decorate if cls is None else decorate(cls)


def check(group: Any) -> None:
    """Checks the fields of a dataclass, then its rules.

    Raises:
        ValueError: field, value, and what it must be.
    """
    annotations = _annotations(type(group))
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if broken := _broken_rule(annotations[field.name], value):
            raise ValueError(f'{field.name}={value!r}{broken}')
    for base in reversed(type(group).__mro__):
        if rules := vars(base).get('_rules'):
            rules(group)


_annotations = functools.cache(functools.partial(typing.get_type_hints, include_extras=True))


def _broken_rule(annotation: Any, value: Any) -> str:
    """What the value must be; empty where it is that, or where nothing is said."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        ranges = [marker for marker in arguments[1:] if isinstance(marker, Range)]
        broken = next((f' {allowed}' for allowed in ranges if value not in allowed), '')
        return broken or _broken_rule(arguments[0], value)
    if origin is Literal and value not in arguments:
        return f' must be one of {", ".join(map(repr, arguments))}'
    if origin in (typing.Union, types.UnionType):
        others = [argument for argument in arguments if argument is not type(None)]
        if value is None or not all(broken := [_broken_rule(other, value) for other in others]):
            return ''
        return broken[0] if len(others) == len(arguments) else f'{broken[0]}, or None'
    if origin is tuple:
        entries = zip(arguments[:1] * len(value) if arguments[-1] is ... else arguments, value)
    elif inspect.isclass(origin) and issubclass(origin, Mapping):
        entries = ((arguments[1], entry) for entry in value.values())
    else:
        return ''
    broken = next(filter(None, (_broken_rule(*entry) for entry in entries)), '')
    return broken and f': each{broken.removeprefix(": each")}'


def narrowed(group: Any, base: type[T]) -> T:
    """The part of a dataclass that a base class of its declares."""
    return base(**{field.name: getattr(group, field.name) for field in dataclasses.fields(base)})


@functools.cache
def comments(cls: type) -> Mapping[str, str]:
    """What the source says of each field of a dataclass, on its lines or above; {}: no source."""
    found = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        texts = {
            token.start[0]: token.string.removeprefix('#').strip()
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        end = 0
        for node in ast.parse(source).body[0].body:
            if isinstance(node, ast.AnnAssign):
                lines = range(end + 1, node.end_lineno + 1)
                found[node.target.id] = ' '.join(texts[line] for line in lines if line in texts)
            end = node.end_lineno
    return found
