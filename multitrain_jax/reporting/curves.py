"""Curves of a run out of its TensorBoard files, also while it writes them."""

import os
from pathlib import Path

from multitrain_jax.errors import UserError
from multitrain_jax.reporting.writers import quieten_tensorflow


def read_curves(workdir: str | os.PathLike) -> dict[str, dict[int, float]]:
    """{name: {step: value}}; of a step that was taken twice the later value.

    Raises:
        UserError: TensorBoard is missing.
    """
    quieten_tensorflow()  # which TensorBoard imports where it is
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise UserError('curves need: pip install tensorboard') from error
    found: dict[str, dict[int, float]] = {}
    for file in sorted(Path(workdir).glob('events.out.*'), key=os.path.getmtime):
        for event in EventFileLoader(str(file)).Load():  # ends where the last whole record does
            for value in event.summary.value:
                if value.tensor.dtype in (1, 2) and not value.tensor.tensor_shape.dim:  # floats
                    number = float(make_ndarray(value.tensor))
                    found.setdefault(value.tag, {})[event.step] = number
    return found
