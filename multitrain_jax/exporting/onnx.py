"""ONNX by jax2onnx, of plain transformers: any number of clips; parameters are inside.

jax2onnx (0.17) translates convolutions of one and two axes only, so that MViTv2 has no ONNX.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp

from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.errors import UserError, first_line
from multitrain_jax.exporting import forward
from multitrain_jax.exporting.directory import new_directory, write_description
from multitrain_jax.models.vit import ViTConfig
from multitrain_jax.ops.platforms import only

FILE = 'model.onnx'


def write(output: str | os.PathLike, trained: TrainedModel) -> list[Path]:
    """Writes `model.onnx` and `description.json`.

    Raises:
        UserError: the converter is missing or does not know a part of the model, or the directory
            is in use.
    """
    if not isinstance(trained.info.model.backbone, ViTConfig):
        raise UserError(
            '--format=onnx: is for plain transformers; the converter, jax2onnx, knows no 3-D '
            'convolutions, of which MViTv2 is made; --format=stablehlo takes it'
        )
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise UserError("--format=onnx needs: pip install 'multitrain_jax[onnx]'") from error
    trained = trained.for_inference()
    inputs, outputs = forward.inputs(trained), forward.outputs(trained)
    function = forward.make_forward(trained)
    parameters = {name: jnp.asarray(x) for name, x in forward.parameters(trained).items()}

    def named(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        found = function(parameters, *arrays)
        return tuple(found[name] for name in outputs)

    with new_directory(output) as directory:
        try:
            with only('default'):
                to_onnx(
                    named,
                    [jax.ShapeDtypeStruct(x['shape'], x['dtype']) for x in inputs.values()],
                    return_mode='file',
                    output_path=directory / FILE,
                    input_names=list(inputs),
                    output_names=list(outputs),
                )
        except Exception as error:  # whatever the converter stumbles over
            raise UserError(
                f'--format=onnx: jax2onnx does not convert this model ({first_line(error)})'
            ) from error
        write_description(
            directory,
            trained.info,
            datasets=trained.datasets,
            format='ONNX',
            files={'program': FILE},
            inputs=inputs,
            outputs=outputs,
        )
    return [Path(output)]
