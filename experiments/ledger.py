"""Finished trainings, a JSON line each: an experiment started again goes on where it stopped."""

from collections.abc import Callable, Mapping
import json
import logging
from pathlib import Path
import time
from typing import Any

_log = logging.getLogger('multitrain_jax')

Line = Mapping[str, Any]


class Ledger:
    """The lines of a jsonl file.

    Attributes:
        lines: what is finished, in the order of the file.
    """

    def __init__(self, path: Path):
        self._path = path
        text = path.read_text(encoding='utf-8') if path.exists() else ''
        # A killed process may leave half a line at the end.
        whole, _, rest = text.rpartition('\n')
        if rest:
            path.write_text(whole + '\n' if whole else '', encoding='utf-8')
        self.lines: list[Line] = [json.loads(line) for line in whole.splitlines()]

    def find(self, **wanted: Any) -> list[Line]:
        """The lines that have these entries."""
        return [line for line in self.lines if _has(line, wanted)]

    def ensure(self, key: Mapping[str, Any], run: Callable[[], Mapping[str, Any]]) -> Line:
        """The line of the training `key`, which `run` does unless it is finished."""
        for line in self.lines:
            if _has(line, key):
                return line
        started = time.time()
        line = {**key, **run(), 'finished': round(time.time())}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, 'a', encoding='utf-8') as file:
            file.write(json.dumps(line) + '\n')
        self.lines.append(line)
        figures = {name: value for name, value in line.items() if isinstance(value, float)}
        _log.info('%s: %s (%.0f s)', dict(key), figures, time.time() - started)
        return line


def _has(line: Line, wanted: Mapping[str, Any]) -> bool:
    return all(name in line and line[name] == value for name, value in wanted.items())
