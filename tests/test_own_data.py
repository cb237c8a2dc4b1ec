"""Datasets and weights that the command line names:
what becomes of them in the config, and a run.
"""

import dataclasses
import json
import re
import shlex

import jax
import pytest

from multitrain_jax import own_data
from multitrain_jax.config import read_config, strided
from multitrain_jax.errors import UserError
from tests.helpers import tiny_records
from tests.helpers.calling import ROOT, call_line, check_mistake
from tests.helpers.shipped_configs import load
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.video_writer import write_video

# A model that compiles and trains in seconds; everything else is the config's.
SMALL = """
--config.model.backbone.num_frames=4 --config.model.backbone.image_size=16
--config.model.backbone.width=8
--config.model.backbone.stage_blocks=(1,) --config.model.backbone.query_strides=((1,1,1),)
--config.model.backbone.init_std=0.3 --config.input.short_side=(16,20)
--config.evaluation.short_side=16
--config.epochs=16
""".split()


@pytest.mark.parametrize(
    'names, paths, start',
    [
        ('data/a', {'a': 'data/a'}, None),
        ('data/my-videos/,b', {'my_videos': 'data/my-videos/', 'b': 'b'}, None),
        ('data/a,from=imports/k400', {'a': 'data/a'}, 'imports/k400'),
        ('a=x/train,b=y/train', {'a': 'x/train', 'b': 'y/train'}, None),
        ('tfds:ucf101,gs://bucket/k', {'ucf101': 'tfds:ucf101', 'k': 'gs://bucket/k'}, None),
    ],
)
def test_names(names, paths, start):
    assert own_data.split_names(names) == (paths, start)


@pytest.mark.parametrize(
    'names, part',
    [
        ('', 'names no dataset'),
        ('from=imports/k400', 'names no dataset'),
        ('x/mine,y/mine', "x/mine and y/mine are both called 'mine'"),
        ('data/400', 'give NAME=PATH'),
    ],
)
def test_mistakes_in_names(names, part):
    with pytest.raises(UserError, match=part):
        load(f'own_videos.py:{names}' if names else 'own_videos.py')


def test_losses_between_datasets_are_off_for_small_ones():
    one, two = (read_config(load(f'own_videos.py:{names}')) for names in ('a', 'a,b'))
    assert not one.model.projections and one.objective.lambda_proj == one.objective.lambda_inf == 0
    assert not two.model.projections and two.objective.lambda_proj == two.objective.lambda_inf == 0


def test_a_model_to_start_from_gives_its_architecture(finished_run):
    config, _, workdir = finished_run
    for start in (workdir / 'export', workdir):
        found = read_config(own_data.small_or_from(f'a,from={start}', strided))
        assert found.init_from == str(start)
        changed = dict(stochastic_depth=0.1, dtype='bfloat16')
        assert found.model.backbone == dataclasses.replace(config.model.backbone, **changed)
        assert found.augment.mean == config.augment.mean
    with pytest.raises(UserError, match='/nowhere'):
        own_data.small_or_from('a,from=/nowhere', strided)


def test_a_dataset_without_validation(tmp_path):
    frames = [tiny_records.flat_frame(0, frame) for frame in range(4)]
    tiny_records.write_records(tmp_path / 'lab', [frames], [[0]], num_classes=1, split='train')
    arguments = [f'--config=own_videos:{tmp_path}/lab', f'--workdir={tmp_path}/run', *SMALL]
    mends = ['--validation_share=0.2', "set config.datasets.lab.evaluation_split='train'"]
    check_mistake('run', arguments, ["has no split 'validation', only train; ", *mends])


def test_the_readme_commands_on_own_videos(tmp_path, monkeypatch):
    """From a folder per class to predictions: red videos and blue ones."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    block = re.search(r'## Your own videos.*?```bash\n(.*?)```', text, re.DOTALL)[1]
    convert, train, predict = (shlex.split(line) for line in block.splitlines())
    monkeypatch.chdir(tmp_path)
    for label, colour in (('red', (220, 40, 40)), ('blue', (40, 40, 220))):
        folder = tmp_path / 'VIDEOS' / label
        folder.mkdir(parents=True)
        for number in range(10):
            images = [[[[max(c - 3 * number, 0) for c in colour]] * 32] * 24] * 8
            write_video(folder / f'{number}.mp4', jax.numpy.asarray(images, 'uint8'), rate=10)

    code, _, err = call_line(*convert)
    assert code == 0, err
    info = json.loads((tmp_path / 'data' / 'mine' / 'dataset.json').read_text())
    assert info['classes'] == ['blue', 'red']
    assert [info['splits'][split]['records'] for split in ('train', 'validation')] == [16, 4]

    cache = f'--config.compilation_cache_dir={jax.config.jax_compilation_cache_dir}'
    code, _, log = call_line(*train, *SMALL, cache)
    assert code == 0, log
    accuracy = json.loads((tmp_path / 'runs' / 'mine' / 'results.json').read_text())['accuracy']
    assert accuracy['mine']['top1'] == 1.0 and accuracy['mine']['videos'] == 4

    videos = sorted(str(path) for path in tmp_path.glob('VIDEOS/*/[01].mp4'))
    code, out, err = call_line(*predict[:-1], *videos)
    assert code == 0 and predict[-1] == 'VIDEOS/*/*.mp4', err
    best = re.findall(r'(blue|red)/\d.mp4\n  mine  (\w+)', out)
    assert best == [('blue', 'blue')] * 2 + [('red', 'red')] * 2, out
