"""What a user can get wrong on the command line of each command: one line,
exit code 2, nothing changed or half-written.
"""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers.calling import ROOT, check_mistake, snapshot
from tests.helpers.tiny import quick_compile  # noqa: F401

EXPORT = ['--workdir={run}', '--output={new}']
FEATURES = ['{export}', '--output={new}', '{video}']
PREDICT = ['--checkpoint={export}', '{video}']
EVALUATE = ['--checkpoint={export}', '--datasets', 'colours={data}/colours', '--output={new}']
PROJECTIONS = ['--checkpoint={run}', '--output={new}']
IMPORT = ['--checkpoint={text}', '--output={new}']
AVA = ['--groundtruth={ava_train}', '--detections={ava_proposals}', '--labelmap={ava_actions}']
FOLDER = ['folder', '--videos={videos}', '--output={new}']
SYNTHETIC = ['--output={new}', '--train_videos=1', '--validation_videos=1']

# (command, arguments, parts of the line)
MISTAKES = [
    # export
    ('export', [], ['--output', 'multitrain_jax.export --help']),
    ('export', ['--workdir=/nowhere', '--output={new}'], ['--workdir=/nowhere', 'neither a run']),
    ('export', ['--output={new}'], ['MODEL is missing']),
    ('export', ['--workdir={video}', '--output={new}'], ['a file, not a directory']),
    ('export', ['--workdir={run}', '--output={video}'], ['exists and is no export']),
    ('export', ['--workdir={run}', '--output={data}'], ['exists and is no export']),
    (
        'export',
        ['--workdir={run}', '--output=/proc/none'],
        ['--output=/proc/none', 'cannot be made'],
    ),
    ('export', ['--workdir={run}', '--output={video}/below'], ['cannot be made (Not a directory)']),
    ('export', ['--workdir={run}', '--output='], ['--output= is empty']),
    ('export', [*EXPORT, '--step=4'], ['no checkpoint of step 4; it has [3, 6, 8]']),
    ('export', [*EXPORT, '--step=-1'], ['no checkpoint of step -1']),
    ('export', [*EXPORT, '--step=last'], ['--step', "'last'"]),
    ('export', [*EXPORT, '--stop=8'], ['unrecognized arguments: --stop=8']),
    # predict
    ('predict', [], ['MODEL is missing']),
    ('predict', ['--checkpoint=/nowhere', '{video}'], ['/nowhere', 'neither a run']),
    ('predict', ['{export}'], ['a VIDEO is missing']),
    ('predict', ['--checkpoint={video}', '{video}'], ['a file, not a directory']),
    ('predict', ['--checkpoint={export}', '/nowhere.mp4'], ['/nowhere.mp4: no such file']),
    ('predict', ['--checkpoint={export}', '{data}'], ['data: no video in it']),
    ('predict', ['--checkpoint={export}', '{data}/*.avi'], ['*.avi: no video in it']),
    ('predict', ['--checkpoint={export}', '{text}'], ['text.txt: a list', 'none of which exists']),
    ('predict', [*PREDICT, '--window=0'], ["'0' is no length", '2.5s', '64f']),
    ('predict', [*PREDICT, '--window=2', '--stride=3f'], ['window 2s and stride 3f: both in']),
    ('predict', [*PREDICT, '--stride=3'], ['--stride=3 needs --window']),
    ('predict', [*PREDICT, '--silence=3'], ['--silence=3 needs --follow']),
    ('predict', [*PREDICT, '--follow', '--overlay={new}'], ['--overlay is of a video that is']),
    ('predict', ['/nowhere', '{video}', '--timeline=t.xyz'], ['t.xyz: no picture ends in .xyz']),
    ('predict', [*PREDICT, '--csv={video}'], ['is the video itself']),
    ('predict', [*PREDICT, '--explain={new}.gif'], ['must end in .mp4']),
    (
        'predict',
        [*PREDICT, '--explain={new}.mp4', '--timeline={new}.png'],
        ['two outputs would be one file'],
    ),
    ('predict', [*PREDICT, '--csv={video}'], ['is the video itself']),
    ('predict', [*PREDICT, '--csv=/nowhere/a.csv'], ['--csv=/nowhere/a.csv: cannot be written']),
    ('predict', [*PREDICT, '--temporal_views=0'], ['must be at least 1']),
    ('predict', [*PREDICT, '--batch_size=3'], ['batch_size=3 does not divide over 8 devices']),
    ('predict', [*PREDICT, '--top=0'], ['--top=0 must be at least 1']),
    ('predict', [*PREDICT, '--top=x'], ['--top', "'x'"]),
    ('predict', [*PREDICT, '--boxes={ava_train}'], ['needs --overlay']),
    ('predict', [*PREDICT, '{video}', '--overlay={new}'], ['is of one video, but 2 are given']),
    ('predict', [*PREDICT, '--overlay={video}'], ['is the video itself']),
    # demo
    ('demo', [], ['MODEL is missing']),
    ('demo', ['/nowhere'], ['/nowhere', 'neither a run']),
    ('demo', ['{export}', '--port=x'], ['--port', "'x'"]),
    # features
    ('features', ['{export}', '{video}'], ['--output', 'multitrain_jax.features --help']),
    ('features', ['{export}', '--output={new}'], ['a VIDEO is missing']),
    ('features', ['{export}', '--output={new}', '--window=x', '{video}'], ["'x' is no length"]),
    ('features', [*FEATURES, '--logits', '--format=npy'], ['--logits needs --format=npz']),
    ('features', [*FEATURES, '--dataset=trees'], ["dataset 'trees': the model has only colours"]),
    ('features', ['{export}', '--output={data}', '{video}'], ['holds something else']),
    ('features', ['{export}', '--output={video}', '{video}'], ['cannot be made (File exists)']),
    # evaluate
    ('evaluate', [], ['MODEL is missing']),
    ('evaluate', ['--workdir=/nowhere'], ['/nowhere', 'neither a run']),
    ('evaluate', ['--checkpoint={data}'], ['neither a run', 'nor an export']),
    ('evaluate', ['--checkpoint={export}'], ['does not know where data are']),
    (
        'evaluate',
        ['--checkpoint={export}', '--datasets', 'birds'],
        ['birds', 'neither a dataset of the checkpoint'],
    ),
    ('evaluate', ['--checkpoint={export}', '--datasets', 'colours'], ['say colours=DIR']),
    (
        'evaluate',
        ['--checkpoint={export}', '--datasets', 'colours=/nowhere'],
        ['/nowhere', 'no dataset.json'],
    ),
    (
        'evaluate',
        ['--checkpoint={export}', '--datasets', 'colours={data}/shades'],
        ["'black' is not one of the 3 classes"],
    ),
    ('evaluate', ['--checkpoint={export}', '--datasets', *2 * ['{data}/shades']], ['named twice']),
    ('evaluate', [*EVALUATE, '--split=test'], ["no split 'test'", 'train, validation']),
    ('evaluate', [*EVALUATE, '--step=3'], ['an export, which has no steps']),
    ('evaluate', [*EVALUATE, '--temporal_views=0'], ['temporal_views=0']),
    ('evaluate', [*EVALUATE, '--spatial_views=2'], ['--spatial_views', 'choose from 1, 3']),
    ('evaluate', [*EVALUATE, '--short_side=8'], ['short_side=8', '16 pixels']),
    ('evaluate', [*EVALUATE, '--batch_size=0'], ['batch_size=0']),
    ('evaluate', [*EVALUATE, '--candidates=proposals'], ['no dataset of the checkpoint has boxes']),
    (
        'evaluate',
        [*EVALUATE[:-1], '--output={video}', '--batch_size=8'],
        ['--output=', 'cannot be made'],
    ),
    (
        'evaluate',
        ['--checkpoint={export}', '--config=/nowhere.py'],
        ['--config=/nowhere.py', 'No such file'],
    ),
    (
        'evaluate',
        ['--checkpoint={export}', '--config=configs/quickstart.py'],
        ['config.datasets.directions', 'no such dataset'],
    ),
    (
        'evaluate',
        ['--checkpoint={export}', '--config={config}', '--config.sed=3'],
        ['--config.sed: unknown field', 'did you mean --config.seed?'],
    ),
    ('evaluate', ['--checkpoint={export}', '--config.seed=3'], ['needs --config=FILE']),
    ('evaluate', ['--checkpoint={export}', '--workdir={run}'], ['are both given']),
    ('evaluate', ['--workdir={run}', '--step=99'], ['no checkpoint of step 99']),
    ('evaluate', ['--ensemble', '/nowhere.npz'], ['/nowhere.npz: no such file']),
    ('evaluate', ['--ensemble', '{video}'], ['not a file of predictions']),
    ('evaluate', ['--ensemble', '{videos}'], ['not a file of predictions']),
    # projections
    ('projections', ['--checkpoint=/nowhere'], ['neither a run']),
    ('projections', ['--checkpoint={export}'], ['an export, which has no projections']),
    ('projections', [*PROJECTIONS, '--step=4'], ['no checkpoint of step 4']),
    ('projections', [*PROJECTIONS, '--top=0'], ['--top=0']),
    (
        'projections',
        [*PROJECTIONS, '--relations=/nowhere'],
        ['--relations=/nowhere', 'cannot be read'],
    ),
    ('projections', [*PROJECTIONS, '--relations={text}'], ['not JSON']),
    (
        'projections',
        [*PROJECTIONS, '--relations={data}/colours/dataset.json'],
        ['says nothing of the pairs'],
    ),
    ('projections', ['--checkpoint={run}', '--output={video}'], ['--output=', 'cannot be made']),
    # import_torch (what is inside a file: test_checkpoint_mistakes)
    ('import_torch', [], ['--output']),
    ('import_torch', ['--output={new}'], ['FILE is missing']),
    ('import_torch', ['a.pth', '--checkpoint=b.pth', '--output={new}'], ['are both given']),
    (
        'import_torch',
        [*IMPORT, '--patch_stride=1,2'],
        ['--patch_stride=1,2: must be three numbers'],
    ),
    (
        'import_torch',
        [*IMPORT, '--kv_stride=0,1,1'],
        ['--kv_stride=0,1,1: numbers must be positive'],
    ),
    ('import_torch', [*IMPORT, '--query_strides=1,1'], ['--query_strides=1,1: must be three']),
    ('import_torch', [*IMPORT, '--mean=grey'], ['--mean=grey', '0.45,0.45,0.45']),
    ('import_torch', [*IMPORT, '--inflate=no'], ['--inflate', "'no'"]),
    ('import_torch', [*IMPORT, '--dataset='], ['--dataset=: empty']),
    ('import_torch', [*IMPORT, '--classes=a='], ['--classes=a=: empty']),
    # ava_eval
    ('ava_eval', [], ['--groundtruth, --detections, --labelmap']),
    ('ava_eval', ['--groundtruth=/nowhere', *AVA[1:]], ['/nowhere: no such file']),
    ('ava_eval', [AVA[0], '--detections=/nowhere', AVA[2]], ['/nowhere: no such file']),
    ('ava_eval', [*AVA[:2], '--labelmap={ava_train}'], ['line 1: not an action list (pbtxt)']),
    ('ava_eval', ['--groundtruth={ava_actions}', *AVA[1:]], ['line 1: 1 columns']),
    ('ava_eval', AVA, ['proposals.csv, line 1: not a number']),
    ('ava_eval', ['--groundtruth={video}', *AVA[1:]], ['not UTF-8 text']),
    (
        'ava_eval',
        [*AVA, '--exclusions={ava_train}'],
        ['line 1: 8 columns, wanted video,timestamp (5 more'],
    ),
    ('ava_eval', [*AVA, '--protocol=mine'], ['--protocol', "'official', 'pyslowfast'"]),
    # doctor
    ('doctor', ['--quick'], ['unrecognized arguments: --quick']),
    ('doctor', ['--config.seed=1', '--json=3'], ['--json', "'3'"]),
    # inspect, index
    ('inspect', [], ['DIR']),
    ('inspect', ['/nowhere'], ['/nowhere: no such directory']),
    ('inspect', ['{empty}'], ['no records in it', 'train-00000-of-00016']),
    ('inspect', ['{video}'], ['no such directory']),
    ('inspect', ['{data}/colours', '--sheet={new}.gif'], ['must end in .jpg or .png']),
    ('inspect', ['{data}/colours', '--clips=0'], ['--clips=0: must be at least 1']),
    ('inspect', ['{data}/colours', '--seed=-1'], ['--seed=-1']),
    ('index', ['/nowhere'], ['/nowhere: no such directory']),
    ('index', ['{empty}'], ['no records in it']),
    ('index', ['{data}/colours', '--threads=0'], ['--threads=0: must be at least 1']),
    # synthetic, service
    ('synthetic', [], ['--output']),
    ('synthetic', ['--output='], ['--output= is empty']),
    ('synthetic', ['--output={video}', *SYNTHETIC[1:]], ['is a file; choose a directory']),
    ('synthetic', [*SYNTHETIC, '--train_videos=0'], ['train_videos is 0']),
    ('synthetic', [*SYNTHETIC, '--seed=-1'], ['seed is -1']),
    ('synthetic', [*SYNTHETIC, '--workers=0'], ['workers is 0']),
    ('synthetic', [*SYNTHETIC, '--sheet={new}.xyz'], ['must end in .jpg or .png']),
    ('service', ['worker'], ['--dispatcher']),
    ('service', ['dispatcher', '--port=99999'], ['--port=99999: must be from 0 to 65535']),
    # convert, all formats (their annotation files: test_annotation_mistakes)
    ('convert', [], ['FORMAT']),
    ('convert', ['kinetcs'], ["invalid choice: 'kinetcs'"]),
    ('convert', ['folder', '--output={new}'], ['--videos']),
    (
        'convert',
        ['folder', '--videos={video}', '--output={new}'],
        ['no such directory', 'ROOT/CLASS/*.mp4'],
    ),
    ('convert', ['folder', '--videos={data}', '--output={new}'], ['no videos in it']),
    ('convert', [*FOLDER, '--split=test'], ["no split 'test' in it (it has train, validation)"]),
    ('convert', [*FOLDER, '--short_side=0'], ['short_side=0 must be between 1 and 8192']),
    ('convert', [*FOLDER, '--short_side=100000'], ['short_side=100000 must be between 1 and 8192']),
    ('convert', [*FOLDER, '--fps=1e9'], ['frame_rate=1000000000.0 must be in (0, 1000]']),
    ('convert', [*FOLDER, '--fps=fast'], ['--fps', "'fast'"]),
    ('convert', [*FOLDER, '--quality=101'], ['quality=101 must be between 1 and 100']),
    ('convert', [*FOLDER, '--workers=0'], ['workers=0 must be at least 1']),
    ('convert', [*FOLDER, '--shards=0'], ['shards=0 must be at least 1']),
    ('convert', [*FOLDER, '--max_failures=2'], ['max_failures=2.0 must be between 0 and 1']),
    ('convert', [*FOLDER, '--beam=x', '--workers=1'], ['--workers has no effect with --beam']),
    (
        'convert',
        ['folder', '--videos={videos}', '--output={video}'],
        ['exists and is no directory'],
    ),
    ('convert', ['folder', '--videos={videos}', '--output='], ['output directory is empty']),
    (
        'convert',
        ['folder', '--videos={videos}', '--output=/proc/none'],
        ['/proc/none: cannot be made'],
    ),
    (
        'convert',
        ['folder', '--videos={videos}', '--output=gs://bucket/x'],
        ['a local or mounted directory'],
    ),
    (
        'convert',
        ['folder', '--videos={videos}', '--output={data}/colours'],
        ['a shard that this command did not write'],
    ),
]


