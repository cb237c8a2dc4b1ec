"""Out to Hugging Face's layout: transformers computes the same, and the way back is bit for bit."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

import multitrain_jax as mt
from multitrain_jax import export, import_torch
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.exports import ModelInfo, write_export
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.errors import UserError
from multitrain_jax.exporting.huggingface import write_directories
from multitrain_jax.models.multitrain import MultiTrainConfig, abstract_model
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.vit import ViTConfig
from multitrain_jax.weights.warm_start import flatten
from tests.helpers.tiny import quick_compile  # noqa: F401

pytest.importorskip('safetensors')

SMALL = ViTConfig(
    num_frames=4,
    image_size=16,
    width=24,
    blocks=2,
    heads=2,
    mlp_width=44,  # over 24 is no short number
    patch_stride=(2, 8, 8),
)
FORMS = {
    'videomae': dataclasses.replace(SMALL, attention_bias='qv'),
    'videomae of another epsilon': dataclasses.replace(
        SMALL, attention_bias='none', pooling='first', norm_epsilon=1e-3, activation='tanh'
    ),
    'vivit': dataclasses.replace(
        SMALL, positions='learned', class_token=True, pooling='first', activation='tanh'
    ),
    'vjepa2': dataclasses.replace(SMALL, positions='rotary', pooling='attentive', pooler_blocks=2),
}
SPECS = (
    DatasetSpec('gym', ('run', 'jump', 'läuft')),
    DatasetSpec('tools', ('saw', 'cut'), multi_label=True, sampling='uniform'),
)


def make(backbone, specs=SPECS, **changes) -> tuple[ModelInfo, dict]:
    model = MultiTrainConfig(
        backbone,
        tuple(len(spec.classes) for spec in specs),
        **dict(head_hidden=0, projections=False, expander=False) | changes,
    )
    generator = np.random.default_rng(0)
    draw = lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32)  # noqa: E731
    specs = [
        spec
        if spec.sampling == 'uniform'
        else dataclasses.replace(spec, stride=3, target_frame_rate=25.0)
        for spec in specs
    ]
    info = ModelInfo(
        model=model,
        datasets={spec.name: spec for spec in specs},
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        short_side=20,
        temporal_views=2,
        spatial_views=3,
    )
    return info, jax.tree.map(draw, abstract_model(model)[1])


def run(monkeypatch, command, *arguments) -> None:
    monkeypatch.setattr(sys, 'argv', [command.__name__, *map(str, arguments)])
    assert command.main() == 0


@pytest.mark.parametrize('form', FORMS)
def test_out_and_back_is_bit_for_bit(tmp_path, monkeypatch, form):
    info, params = make(FORMS[form])
    write_export(tmp_path / 'ours', info, params)
    run(
        monkeypatch,
        export,
        tmp_path / 'ours',
        '--format=huggingface',
        f'--output={tmp_path / "theirs"}',
    )
    flat = flatten(params)
    for number, spec in enumerate(info.datasets.values()):
        source = tmp_path / 'theirs' / spec.name
        run(monkeypatch, import_torch, f'--checkpoint={source}', f'--output={tmp_path / spec.name}')
        back = open_trained(tmp_path / spec.name)
        theirs = flatten(back.params)
        for path, array in flat.items():
            if path.startswith('heads/'):
                array = array[number : number + 1, ..., : len(spec.classes)]
            np.testing.assert_array_equal(theirs[path], array, err_msg=path)
        assert theirs.keys() == flat.keys()
        expected = dataclasses.replace(
            info,
            model=dataclasses.replace(info.model, num_classes=(len(spec.classes),)),
            datasets={spec.name: spec},
        )
        backbone = back.info.model.backbone
        if form.startswith('videomae'):  # said in words
            assert backbone.position_grid == (2, 2, 2)
            backbone = dataclasses.replace(backbone, position_grid=None)
        model = dataclasses.replace(back.info.model, backbone=backbone)
        assert dataclasses.replace(back.info, model=model) == expected


@pytest.mark.parametrize('form', FORMS)
def test_transformers_computes_the_same(tmp_path, form):
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    info, params = make(FORMS[form])
    write_export(tmp_path / 'ours', info, params)
    video = np.random.default_rng(1).normal(0, 1, (2, 4, 16, 16, 3)).astype(np.float32)
    ours = mt.load(tmp_path / 'ours').logits(video)
    for path, (name, logits) in zip(
        write_directories(tmp_path / 'theirs', info, params), ours.items(), strict=True
    ):
        model, report = transformers.AutoModelForVideoClassification.from_pretrained(
            path, output_loading_info=True
        )
        assert not any(report.values())  # nothing missing, unexpected or of another shape
        with torch.no_grad():
            theirs = model.eval()(torch.tensor(video.transpose(0, 1, 4, 2, 3))).logits.numpy()
        np.testing.assert_allclose(theirs, logits, atol=1e-5 * np.abs(logits).max())
        assert tuple(model.config.id2label.values()) == info.datasets[name].classes
        kind = 'multi' if info.datasets[name].multi_label else 'single'
        assert model.config.problem_type == f'{kind}_label_classification'


def test_one_dataset_needs_no_folder_of_its_own(tmp_path):
    info, params = make(FORMS['videomae'], SPECS[:1])
    assert write_directories(tmp_path / 'x', info, params) == [tmp_path / 'x']
    described = json.loads((tmp_path / 'x' / 'config.json').read_text())
    assert described['architectures'] == ['VideoMAEForVideoClassification']
    with pytest.raises(UserError, match='exists; choose another directory'):
        write_directories(tmp_path / 'x', info, params)


@pytest.mark.parametrize(
    ('backbone', 'changes', 'message'),
    [
        (MViTConfig(num_frames=4, image_size=16), {}, 'no MViTv2 of videos'),
        (FORMS['videomae'], dict(head_hidden=8), 'model.head_hidden=8 must be 0'),
        (SMALL, {}, "attention_bias='qkv' must be 'qv' or 'none'"),
        (
            dataclasses.replace(FORMS['videomae'], pooling='mean'),
            {},
            "pooling='mean' must be 'norm_of_mean' or 'first'",
        ),
        (
            dataclasses.replace(FORMS['videomae'], position_grid=(4, 2, 2)),
            {},
            r'positions of a grid \(4, 2, 2\) are interpolated',
        ),
        (dataclasses.replace(FORMS['vjepa2'], pooling='mean', pooler_blocks=0), {}, "'attentive'"),
    ],
)
def test_what_transformers_does_not_have_is_refused(tmp_path, backbone, changes, message):
    info, params = make(backbone, **changes)
    with pytest.raises(UserError, match=message) as error:
        write_directories(tmp_path / 'x', info, params)
    assert '\n' not in str(error.value) and not (tmp_path / 'x').exists()
