"""Every command and snippet of README and docs, on small data,
in a directory that has what they name.
"""

import ast
import importlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil

import jax
import ml_collections
import numpy as np
import pytest

from data_pipelines.synthetic import prepare
import multitrain_jax as mt
from multitrain_jax import config as configs
from tests.helpers import tiny
from tests.helpers.calling import ROOT, call_line
from tests.helpers.tiny import quick_compile  # noqa: F401

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
PAGES.remove(ROOT / 'docs' / 'checkpoints.md')  # which test_docs_checkpoints.py follows
# Training on this: everything else is the config's.
SMALL = """
--config.model.backbone.num_frames=4 --config.model.backbone.image_size=16
--config.model.backbone.width=8
--config.model.backbone.stage_blocks=(1,) --config.model.backbone.query_strides=((1,1,1),)
--config.input.short_side=(16,20) --config.evaluation.short_side=16
--config.evaluation.spatial_views=1
--config.evaluation.temporal_views=1 --config.epochs=1 --config.optimizer.warmup_epochs=0.5
--config.log_images=False
""".split()
# Programs of others, and scripts, which tests/test_scripts.py runs.
OTHERS = {
    '.', '[', 'beam/bin/pip', 'beam/bin/python', 'gcloud', 'pip', 'python3', 'ruff', 'sbatch',
    'scontrol', 'scripts/local_processes.sh', 'scripts/slurm.sbatch', 'scripts/tpu_pod.sh', 'srun',
    'tensorboard', 'tfds',
}  # fmt: skip
# What stands for something of the reader's, and what is there instead.
STANDS_FOR = {
    '/data': 'data',
    'VIDEOS/*/*.mp4': 'video.mp4',
    'VIDEOS/some.mp4': 'scene.mp4',
    'HOST:5050': 'localhost:5050',
    '--config=...': '--config=configs/multitrain.py',
    '--workdir=...': '--workdir=runs/x',
    '--workdir=W': '--workdir=runs/x',
    'W/non_finite/step_N.npz': 'runs/x/non_finite/step_1.npz',
}


