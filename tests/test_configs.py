"""Every shipped config and variant runs from data to export in a shrunk form;
what the variants are.
"""

import dataclasses
import json
import pathlib
import re

from flax import nnx
import jax
import pytest

from data_pipelines.annotations import KeyFrame
from data_pipelines.datasets import dataset_info
from data_pipelines.storage import regions
from multitrain_jax import train
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints import exports
from multitrain_jax.config import Config, read_config
from multitrain_jax.errors import UserError
from multitrain_jax.models import variants
from multitrain_jax.models.multitrain import MultiTrainModel, count_parameters
from tests.helpers import tiny, tiny_records
from tests.helpers.shipped_configs import CONFIGS, DIRECTORY, load
from tests.helpers.tiny import quick_compile  # noqa: F401

CLASSES = ('up', 'down', 'still')


def test_no_config_is_forgotten():
    files = {path.name for path in DIRECTORY.glob('*.py')}
    assert files == {name.partition(':')[0] for name in CONFIGS}


def test_plain_transformers_are_of_their_published_size_and_have_their_recipe():
    videomae, vjepa2, boxes = (
        read_config(load(name))
        for name in (
            'multitrain.py:videomae_b',
            'multitrain.py:vjepa2_l',
            'cofinetune_ava.py:vit_b',
        )
    )
    for config, backbone in (
        (videomae, variants.vit_b()),
        (vjepa2, variants.vjepa2_l(num_frames=16)),
        (boxes, variants.vit_b()),
    ):
        changes = dict(stochastic_depth=0.0, dtype='float32', remat_attention=False)
        changes |= dict(attention='xla')
        assert dataclasses.replace(config.model.backbone, **changes) == backbone
        assert config.optimizer.layer_decay == 0.75
        assert config.augment.mean == (0.485, 0.456, 0.406)
        strides = {
            entry.stride for entry in config.datasets.values() if entry.sampling != 'uniform'
        }
        assert strides == {4}
    assert videomae.input.short_side == (256, 320) and vjepa2.input.short_side == (292, 365)
    assert vjepa2.evaluation.short_side == 292
    assert boxes.model.backbone.token_stride == (2, 16, 16)


def test_what_the_variants_are():
    plain, k700, large, small = (
        read_config(load(f'multitrain.py{v}')) for v in ('', ':k700', ':312p', ':16x4')
    )
    assert set(k700.datasets) - set(plain.datasets) == {'kinetics700'}
    assert (
        dataclasses.replace(k700.datasets['kinetics700'], path='kinetics400')
        == plain.datasets['kinetics400']
    )
    assert dataclasses.replace(k700, datasets=plain.datasets) == plain
    assert (
        large.model.backbone.image_size,
        large.input.short_side,
        large.evaluation.short_side,
    ) == (312, (356, 446), 356)
    assert [entry.stride for entry in small.datasets.values()] == [4, 4, 4, 1]
    both = read_config(load('multitrain.py:k700,312p'))
    assert both == dataclasses.replace(large, datasets=k700.datasets)
    # Published: B 51.0 M and S 34.4 M parameters of the backbone (supplement, table 2, and section
    # 2.3).
    for config, millions in [(plain, 51.0), (small, 34.4)]:
        model = nnx.eval_shape(lambda: MultiTrainModel(config.model, rngs=nnx.Rngs(0)))
        assert round(count_parameters(model)['backbone'] / 1e6, 1) == millions


@pytest.mark.parametrize(
    'name',
    [
        'multitrain.py:k800',
        'kinetics_pretrain.py:imagnet',
        'quickstart.py:large',
        'cofinetune_ava.py:ava2',
    ],
)
def test_unknown_variants_are_told_in_one_line(name):
    with pytest.raises(
        UserError,
        match=r'no variants?\b.*(only k700, 312p, 16x4|only imagenet|leave out|only ava_kinetics, '
        r'transfer)',
    ) as error:
        load(name)
    assert '\n' not in str(error.value) and 'Traceback' not in str(error.value)


def shrunk(name: str, root: pathlib.Path) -> Config:
    """Two steps of the config with a model of one narrow block on
    clips of 4 frames of 16 pixels.
    """
    config = load(name)
    config.unlock()
    config.data_root, config.compilation_cache_dir, config.synthetic, config.init_from = (
        str(root),
        None,
        None,
        None,
    )
    config.cpu_devices = None
    config.batch_size, config.log_every_steps = 16, 1
    config.model.update(head_hidden=min(config.model.head_hidden, 8), expander_hidden=8)
    config.model.backbone.update(num_frames=4, image_size=16, width=8)
    if 'stage_blocks' in config.model.backbone:
        config.model.backbone.update(
            stage_blocks=(1,), query_strides=((1, 1, 1),), kv_stride=(1, 2, 2)
        )
    else:
        config.model.backbone.update(
            blocks=1, heads=1, mlp_width=16, patch_stride=(2, 8, 8), dtype='float32'
        )
    config.input.update(short_side=(16, 20), num_threads=2)
    config.evaluation.update(batch_size=8, short_side=16, temporal_views=2)
    records = 6 * len(config.datasets)
    config.epochs = 2 * config.batch_size / (records * config.input.repeats)
    config.optimizer.update(warmup_epochs=0.0, warmup_steps=1)
    if name.startswith('kinetics'):
        config.augment.rand_augment = ''  # takes longest to compile, and is in multitrain.py too
    return read_config(config)


