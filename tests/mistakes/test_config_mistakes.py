"""Mistakes in config files and overrides, beyond those of test_run.py:
one line that names the field, nothing left behind.
"""

import pytest

from tests.helpers.calling import ROOT, check_mistake
from tests.helpers.tiny import quick_compile  # noqa: F401

# (override without --config., parts of the line)
VALUES = [
    ('seed=1.5', ['--config.seed=1.5: must be a whole number']),
    ('seed=-1', ['seed=-1 must be between 0 and 4294967295']),
    ('seed=4294967296', ['seed=4294967296 must be between 0 and 4294967295']),
    ('epochs=inf', ['config.epochs=inf: must be a finite number']),
    ('epochs=nan', ['config.epochs=nan']),
    ('epochs=two', ['--config.epochs=two: must be a number']),
    ('batch_size=1e3', ['must be a whole number']),
    ('accumulation_steps=3', ['batch_size=16', '3 accumulation steps']),
    ('accumulation=both', ["'plain', 'two_pass'"]),
    ('log_every_steps=0', ['log_every_steps=0']),
    ('datasets={}', ['config.datasets is empty']),
    ('datasets.colours=None', ['is a group of fields']),
    ('datasets.birds.path=x', ['--config.datasets.birds.path: unknown field']),
    ('datasets.colours.path={data}/none', ['/none: no dataset.json here']),
    ('datasets.colours.path={video}', ['no dataset.json here']),
    ('datasets.colours.path=tfds:no_such_dataset', ['no_such_dataset']),
    ('datasets.colours.path=dmvr:module', ['DMVR']),
    ('datasets.colours.path=foo://bucket/x', ['this kind of remote path is not supported']),
    ('datasets.colours.train_split=', ["no split ''", 'train, validation']),
    ('datasets.colours.stride=0', ['config.datasets.colours: stride=0']),
    ('datasets.colours.flip=maybe', ['must be True or False']),
    ('datasets.colours.loss_weight=-1', ['loss_weight=-1.0 must not be negative']),
    ('datasets.colours.loss_weight=nan', ['config.datasets.colours.loss_weight=nan']),
    ('datasets.colours.target_frame_rate=fast', ['target_frame_rate=fast: must be a number']),
    ('datasets.colours.target_frame_rate=0', ['target_frame_rate=0.0 must be positive, or None']),
    ('model.backbone=3', ['is a group of fields']),
    ('model.backbone.width=0', ['width=0 must be at least 1']),
    ('model.backbone.heads=0', ['heads=0 must be at least 1']),
    ('model.backbone.attention=flash', ["attention='flash': must be one of 'xla', 'cudnn'"]),
    ('model.backbone.attention=cudnn', ["needs dtype='bfloat16', not 'float32'"]),
    ('model.backbone.heads=3', ['width 8 is not a multiple of heads 3']),
    ('model.backbone.stage_blocks=(1,1)', ['query_strides has 1 entries for 2 stages']),
    ('model.backbone.stage_blocks=(1000000,)', ['more than 1000 blocks']),
    ('model.backbone.query_strides=((1, 1),)', ['must have 3 entries, has 2']),
    ('model.backbone.kv_stride=(0, 1, 1)', ['kv_stride=(0, 1, 1): each must be at least 1']),
    ('model.backbone.patch_stride=(0, 4, 4)', ['patch_stride=(0, 4, 4): each must be at least 1']),
    ('model.backbone.patch_kernel=(2, 4, 4)', ['must be odd']),
    ('model.backbone.mlp_ratio=-1', ['mlp_ratio=-1.0 must be positive']),
    ('model.backbone.stochastic_depth=1.0', ['stochastic_depth=1.0 must be in [0, 1)']),
    (
        'model.backbone.positions=learned',
        ["positions='learned': must be one of 'separate', 'relative'"],
    ),
    ('model.backbone.dtype=float17', ["dtype='float17': must be one of 'float32', 'bfloat16'"]),
    ('model.backbone.image_size=18', ['image_size=18', 'crops would not fit']),
    ('model.head_hidden=-1', ['head_hidden=-1 must not be negative']),
    ('model.head_dropout=1.0', ['head_dropout=1.0 must be in [0, 1)']),
    ('model.expander_hidden=0', ['expander_hidden=0 must be at least 1']),
    ('model.expander=False', ['lambda_inf=0.1 needs model.expander=True']),
    ('model.projections=False', ['lambda_proj=1 needs model.projections=True']),
    ('input.short_side=large', ['config.input.short_side', 'must have 2 entries']),
    ('input.num_threads=0', ['num_threads=0']),
    ('input.max_bad_records=-1', ['max_bad_records=-1']),
    ('augment.rand_augment=strong', ['rand-m7-n4-mstd0.5-inc1']),
    ('augment.color_jitter=2', ['color_jitter=2.0 must be between 0 and 1']),
    ('augment.mix_group=3', ['mix_group=3']),
    ('augment.std=(0.0, 0.1, 0.1)', ['must be positive']),
    ('augment.mean=(0.5, 0.5)', ['must have 3 entries']),
    ('objective.classification_loss=mse', ["'mse'", "'cross_entropy'"]),
    ('optimizer.peak_learning_rate=0', ['peak_learning_rate=0.0 must be positive']),
    ('optimizer.end_learning_rate=1', ['must not exceed peak_learning_rate']),
    ('optimizer.frozen=bakbone', ["'bakbone' matches no parameter"]),
    ("optimizer.frozen=('*',)", ['leaves nothing to train']),
    ('optimizer.layer_decay=0', ['layer_decay=0.0']),
    ('optimizer.ema_warmup=True', ['no effect with ema_decay=0']),
    ('optimizer.warmup_epochs=1', ['both given']),
    ('evaluation.spatial_views=2', ['must be one of 1, 3']),
    ('evaluation.temporal_views=0', ['temporal_views=0']),
    ('checkpoint.keep=0', ['keep=0']),
    ('init_from={video}', ['import PyTorch checkpoints first']),
    ('init_from={data}', ['neither a run']),
    ('projections_from={video}', ['cannot be read as .npz or .json']),
    ('projections_from={data}', ['neither a run']),
]

