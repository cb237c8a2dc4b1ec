"""From an ml_collections ConfigDict (what a user writes and overrides) to checked, frozen dataclasses (what the code reads).

Every field of the ConfigDict must be known to the dataclass, every field without a default must be given,
and every value must have the declared type; otherwise one line names the field, its value and the rule.
"""

from collections.abc import Mapping
import dataclasses
import difflib
import math
import types
import typing
from typing import Any, TypeVar

from multitrain_jax.errors import UserError

T = TypeVar('T')


def build(cls: type[T], values: Mapping[str, Any], where: str = 'config') -> T:
    """Makes a frozen dataclass of a (nested) mapping.

    Raises:
        UserError: unknown or missing field, value of another type, or a value the dataclass itself refuses.
    """
    known = {field.name: field for field in dataclasses.fields(cls) if field.init}
    types_of = typing.get_type_hints(cls)
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = (
                f'did you mean {where}.{close[0]}?'
                if close
                else f'known fields: {", ".join(sorted(known))}'
            )
            raise UserError(f'{where}.{name}: unknown field; {hint}')
    arguments = {}
    for name, field in known.items():
        if name in values:
            arguments[name] = _convert(types_of[name], values[name], f'{where}.{name}')
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(
                f'{where}.{name}: missing; it needs a value of type {_type_name(types_of[name])}'
            )
    try:
        return cls(**arguments)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f'{where}: {error}') from error


def to_dict(value: Any) -> Any:
    """The opposite of `build`: plain dicts, lists, numbers and strings, fit for JSON and for a ConfigDict."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: to_dict(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_dict(entry) for entry in value]
    return value


def _type_name(expected: Any) -> str:
    return (
        getattr(expected, '__name__', str(expected))
        if typing.get_origin(expected) is None
        else str(expected)
    )


def _convert(expected: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        # The command line cannot write None where the config file has a text.
        if type(None) in arguments and (value is None or value == 'None'):
            return None
        remaining = [argument for argument in arguments if argument is not type(None)]
        if len(remaining) == 1:
            return _convert(remaining[0], value, where)
        for argument in remaining:
            try:
                return _convert(argument, value, where)
            except UserError:
                continue
        raise UserError(f'{where}={value!r}: must be of type {_type_name(expected)}')
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f'{where}={value!r}: must be one of {", ".join(map(repr, arguments))}')
        return value
    if dataclasses.is_dataclass(expected):
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        if not isinstance(value, Mapping):
            raise UserError(f'{where}={value!r}: must be a group of fields ({expected.__name__})')
        return build(expected, value, where)
    if origin in (dict, Mapping) or expected is Mapping or (origin and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping):
            raise UserError(f'{where}={value!r}: must be a group of named entries')
        return {
            key: _convert(arguments[1], entry, f'{where}.{key}') for key, entry in value.items()
        }
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise UserError(f'{where}={value!r}: must be a tuple, for example (1, 2)')
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(
                _convert(arguments[0], entry, f'{where}[{i}]') for i, entry in enumerate(value)
            )
        if len(value) != len(arguments):
            raise UserError(
                f'{where}={value!r}: must have {len(arguments)} entries, has {len(value)}'
            )
        return tuple(
            _convert(a, entry, f'{where}[{i}]')
            for i, (a, entry) in enumerate(zip(arguments, value))
        )
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if expected is Any:
        return value
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise UserError(
            f'{where}={value!r}: must be of type {_type_name(expected)}, is {type(value).__name__}'
        )
    if expected is float and not math.isfinite(value):
        raise UserError(f'{where}={value!r}: must be a finite number')
    return value
