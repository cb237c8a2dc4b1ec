"""What TensorBoard reads from a workdir."""

import os
import pathlib

from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util


def scalars(workdir):
    """{tag: {step: value}} of all event files; where a step was taken twice, of both times."""
    values = {}
    for file in sorted(pathlib.Path(workdir).glob('events.*'), key=os.path.getmtime):
        events = event_accumulator.EventAccumulator(str(file), size_guidance={'tensors': 0})
        events.Reload()
        for tag in events.Tags()['tensors']:
            for event in events.Tensors(tag):
                value = tensor_util.make_ndarray(event.tensor_proto).item()
                values.setdefault(tag, {}).setdefault(event.step, []).append(value)
    return values
