"""What a config takes over from imported pre-training."""

import dataclasses
import json

import pytest

from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.config import read_config
from tests.helpers import tiny_records, transformers_golden
from tests.helpers.calling import call
from tests.helpers.shipped_configs import load
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.pytorch.test_vit import write_directory

SHORT = """
--config.batch_size=16 --config.epochs=1 --config.input.repeats=1
--config.evaluation.batch_size=8 --config.model.backbone.dtype=float32
--config.optimizer.warmup_epochs=0 --config.augment.rand_augment=
--config.compilation_cache_dir=None
""".split()


def imported(case, tmp_path):
    source = write_directory(tmp_path / 'in', transformers_golden.read(case))
    code, _, err = call('import_torch', f'--checkpoint={source}', f'--output={tmp_path}/import')
    assert code == 0, err
    return tmp_path / 'import'


@pytest.mark.parametrize('file', ['finetune.py:', 'own_videos.py:data/a,', 'probe.py:'])
@pytest.mark.parametrize('case', ['videomae_pretraining', 'vjepa2_encoder'])
def test_pooling_after_pretraining(tmp_path, case, file):
    start = imported(case, tmp_path)
    backbone = open_trained(start).info.model.backbone
    assert backbone.pooling == 'mean'
    found = read_config(load(f'{file}from={start}')).model.backbone
    usual = 'mean' if 'vjepa2' in case or 'probe' in file else 'norm_of_mean'
    assert found.pooling == usual
    training = ('stochastic_depth', 'dtype', 'attention', 'remat', 'remat_attention')
    kept = {field: getattr(found, field) for field in training}
    assert found == dataclasses.replace(backbone, pooling=usual, **kept)


def test_what_masked_pretraining_became_is_exported(tmp_path):
    start, data = imported('videomae_pretraining', tmp_path), tmp_path / 'kinetics400'
    clip = [tiny_records.flat_frame(0, frame) for frame in range(8)]
    labels = [[number % 3] for number in range(16)]
    tiny_records.write_records(data, [clip] * 16, labels, num_classes=3, split='train')
    own = [f'--config.data_root={tmp_path}', '--config.datasets.kinetics400.evaluation_split=train']
    code, _, err = call(
        'run', f'--config=finetune:from={start}', f'--workdir={tmp_path}/run', *own, *SHORT
    )
    assert code == 0, err
    code, _, err = call(
        'export', tmp_path / 'run', f'--output={tmp_path}/theirs', '--format=huggingface'
    )
    assert code == 0, err
    assert json.loads((tmp_path / 'theirs' / 'config.json').read_text())['use_mean_pooling']
