"""ONNX by jax2onnx: any number of clips; parameters are inside, of large models in a file beside.

jax2onnx (0.17) translates convolutions of one and two axes only: within `only('onnx')` those of
MViTv2 take a form of such ones. Arithmetic is in float32, whatever the model was trained in: ONNX
Runtime has no bfloat16 on CPU.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import logging
import os
from pathlib import Path

import jax
import jax.numpy as jnp

from multitrain_jax.checkpoints.trained_model import TrainedModel
from multitrain_jax.errors import UserError, first_line
from multitrain_jax.exporting import forward
from multitrain_jax.exporting.directory import new_directory, write_description
from multitrain_jax.ops.platforms import only

FILE, DATA = 'model.onnx', 'model.onnx.data'


def write(output: str | os.PathLike, trained: TrainedModel) -> list[Path]:
    """Writes `model.onnx`, `description.json` and, of a large model, `model.onnx.data`.

    Raises:
        UserError: the converter is missing or does not know a part of the model, or the directory
            is in use.
    """
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise UserError("--format=onnx needs: pip install 'multitrain_jax[onnx]'") from error
    trained = _in_float32(trained.for_inference())
    inputs, outputs = forward.inputs(trained), forward.outputs(trained)
    function = forward.make_forward(trained)
    parameters = {name: jnp.asarray(x) for name, x in forward.parameters(trained).items()}

    def named(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        found = function(parameters, *arrays)
        return tuple(found[name] for name in outputs)

    with new_directory(output) as directory:
        try:
            with only('onnx'), _without_remarks():
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
        files = {'program': FILE}
        if (directory / DATA).exists():
            files['parameters'] = DATA
            # The converter makes it with `tempfile`: for nobody else to read.
            (directory / DATA).chmod((directory / FILE).stat().st_mode)
        write_description(
            directory,
            trained.info,
            datasets=trained.datasets,
            format='ONNX',
            files=files,
            inputs=inputs,
            outputs=outputs,
        )
    return [Path(output)]


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """Without what onnx_ir says of every array whose type it leaves out: hundreds of lines."""
    logger = logging.getLogger('onnx_ir.serde')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _in_float32(trained: TrainedModel) -> TrainedModel:
    """The same parameters, used in float32."""
    info = trained.info
    backbone = dataclasses.replace(info.model.backbone, dtype='float32')
    info = dataclasses.replace(info, model=dataclasses.replace(info.model, backbone=backbone))
    return dataclasses.replace(trained, info=info)
