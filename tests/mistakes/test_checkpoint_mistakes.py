"""Exports, runs and PyTorch files that are not what they should be:
refused in one line, never half-believed.
"""

import json
import pickle
import shutil

import numpy as np
import pytest

from tests.helpers.calling import check_mistake
from tests.helpers.tiny import quick_compile  # noqa: F401


def edited(change):
    """Changes model.json."""

    def damage(export):
        content = json.loads((export / 'model.json').read_text())
        change(content)
        (export / 'model.json').write_text(json.dumps(content))

    return damage


def field(path, value):
    """Sets a field of model.json, 'datasets.colours.stride'."""

    def change(content):
        *groups, name = path.split('.')
        for group in groups:
            content = content[group]
        content[name] = value

    return edited(change)


def truncated(export):
    for path in (export / 'params').rglob('d/*'):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


EXPORTS = {
    'empty model.json': (lambda e: (e / 'model.json').write_text(''), ['model.json: not JSON']),
    'binary model.json': (
        lambda e: (e / 'model.json').write_bytes(b'\xff\xfe'),
        ['model.json: not JSON'],
    ),
    'deep model.json': (
        lambda e: (e / 'model.json').write_text('[' * 100_000),
        ['model.json: not JSON'],
    ),
    'a directory as model.json': (
        lambda e: ((e / 'model.json').unlink(), (e / 'model.json').mkdir()),
        ['Is a directory'],
    ),
    'no model': (edited(lambda c: c.pop('model')), ['model.json.model: missing']),
    'mean of one channel': (field('mean', [0.5]), ['mean=[0.5]: must have 3 entries']),
    'std of zeros': (field('std', [0, 0, 0]), ['must be positive']),
    'a dataset less': (
        edited(lambda c: c['datasets'].pop('colours')),
        ['have [5] classes, but the heads', '[3, 5]'],
    ),
    'a dataset more': (
        edited(lambda c: c['datasets'].update(x=c['datasets']['colours'])),
        ['have [3, 5, 3] classes'],
    ),
    'a class less': (field('datasets.colours.classes', ['a', 'b']), ['have [2, 5] classes']),
    'a class twice': (
        field('datasets.colours.classes', ['a', 'b', 'a']),
        ['classes: must be names, each once'],
    ),
    'a head less': (field('model.num_classes', [3]), ['have [3, 5] classes', '[3]']),
    'a negative head': (
        field('model.num_classes', [3, -5]),
        ['num_classes=(3, -5): each must be at least 1'],
    ),
    'crops that do not fit': (field('short_side', 4), ['short_side=4 must be from 16']),
    'absurd size': (field('short_side', 10**8), ['short_side=100000000']),
    'no views': (field('temporal_views', 0), ['temporal_views=0']),
    'absurd views': (field('temporal_views', 10**8), ['temporal_views=100000000']),
    'no stride': (field('datasets.colours.stride', 0), ['stride=0']),
    'absurd frames': (field('model.backbone.num_frames', 10**9), ['another architecture']),
    'absurd width': (field('model.backbone.width', 10**9), ['another architecture']),
    'absurd depth': (field('model.backbone.stage_blocks', [10**9]), ['more than 1000 blocks']),
    'another width': (field('model.backbone.width', 16), ['another architecture: parameter']),
    'later version': (field('version', 2), ['an export of another version']),
    'no parameters': (lambda e: shutil.rmtree(e / 'params'), ['params: not a readable checkpoint']),
    'no description of the parameters': (
        lambda e: (e / 'params' / '_METADATA').unlink(),
        ['params: not a readable checkpoint'],
    ),
    'half-written parameters': (truncated, ['params: ']),
}


@pytest.mark.parametrize('name', EXPORTS)
def test_exports(name, places, tmp_path):
    damage, parts = EXPORTS[name]
    shutil.copytree(places['export'], tmp_path / 'e')
    damage(tmp_path / 'e')
    check_mistake('predict', [f'--checkpoint={tmp_path / "e"}', str(places['video'])], parts)


