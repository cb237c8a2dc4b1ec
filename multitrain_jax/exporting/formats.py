"""The formats of `export`, by name. Nothing heavy is imported before one of them is written."""

from collections.abc import Callable
import dataclasses
import functools
import os
from pathlib import Path
import typing

if typing.TYPE_CHECKING:
    from multitrain_jax.checkpoints.trained_model import TrainedModel


@dataclasses.dataclass(frozen=True)
class Format:
    """A form that a trained model can be written in.

    Attributes:
        summary: what it is, for the command's help.
        write: (output, model, notes) -> the directories that were written. Lines that it adds to
            the notes say what was not exported as it is. It raises UserError where the form has no
            place for the model, or the directory is in use.
    """

    summary: str
    write: Callable[[str | os.PathLike, 'TrainedModel', list[str]], list[Path]]


def _ours(output: str | os.PathLike, trained: 'TrainedModel', notes: list[str]) -> list[Path]:
    del notes
    trained.export(output)
    return [Path(output)]


def _stablehlo(output: str | os.PathLike, trained: 'TrainedModel', notes: list[str]) -> list[Path]:
    del notes
    from multitrain_jax.exporting import stablehlo

    return stablehlo.write(output, trained)


def _onnx(output: str | os.PathLike, trained: 'TrainedModel', notes: list[str]) -> list[Path]:
    del notes
    from multitrain_jax.exporting import onnx

    return onnx.write(output, trained)


def _safetensors(
    output: str | os.PathLike, trained: 'TrainedModel', notes: list[str]
) -> list[Path]:
    del notes
    from multitrain_jax.exporting import safetensors

    return safetensors.write(output, trained)


def _huggingface(
    output: str | os.PathLike, trained: 'TrainedModel', notes: list[str]
) -> list[Path]:
    del notes
    from multitrain_jax.exporting import huggingface

    return huggingface.write_directories(output, trained.info, trained.params)


def _pytorch(
    output: str | os.PathLike, trained: 'TrainedModel', notes: list[str], *, style: str
) -> list[Path]:
    from multitrain_jax.exporting import pytorch

    return pytorch.write(output, trained, style, notes)


FORMATS = {
    'multitrain_jax': Format('ours, for every command of this project', _ours),
    'stablehlo': Format('a program for CPU, CUDA and TPU that JAX runs without us', _stablehlo),
    'onnx': Format('a program for ONNX Runtime and others', _onnx),
    'safetensors': Format('the plain parameters by name', _safetensors),
    'huggingface': Format("directories for Hugging Face's transformers", _huggingface),
    'pyslowfast': Format('a .pyth for PySlowFast', functools.partial(_pytorch, style='pyslowfast')),
    'multitrain': Format(
        "a .pyth for MultiTrain's own code", functools.partial(_pytorch, style='multitrain')
    ),
    'torchvision': Format(
        "a .pth for torchvision's MViT", functools.partial(_pytorch, style='torchvision')
    ),
}