def test_probes_are_of_backbones_that_can_be_imported():
    for name, backbone in (
        ('probe.py', variants.vjepa2_l(num_frames=16, dtype='bfloat16', attention='auto')),
        ('probe.py:videomae_b', variants.vit_b(dtype='bfloat16', attention='auto')),
        ('probe.py:quickstart', variants.vit_tiny()),
    ):
        config = read_config(load(name))
        assert config.model.backbone == backbone and config.probe is not None
        assert config.objective.label_smoothing == 0


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Records under the names that the configs have for real datasets."""
    root = tmp_path_factory.mktemp('data')
    frames = [tiny_records.flat_frame(0, frame) for frame in range(6)]
    paths = {
        entry.path: entry.evaluation_split
        for name in CONFIGS
        for entry in read_config(load(name)).datasets.values()
    }
    box = ((0.2, 0.1, 0.9, 0.8),)
    for path, tested in sorted(paths.items()):
        splits = {}
        boxes = path in ('ava', 'ava_kinetics', 'scenes')
        for split, count in (('train', 6), (tested, 2)):
            labels = [[number % len(CLASSES)] for number in range(count)]
            key_frames = [
                KeyFrame(0.3, box, (number % len(CLASSES),), (0,), box, (0.9,))
                for number in range(count)
            ]
            tiny_records.write_records(
                root / path,
                [frames] * count,
                labels,
                num_classes=len(CLASSES),
                split=split,
                multi_label=boxes,
                localisation=boxes,
                contexts=[regions.region_features(key_frame, 3) for key_frame in key_frames]
                if boxes
                else None,
            )
            info = dataset_info.load_dataset_info(root / path)
            splits |= info.splits
        dataset_info.save_dataset_info(
            root / path, dataclasses.replace(info, classes=CLASSES, splits=splits)
        )
    return root


# Variants of these, which take the same way, are slow tests.
FIRST = (
    'quickstart.py', 'multitrain.py', 'kinetics_pretrain.py:k710_to_400', 'finetune.py',
    'cofinetune_ava.py:vit_b', 'own_boxes.py:scenes', 'own_videos.py:mine,other=more/mine',
)  # fmt: skip


@pytest.mark.parametrize(
    'name',
    [
        name if name in FIRST else pytest.param(name, marks=pytest.mark.slow)
        for name in CONFIGS
        if not name.startswith('probe')
    ],
)
def test_shrunk_it_trains_evaluates_and_exports(name, root, tmp_path):
    config = shrunk(name, root)
    other = {
        'kinetics_pretrain.py:imagenet': DatasetSpec('imagenet', ('cat', 'dog')),
        'kinetics_pretrain.py:k710_to_400': DatasetSpec('kinetics710', ('more', *CLASSES[::-1])),
    }.get(name)
    if other is not None:  # starts from another model with the same backbone
        entry = dataclasses.replace(next(iter(config.datasets.values())), path=other.name)
        start = dataclasses.replace(config, datasets={other.name: entry})
        model = tiny.model(start, [other], 5)
        info = exports.model_info(start, [other])
        params = nnx.to_pure_dict(nnx.state(model))
        exports.write_export(tmp_path / 'import', *exports.for_inference(info, params))
        config = dataclasses.replace(config, init_from=str(tmp_path / 'import'))
    outcome = train.train_and_evaluate(config, tmp_path / 'run', devices=jax.devices()[:1])
    assert outcome.steps == 2
    assert {
        dataset: result.videos for dataset, result in outcome.accuracy.items()
    } == dict.fromkeys(config.datasets, 2)
    described = json.loads((tmp_path / 'run' / 'export' / 'model.json').read_text())
    assert list(described['datasets']) == sorted(config.datasets)
    assert described['datasets'][next(iter(config.datasets))]['classes'] == list(CLASSES)
    if name.endswith(':k710_to_400'):  # the head's rows, by the names of the classes
        became = (tmp_path / 'run' / 'init_from.txt').read_text()
        assert re.search(rf'heads/kinetics710 +used +{len(CLASSES)} of {len(CLASSES)}', became), (
            became
        )
    if name.endswith(':imagenet'):
        became = (tmp_path / 'run' / 'init_from.txt').read_text()
        assert re.search(
            r'\d\d used, 1 fresh, 1 ignored', became
        )  # all of the backbone, but not the head
