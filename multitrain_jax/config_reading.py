"""File, flags, JSON -> checked dataclasses, and back.

A config file makes an ml_collections ConfigDict. The command line names it,
`--config=FILE[:VARIANT]`, and changes it, `--config.GROUP.FIELD=VALUE`, by the types that the
dataclasses declare. Every field must be known and every value have its type; otherwise one line
names field, value and rule.
"""

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import difflib
import importlib.machinery
import importlib.util
import inspect
import json
import math
from pathlib import Path
import re
import traceback
import types
import typing
from typing import Any, TypeVar

import ml_collections
from ml_collections.config_dict import placeholder

from data_pipelines.settings import comments
from multitrain_jax.errors import UserError

T = TypeVar('T')

_BOOLEANS = {'true': True, 't': True, '1': True, 'false': False, 'f': False, '0': False}


# Dataclasses of nested mappings, and the opposite.


def build(cls: type[T], values: Mapping[str, Any], where: str = 'config') -> T:
    """Makes a frozen dataclass of a (nested) mapping.

    Raises:
        UserError: unknown or missing field, value of another type, or a value the dataclass itself
            refuses.
    """
    return _build((cls,), values, where)


def to_dict(value: Any) -> Any:
    """The opposite of `build`: plain dicts, lists, numbers and strings, fit for JSON."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: to_dict(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_dict(entry) for entry in value]
    return value


def config_tree(group: Any) -> ml_collections.ConfigDict:
    """A dataclass as a ConfigDict; a field that is None keeps its type, to be set later."""

    def entry(value: Any, expected: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return config_tree(value)
        if isinstance(value, Mapping):
            kind = typing.get_args(expected)[1]
            return ml_collections.ConfigDict({key: entry(v, kind) for key, v in value.items()})
        kinds = [typing.get_origin(kind) or kind for kind in _alternatives(expected)]
        if value is None and kinds[0] in (int, float, str, tuple):
            return placeholder(kinds[0])
        return value

    declared = _field_types(type(group))
    return ml_collections.ConfigDict(
        {name: entry(getattr(group, name), expected) for name, expected in declared.items()}
    )


def describe(
    group: Any,
    usual: Any = None,
    where: str = 'config',
    *,
    hidden: Collection[str] = (),
    off: bool = False,
) -> Iterator[str]:
    """Lines that show a dataclass and all groups in it: fields, values, comments.

    Marked are fields that differ ('*'), beside what they are in `usual`, else by default, and those
    of groups that are None ('-'), with their defaults.

    Args:
        group: the dataclass.
        usual: one to compare with, where it is of the same class.
        where: what it is called.
        hidden: fields to leave out, as they are called here.
        off: it is not there.
    """
    yield f'\n{where}: {inspect.getdoc(type(group)).partition(chr(10))[0]}'
    declared, groups = _field_types(type(group)), {}
    for field in dataclasses.fields(group):
        value, path = getattr(group, field.name), f'{where}.{field.name}'
        default = getattr(usual, field.name) if type(usual) is type(group) else field.default
        if path in hidden:
            continue
        if dataclasses.is_dataclass(value):
            groups[path] = value, default, off
            continue
        if isinstance(value, Mapping) and all(map(dataclasses.is_dataclass, value.values())):
            groups |= {f'{path}.{name}': (entry, None, off) for name, entry in value.items()}
            continue
        if value is None and (kinds := _groups(declared[field.name])):
            groups[path] = kinds[0](), None, True
        line = f'{"-" if off else " *"[value != default]} {path} = {value!r}'
        if value != default and default is not dataclasses.MISSING:
            line += f'  [{default!r}]'
        comment = comments(type(group)).get(field.name)
        yield f'{line:<60}  # {comment}' if comment else line
    for path, (value, default, off) in groups.items():
        yield from describe(value, default, path, hidden=hidden, off=off)


def _build(groups: Sequence[type], values: Mapping[str, Any], where: str) -> Any:
    """Makes that of the dataclasses which has the given fields."""
    cls = _chosen(groups, values)
    declared = _field_types(cls)
    for name in values:
        if name not in declared:
            raise UserError(_unknown(groups, cls, name, where))
    arguments = {}
    for field in dataclasses.fields(cls):
        name, expected = field.name, declared[field.name]
        if name in values:
            arguments[name] = _convert(expected, values[name], f'{where}.{name}')
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(
                f'{where}.{name}: missing; it needs a value of type {_type_name(expected)}'
            )
    try:
        return cls(**arguments)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f'{where}: {error}') from error


def _field_types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _chosen(groups: Sequence[type], names: Sequence[str]) -> type:
    """The dataclass that has most of these fields; of equals the first."""
    return max(groups, key=lambda group: len(_field_types(group).keys() & set(names)))


def _unknown(groups: Sequence[type], cls: type, name: str, where: str) -> str:
    known = _field_types(cls)
    hint = f'known fields: {", ".join(sorted(known))}'
    if close := difflib.get_close_matches(name, known, n=1):
        hint = f'did you mean {where}.{close[0]}?'
    return f'{where}.{name}: unknown field{f" of {cls.__name__}" if groups[1:] else ""}; {hint}'


def _alternatives(expected: Any) -> list[Any]:
    """What a declared type may be, but None."""
    is_union = typing.get_origin(expected) in (typing.Union, types.UnionType)
    kinds = typing.get_args(expected) if is_union else (expected,)
    return [kind for kind in kinds if kind is not type(None)]


def _may_be_none(expected: Any) -> bool:
    return type(None) in typing.get_args(expected)


def _groups(expected: Any) -> list[type]:
    """The dataclasses that a declared type may be."""
    return [kind for kind in _alternatives(expected) if dataclasses.is_dataclass(kind)]


def _is_mapping(expected: Any) -> bool:
    origin = typing.get_origin(expected)
    return inspect.isclass(origin) and issubclass(origin, Mapping)


def _type_name(expected: Any) -> str:
    if typing.get_origin(expected) is not None:
        return str(expected)
    return getattr(expected, '__name__', str(expected))


def _convert(expected: Any, value: Any, where: str) -> Any:
    # The command line cannot write None where the config file has a text.
    if _may_be_none(expected) and (value is None or value == 'None'):
        return None
    if groups := _groups(expected):
        if dataclasses.is_dataclass(value):
            groups, value = [type(value)], to_dict(value)
        if not isinstance(value, Mapping):
            names = ' or '.join(group.__name__ for group in groups)
            raise UserError(f'{where}={value!r}: must be a group of fields ({names})')
        return _build(groups, value, where)
    kinds = _alternatives(expected)
    if len(kinds) > 1:
        for kind in kinds:
            try:
                return _convert(kind, value, where)
            except UserError:
                continue
        raise UserError(f'{where}={value!r}: must be of type {_type_name(expected)}')
    (expected,) = kinds
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f'{where}={value!r}: must be one of {", ".join(map(repr, arguments))}')
        return value
    if _is_mapping(expected):
        if not isinstance(value, Mapping):
            raise UserError(f'{where}={value!r}: must be a group of named entries')
        return {
            key: _convert(arguments[1], entry, f'{where}.{key}') for key, entry in value.items()
        }
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise UserError(f'{where}={value!r}: must be a tuple, for example (1, 2)')
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(value) != len(arguments):
            raise UserError(
                f'{where}={value!r}: must have {len(arguments)} entries, has {len(value)}'
            )
        return tuple(
            _convert(kind, entry, f'{where}[{i}]')
            for i, (kind, entry) in enumerate(zip(arguments, value))
        )
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise UserError(
            f'{where}={value!r}: must be of type {_type_name(expected)}, is {type(value).__name__}'
        )
    if expected is float and not math.isfinite(value):
        raise UserError(f'{where}={value!r}: must be a finite number')
    return value


# A config file on a command line.


def _shipped_directory() -> Path:
    """Inside the package where it is installed, beside it in a clone of the repository."""
    package = Path(__file__).resolve().parent
    inside = package / 'configs'
    return inside if inside.is_dir() else package.parent / 'configs'


def shipped() -> list[str]:
    """Names of the experiments that come with the project."""
    return sorted(path.stem for path in _shipped_directory().glob('[!_]*.py'))


def find(name: str) -> str:
    """The file that `--config=NAME` means: the one of this path where there is one, else a shipped
    one.

    Args:
        name: a path, or `quickstart`, `quickstart.py`, `configs/quickstart.py`.
    """
    path = Path(name)
    if not path.exists() and str(path.parent) in ('.', 'configs'):
        ours = _shipped_directory() / f'{path.name.removesuffix(".py")}.py'
        if ours.is_file():
            return str(ours)
    return name


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(arguments of the config, as `--config...=...`, all others)."""
    own, others, rest = [], [], list(arguments)
    while rest:
        argument = rest.pop(0)
        found = re.fullmatch(r'--?(no)?(config(?:\..*?)?)(=.*)?', argument, re.DOTALL)
        if not found:
            others.append(argument)
            continue
        no, name, value = found.groups()
        if value is None and not no and rest and not rest[0].startswith('--'):
            value = f'={rest.pop(0)}'
        own.append(f'--{name}{"=False" if no else value or ""}')
    return own, others


