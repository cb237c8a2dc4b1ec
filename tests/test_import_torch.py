"""PyTorch weights in, our model out: the golden logits, the table of keys, and what is refused."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import multitrain_jax as mt
from multitrain_jax import import_torch
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.errors import UserError
from multitrain_jax.import_torch import Options, import_state_dict, read_classes
from multitrain_jax.pytorch import naming
from multitrain_jax.pytorch.checkpoint import read_settings, read_torch
from multitrain_jax.weights import warm_start
from multitrain_jax.weights.positions import resize_positions
from tests.helpers import image_mvit
from tests.helpers.golden import reference_path
from tests.helpers.golden_models import channels_last, flat, golden
from tests.helpers.small_models import architecture, backbone, make
from tests.helpers.tiny import quick_compile  # noqa: F401

CFG = """
DATA:
  {NUM_FRAMES: 8, SAMPLING_RATE: 3, TARGET_FPS: 25, TRAIN_CROP_SIZE: 64,
   MEAN: [0.1, 0.2, 0.3], STD: [0.4, 0.5, 0.6]}
MVIT:
  PATCH_STRIDE: [2, 4, 4]
  POOL_KV_STRIDE_ADAPTIVE: [1, 8, 8]
  POOL_Q_STRIDE: [[1, 1, 2, 2], [3, 1, 2, 2]]