@pytest.mark.parametrize(
    ('command', 'arguments', 'parts'),
    MISTAKES,
    ids=lambda value: value if isinstance(value, str) else ' ',
)
def test_one_line(command, arguments, parts, places, filled, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    before = snapshot(places['data'], places['videos'], places['run'])
    check_mistake(command, filled(arguments), parts)
    assert snapshot(places['data'], places['videos'], places['run']) == before
    assert [path.name for path in tmp_path.iterdir()] == ['tmp'] and not list(
        (tmp_path / 'tmp').iterdir()
    )


@pytest.mark.parametrize(
    ('module', 'arguments', 'part'),
    [
        ('multitrain_jax.export', ['--workdir=/nowhere', '--output=x'], 'neither a run'),
        ('data_pipelines.inspect', ['/nowhere'], 'no such directory'),
        (
            'data_pipelines.convert',
            ['folder', '--videos=/nowhere', '--output=x'],
            'no such directory',
        ),
    ],
)
def test_as_a_process(module, arguments, part, tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', module, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert (
        done.returncode == 2
        and done.stderr.count('\n') == 1
        and part in done.stderr
        and not done.stdout
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'command',
    [
        'data_pipelines.inspect {data}/colours --json --no_sheet',
        'multitrain_jax.ava_eval --groundtruth={ava_train} --detections={ava_train} '
        '--labelmap={ava_actions}',
    ],
)
def test_a_reader_that_has_gone(command, places):
    """`command | head` ends the command quietly, with a shell's code for it."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, 'wb') as closed:
        done = subprocess.run(
            [sys.executable, '-m', *command.format_map(places).split()],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    assert done.returncode == 141 and not re.search('Traceback|Exception', done.stderr), done.stderr