def load_config_file(arguments: Sequence[str], cls: type) -> ml_collections.ConfigDict | None:
    """Runs the file that the arguments name and changes its config; None where they name none.

    Args:
        arguments: as `split_arguments` gives them.
        cls: dataclass that declares the config's fields.

    Raises:
        UserError: a file that cannot be loaded, an override of an unknown field or of another type.
    """
    files = [argument for argument in arguments if argument.startswith('--config=')]
    if not files:
        if arguments:
            raise UserError(f'{arguments[0]}: needs --config=FILE')
        return None
    config = _run_file(files[-1])
    overrides: dict[str, list[str | None]] = {}  # in the order of the last time each is given
    for argument in arguments:
        name, equals, text = argument.partition('=')
        if name != '--config':
            undone = [other for other in overrides if other.startswith(f'{name}.')]
            if undone:
                raise UserError(f'{argument}: would undo {undone[0]}, which is before it')
            overrides[name] = [*overrides.pop(name, ()), text if equals else None]
    for name, texts in overrides.items():
        _override(config, cls, name.split('.')[1:], texts, '--config')
    return config


def names_json(arguments: Sequence[str]) -> bool:
    """Whether the config is a file of JSON, which is no code of the user's."""
    files = [argument for argument in arguments if argument.startswith('--config=')]
    return bool(files) and _is_json(files[-1].removeprefix('--config=').partition(':')[0])