MODEL: {HEAD_ACT: sigmoid, USE_MULTI_HEAD: false}
TEST: {NUM_ENSEMBLE_VIEWS: 10, NUM_SPATIAL_CROPS: 3}
TRAIN: {DATASET: kinetics}
DETECTION: {ENABLE: false}
"""


def k400() -> dict[str, np.ndarray]:
    return dict(np.load(reference_path('mvit_multitrain_k400head_params.npz')))


def check_golden(path, name, dataset=None):
    truth, model = golden(name), mt.load(path)
    logits = model.logits(channels_last(truth['input']).astype(np.float32))
    for head, got in logits.items():
        key = 'eval/logits' if dataset else f'eval/logits/{head}'
        np.testing.assert_allclose(got, truth[key], atol=2e-5)
    assert list(logits) == ([dataset] if dataset else list(model.info.datasets))
    return model


def test_multitrains_pretrained_model(tmp_path):
    classes = tmp_path / 'classes.txt'
    classes.write_text(''.join(f'action {c}\n' for c in range(11)))
    options = Options(datasets={'': 'kinetics400'}, classes={'': str(classes)}, short_side=288)
    report = import_state_dict(k400(), tmp_path / 'out', options, settings_text=CFG)
    info = check_golden(tmp_path / 'out', 'mvit_multitrain_k400head', 'kinetics400').info
    dataset = info.datasets['kinetics400']
    assert dataset.classes[10] == 'action 10' and dataset.multi_label
    assert (dataset.sampling, dataset.stride, dataset.target_frame_rate) == ('strided', 3, 25.0)
    assert (info.mean, info.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (info.short_side, info.temporal_views, info.spatial_views) == (288, 10, 3)
    assert report == (tmp_path / 'out' / 'import.txt').read_text()[:-1]
    lines = report.splitlines()
    assert '96 used' in lines and 'note: ' not in report
    (row,) = (line for line in lines if line.startswith('blocks.1.attn.pool_k.weight '))
    assert row.split(' used ')[1].strip() == (
        '[16, 1, 3, 3, 3] -> backbone/stages/1/first/attention/pool_kernel'
    )


@pytest.mark.parametrize(
    ('name', 'suffix', 'dataset'),
    [
        ('mvit_multitrain_tiny', 'pyth', None),
        ('mvit_multitrain_k400head', 'pyth', 'kinetics'),
        ('mvit_v2_pyslowfast_tiny', 'pyth', 'kinetics'),
        ('mvit_v2_torchvision_tiny', 'pth', 'dataset'),
    ],
)
def test_golden_checkpoints(tmp_path, name, suffix, dataset):
    pytest.importorskip('torch')
    state_dict, settings = read_torch(str(reference_path(f'{name}.{suffix}')))
    import_state_dict(state_dict, tmp_path / 'out', Options(), settings_text=settings)
    model = check_golden(tmp_path / 'out', name, dataset)
    rounding = 'float32' if 'pyslowfast' in name else 'float64'
    assert model.info.model.backbone.distance_rounding == rounding


def test_the_command(tmp_path):
    torch = pytest.importorskip('torch')
    state = {f'module.{name}': torch.tensor(array) for name, array in k400().items()}
    state['module.head.heads_moco.x'] = torch.zeros(3, dtype=torch.float16)
    torch.save({'epoch': 3, 'model_state': state, 'cfg': CFG}, tmp_path / 'x.pyth')
    (tmp_path / 'classes.json').write_text(json.dumps({f'"action {c}"': 10 - c for c in range(11)}))
    command = [
        sys.executable,
        '-m',
        'multitrain_jax.import_torch',
        f'--checkpoint={tmp_path / "x.pyth"}',
        f'--output={tmp_path / "out"}',
        '--dataset=kinetics400',
        f'--classes={tmp_path / "classes.json"}',
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '96 used, 1 ignored\n' in done.stdout
    assert any(
        line.split() == ['head.heads_moco.x', 'ignored', '[3]'] for line in done.stdout.splitlines()
    )
    model = check_golden(tmp_path / 'out', 'mvit_multitrain_k400head', 'kinetics400')
    assert model.info.datasets['kinetics400'].classes[0] == 'action 10'
    done = subprocess.run([*command, '--mean=1,2'], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == (
        'error: --mean=1,2: must be three numbers, such as 0.45,0.45,0.45\n'
    )


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch = pytest.importorskip('torch')

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / 'sprung'), 'w'))

    torch.save({'model_state': {}, 'trap': Trap()}, tmp_path / 'x.pyth')
    with pytest.raises(UserError, match=r'x.pyth: .*could run code') as error:
        read_torch(str(tmp_path / 'x.pyth'))
    assert '\n' not in str(error.value) and not (tmp_path / 'sprung').exists()


def test_no_checkpoint(tmp_path):
    torch = pytest.importorskip('torch')
    with pytest.raises(UserError, match='no such file'):
        read_torch(str(tmp_path / 'x.pyth'))
    (tmp_path / 'x.pyth').write_bytes(b'no checkpoint')
    with pytest.raises(UserError, match='x.pyth: ') as error:
        read_torch(str(tmp_path / 'x.pyth'))
    assert '\n' not in str(error.value)
    torch.save([1, 2], tmp_path / 'x.pyth')
    with pytest.raises(UserError, match='holds a list, not a state dict'):
        read_torch(str(tmp_path / 'x.pyth'))


def test_without_pytorch_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(UserError, match='pip install torch pyyaml'):
        read_torch(str(tmp_path / 'x.pyth'))


def test_what_is_no_file_or_a_model_already_is_told_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    (tmp_path / 'model.json').write_text('{}')
    for name, message in (('no.pth', 'no such file'), ('', 'a model of ours already; use it')):
        monkeypatch.setattr(sys, 'argv', ['import_torch', str(tmp_path / name), '--output=x'])
        with pytest.raises(UserError, match=message):
            import_torch.main()


def test_heads_projections_and_expander_serve_as_a_start(tmp_path):
    """MultiTrain's whole model, made here; datasets renamed on the way."""
    names = {'cats': ('a', 'b', 'c'), 'tools': ('d', 'e'), 'plants': ('f', 'g')}
    model = architecture(names)
    ours = jax.device_get(flat(make(model, seed=3)))
    entries = naming.entries_of(model, 'multitrain', ('cats', 'ssv2', 'plants'))
    for name, classes in names.items():
        (tmp_path / name).write_text('\n'.join(classes))
    options = Options(
        datasets={'ssv2': 'tools'},
        kv_stride=(1, 2, 2),
        multi_label=['plants'],
        uniform=['cats'],
        classes={name: str(tmp_path / name) for name in names},
    )
    import_state_dict(naming.to_torch(ours, entries), tmp_path / 'out', options)
    weights = open_trained(tmp_path / 'out')
    assert {spec.name: spec.classes for spec in weights.datasets} == names
    assert weights.info.model.backbone == backbone()
    params = warm_start.flatten(weights.params)
    assert params.keys() == ours.keys()
    for path, array in params.items():
        np.testing.assert_array_equal(array, ours[path], err_msg=path)
    info = mt.load(tmp_path / 'out').info
    assert [d.sampling for d in info.datasets.values()] == ['uniform', 'strided', 'strided']
    assert [d.multi_label for d in info.datasets.values()] == [False, False, True]


