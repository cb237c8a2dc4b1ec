"""Files for the original code: its names, its bits, and what it has no place for."""

import dataclasses
import json
import sys

from flax import traverse_util
import numpy as np
import pytest

from multitrain_jax import export
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.exports import ModelInfo, write_export
from multitrain_jax.checkpoints.trained_model import TrainedModel, open_trained
from multitrain_jax.errors import UserError
from multitrain_jax.exporting import pytorch
from multitrain_jax.exporting.directory import DESCRIPTION
from multitrain_jax.import_torch import Options, import_state_dict
from multitrain_jax.models.localisation_head import LocalisationHeadConfig
from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.models.variants import public_form
from multitrain_jax.pytorch import naming
from multitrain_jax.pytorch.checkpoint import read_settings, read_torch
from multitrain_jax.weights import warm_start
from tests.helpers import trained_models
from tests.helpers.golden import reference_path
from tests.helpers.golden_models import TINY, flat, shapes_of
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.trained_models import (
    BACKBONES,
    CLIPS,
    GYM,
    MVIT,
    PUBLIC,
    SCENES,
    TOOLS,
    outputs_of,
)

torch = pytest.importorskip('torch')
yaml = pytest.importorskip('yaml')
TORCHVISION = dataclasses.replace(PUBLIC, distance_rounding='float64')
# Of the reference's detection model: its last stage keeps the stride.
DETECTOR = dataclasses.replace(
    public_form(TINY),
    stage_blocks=(1, 1, 2, 1),
    query_strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 1, 1)),
    distance_rounding='float32',
)


def state_in(directory) -> dict[str, np.ndarray]:
    """Read as a careful user does."""
    (file,) = directory.glob('model.p*th')
    content = torch.load(file, weights_only=True)
    state = content if file.suffix == '.pth' else content['model_state']
    return {name: tensor.numpy() for name, tensor in state.items()}


def check_same(state, expected):
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        assert state[name].dtype == array.dtype and state[name].shape == array.shape
        np.testing.assert_array_equal(state[name], array, err_msg=name)


@pytest.mark.parametrize(
    ('name', 'style'),
    [
        ('mvit_multitrain_tiny', 'multitrain'),
        ('mvit_multitrain_k400head', 'multitrain'),
        ('mvit_v2_pyslowfast_tiny', 'pyslowfast'),
        ('mvit_v2_torchvision_tiny', 'torchvision'),
    ],
)
def test_what_was_imported_is_exported_bit_for_bit(tmp_path, name, style):
    reference = dict(np.load(reference_path(f'{name}_params.npz')))
    import_state_dict(reference, tmp_path / 'ours', Options())
    # An export of ours has no expander and no projections; what a run has is tried below.
    kept = {
        key: array
        for key, array in reference.items()
        if not key.startswith(('expander', 'head.cross_dataset_heads'))
    }
    (directory,) = pytorch.write(tmp_path / 'out', open_trained(tmp_path / 'ours'), style, [])
    state = state_in(directory)
    check_same({key: state[key] for key in kept}, kept)
    check_same(state, {key: reference[key] for key in state})


def test_a_detector_bears_the_references_names(tmp_path):
    """Its head is not imported, so that the reference's arrays are put into our model here."""
    listing = json.loads(reference_path('state_dict_keys_pyslowfast_tiny_det.json').read_text())
    generator = np.random.default_rng(0)
    reference = {
        name: generator.normal(size=shape).astype(np.float32) for name, shape in listing.items()
    }
    head = LocalisationHeadConfig()
    model = MultiTrainConfig(DETECTOR, (), num_actions=(12,), localisation_head=head, head_hidden=0)
    zeros = {path: np.zeros(a.shape, a.dtype) for path, a in flat(shapes_of(model)).items()}
    entries = naming.entries_of(model, 'pyslowfast')
    params, report = naming.from_torch(reference, entries, zeros)
    assert not report.missing and not report.ignored
    spec = dataclasses.replace(SCENES, classes=tuple(f'action {c}' for c in range(12)))
    tree = traverse_util.unflatten_dict(
        {tuple(int(k) if k.isdecimal() else k for k in p.split('/')): a for p, a in params.items()}
    )
    info = ModelInfo(model, {'scenes': spec}, (0.45,) * 3, (0.225,) * 3, 64, 1, 1)
    trained = TrainedModel('x', tmp_path, info, tree)
    (directory,) = pytorch.write(tmp_path / 'out', trained, 'pyslowfast', [])
    check_same(state_in(directory), reference)
    settings = yaml.safe_load((directory / 'model.yaml').read_text())
    assert settings['DETECTION'] == {
        'ENABLE': True,
        'ALIGNED': True,
        'ROI_XFORM_RESOLUTION': 7,
        'SPATIAL_SCALE_FACTOR': 16,
    }
    assert settings['MODEL']['HEAD_ACT'] == 'sigmoid' and settings['MODEL']['NUM_CLASSES'] == 12