def states(arguments: Sequence[str], field: str) -> bool:
    """Whether an argument sets a field, `datasets.colours.path`, or a group that it is in."""
    names = [argument.partition('=')[0].removeprefix('--config.') for argument in arguments]
    return any(f'{field}.'.startswith(f'{name}.') for name in names)


def _is_json(path: str) -> bool:
    return path.lower().endswith('.json')


def _override(
    group: ml_collections.ConfigDict,
    expected: Any,
    path: Sequence[str],
    texts: Sequence[str | None],
    where: str = '--config',
) -> None:
    """Sets what lies at `path` in a group of fields, or of named entries, of this type."""
    name, *rest = path
    if groups := _groups(expected):
        cls = _chosen(groups, group)
        field = next((field for field in dataclasses.fields(cls) if field.name == name), None)
        if field is None:
            raise UserError(_unknown(groups, cls, name, where))
        expected, default = _field_types(cls)[name], field.default
    else:
        expected, default = typing.get_args(_alternatives(expected)[0])[1], None
        if _groups(expected) and name not in group:
            raise UserError(
                f'{where}.{".".join(path)}: unknown field; there is {", ".join(group) or "none"}'
            )
    where = f'{where}.{name}'
    nested = _groups(expected) or _is_mapping(_alternatives(expected)[0])
    if rest and not nested:
        raise UserError(f'{where}.{".".join(rest)}: unknown field; {where} is no group of fields')
    with group.unlocked(), group.ignore_type():
        if not rest:
            group[name] = _parse(expected, texts, where)
            return
        inside = group.get(name, default)
        if dataclasses.is_dataclass(inside):
            inside = config_tree(inside)
        elif inside is None or inside is dataclasses.MISSING:
            inside = ml_collections.ConfigDict()
        if not isinstance(inside, ml_collections.ConfigDict):
            raise UserError(f'{where.removeprefix("--")}={inside!r}: must be a group of fields')
        group[name] = inside
    _override(inside, expected, rest, texts, where)


