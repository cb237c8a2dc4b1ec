"""Calls every command of the project in this process, as its command line would,
and checks how a mistake is told.
"""

import contextlib
import importlib
import io
import logging
import pathlib
import re
import sys

from multitrain_jax.__main__ import COMMANDS
from multitrain_jax.errors import run_command

ROOT = pathlib.Path(__file__).parent.parent.parent
_MODULES = {module.rpartition('.')[2]: module for module in COMMANDS.values()}
_MODULES['synthetic'] += '.__main__'
# Progress: a clock in brackets, or a bar.
_PROGRESS = re.compile(r'\[\d\d:\d\d:\d\d\]|.*(\d%\||[a-z]/s[],])')


def call(command: str, *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error); `command`: the last part of a module's name."""
    argv, handlers = sys.argv, logging.getLogger().handlers[:]
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [command, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _run(command)
    finally:
        sys.argv, logging.getLogger().handlers[:] = argv, handlers
        sys.modules.pop('config_config', None)  # as ml_collections calls the config file
    return code, out.getvalue(), err.getvalue()


def call_line(*words: str) -> tuple[int, str, str]:
    """As `call`, of a whole line: `multitrain COMMAND ...`,
    `python -m MODULE ...` or `python run.py ...`.
    """
    match words:
        case ['multitrain', name, *arguments]:
            module = COMMANDS[name]
        case ['python', '-m', module, *arguments]:
            pass
        case ['python', 'run.py', *arguments]:
            module = COMMANDS['train']
        case _:
            raise ValueError(f'{words}: no command of ours')
    return call(module.rpartition('.')[2], *arguments)


def _run(command: str) -> int:
    main = importlib.import_module(_MODULES[command]).main
    try:
        if _MODULES[command].startswith('multitrain_jax'):
            run_command(main)
        return main()
    except SystemExit as end:
        return end.code


def check_mistake(command: str, arguments: list[str], parts: list[str]) -> str:
    """Calls; there must be exit code 2 and one line that holds all `parts`. Returns the line."""
    code, out, err = call(command, *arguments)
    lines = [
        line for line in re.split(r'[\r\n]+', err) if line.strip() and not _PROGRESS.match(line)
    ]
    assert code == 2, (code, out, err)
    assert len(lines) == 1 and lines[0].startswith('error: '), err
    assert 'Traceback' not in out + err
    for part in parts:
        assert part in lines[0], lines[0]
    return lines[0]


def snapshot(*roots: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file under some places, but for indexes:
    whoever reads records first makes them.
    """
    paths = [
        path
        for root in roots
        for path in root.rglob('*')
        if path.is_file() and path.suffix != '.index'
    ]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}
