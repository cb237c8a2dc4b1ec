"""ONNX Runtime computes what the model does."""

import dataclasses
import json
import sys
import types

import numpy as np
import pytest

from multitrain_jax.errors import UserError
from multitrain_jax.exporting import onnx
from multitrain_jax.models.localisation_head import LocalisationHeadConfig
from tests.helpers import trained_models
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.trained_models import (
    BACKBONES,
    BOXES,
    CLIPS,
    GYM,
    SCENES,
    TOOLS,
    outputs_of,
)

# The model is trained in bfloat16; what ONNX computes is compared to it in float32.
IN_BFLOAT16 = {
    name: dataclasses.replace(backbone, dtype='bfloat16') for name, backbone in BACKBONES.items()
}
CONTEXT = LocalisationHeadConfig(context=True, context_heads=2, sampling_ratio=2)


@pytest.mark.parametrize(
    ('backbone', 'specs', 'changes'),
    [
        ('vivit', None, dict(head_hidden=6)),
        ('vjepa2', None, {}),
        ('videomae', (GYM, SCENES), dict(box_head=CONTEXT)),
        # A class token, relative positions, boxes beside classes.
        ('public mvit', (GYM, SCENES, TOOLS), {}),
        pytest.param(
            'mvit',
            None,
            dict(head_hidden=6, projections=True, add_projected=0.5),
            marks=pytest.mark.slow,
        ),
        pytest.param('mvit with class token', None, {}, marks=pytest.mark.slow),
        pytest.param('mvit', (SCENES,), dict(box_head=CONTEXT), marks=pytest.mark.slow),
    ],
)
def test_onnx_runtime_computes_the_same(tmp_path, backbone, specs, changes):
    pytest.importorskip('jax2onnx')
    runtime = pytest.importorskip('onnxruntime')
    specs = {} if specs is None else {'specs': specs}
    (directory,) = onnx.write(
        tmp_path / 'x', trained_models.make(IN_BFLOAT16[backbone], **specs, **changes)
    )
    trained = trained_models.make(BACKBONES[backbone], **specs, **changes)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(directory / 'model.onnx', options)
    said, ours = json.loads((directory / 'description.json').read_text()), outputs_of(trained)
    names = [output.name for output in session.get_outputs()]
    assert names == list(said['outputs']) and set(names) == set(ours)
    for clips, boxes in ((3, 2), (1, 1)):
        given = {'clips': CLIPS[:clips]}
        if trained.info.model.num_actions:
            given['boxes'] = BOXES[:clips, :boxes]
        assert set(given) == set(said['inputs'])
        for name, theirs in zip(names, session.run(names, given)):
            expected = ours[name][:clips]
            if name == 'logits/scenes':
                expected = expected[:, :boxes]
            scale = np.abs(expected).max()
            assert theirs.shape == expected.shape and theirs.dtype == np.float32
            np.testing.assert_allclose(theirs, expected, atol=1e-5 * scale, err_msg=name)


def test_large_models_have_their_parameters_beside_them(tmp_path):
    pytest.importorskip('jax2onnx')
    wide = dataclasses.replace(BACKBONES['vivit'], width=144, mlp_width=1600)  # 2.2 MB
    (directory,) = onnx.write(tmp_path / 'x', trained_models.make(wide))
    said = json.loads((directory / 'description.json').read_text())['files']
    assert {file.name for file in directory.iterdir()} == {*said.values(), 'description.json'}
    assert len({file.stat().st_mode for file in directory.iterdir()}) == 1


def test_what_the_converter_stumbles_over_is_told_in_one_line(tmp_path, monkeypatch):
    def fails(*args, **options):
        raise NotImplementedError('no plugin\nfor it')

    monkeypatch.setitem(sys.modules, 'jax2onnx', types.SimpleNamespace(to_onnx=fails))
    with pytest.raises(UserError, match=r'does not convert this model \(no plugin\)$'):
        onnx.write(tmp_path / 'x', trained_models.make(BACKBONES['vivit']))
    assert not list(tmp_path.iterdir())


def test_without_the_converter(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'jax2onnx', None)
    with pytest.raises(UserError, match=r"pip install 'multitrain_jax\[onnx\]'"):
        onnx.write(tmp_path / 'x', trained_models.make(BACKBONES['vivit']))
    assert not list(tmp_path.iterdir())
