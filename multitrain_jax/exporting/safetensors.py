"""The plain parameters as safetensors, which any framework reads."""

import os
from pathlib import Path

from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.exporting import forward
from multitrain_jax.exporting.directory import (
    PARAMETERS,
    new_directory,
    write_arrays,
    write_description,
)


def write(output: str | os.PathLike, trained: TrainedModel) -> list[Path]:
    """Writes `parameters.safetensors` and `description.json`.

    Raises:
        UserError: the directory is in use.
    """
    trained = trained.for_inference()
    with new_directory(output) as directory:
        write_arrays(directory / PARAMETERS, forward.parameters(trained))
        write_description(
            directory,
            trained.info,
            datasets=trained.datasets,
            format='safetensors',
            files={'parameters': PARAMETERS},
        )
    return [Path(output)]
