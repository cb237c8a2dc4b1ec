"""What `multitrain_jax.doctor` finds out about one thing."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Check:
    """What was found out about one thing.

    Attributes:
        state: 'warn': training works, but not as well or as fully as it could; 'fail': it does not
            work.
        name: of the thing.
        text: what was found.
        remedy: what to do about it; empty where it is fine.
    """

    state: Literal['ok', 'warn', 'fail']
    name: str
    text: str
    remedy: str = ''


def warn_if(bad: bool, name: str, text: str, remedy: str) -> Check:
    """A warning with its remedy where it is bad, else that all is well."""
    return Check('warn', name, text, remedy) if bad else Check('ok', name, text)
