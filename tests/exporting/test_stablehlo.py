"""A StableHLO program computes what the model does,
in a process that has JAX and nothing of ours.
"""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from multitrain_jax.errors import UserError
from multitrain_jax.exporting import forward, safetensors, stablehlo
from multitrain_jax.exporting.directory import DESCRIPTION, PARAMETERS
from multitrain_jax.models.localisation_head import LocalisationHeadConfig
from tests.helpers import trained_models
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.trained_models import (
    BACKBONES,
    BOXES,
    CLIPS,
    GYM,
    MVIT,
    PUBLIC,
    SCENES,
    TOOLS,
    outputs_of,
)

pytest.importorskip('safetensors')
# Between them every part of a model; the rest, one by one, takes a minute.
MODELS = {
    'hidden heads that add projections': lambda: trained_models.make(
        MVIT, head_hidden=6, projections=True, add_projected=0.5, expander=True, expander_hidden=7
    ),
    'class token, relative positions, boxes beside classes': lambda: trained_models.make(
        PUBLIC, (GYM, SCENES, TOOLS)
    ),
    'boxes with context': lambda: trained_models.make(
        BACKBONES['videomae'],
        (SCENES,),
        box_head=LocalisationHeadConfig(context=True, context_heads=2, sampling_ratio=2),
    ),
    'vivit': lambda: trained_models.make(BACKBONES['vivit']),
    'vjepa2 without a head': lambda: trained_models.make(BACKBONES['vjepa2'], ()),
}
THE_REST = {
    **{name: lambda b=backbone: trained_models.make(b) for name, backbone in BACKBONES.items()},
    'mvit without a head': lambda: trained_models.make(MVIT, ()),
    'bfloat16': lambda: trained_models.make(dataclasses.replace(MVIT, dtype='bfloat16')),
}
# What a user without this package does.
LOADING = """
import pathlib, sys
for name in ('multitrain_jax', 'data_pipelines', 'flax', 'orbax', 'optax', 'ml_collections'):
    sys.modules[name] = None
import jax, numpy as np
from jax import export
jax.config.update('jax_disable_most_optimizations', True)
from safetensors.numpy import load_file

for directory in pathlib.Path(sys.argv[1]).iterdir():
    program = export.deserialize((directory / 'model.stablehlo').read_bytes())
    assert program.platforms == ('cpu', 'cuda', 'tpu')
    parameters = load_file(directory / 'parameters.safetensors')
    given = np.load(directory / 'inputs.npz')
    boxes = [given['boxes']] if 'boxes' in given else []
    found = jax.jit(program.call)(parameters, given['clips'], *boxes)
    np.savez(directory / 'outputs.npz', **found)
    if directory.name == '0':  # another number of clips
        one = jax.jit(program.call)(parameters, given['clips'][:1])
        for name, array in found.items():
            assert one[name].shape[0] == 1
            np.testing.assert_allclose(one[name][0], array[0], atol=1e-5)
"""


@pytest.fixture(scope='module', params=[MODELS, pytest.param(THE_REST, marks=pytest.mark.slow)])
def exported(request, tmp_path_factory):
    """{name: (model, directory with the other process's outputs)}."""
    root = tmp_path_factory.mktemp('stablehlo')
    found = {}
    for number, (name, make) in enumerate(request.param.items()):
        trained = make()
        (directory,) = stablehlo.write(root / str(number), trained)
        boxes = {'boxes': BOXES} if trained.info.model.num_actions else {}
        np.savez(directory / 'inputs.npz', clips=CLIPS, **boxes)
        found[name] = trained, directory
    command = [sys.executable, '-c', LOADING, root]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return found


def test_another_process_computes_the_same(exported):
    for name, (trained, directory) in exported.items():
        theirs, ours = np.load(directory / 'outputs.npz'), outputs_of(trained)
        tolerance = 1e-5
        if name == 'bfloat16':
            tolerance = 2e-2  # compiled with other fusions, rounded elsewhere
        assert set(theirs) == set(ours)
        for key, array in ours.items():
            assert theirs[key].shape == array.shape and theirs[key].dtype == np.float32
            np.testing.assert_allclose(
                theirs[key],
                array,
                atol=tolerance * np.abs(array).max(),
                err_msg=f'{name} {key}',
            )
        assert np.ptp(ours['embedding']) > 0.1


def test_the_description_says_what_goes_in_and_out(exported):
    for trained, directory in exported.values():
        said = json.loads((directory / DESCRIPTION).read_text())
        given, found = np.load(directory / 'inputs.npz'), np.load(directory / 'outputs.npz')
        for arrays, described in ((given, said['inputs']), (found, said['outputs'])):
            assert set(arrays) == set(described)
            for key, array in arrays.items():
                sizes = {'B': 3, 'M': 2}
                shape = [sizes.get(size, size) for size in described[key]['shape']]
                assert [list(array.shape), str(array.dtype)] == [shape, described[key]['dtype']]
        for spec in trained.datasets:
            entry = said['datasets'][spec.name]
            assert tuple(entry['classes']) == spec.classes
            assert entry['scores'] == ('softmax' if spec.name == 'gym' else 'sigmoid')
            assert entry['boxes'] == spec.localisation and entry['stride'] == spec.stride
        assert said['preprocessing']['mean'] == [0.1, 0.2, 0.3]
        assert said['preprocessing']['short_side'] == 40
        assert '6 months' in said['compatibility']


def test_what_only_training_needs_stays_out(tmp_path):
    from safetensors.numpy import load_file

    trained = MODELS['hidden heads that add projections']()
    (directory,) = safetensors.write(tmp_path / 'x', trained)

    names = {name.partition('.')[0] for name in load_file(directory / PARAMETERS)}
    assert names == {'backbone', 'heads', 'projections'}  # no expander


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / 'mine.txt').write_text('mine')
    with pytest.raises(UserError, match='exists; choose another directory'):
        stablehlo.write(tmp_path, trained_models.make(MVIT))
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(forward, 'make_forward', lambda trained: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stablehlo.write(tmp_path / 'x', trained_models.make(MVIT))
    assert not list(tmp_path.iterdir())
