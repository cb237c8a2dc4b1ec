"""Calls every command of the project in this process, as its command line would, and checks how a mistake is told."""

import contextlib
import importlib
import io
import logging
import pathlib
import re
import runpy
import sys

from absl import flags

from multitrain_jax.errors import run_command

ROOT = pathlib.Path(__file__).parent.parent.parent
_OF_DATA = {name: name for name in ('convert', 'inspect', 'index', 'service')}
_OF_DATA['synthetic'] = 'synthetic.__main__'
# Progress: a clock in brackets, or a bar.
_PROGRESS = re.compile(r'\[\d\d:\d\d:\d\d\]|.*(\d%\||[a-z]/s[],])')


def call(command: str, *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error); `command`: 'run', or the last part of a module's name."""
    argv, handlers, known = sys.argv, logging.getLogger().handlers[:], set(flags.FLAGS)
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [command, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _run(command)
    finally:
        sys.argv, logging.getLogger().handlers[:] = argv, handlers
        for name in set(flags.FLAGS) - known:  # run.py defines its own every time
            delattr(flags.FLAGS, name)
        sys.modules.pop('config_config', None)  # as ml_collections calls the config file
    return code, out.getvalue(), err.getvalue()


def _run(command: str) -> int:
    try:
        if command == 'run':
            runpy.run_path(str(ROOT / 'run.py'), run_name='__main__')
        elif command in _OF_DATA:
            return importlib.import_module(f'data_pipelines.{_OF_DATA[command]}').main(sys.argv[1:])
        else:
            run_command(importlib.import_module(f'multitrain_jax.{command}').main)
    except SystemExit as end:
        return end.code
    raise AssertionError(f'{command} did not end')


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
    """Size and time of change of every file under some places, but for indexes: whoever reads records first makes them."""
    paths = [
        path
        for root in roots
        for path in root.rglob('*')
        if path.is_file() and path.suffix != '.index'
    ]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}
