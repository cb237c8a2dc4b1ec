"""A config file on a command line: `--config=FILE[:VARIANT]` and overrides `--config.GROUP.FIELD=VALUE`."""

from collections.abc import Sequence
import traceback

from absl import flags
import ml_collections
from ml_collections import config_flags

from multitrain_jax.errors import UserError

# How absl and ml_collections say that a value is of another type, and what it must be.
_WRONG_TYPES = (
    ('invalid literal for int()', 'must be a whole number'),
    ('could not convert string to float', 'must be a number'),
    ('Non-boolean argument', 'must be True or False'),
    ('as a ConfigDict', 'is a group of fields; give one of them, as GROUP.FIELD=VALUE'),
)

# What absl and ml_collections raise for mistakes in flags and config files, and whatever the code of a config file does.
MISTAKES = (Exception,)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(arguments of the config, as `--config...=...`, all others)."""
    own, others = [], []
    waiting = ''
    for argument in arguments:
        name = argument.partition('=')[0]
        if waiting:
            own.append(f'{waiting}={argument}')
            waiting = ''
        elif name != '--config' and not name.startswith('--config.'):
            others.append(argument)
        elif '=' in argument:
            own.append(argument)
        else:
            waiting = argument
    if waiting:
        raise UserError(f'{waiting}: the value is missing')
    return own, others


def load_config_file(arguments: Sequence[str]) -> ml_collections.ConfigDict | None:
    """Loads the file that the arguments name, with their overrides; None where they name none.

    Args:
        arguments: as `split_arguments` gives them.

    Raises:
        UserError: a file that cannot be loaded, an override of an unknown field or of another type.
    """
    if not any(argument.startswith('--config=') for argument in arguments):
        if arguments:
            raise UserError(f'{arguments[0]}: needs --config=FILE')
        return None
    command_line = ['', *arguments]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        'config', None, '', flag_values=values, lock_config=True, sys_argv=command_line
    )
    try:
        values(command_line)
        holder.value.to_dict()  # a file that could not be loaded fails here, not before
    except MISTAKES as error:
        raise UserError(explain(error, arguments)) from error
    return holder.value


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """The reason behind a mistake in flags or a config file, with the override that caused it where that can be told."""
    given = next(
        (argument for argument in arguments if argument.startswith('--config=')), '--config'
    )
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    if 'Traceback' in text:  # of the config file's own code: its last line tells
        reason = text.rpartition('\n')[2]
        if 'get_config() takes 0 positional arguments' in reason:
            return f'{given}: this config file has no variants; leave out what follows the colon'
        return f'{given}: {reason.removeprefix("ValueError: ")}'
    text = ' '.join(text.split())
    if isinstance(error, flags.IllegalFlagValueError):
        flag = text.removeprefix('flag ').partition(': ')[0]
        for sign, rule in _WRONG_TYPES:
            if sign in text:
                return f'{flag}: {rule}'
    if "<class 'NoneType'> of field" in text:
        field = text.partition(' of field ')[2].partition(' ')[0]
        return f'--{field}: is None in the config file, so that its type is not known here; give it a value in the file'
    overrides = [
        argument.partition('=')[0] for argument in arguments if argument.startswith('--config.')
    ]
    if isinstance(error, (AttributeError, KeyError)) and overrides:
        field = text.split('Did you mean')[0].replace('\\n', ' ').strip(' "\'\\')
        at_fault = [
            name
            for name in overrides
            if field and field in name.removeprefix('--config.').split('.')
        ]
        hint = text.partition('Did you mean ')[2].partition(' ')[0].strip('"')
        mend = f'; did you mean {hint!r}?' if hint else '; the config file lists the fields'
        return f'{(at_fault or overrides)[0]}: unknown field{mend}'
    if isinstance(error, OSError):
        reason = text.rpartition('[Errno ')[2].partition('] ')[2] or text
        return f'{given}: cannot be loaded ({reason})'
    if isinstance(error, flags.Error):
        return text
    if "no attribute 'get_config'" in text or "no attribute 'to_dict'" in text:
        return f'{given}: needs a function get_config() that returns an ml_collections.ConfigDict'
    path = given.partition('=')[2].partition(':')[0]
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if path and frame.filename.endswith(path)
    ]
    place = f', line {lines[-1]}' if lines else ''
    return f'{given}: cannot be loaded ({type(error).__name__}: {text}{place})'
