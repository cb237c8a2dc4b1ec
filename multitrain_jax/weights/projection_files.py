"""Matrices that the projections between datasets start from, instead of random ones.

    numpy.savez('start.npz', **{'kinetics400->something_v2': matrix})   # [400, 174]

A file holds matrices by the names of both datasets, `SOURCE->TARGET`, each [classes of SOURCE,
classes of TARGET]: a logit of SOURCE times its row is added to the logits of TARGET. It may be
.npz, .json (nested lists), or a trained model with projections: a run, one of its checkpoints, an
export whose model adds projected logits to its predictions.
"""

from collections.abc import Mapping, Sequence
import json
import logging
from pathlib import Path

import numpy as np

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.errors import UserError
from multitrain_jax.models.heads import Projections
from multitrain_jax.npz import read_npz

_log = logging.getLogger('multitrain_jax')


def start_projections(
    path: str, params: Mapping[str, np.ndarray], datasets: Sequence[DatasetSpec]
) -> dict[str, np.ndarray]:
    """The projections' parameters with the matrices of a file in their places; other pairs stay as
    they are.

    Projections of low rank start from the nearest product of that rank (by singular values).

    Args:
        path: .npz, .json, or a trained model.
        params: as initialised: `kernel`, or `left` and `right`; see `Projections`.
        datasets: the N datasets, in the order of the heads.

    Raises:
        UserError: the file cannot be read, a matrix does not fit, or no pair of datasets is in it.
    """
    matrices = _read(Path(path).expanduser(), datasets)
    params = {name: np.array(value) for name, value in params.items()}
    used, number = [], len(datasets)
    for d, target in enumerate(datasets):
        for j, s in enumerate(Projections.sources(number, d)):
            pair = f'{datasets[s].name}->{target.name}'
            if pair not in matrices:
                continue
            matrix, shape = matrices[pair], (len(datasets[s].classes), len(target.classes))
            if matrix.shape != shape or not np.isfinite(matrix).all():
                raise UserError(
                    f'{path}: {pair} has shape {list(matrix.shape)}, must be {list(shape)} finite '
                    f'numbers: [classes of {datasets[s].name}, classes of {target.name}]'
                )
            _put(params, d, j, matrix)
            used.append(pair)
    if not used:
        raise UserError(
            f'{path}: holds no projection between {", ".join(spec.name for spec in datasets)}; it '
            f'has {", ".join(sorted(matrices)) or "nothing"} (names are SOURCE->TARGET)'
        )
    _log.info(
        'projections: %d of %d start from %s: %s',
        len(used),
        number * (number - 1),
        path,
        ', '.join(used),
    )
    unused = sorted(set(matrices) - set(used))
    if unused:
        _log.warning('%s: not used, not pairs of this run: %s', path, ', '.join(unused))
    return params


def _put(params: dict[str, np.ndarray], d: int, j: int, matrix: np.ndarray) -> None:
    rows, columns = matrix.shape
    if 'kernel' in params:
        params['kernel'][d, j, :rows, :columns] = matrix
        return
    left, right = params['left'][d, j], params['right'][d, j]  # [C, R], [R, C]
    u, size, v = np.linalg.svd(matrix, full_matrices=False)
    rank = min(left.shape[1], len(size))
    root = np.sqrt(size[:rank])
    left[:], right[:] = 0.0, 0.0
    left[:rows, :rank] = u[:, :rank] * root
    right[:rank, :columns] = root[:, None] * v[:rank]


def _read(path: Path, datasets: Sequence[DatasetSpec]) -> Mapping[str, np.ndarray]:
    if path.is_dir():
        return _of_model(path, datasets)
    try:
        if path.suffix == '.json':
            content = json.loads(path.read_text(encoding='utf-8'))
            return {pair: np.asarray(matrix, np.float32) for pair, matrix in content.items()}
        return {pair: np.asarray(matrix, np.float32) for pair, matrix in read_npz(path).items()}
    except OSError as error:
        reason = f'cannot be read ({error.strerror})'
        raise UserError(f'config.projections_from={path}: {reason}') from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        # The last: of JSON that is nested too deeply.
        raise UserError(
            f'config.projections_from={path}: cannot be read as .npz or .json of matrices ({error})'
        ) from error


def _of_model(path: Path, datasets: Sequence[DatasetSpec]) -> dict[str, np.ndarray]:
    trained = open_trained(path, argument='config.projections_from')
    for spec in datasets:
        theirs = trained.info.datasets.get(spec.name)
        if theirs is not None and theirs.classes != spec.classes:
            raise UserError(
                f'{path}: dataset {spec.name} has other classes there, or in another order'
            )
    return {
        f'{source}->{target}': matrix for (source, target), matrix in trained.projections().items()
    }
