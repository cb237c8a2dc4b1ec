"""Files that are complete or not there.

As `data_pipelines.files.complete_or_absent`, without which training works, too.
"""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path


@contextlib.contextmanager
def complete_or_absent(path: str | os.PathLike) -> Iterator[Path]:
    """Gives the name under which to write a file; it gets its own once the block has ended."""
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