def blocks(path: pathlib.Path, language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', path.read_text('utf-8'), re.DOTALL | re.M)


def commands(path: pathlib.Path) -> list[list[str]]:
    """Every simple command of a page, split as a shell does."""
    found = []
    for block in blocks(path, 'bash'):
        for line in block.replace('\\\n', ' ').splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index('&&') if '&&' in words else len(words)
                found.append(words[:end])
                words = words[end + 1 :]
    return [command for command in found if command]


OURS = [
    pytest.param(command, id=f'{path.stem}-{number}')
    for path in PAGES
    for number, command in enumerate(commands(path))
    if command[0] not in OTHERS and command[:3] != ['python', '-m', 'pytest']
]
SNIPPETS = [
    pytest.param(block, id=f'{path.stem}-{number}')
    for path in PAGES
    for number, block in enumerate(blocks(path, 'python'))
]


@pytest.fixture(scope='module')
def desk(tmp_path_factory):
    """A directory with small ones of what the pages name."""
    root = tmp_path_factory.mktemp('desk')
    before = pathlib.Path.cwd()
    os.chdir(root)
    try:
        _fill(root)
        yield root
    finally:
        os.chdir(before)


def _fill(root: pathlib.Path) -> None:
    sizes = dict(train_videos=20, validation_videos=10, seed=0)
    prepare.prepare_synthetic(root / 'data/quickstart', **sizes)
    prepare.prepare_scenes(root / 'data/quickstart_cofinetune', **sizes)
    synthetic = ['--config.synthetic.train_videos=20', '--config.synthetic.validation_videos=10']
    _train('--config=configs/quickstart.py', '--workdir=runs/quickstart', *synthetic)
    scenes = 'data/quickstart_cofinetune/scenes'
    _train(f'--config=own_boxes:ava={scenes}', '--workdir=runs/ava')
    for place in ('data/mine', 'data/kinetics400', 'data/ucf101'):
        shutil.copytree('data/quickstart/motions', place)
    shutil.copytree(scenes, 'data/ava')
    for place in ('runs/a', 'runs/b'):
        shutil.copytree('runs/quickstart', place)
    shutil.copytree('runs/ava', 'runs/mine')
    # An import: as if its heads were those of Kinetics and another.
    shutil.copytree('runs/quickstart/export', 'imports/k400')
    described = root / 'imports/k400/model.json'
    described.write_text(described.read_text().replace('"motions"', '"kinetics400"'))
    for place in ('runs/quickstart', 'a', 'b'):
        pathlib.Path(place).mkdir(exist_ok=True)
    code, _, err = call_line('multitrain', 'evaluate', '--workdir=runs/quickstart', '--output=a')
    assert code == 0, err
    shutil.copytree('a', 'b', dirs_exist_ok=True)
    video = next(pathlib.Path('data/quickstart/videos').rglob('*.mp4'))
    pathlib.Path('videos').mkdir()
    for place in ('video.mp4', 'other.avi', 'videos/a.mp4'):
        shutil.copy(video, place)
    annotations = pathlib.Path('data/quickstart_cofinetune/scene_videos/annotations')
    shutil.copy(annotations / 'validation.csv', 'val.csv')
    shutil.copy(annotations / 'validation.csv', 'ava_val_v2.2.csv')
    shutil.copy(
        annotations / 'action_list.pbtxt', 'ava_action_list_v2.2_for_activitynet_2019.pbtxt'
    )
    pathlib.Path('ava_val_excluded_timestamps_v2.2.csv').write_text('')
    name = (annotations / 'validation.csv').read_text().partition(',')[0]
    shutil.copy(next(annotations.parent.rglob(f'{name}.mp4')), 'scene.mp4')
    text = pathlib.Path('val.csv').read_text()
    pathlib.Path('val.csv').write_text(text.replace(f'{name},', 'scene,'))


def _train(*arguments: str) -> None:
    cache = f'--config.compilation_cache_dir={jax.config.jax_compilation_cache_dir}'
    devices = '--config.cpu_devices=None'  # this process has its own already
    code, _, err = call_line('multitrain', 'train', *arguments, *SMALL, cache, devices)
    assert code == 0, err


def _prepared(command: list[str]) -> list[str]:
    words = [re.sub(r'=/data\b', '=data', word) for word in command]
    return [
        STANDS_FOR.get(word, word.replace('HOST:5050', 'localhost:5050'))
        for word in words
        if word != '...'
    ]


def test_every_program_of_the_pages_is_known():
    programs = {command[0] for path in PAGES for command in commands(path)}
    fragments = {program for program in programs if program.startswith(('--config', '#'))}
    assert programs - OTHERS - fragments == {'multitrain', 'python'}
    for script in programs & {name for name in OTHERS if name.startswith('scripts/')}:
        assert (ROOT / script).exists()


@pytest.mark.parametrize('command', OURS)
def test_commands(command, desk, monkeypatch):
    words = _prepared(command)
    if words[0].startswith('--config'):  # options to add to a training command
        words = ['multitrain', 'train', '--config=multitrain', *words]
    if words[:2] == ['python', '-m'] and words[2].startswith(('benchmarks.', 'tools.')):
        assert importlib.util.find_spec(words[2])
        return
    training = words[:2] == ['multitrain', 'train'] or words[:2] == ['python', 'run.py']
    serving = words[1:3] in (['service', 'worker'], ['service', 'dispatcher'])
    if serving or words[:2] == ['multitrain', 'demo']:
        words.append('--help')  # they would serve for ever
    elif training:
        words.append('--print_config')
    code, out, err = call_line(*words)
    if words[2] == 'multitrain_jax.doctor' and code == 1:
        assert re.search(r'fail +(activitynet|moments_in_time)', out), out  # they are not here
        return
    if code:  # only for want of what is not here: the datasets and weights of others
        given = [part for word in words for part in re.split('[=:]', word)[1:] if part]
        given += [word for word in words if word.endswith('.pyth')]
        assert code == 2 and 'Traceback' not in err, err
        last = err.strip().splitlines()[-1]
        if 'pip install' in last:
            return
        assert any(part in last for part in given), last
        assert re.search('no such|not found|No such|no directory|neither a run', last), last
        assert not pathlib.Path(next(part for part in given if part in last)).exists(), last


@pytest.mark.parametrize('snippet', SNIPPETS)
def test_snippets(snippet, desk):
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.ImportFrom) and node.module.split('.')[0] in (
            'data_pipelines',
            'multitrain_jax',
        ):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f'{node.module} has no {name.name}'
    others = {'tf_dataset': 'tensorflow', 'import grain': 'grain'}
    lacks = any(text in snippet and not _have(name) for text, name in others.items())
    if 'my_factories' in snippet or lacks:
        return
    if 'exports/stablehlo' in snippet:
        pytest.importorskip('safetensors')
        if not pathlib.Path('exports/stablehlo').exists():
            options = '--format=stablehlo', '--output=exports/stablehlo'
            assert call_line('multitrain', 'export', 'runs/quickstart', *options)[0] == 0
    if 'features/a.npz' in snippet:
        call_line('multitrain', 'features', 'runs/quickstart', '--output=features', 'videos')
    model = mt.load('runs/quickstart/export')
    config = configs.defaults()
    names = dict(mt=mt, config=config, boxes=np.array([[[0.2, 0.2, 0.8, 0.8]]], np.float32))
    names['clips'] = np.zeros((1, *model.clip_shape), np.uint8)
    if '.lower(' in snippet:
        config = tiny.config(parallel__shard_optimizer=True)
        source = tiny.ArraySource(config)
        shapes = jax.eval_shape(lambda: source.batch(0))
        names |= dict(config=config, datasets=source.datasets, batch_shapes=shapes)
        names['devices'] = jax.devices()[:2]
    exec(compile(snippet, 'snippet', 'exec'), names)
    if 'get_config' in names:
        config = names['get_config']()
    if isinstance(config, ml_collections.ConfigDict) and config.datasets:
        configs.read_config(config)


def _have(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def test_the_readme_is_short():
    lines = (ROOT / 'README.md').read_text('utf-8').splitlines()
    assert len(lines) <= 120
    assert len((ROOT / 'benchmarks' / 'RESULTS.md').read_text('utf-8').splitlines()) <= 150


def test_links_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r'\]\(([^)#]+)\)', path.read_text('utf-8')):
            if not target.startswith('http'):
                assert (path.parent / target).exists(), f'{path.name}: {target}'
    notebook = json.loads((ROOT / 'docs' / 'tutorial.ipynb').read_text('utf-8'))
    assert notebook['nbformat'] == 4
