"""StableHLO by `jax.export`: one program for CPU, CUDA and TPU, any number of clips.

Any JAX from three weeks older to six months newer than the one that wrote it runs the program,
without this package (JAX's guarantee for what `jax.export` serialises). The parameters lie beside
it as safetensors, without limit of time.
"""

import os
from pathlib import Path

import jax
from jax import export

from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.exporting import forward
from multitrain_jax.exporting.directory import (
    PARAMETERS,
    new_directory,
    write_arrays,
    write_description,
)

PLATFORMS = ('cpu', 'cuda', 'tpu')
PROGRAM = 'model.stablehlo'
_COMPATIBILITY = 'loads with JAX from 3 weeks older to 6 months newer than the one that wrote it'


def program(trained: TrainedModel) -> bytes:
    """The serialised program `(parameters, clips[, boxes]) -> outputs`, see `make_forward`."""
    scope = export.SymbolicScope(['B >= 1'])
    inputs = [
        jax.ShapeDtypeStruct(
            export.symbolic_shape(', '.join(map(str, spec['shape'])), scope=scope), spec['dtype']
        )
        for spec in forward.inputs(trained).values()
    ]
    parameters = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in forward.parameters(trained).items()
    }
    function = jax.jit(forward.make_forward(trained))
    return export.export(function, platforms=PLATFORMS)(parameters, *inputs).serialize()


def write(output: str | os.PathLike, trained: TrainedModel) -> list[Path]:
    """Writes `model.stablehlo`, `parameters.safetensors` and `description.json`.

    Raises:
        UserError: the directory is in use.
    """
    trained = trained.for_inference()
    with new_directory(output) as directory:
        (directory / PROGRAM).write_bytes(program(trained))
        write_arrays(directory / PARAMETERS, forward.parameters(trained))
        write_description(
            directory,
            trained.info,
            datasets=trained.datasets,
            format='StableHLO',
            files={'program': PROGRAM, 'parameters': PARAMETERS},
            platforms=PLATFORMS,
            compatibility=_COMPATIBILITY,
            inputs=forward.inputs(trained),
            outputs=forward.outputs(trained),
        )
    return [Path(output)]
