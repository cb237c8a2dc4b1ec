"""Plain transformers in: directories of Hugging Face, files of the authors, and what is refused."""

import json
import re
import sys

import numpy as np
import pytest

import multitrain_jax as mt
from multitrain_jax import import_torch
from multitrain_jax.errors import UserError
from multitrain_jax.import_torch import Options, import_state_dict
from multitrain_jax.pytorch.checkpoint import read_torch, without_prefixes
from multitrain_jax.pytorch.huggingface import read_directory
from tests.helpers import transformers_golden
from tests.helpers.tiny import quick_compile  # noqa: F401

safetensors_numpy = pytest.importorskip('safetensors.numpy')

NAMES = ('clapping', 'jumping', 'juggling', 'running', 'jumping')
PREPROCESSING = {
    'image_mean': [0.1, 0.2, 0.3],
    'image_std': [0.4, 0.5, 0.6],
    'do_normalize': True,
    'do_rescale': True,
    'rescale_factor': 1 / 255,
    'size': {'shortest_edge': 40},
}


def write_directory(path, golden, *, shards=1, **config):
    """What `save_pretrained` would write."""
    path.mkdir()
    content = {**golden.config, 'id2label': dict(enumerate(NAMES)), **config}
    (path / 'config.json').write_text(json.dumps(content))
    (path / 'preprocessor_config.json').write_text(json.dumps(PREPROCESSING))
    names = sorted(golden.weights)
    if shards == 1:
        safetensors_numpy.save_file(golden.weights, path / 'model.safetensors')
        return path
    places = {name: f'model-{i % shards}.safetensors' for i, name in enumerate(names)}
    for file in set(places.values()):
        part = {name: golden.weights[name] for name in names if places[name] == file}
        safetensors_numpy.save_file(part, path / file)
    index = {'metadata': {}, 'weight_map': places}
    (path / 'model.safetensors.index.json').write_text(json.dumps(index))
    return path


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, 'argv', ['import_torch', *map(str, arguments)])
    assert import_torch.main() == 0


def logits(model, golden) -> np.ndarray:
    (result,) = model.logits(golden.video).values()
    return result