@pytest.mark.parametrize(
    ('backbone', 'style', 'changes'),
    [
        (MVIT, 'multitrain', dict(head_hidden=2048, projections=True)),
        (MVIT, 'multitrain', {}),
        (PUBLIC, 'pyslowfast', {}),
        (TORCHVISION, 'torchvision', {}),
    ],
)
def test_import_torch_reads_it_back_bit_for_bit(tmp_path, backbone, style, changes):
    trained = trained_models.make(backbone, **changes)
    notes = []
    for directory in pytorch.write(tmp_path / 'theirs', trained, style, notes):
        said = json.loads((directory / DESCRIPTION).read_text())
        datasets = [spec for spec in trained.datasets if spec.name in said['datasets']]
        classes = {
            spec.name: directory
            / (f'{spec.name}_classes.txt' if len(datasets) > 1 else 'classes.txt')
            for spec in datasets
        }
        (file,) = directory.glob('model.p*th')
        state, text = read_torch(str(file))
        assert (text is None) == (style == 'torchvision')
        options = Options(
            datasets={} if len(datasets) > 1 else {'': datasets[0].name},
            classes={name: str(path) for name, path in classes.items()},
            multi_label=['tools'] if 'tools' in classes else [],
            kv_stride=MVIT.kv_stride,
            query_strides=MVIT.query_strides,
        )
        import_state_dict(state, directory / 'ours', options, settings_text=text)
        back = open_trained(directory / 'ours')
        assert {spec.name: spec.classes for spec in back.datasets} == {
            spec.name: spec.classes for spec in datasets
        }
        assert [spec.multi_label for spec in back.datasets] == [
            spec.multi_label for spec in datasets
        ]
        assert back.info.model.backbone == backbone
        if style != 'torchvision':  # out of the configuration
            assert (back.info.mean, back.info.std) == (trained.info.mean, trained.info.std)
            assert back.info.temporal_views == 2 and back.info.spatial_views == 3
            assert back.datasets[0].stride == datasets[0].stride
        theirs, ours = (warm_start.flatten(model.params) for model in (back, trained))
        assert theirs.keys() == ours.keys()
        number = [spec.name for spec in trained.datasets].index(datasets[0].name)
        for path, array in ours.items():
            if path.startswith('heads/') and len(datasets) == 1:
                array = array[number : number + 1, ..., : len(datasets[0].classes)]
            np.testing.assert_array_equal(theirs[path], array, err_msg=path)
    assert not notes


def test_torchvision_computes_the_same(tmp_path):
    mvit = pytest.importorskip('torchvision.models.video.mvit')
    trained = trained_models.make(TORCHVISION)
    info, ours = trained.info, outputs_of(trained)
    video = (CLIPS / 255 - np.array(info.mean)) / np.array(info.std)
    video = torch.tensor(video.transpose(0, 4, 1, 2, 3), dtype=torch.float32)
    blocks = [
        mvit.MSBlockConfig(
            num_heads=block.heads,
            input_channels=block.width_in,
            output_channels=block.width,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=list(block.query_stride),
            stride_kv=list(block.kv_stride),
        )
        for stage in TORCHVISION.block_shapes()
        for block in stage
    ]
    for directory in pytorch.write(tmp_path / 'theirs', trained, 'torchvision', []):
        model = mvit.MViT(
            spatial_size=(32, 32),
            temporal_size=4,
            block_setting=blocks,
            residual_pool=True,
            residual_with_cls_embed=False,
            rel_pos_embed=True,
            proj_after_attn=True,
            num_classes=len(trained.info.datasets[directory.name].classes),
        )
        model.load_state_dict(torch.load(directory / 'model.pth', weights_only=True))
        with torch.no_grad():
            theirs = model.eval()(video).numpy()
        logits = ours[f'logits/{directory.name}']
        np.testing.assert_allclose(theirs, logits, atol=1e-5 * np.abs(logits).max())


