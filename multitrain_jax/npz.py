"""Reading .npz files from elsewhere: no pickle, no more memory than a file may ask for."""

from collections.abc import Sequence
import os
from pathlib import Path
import zipfile

import numpy as np

from multitrain_jax.errors import naming

# Of all arrays together, unpacked: 700 x 700 scores of 4 million videos need no more.
MAX_BYTES = 8 << 30
# What NumPy and zipfile raise for a file that is no .npz, or a damaged one.
_DAMAGED = (ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile)


def read_npz(path: str | os.PathLike, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an .npz file.

    Args:
        path: the file.
        names: of the arrays; None: all of them.

    Raises:
        ValueError: no .npz file, a damaged one, one without an array of `names`, with Python
            objects in it (which could run code), or of more than `MAX_BYTES` unpacked.
        OSError: it cannot be read.
    """
    path = Path(path).expanduser()
    try:
        with naming(path), zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise ValueError(f'{size / 2**30:.1f} GiB unpacked, more than {MAX_BYTES >> 30} GiB')
        with naming(path), np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in (arrays.files if names is None else names)}
    except _DAMAGED as error:
        # NumPy's own text about objects advises to unpickle them.
        objects = 'allow_pickle' in str(error)
        raise ValueError(
            'it holds Python objects, which are not read' if objects else str(error)
        ) from error
