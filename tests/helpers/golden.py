"""Where the golden arrays of the reference implementations lie.

Small ones travel with the repository, under `tests/data`; the larger ones, and videos that must not
be copied into it, are shared inputs that a checkout may or may not have beside it. A test that
needs a missing one is skipped with the reason, never passed.
"""

import lzma
import os
import pathlib
import tempfile

import pytest

_TESTS = pathlib.Path(__file__).parent.parent
_unpacked: dict[pathlib.Path, pathlib.Path] = {}


def _first_existing(name: str, folders: list[pathlib.Path]) -> pathlib.Path:
    for folder in folders:
        if (folder / name).exists():
            return folder / name
        if (folder / f'{name}.xz').exists():
            return _unpack(folder / f'{name}.xz')
    pytest.skip(f'golden file {name} is not here (looked in {", ".join(map(str, folders))})')


def _unpack(path: pathlib.Path) -> pathlib.Path:
    if path not in _unpacked:
        folder = pathlib.Path(tempfile.mkdtemp(prefix='golden_'))
        (folder / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
        _unpacked[path] = folder / path.stem
    return _unpacked[path]


def _shared() -> pathlib.Path:
    return pathlib.Path(os.environ.get('MULTITRAIN_SHARED', _TESTS.parent.parent / 'shared'))


def reference_path(name: str) -> pathlib.Path:
    """Path of a golden file of the reference implementations,
    for example `multitrain_losses_a.npz`.
    """
    return _first_existing(name, [_TESTS / 'data' / 'reference', _shared() / 'reference'])


def shared_path(name: str) -> pathlib.Path:
    """Path of another shared input, for example `dmvr/golden_eval.npz` or `videos/demo.mp4`."""
    return _first_existing(name, [_TESTS / 'data', _shared()])