def test_what_a_run_trained_with_goes_into_multitrains_file(tmp_path):
    """Projections of low rank as whole matrices; names without underscores,
    which their code splits at.
    """
    ours = dataclasses.replace(GYM, name='my_gym'), dataclasses.replace(TOOLS, name='mit')
    trained = trained_models.make(
        MVIT, ours, head_hidden=2048, projections=True, projection_rank=2, expander=True
    )
    notes = []
    (directory,) = pytorch.write(tmp_path / 'x', trained, 'multitrain', notes)
    state = state_in(directory)
    params = trained.params['projections']
    # Of target `mit` (1) its only source, `my_gym`; three classes to two.
    matrix = (params['left'] @ params['right'])[1, 0, :3, :2]
    np.testing.assert_array_equal(
        state['head.cross_dataset_heads.mygym_mit.weight'], matrix.transpose()
    )
    assert not any(name.startswith('expander') for name in state)
    assert notes[0] == 'my_gym is called mygym: the authors split names at underscores'
    assert notes[1].startswith('the expander is left out: its hidden width is 2048')
    text = (directory / 'model.yaml').read_text()
    assert yaml.safe_load(text)['MODEL']['MULTI_DATASETS'] == ['mygym', 'mit']
    settings = read_settings(text)
    assert settings.query_strides == {1: (1, 2, 2)} and settings.kv_stride == (1, 4, 4)
    assert (directory / 'mygym_classes.txt').read_text().splitlines() == list(GYM.classes)


@pytest.mark.parametrize(
    ('style', 'backbone', 'specs', 'changes', 'message'),
    [
        ('pyslowfast', BACKBONES['videomae'], (GYM,), {}, 'plain transformers have --format=hugg'),
        ('pyslowfast', MVIT, (GYM,), {}, "skip_input='raw' must be 'normalised'"),
        ('multitrain', PUBLIC, (GYM,), {}, "skip_input='normalised' must be 'raw'"),
        ('torchvision', PUBLIC, (SCENES,), {}, 'no head for boxes, only --format=pyslowfast has'),
        ('pyslowfast', PUBLIC, (), {}, 'the model has no head'),
        ('multitrain', MVIT, (SCENES,), dict(head_hidden=9), 'it has no head of whole clips'),
        ('pyslowfast', PUBLIC, (GYM,), dict(head_hidden=9), 'model.head_hidden=9 must be 0'),
        ('multitrain', MVIT, (GYM, TOOLS), dict(head_hidden=9), 'must be 0 or 2048'),
        (
            'multitrain',
            MVIT,
            (GYM, DatasetSpec('g_ym', ('a', 'b'))),
            {},
            'would be called gym, gym; each needs another name',
        ),
        (
            'pyslowfast',
            PUBLIC,
            (DatasetSpec('a b', ('a', 'b')),),
            {},
            "'a b' is no name of a folder",
        ),
    ],
)
def test_what_their_code_does_not_have_is_refused(
    tmp_path, style, backbone, specs, changes, message
):
    with pytest.raises(UserError, match=message) as error:
        pytorch.write(tmp_path / 'x', trained_models.make(backbone, specs, **changes), style, [])
    assert '\n' not in str(error.value) and not list(tmp_path.iterdir())


def test_the_command(tmp_path, monkeypatch, capsys):
    trained = trained_models.make(PUBLIC)
    write_export(tmp_path / 'ours', trained.info, trained.params)
    output = tmp_path / 'theirs'
    arguments = [str(tmp_path / 'ours'), '--format=pyslowfast', f'--output={output}']
    monkeypatch.setattr(sys, 'argv', ['export', *arguments])
    assert export.main() == 0
    assert capsys.readouterr().out == ''.join(
        f'exported model to {output / name}\n' for name in ('gym', 'tools')
    )
    assert sorted(path.name for path in (output / 'gym').iterdir()) == [
        'classes.txt',
        'description.json',
        'model.pyth',
        'model.yaml',
    ]
    with pytest.raises(UserError, match='gym: exists; choose another directory'):
        export.main()
