"""ONNX Runtime computes what the model does."""

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
from tests.helpers.trained_models import BACKBONES, BOXES, CLIPS, GYM, MVIT, SCENES, outputs_of

CONTEXT = LocalisationHeadConfig(context=True, context_heads=2, sampling_ratio=2)


@pytest.mark.parametrize(
    ('backbone', 'specs', 'changes'),
    [
        ('vivit', None, dict(head_hidden=6)),
        ('vjepa2', None, {}),
        ('videomae', (GYM, SCENES), dict(box_head=CONTEXT)),
    ],
)
def test_onnx_runtime_computes_the_same(tmp_path, backbone, specs, changes):
    pytest.importorskip('jax2onnx')
    runtime = pytest.importorskip('onnxruntime')
    trained = trained_models.make(
        BACKBONES[backbone], **({} if specs is None else {'specs': specs}), **changes
    )
    (directory,) = onnx.write(tmp_path / 'x', trained)
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


def test_what_the_converter_does_not_know_is_refused(tmp_path):
    with pytest.raises(UserError, match='no 3-D convolutions') as error:
        onnx.write(tmp_path / 'x', trained_models.make(MVIT))
    assert '\n' not in str(error.value) and not list(tmp_path.iterdir())


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