FILES = {
    'x = 1\n': 'needs a function get_config()',
    'def get_config():\n    return 3\n': 'needs a function get_config()',
    'def get_config():\n    return dict(seed=0)\n': 'needs a function get_config()',
    'def get_config(:\n': 'SyntaxError',
    'import no_such_module\n': "No module named 'no_such_module', line 1",
    'def get_config():\n    return undefined\n': "name 'undefined' is not defined, line 2",
    'import ml_collections\ndef get_config():\n'
    '    return ml_collections.ConfigDict()\n': 'config.datasets is empty',
    'import ml_collections\ndef get_config():\n'
    '    return ml_collections.ConfigDict('
    'dict(datasets=dict(a=dict(path="x")), model=3))\n': 'config.model=3: must be a group',
}
LINES = {
    'of another file': (['--config=README.md'], 'README.md: cannot be loaded'),
    'of a video': (['--config={video}'], 'cannot be loaded'),
    'of a directory': (['--config=configs'], 'Is a directory'),
    'empty': (['--config='], '--config='),
    'no suffix': (['--config=configs/quickstar'], 'No such file'),
    'no variants': (['--config=configs/quickstart.py:large'], 'no variants'),
    'no such variant': (['--config=configs/multitrain.py:k701'], "no variant 'k701', only k700"),
    'no value': (
        ['--config={config}', '--config.batch_size'],
        '--config.batch_size: the value is missing',
    ),
    'no such choice': (['--config={config}', '--multi_host=perhaps'], '--multi_host=perhaps'),
}


@pytest.mark.parametrize(('override', 'parts'), VALUES, ids=[override for override, _ in VALUES])
def test_values(override, parts, filled, tmp_path):
    arguments = filled(['--config={config}', '--config.data_root={data}', '--workdir={new}'])
    given = override if override.startswith('datasets={') else filled([override])[0]
    check_mistake('run', [*arguments, f'--config.{given}'], parts)
    # Some are found when the state is made; then the log says how far it came.
    assert not (tmp_path / 'new').exists() or {p.name for p in (tmp_path / 'new').iterdir()} <= {
        'log.txt',
        'checkpoints',
    }


def test_fused_attention_without_its_gpu(filled):
    flags = ['--config.model.backbone.dtype=bfloat16', '--config.model.backbone.attention=cudnn']
    arguments = filled(
        ['--config={config}', '--config.data_root={data}', '--workdir={new}', *flags]
    )
    check_mistake(
        'run', arguments, ["attention='cudnn' needs NVIDIA GPUs", 'here is: cpu', "use 'xla'"]
    )


@pytest.mark.parametrize('content', FILES, ids=lambda content: ' ')
def test_config_files(content, filled, tmp_path):
    (tmp_path / 'tmp' / 'mine.py').write_text(content)
    line = check_mistake(
        'run', filled(['--config={tmp}/mine.py', '--workdir={new}']), [FILES[content]]
    )
    assert 'mine.py' in line or line.startswith('error: config.')
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('name', LINES)
def test_command_lines(name, filled, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments, part = LINES[name]
    check_mistake('run', filled(['--workdir={new}', *arguments]), [part])
    assert not (tmp_path / 'new').exists()