@pytest.mark.parametrize(
    ('case', 'shards'), [('videomae_first', 1), ('videomae_first', 3), ('vjepa2', 1)]
)
def test_a_directory_computes_what_transformers_computes(
    tmp_path, monkeypatch, capsys, case, shards
):
    golden = transformers_golden.read(case)
    source = write_directory(tmp_path / 'in', golden, shards=shards)
    frames = golden.video.shape[1]
    monkeypatch.setitem(sys.modules, 'torch', None)  # not needed
    flags = ['--dataset=gym', f'--frames={frames}', '--stride=3']
    run(monkeypatch, f'--checkpoint={source}', f'--output={tmp_path / "out"}', *flags)
    model = mt.load(tmp_path / 'out')
    np.testing.assert_allclose(logits(model, golden), golden.output, atol=2e-6)
    info = model.info
    assert info.datasets['gym'].classes == (*NAMES[:4], 'jumping (2)')
    assert info.datasets['gym'].stride == 3
    np.testing.assert_allclose([info.mean, info.std], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    assert info.short_side == 40
    report = capsys.readouterr().out
    assert ' missing ' not in report
    ignored = re.findall(r'^(\S+) +ignored', report, re.MULTILINE)
    assert all('predictor' in name for name in ignored) and bool(ignored) == (case == 'vjepa2')


def test_pixels_of_vivit_are_scaled_to_minus_one_to_one(tmp_path):
    golden = transformers_golden.read('vivit')
    source = write_directory(tmp_path / 'in', golden)
    form = PREPROCESSING | dict(
        rescale_factor=1 / 127.5, offset=True, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    (source / 'preprocessor_config.json').write_text(json.dumps(form))
    directory = read_directory(str(source))
    options = Options(image_size=16)
    import_state_dict(directory.arrays, tmp_path / 'out', options, directory=directory)
    info = mt.load(tmp_path / 'out').info
    pixels = np.array([0.0, 0.25, 1.0])  # of 0..1
    expected = (pixels * 255 / 127.5 - 1 - 0.5) / 0.5
    np.testing.assert_allclose((pixels - info.mean[0]) / info.std[0], expected, atol=1e-6)
    assert info.model.backbone.position_grid == (2, 3, 2)  # interpolated to squares
    with pytest.raises(UserError, match='24 x 16 pixels, and clips are square here'):
        import_state_dict(directory.arrays, tmp_path / 'x', Options(), directory=directory)


def test_heads_are_said_by_the_directory(tmp_path, monkeypatch):
    source = write_directory(tmp_path / 'in', transformers_golden.read('vivit'))
    with pytest.raises(UserError, match=r'--heads=2: config.json says .*; leave --heads out'):
        run(monkeypatch, source, f'--output={tmp_path / "out"}', '--heads=2')


def test_a_backbone_alone(tmp_path, monkeypatch, capsys):
    golden = transformers_golden.read('videomae_pretraining')
    source = write_directory(tmp_path / 'in', golden)
    run(monkeypatch, f'--checkpoint={source}', f'--output={tmp_path / "out"}', '--frames=6')
    assert 'no classifier in it: the backbone alone is imported' in capsys.readouterr().out
    model = mt.load(tmp_path / 'out')
    assert model.info.datasets == {} and model.clip_shape == (6, 16, 16, 3)
    assert model.info.model.backbone.position_grid == (2, 2, 2)
    clips = np.zeros((1, 6, 16, 16, 3), np.uint8)
    assert model.embed(clips).shape == (1, 24) and model.logits(clips) == {}
    with pytest.raises(UserError, match='a backbone without heads'):
        model.predict('video.mp4')


def authors(golden, style: str) -> dict[str, np.ndarray]:
    """The same weights under the names of the authors' code."""
    renamed = {
        'embeddings.patch_embeddings.projection': 'patch_embed.proj',
        'encoder.embeddings.patch_embeddings.proj': 'patch_embed.proj',
        'encoder.layernorm': 'norm',
        'encoder.layer': 'blocks',
        'attention.attention.q_bias': 'attn.q_bias',
        'attention.attention.v_bias': 'attn.v_bias',
        'attention.output.dense': 'attn.proj',
        'attention.proj': 'attn.proj',
        'intermediate.dense': 'mlp.fc1',
        'output.dense': 'mlp.fc2',
        'layernorm_before': 'norm1',
        'layernorm_after': 'norm2',
        'layernorm': 'norm',
        'classifier': 'head',
    }
    arrays = {}
    for name, array in golden.weights.items():
        name = name.removeprefix('videomae.').removeprefix('vjepa2.')
        for theirs, new in renamed.items():
            name = name.replace(theirs, new)
        arrays[name] = array
    fused = {}
    for name, array in arrays.items():
        if found := re.fullmatch(r'(blocks\.\d+)\.(attention\.)+query\.(weight|bias)', name):
            parts = [name.replace('query', part) for part in ('query', 'key', 'value')]
            fused[f'{found[1]}.attn.qkv.{found[3]}'] = np.concatenate([arrays[p] for p in parts])
        elif not re.search(r'\.(query|key|value)\.', name):
            fused[name] = array
    return {f'{style}{name}': array for name, array in fused.items()}


def embed(path, golden) -> np.ndarray:
    return mt.load(path).embed(golden.video)


@pytest.mark.parametrize('wrapped', ['plain', 'pretraining', 'deepspeed', 'lightning', 'average'])
def test_files_of_videomaes_authors(tmp_path, monkeypatch, capsys, wrapped):
    torch = pytest.importorskip('torch')
    golden = transformers_golden.read('videomae_mean')
    tensors = {name: torch.tensor(array) for name, array in authors(golden, '').items()}
    content = {
        'plain': {'model': tensors},
        'pretraining': {
            'model': {f'encoder.{name}': array for name, array in tensors.items()}
            | {'decoder.blocks.0.norm1.weight': torch.zeros(3), 'mask_token': torch.zeros(3)},
            'epoch': 3,
        },
        'deepspeed': {'module': tensors, 'dp_world_size': 2},
        'lightning': {
            'state_dict': {f'model._orig_mod.{name}': array for name, array in tensors.items()}
            | {'criterion.weight': torch.zeros(5)},
            'pytorch-lightning_version': '2',
        },
        'average': {'model_ema': {f'module.{name}': array for name, array in tensors.items()}},
    }[wrapped]
    if wrapped == 'pretraining':  # heads and the norm of the mean bear no prefix
        for name in [*content['model']]:
            if 'head.' in name or 'fc_norm' in name:
                content['model'][name.removeprefix('encoder.')] = content['model'].pop(name)
    torch.save(content, tmp_path / 'x.pth')
    flags = ['--heads=3', '--frames=4', '--image_size=16']
    run(monkeypatch, f'--checkpoint={tmp_path / "x.pth"}', f'--output={tmp_path / "out"}', *flags)
    report = capsys.readouterr().out
    assert ' missing ' not in report
    backbone = mt.load(tmp_path / 'out').info.model.backbone
    assert backbone.attention_bias == 'qv' and backbone.pooling == 'norm_of_mean'
    # The same arrays as from transformers' directory, whose grid of positions is another.
    source = write_directory(tmp_path / 'in', golden)
    same = ['--image_size=16', f'--output={tmp_path / "same"}']
    run(monkeypatch, f'--checkpoint={source}', *same)
    stored = [json.loads((tmp_path / name / 'model.json').read_text()) for name in ('out', 'same')]
    assert stored[0]['checksums'] == stored[1]['checksums']
    ignored = set(re.findall(r'^(\S+) +ignored', report, re.MULTILINE))
    assert ignored == {
        'pretraining': {'decoder.blocks.0.norm1.weight', 'mask_token'},
        'lightning': {'criterion.weight'},
    }.get(wrapped, set())


def test_files_of_vjepa2s_authors(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip('torch')
    golden = transformers_golden.read('vjepa2_encoder')
    arrays = {k: v for k, v in golden.weights.items() if 'predictor' not in k}
    encoder = authors(type(golden)(**{**vars(golden), 'weights': arrays}), 'module.backbone.')
    tensors = {name: torch.tensor(array) for name, array in encoder.items()}
    zeros = {name: torch.zeros_like(array) for name, array in tensors.items()}
    content = {'encoder': zeros, 'predictor': {'x': torch.zeros(3)}, 'target_encoder': tensors}
    torch.save(content | {'epoch': 1}, tmp_path / 'vitl.pt')
    flags = ['--heads=3', '--frames=4', '--image_size=16', f'--checkpoint={tmp_path / "vitl.pt"}']
    run(monkeypatch, *flags, f'--output={tmp_path / "out"}')
    report = capsys.readouterr().out
    assert 'note: beside the state dict, left out: encoder, predictor, epoch' in report
    np.testing.assert_allclose(
        embed(tmp_path / 'out', golden), golden.output.mean(1), rtol=1e-5, atol=1e-5
    )
    run(monkeypatch, *flags, f'--output={tmp_path / "out"}', '--key=encoder')
    assert not embed(tmp_path / 'out', golden).any()
    with pytest.raises(UserError, match="no state dict 'model'; it holds encoder, predictor"):
        read_torch(str(tmp_path / 'vitl.pt'), 'model')


def test_prefixes():
    names = ['model.module._orig_mod.a', 'module.b', 'backbone.c', 'd.module.e', 'model_ema.f', 'b']
    short = ['a', 'b', 'c', 'd.module.e', 'model_ema.f', 'b']
    assert list(without_prefixes(dict.fromkeys(names))) == list(dict.fromkeys(short))
    assert list(without_prefixes({'module.b': 1, 'model.b': 2}).items()) == [
        ('b', 1),
        ('model.b', 2),
    ]


def _refused(tmp_path, path=None) -> str:
    with pytest.raises(ValueError) as error:
        directory = read_directory(str(path or tmp_path / 'in'))
        import_state_dict(directory.arrays, tmp_path / 'out', Options(), directory=directory)
    assert '\n' not in str(error.value) and not (tmp_path / 'out').exists()
    return str(error.value)


def test_a_directory_without_a_description(tmp_path):
    (tmp_path / 'in').mkdir()
    assert 'config.json is missing' in _refused(tmp_path)
    (tmp_path / 'in' / 'config.json').write_text('{}')
    assert 'no weights in it' in _refused(tmp_path)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda data: data[:-10], 'damaged one (.*not fully covered'),
        (lambda data: b'<html>not found</html>' + b' ' * 99, 'no safetensors file'),
        (lambda data: b'', 'no safetensors file'),
        (lambda data: data[:8] + b'{' + data[9:].replace(b'F32', b'I64'), 'safetensors'),
    ],
)
def test_damaged_weights(tmp_path, damage, message):
    source = write_directory(tmp_path / 'in', transformers_golden.read('videomae_first'))
    file = source / 'model.safetensors'
    file.write_bytes(damage(file.read_bytes()))
    assert re.search(message.replace('(.*', r'\(.*'), _refused(tmp_path, file))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(model_type='timesformer'), "model_type='timesformer' is another architecture"),
        (dict(num_hidden_layers=3), 'another architecture than its description says'),
        (dict(num_hidden_layers=1), 'encoder.layer.1.'),
        (dict(hidden_size='24'), "hidden_size='24' must look like 768"),
        (dict(hidden_size=48), 'the architectures differ'),
        (dict(num_attention_heads=5), 'not a multiple of heads'),
        (dict(hidden_act='relu'), "hidden_act='relu' is none of gelu"),
        (dict(num_channels=4), 'colour channels'),
        (dict(patch_size=0), 'config.json: '),
        (dict(patch_size=[8, 8, 8]), 'config.json: '),
        (dict(id2label={'0': 'a'}), '1 names in id2label for 5 classes'),
        (dict(id2label={'x': 'a'}), 'not in the form that transformers writes'),
        (dict(id2label=[1]), 'not in the form that transformers writes'),
    ],
)
def test_descriptions_that_do_not_fit(tmp_path, changes, message):
    write_directory(tmp_path / 'in', transformers_golden.read('videomae_first'), **changes)
    assert message in _refused(tmp_path)


def test_shards_that_lie_elsewhere_are_not_read(tmp_path):
    source = write_directory(tmp_path / 'in', transformers_golden.read('videomae_first'), shards=2)
    index = source / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': {'a': '../x.safetensors'}}))
    (tmp_path / 'x.safetensors').write_bytes(b'')
    assert "names '../x.safetensors', which is no file beside it" in _refused(tmp_path)