def test_another_size(tmp_path):
    state = k400()
    report = import_state_dict(state, tmp_path / 'out', Options(num_frames=12, image_size=96))
    weights = open_trained(tmp_path / 'out')
    spatial = state['pos_embed_spatial'].reshape(16, 16, 16)
    np.testing.assert_array_equal(
        weights.params['backbone']['spatial_positions'],
        resize_positions('backbone/spatial_positions', spatial, (24, 24, 16)),
    )
    assert weights.params['backbone']['temporal_positions'].shape == (6, 16)
    assert '94 used, 2 resized' in report and 'interpolated [4, 16] -> [6, 16]' in report
    assert mt.load(tmp_path / 'out').clip_shape == (12, 96, 96, 3)


def test_an_inflated_image_model_sees_in_a_still_clip_what_it_saw_in_the_image(tmp_path):
    state = image_mvit.draw_state_dict()
    report = import_state_dict(state, tmp_path / 'out', Options(num_frames=6))
    rng = np.random.default_rng(1)
    images = np.kron(rng.normal(0, 3, (2, 4, 4, 3)), np.ones((1, 8, 8, 1))).astype(np.float32)
    model = mt.load(tmp_path / 'out')
    got = model.logits(np.repeat(images[:, None], 6, 1))['dataset']
    truth = np.stack([image_mvit.logits(state, image) for image in images])
    np.testing.assert_allclose(got, truth, atol=2e-5)
    assert np.ptp(truth, axis=0).max() > 0.03  # a thousand times the tolerance
    assert model.info.model.backbone.kv_stride == (1, 4, 4) and model.info.mean[0] == 0.485
    # Patches, and three poolings of three blocks; time had no positions.
    assert report.count('inflated in time (centre)') == 1 + 9
    assert report.count(' missing  zeros') == 3


def test_kernels_spread_over_time_keep_their_sum(tmp_path):
    state = image_mvit.draw_state_dict()
    import_state_dict(state, tmp_path / 'out', Options(inflation='mean'))
    params = warm_start.flatten(open_trained(tmp_path / 'out').params)
    patch = params['backbone/patch_kernel']  # [3, 7, 7, 3, D]
    expected = state['patch_embed.proj.weight'].transpose(2, 3, 1, 0) / 3
    for frame in patch:
        np.testing.assert_allclose(frame, expected, rtol=1e-6)
    pool = params['backbone/stages/0/first/attention/pool_kernel'][1]  # of k, [3, 3, 3, d]
    np.testing.assert_allclose(
        pool.sum(0), state['blocks.0.attn.pool_k.weight'][:, 0].transpose(1, 2, 0), rtol=1e-5
    )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(datasets={'a': 'b'}), 'one unnamed head; write --dataset=NAME'),
        (dict(uniform=['x']), "--uniform: no dataset 'x' in this checkpoint; it has dataset"),
        (dict(classes={'x': 'f'}), "--classes: no dataset 'x'"),
        (dict(query_strides=((1, 1, 1),)), '1 query strides for 3 stages'),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        import_state_dict(k400(), tmp_path / 'out', Options(**options))
    assert not (tmp_path / 'out').exists()