def _parse(expected: Any, texts: Sequence[str | None], where: str) -> Any:
    """A value of the declared type, from the text of each time that it was given."""
    text, kind = texts[-1], _alternatives(expected)[0]
    origin = typing.get_origin(kind) or kind
    if text is None and kind is bool:
        return True
    if text is None:
        raise UserError(f'{where}: the value is missing; write {where}=VALUE')
    if _may_be_none(expected) and text in ('None', 'none'):
        return None
    if _groups(expected) or _is_mapping(kind):
        if not isinstance(value := _literal(text), dict):
            raise UserError(
                f'{where}={text}: is a group of fields; give one of them, as GROUP.FIELD=VALUE'
            )
        return value
    if origin is tuple:
        values = [_literal(text) for text in texts]
        alone = len(values) == 1 and isinstance(values[0], (tuple, list))
        return tuple(values[0] if alone else values)
    if origin is typing.Literal:
        return next((one for one in typing.get_args(kind) if str(one) == text), text)
    if kind is bool and text.lower() not in _BOOLEANS:
        raise UserError(f'{where}={text}: must be True or False')
    try:
        read = {bool: lambda text: _BOOLEANS[text.lower()], int: int, float: float}.get(kind, str)
        return read(text)
    except ValueError:
        raise UserError(f'{where}={text}: must be a {"whole " * (kind is int)}number') from None


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _read_json(argument: str, path: str) -> ml_collections.ConfigDict:
    """The config of a file of JSON, as a run keeps its own."""
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f'not JSON: {error}'
        raise UserError(f'{argument}: cannot be loaded ({reason})') from error
    if not isinstance(content, dict):
        raise UserError(f'{argument}: must hold an object, the groups and fields of a config')
    return ml_collections.ConfigDict(content)


def _run_file(argument: str) -> ml_collections.ConfigDict:
    """The config of `--config=FILE[:VARIANT]`."""
    name, colon, variant = argument.removeprefix('--config=').partition(':')
    path = find(name)
    if _is_json(path):
        if colon:
            raise UserError(f'{argument}: a file of JSON has no variants; leave out what follows')
        return _read_json(argument, path)
    try:
        loader = importlib.machinery.SourceFileLoader('config_file', path)
        spec = importlib.util.spec_from_loader(loader.name, loader)
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        config = None
        if callable(make := getattr(module, 'get_config', None)):
            if colon and not inspect.signature(make).parameters:
                raise UserError(
                    'this config file has no variants; leave out what follows the colon'
                )
            config = make(*[variant] * bool(colon))
    except UserError as error:
        raise UserError(f'{argument}: {error}') from error
    except FileNotFoundError as error:
        raise UserError(
            f'{argument}: cannot be loaded ({error.strerror}: {error.filename}; shipped are '
            f'{", ".join(shipped())})'
        ) from error
    except Exception as error:  # whatever the code of the file does
        reason = error.strerror if isinstance(error, OSError) else _where_in(path, error)
        raise UserError(f'{argument}: cannot be loaded ({reason})') from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f'{argument}: needs a function get_config() that returns an ml_collections.ConfigDict'
        )
    return config


def _where_in(path: str, error: Exception) -> str:
    """What is wrong in a file of Python, and in which line."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if path and frame.filename.endswith(path)]
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text}{f", line {lines[-1]}" if lines else ""}'
