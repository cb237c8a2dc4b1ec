"""docs/checkpoints.md as written, on a directory with random weights and a few records."""

import dataclasses
import pathlib
import re
import shlex
import sys

import pytest

from data_pipelines.datasets import dataset_info
from multitrain_jax import export, import_torch, predict, run
from multitrain_jax.models import variants
from multitrain_jax.models.multitrain import MultiTrainConfig, count_parameters
from tests.helpers import tiny_records, transformers_golden
from tests.helpers.golden_models import shapes_of
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.video_writer import write_numbered
from tests.pytorch.test_vit import write_directory

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'checkpoints.md'
CONFIGS = PAGE.parent.parent / 'configs'
COMMANDS = {
    'python -m multitrain_jax.import_torch': import_torch.main,
    'python -m multitrain_jax.predict': predict.main,
    'python -m multitrain_jax.export': export.main,
    'python run.py': run.main,
}
# What makes them short; sizes that need real weights are only shown.
SHORT = {
    'finetune.py': '--config.batch_size=16 --config.epochs=1 --config.input.repeats=1 '
    '--config.model.backbone.dtype=float32 --config.evaluation.batch_size=8 '
    '--config.optimizer.warmup_epochs=0 '
    '--config.augment.rand_augment= --config.compilation_cache_dir=None',
    'own_videos.py': '--config.epochs=1 --config.model.backbone.dtype=float32 '
    '--config.optimizer.warmup_epochs=0 --config.evaluation.batch_size=8 '
    '--config.compilation_cache_dir=None',
    'probe.py': '--config.batch_size=4 --config.epochs=1 --config.evaluation.batch_size=4 '
    '--config.optimizer.warmup_epochs=0 --config.probe.blocks=0 --config.probe.cache_dir=cache '
    '--config.model.backbone.dtype=float32 --config.compilation_cache_dir=None',
    'multitrain.py': '--print_config',
    'cofinetune_ava.py': '--print_config',
}


def commands() -> list[str]:
    blocks = re.findall(r'```bash\n(.*?)```', PAGE.read_text(), re.DOTALL)
    text = '\n'.join(blocks).replace('\\\n', ' ')
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip('safetensors')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').symlink_to(CONFIGS)
    golden = transformers_golden.read('videomae_first')
    write_directory(tmp_path / 'videomae-base-finetuned-kinetics', golden)
    write_numbered(tmp_path / 'video.mp4', 12)
    frames = [tiny_records.flat_frame(0, frame, 48, 56) for frame in range(8)]
    labels = [[number % 3] for number in range(16)]
    for name in ('kinetics400', 'something_v2'):
        splits = {}
        for split in ('train', 'validation'):
            folder = tmp_path / 'data' / name
            tiny_records.write_records(folder, [frames] * 16, labels, num_classes=3, split=split)
            info = dataset_info.load_dataset_info(folder)
            splits |= info.splits
        dataset_info.save_dataset_info(folder, dataclasses.replace(info, splits=splits))
    ran = set()
    for line in commands():
        start = next(start for start in COMMANDS if line.startswith(f'{start} '))
        arguments = shlex.split(line.removeprefix(start))
        for config, more in SHORT.items():
            if any(config in argument for argument in arguments):
                arguments += more.split()
        monkeypatch.setattr(sys, 'argv', ['command', *arguments])
        assert COMMANDS[start]() == 0, line
        ran.add(start)
    assert ran == set(COMMANDS)
    out = capsys.readouterr().out
    assert 'juggling' in out and 'kinetics400: learning rate 0.001' in out
    assert (tmp_path / 'huggingface' / 'model.safetensors').exists()
    assert (tmp_path / 'runs' / 'probe' / 'export' / 'kinetics400' / 'model.json').exists()


def test_the_table_of_sizes():

    rows = re.findall(r'^\| `(\w+)`.*', PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 12
    for line in PAGE.read_text().splitlines():
        if not re.match(r'\| `\w+`', line):
            continue
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        name = re.match(r'`(\w+)`', cells[0])[1]
        config = getattr(variants, name)()
        assert cells[1] == f'{config.num_frames} x {config.image_size}'
        public = variants.public_form(config) if name == 'mvit_l_40x3' else config
        count = count_parameters(shapes_of(MultiTrainConfig(public, (2,), expander=False)))
        millions = count['backbone'] / 1e6
        assert float(cells[2].removesuffix(' M')) == pytest.approx(millions, rel=2e-3)
        public = variants.public_form(config) if name.startswith('mvit') else config
        assert float(cells[4]) == pytest.approx(public.multiplications() / 1e9, rel=5e-3)
