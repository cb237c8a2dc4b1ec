"""What TensorBoard reads from a workdir."""

import os
import pathlib

from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util


def _events(workdir):
    for file in sorted(pathlib.Path(workdir).glob('events.*'), key=os.path.getmtime):
        events = event_accumulator.EventAccumulator(str(file), size_guidance={'tensors': 0})
        yield events.Reload()


def _tags(events, plugin):
    try:
        return list(events.PluginTagToContent(plugin))
    except KeyError:
        return []


def scalars(workdir):
    """{tag: {step: value}} of all event files; where a step was taken twice, of both times."""
    values = {}
    for events in _events(workdir):
        for tag in _tags(events, 'scalars'):
            for event in events.Tensors(tag):
                value = tensor_util.make_ndarray(event.tensor_proto).item()
                values.setdefault(tag, {}).setdefault(event.step, []).append(value)
    return values


def shown(workdir):
    """{(tag, plugin): what it has last} of pictures, texts and settings."""
    values = {}
    for events in _events(workdir):
        for plugin in ('images', 'text', 'hparams'):
            for tag in _tags(events, plugin):
                proto = events.Tensors(tag)[-1].tensor_proto
                values[tag, plugin] = tensor_util.make_ndarray(proto).ravel().tolist()
    return values