def test_another_architecture_is_refused(tmp_path):
    state = k400()
    del state['blocks.2.attn.norm_k.weight']
    with pytest.raises(
        ValueError, match='95 of 96 expected arrays .* blocks.2.attn.norm_k.weight'
    ) as error:
        import_state_dict(state, tmp_path / 'out', Options())
    assert '\n' not in str(error.value)
    with pytest.raises(ValueError, match='not a state dict of MViTv2'):
        import_state_dict({'conv1.weight': np.zeros(3)}, tmp_path / 'out', Options())
    with pytest.raises(UserError, match='its head is for boxes'):
        settings = CFG.replace('DETECTION: {ENABLE: false}', 'DETECTION: {ENABLE: true}')
        import_state_dict(k400(), tmp_path / 'out', Options(), settings_text=settings)
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('x')
    with pytest.raises(UserError, match='exists and is no export'):
        import_state_dict(k400(), tmp_path / 'mine', Options())


def test_strides_come_from_the_checkpoints_configuration(tmp_path):
    settings = CFG.replace('[3, 1, 2, 2]', '[3, 1, 1, 1]').replace('[1, 8, 8]', '[1, 4, 4]')
    import_state_dict(k400(), tmp_path / 'out', Options(), settings_text=settings)
    found = mt.load(tmp_path / 'out').info.model.backbone
    assert found.query_strides == ((1, 1, 1), (1, 2, 2), (1, 1, 1))
    assert found.kv_stride == (1, 4, 4)


@pytest.mark.parametrize(
    'kv_stride', ['POOL_KV_STRIDE_ADAPTIVE: [4, 4]', 'POOL_KV_STRIDE: [[0, 1, 4, 4], [1, 1, 2, 2]]']
)
def test_the_configuration_of_an_image_model(kv_stride):
    settings = read_settings(
        f"""
MVIT: {{PATCH_STRIDE: [4, 4], POOL_Q_STRIDE: [[0, 1, 1], [1, 2, 2]], {kv_stride}}}
DATA: {{MEAN: [0.485, 0.456, 0.406], TRAIN_CROP_SIZE: 224}}
"""
    )
    assert settings.patch_stride == (2, 4, 4) and settings.kv_stride == (1, 4, 4)
    assert settings.query_strides == {0: (1, 1, 1), 1: (1, 2, 2)}
    assert settings.mean == (0.485, 0.456, 0.406) and settings.image_size == 224
    assert settings.std is None and not settings.detection


@pytest.mark.parametrize(
    'text',
    ['- 1', 'DATA: 3', 'a: !!python/object/apply:os.getcwd []', '{', 'MVIT: {PATCH_STRIDE: 3}'],
)
def test_a_configuration_that_is_none(tmp_path, text):
    with pytest.raises(ValueError, match='not the configuration of PySlowFast'):
        read_settings(text)


def test_class_names(tmp_path):
    def of(name, text):
        (tmp_path / name).write_text(text)
        return read_classes(str(tmp_path / name), 2)

    assert (
        of('a.txt', 'run\nrun away\n') == of('a.json', '["run", "run away"]') == ('run', 'run away')
    )
    assert of('b.json', '{"run": 1, "\\"fly\\"": 0}') == ('fly', 'run')
    for name, text, message in [
        ('a.txt', 'run', '1 different names for the 2 classes'),
        ('a.txt', 'run\nrun\n', '1 different names'),
        ('a.json', '{"a": 1, "b": 2}', 'must be 0 to 1'),
        ('a.json', '[1, 2]', 'a list of names'),
        ('a.json', '[', 'not JSON'),
    ]:
        with pytest.raises(UserError, match=message):
            of(name, text)
    with pytest.raises(UserError, match='cannot be read'):
        read_classes(str(tmp_path / 'none'), 2)