def test_runs(places, tmp_path):
    """A workdir that has no checkpoint, is of another run, or whose results were edited."""
    (tmp_path / 'none' / 'checkpoints').mkdir(parents=True)
    check_mistake(
        'export',
        [f'--workdir={tmp_path / "none"}', f'--output={tmp_path / "out"}'],
        ['no checkpoint in it yet'],
    )
    train = [f'--config={places["config"]}', f'--config.data_root={places["data"]}']
    shutil.copytree(places['run'], tmp_path / 'other')
    check_mistake(
        'run',
        [*train, f'--workdir={tmp_path / "other"}', '--config.model.head_hidden=4'],
        ['other settings', 'model.head_hidden was 8, is 4 now'],
    )
    (tmp_path / 'edited').mkdir()
    (tmp_path / 'edited' / 'results.json').write_text('{}')
    check_mistake(
        'run',
        [*train, f'--workdir={tmp_path / "edited"}'],
        ['results.json: not the results of a run'],
    )
    assert not (tmp_path / 'out').exists()


def test_another_architecture_to_start_from(places, tmp_path):
    arguments = [
        f'--config={places["config"]}',
        f'--config.data_root={places["data"]}',
        f'--workdir={tmp_path / "new"}',
    ]
    check_mistake(
        'run',
        [*arguments, f'--config.init_from={places["run"]}', '--config.model.backbone.width=16'],
        ['a backbone of another architecture', 'is [8] there and [16] here'],
    )


@pytest.mark.parametrize(
    ('name', 'part'),
    [
        ('text', 'not a file of predictions'),
        ('objects', 'not a file of predictions'),
        ('others', 'not a file of predictions'),
        ('shapes', 'not a file of predictions'),
    ],
)
def test_predictions(name, part, tmp_path):
    path = tmp_path / 'x.npz'
    if name == 'text':
        path.write_text('text')
    elif name == 'objects':
        np.savez(path, video=np.array([{}], object))
    elif name == 'others':
        np.savez(path, x=np.zeros(3))
    else:
        np.savez(
            path,
            **dict.fromkeys(
                ('video', 'label', 'score', 'classes', 'dataset', 'multi_label'), np.zeros((2, 2))
            ),
        )
    check_mistake('evaluate', ['--ensemble', str(path), f'--output={tmp_path / "out"}'], [part])
    assert not (tmp_path / 'out').exists()


TORCH = {
    'empty': (lambda torch: b'', ['cannot be read by torch.load']),
    'text': (lambda torch: b'text', ['x.pth']),
    'code': (lambda torch: pickle.dumps({'a': print}), ['could run code and is not read']),
    'a function': (lambda torch: print, ['could run code and is not read']),
    'a list': (lambda torch: [1, 2], ['holds a list, not a state dict']),
    'a tensor': (lambda torch: torch.zeros(3), ['holds a Tensor, not a state dict']),
    'nothing': (lambda torch: {}, ['not a state dict of MViTv2']),
    'another model': (
        lambda torch: {'layer.weight': torch.zeros(3)},
        ['not a state dict of MViTv2'],
    ),
    'numbers as names': (lambda torch: {3: torch.zeros(3)}, ['not a state dict of MViTv2']),
    'sparse': (lambda torch: {'x': torch.zeros(2).to_sparse()}, ['no plain arrays of numbers']),
    'absurd': (lambda torch: {'x': torch.zeros(1).expand(1 << 40)}, ['more than 4 G numbers']),
}


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('name', TORCH)
def test_torch_files(name, tmp_path):
    torch = pytest.importorskip('torch')
    make, parts = TORCH[name]
    content = make(torch)
    path = tmp_path / 'x.pth'
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    check_mistake('import_torch', [f'--checkpoint={path}', f'--output={tmp_path / "out"}'], parts)
    assert not (tmp_path / 'out').exists()
