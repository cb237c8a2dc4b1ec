"""Nothing that is read can run code, leave its directory, or ask for absurd amounts of memory."""

import ast
import dataclasses
import json
import logging
import pathlib
import re
import struct
import sys
import tracemalloc

import cv2
import jax
import numpy as np
import pytest

from data_pipelines import annotations, command_line, probe
from data_pipelines.annotations.folder import read_folder
from data_pipelines.clip import decode
from data_pipelines.conversion import plan
from data_pipelines.datasets import dataset_info, dmvr, open
from data_pipelines.storage import regions, tfrecord
from data_pipelines.storage.sequence_example import (
    IMAGE_ENCODED,
    RecordError,
    decode_sequence_example,
    encode_sequence_example,
)
from data_pipelines.synthetic import rendering
from data_pipelines.videos import video_file
from multitrain_jax import errors, evaluate, npz
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints import runs
from multitrain_jax.config import load_config, stored_tree
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation import files, predictions, results
from multitrain_jax.record_data import RecordData
from multitrain_jax.reporting import progress
from multitrain_jax.reporting.heat_map import heat_map
from multitrain_jax.training.run_start import run_meta
from tests.helpers import tiny, tiny_records, video_writer
from tests.helpers.read_records import read_records

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = [
    path
    for room in (
        'run.py',
        'configs',
        'data_pipelines',
        'multitrain_jax',
        'benchmarks',
        'experiments',
        'tools',
    )
    for path in ([ROOT / room] if room.endswith('.py') else sorted((ROOT / room).rglob('*.py')))
]
_UNPICKLING = {'pickle', 'cPickle', 'marshal', 'shelve', 'dill', 'cloudpickle', 'joblib'}
_RUNNING = {'eval', 'exec', 'compile', '__import__'}
_OF_SYSTEM = {'os.system', 'os.popen', 'subprocess.getoutput', 'subprocess.getstatusoutput'}
_YAML = {'yaml.load', 'yaml.load_all', 'yaml.full_load', 'yaml.unsafe_load'}


def dangers(source: str) -> list[str]:
    """What in a module could run code that it has read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in _UNPICKLING
        ):
            if node.attr != 'UnpicklingError':
                found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and node.module in _UNPICKLING:
            found.append(ast.unparse(node))
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        unsafe = (
            name in _RUNNING | _OF_SYSTEM | _YAML
            or (name in ('np.load', 'numpy.load') and options.get('allow_pickle') != 'False')
            or options.get('allow_pickle', 'False') != 'False'
            or (name == 'torch.load' and options.get('weights_only') != 'True')
            or options.get('shell', 'False') != 'False'
            or name.endswith(('.extractall', '.unpack_archive'))
        )
        if unsafe:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    'source',
    [
        'import pickle\npickle.load(f)',
        'from pickle import loads',
        'import marshal\nmarshal.loads(x)',
        'eval(text)',
        'exec(text)',
        'np.load(path)',
        'np.load(path, allow_pickle=True)',
        'yaml.load(text)',
        'torch.load(path)',
        'torch.load(path, weights_only=False)',
        'subprocess.run(text, shell=True)',
        'os.system(text)',
        'archive.extractall()',
    ],
)
def test_dangers_are_seen(source):
    assert dangers(source)


@pytest.mark.parametrize(
    'source',
    [
        'try:\n    pass\nexcept pickle.UnpicklingError:\n    pass',
        'np.load(path, allow_pickle=False)',
        're.compile(text)',
        'torch.load(path, weights_only=True)',
        'yaml.safe_load(text)',
        'subprocess.run(words)',
        'jax.jit(f).lower(x).compile()',
    ],
)
def test_what_is_safe_is_allowed(source):
    assert not dangers(source)


# A process and its own child, over a socket pair and a file without a name: nobody else can write.
CHILDREN = {'data_pipelines/processes.py', 'data_pipelines/row_worker.py'}


def test_no_source_runs_what_it_reads():
    assert len(SOURCES) > 100
    found = {
        str(path.relative_to(ROOT)): dangers(path.read_text(encoding='utf-8')) for path in SOURCES
    }
    for name in CHILDREN:
        assert all(re.fullmatch(r'pickle\.\w+', danger) for danger in found.pop(name))
    assert {name: dangers for name, dangers in found.items() if dangers} == {}


# Names of code in what somebody else has written.


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module that may not be imported, within reach, and where DMVR is; whether it has run."""
    (tmp_path / 'payload.py').write_text(
        'import pathlib; pathlib.Path(__file__).with_suffix(".ran").touch()'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(dmvr, 'import_dmvr', lambda: None)
    yield (tmp_path / 'payload.ran').exists
    sys.modules.pop('payload', None)


EVIL = 'dmvr:payload:make'


def evil_tree(**changes):
    """The tiny config as a run stores it, with code where records should be."""
    tree = stored_tree(tiny.config(**changes))
    tree['datasets']['shades']['path'] = EVIL
    return tree


def test_the_config_of_a_run_imports_nothing(payload, tmp_path, monkeypatch):
    config = tiny.config()
    source = tiny.ArraySource(config)
    meta = {**run_meta(config, source), 'config': evil_tree()}
    shapes = tiny.abstract(config, source.datasets)[1]
    state = {'params': jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)}
    saved = runs.RunCheckpoints(tmp_path / 'run', keep=1)
    saved.save(1, state, meta)
    saved.close()

    def test(*arguments):
        monkeypatch.setattr(sys, 'argv', ['evaluate', '--workdir=run', *arguments])
        evaluate.main()

    refused = (
        r'config.datasets.shades.path=.* came with the model .* --datasets shades=dmvr:payload'
    )
    for arguments in ((), ('--datasets', 'shades'), ('--datasets', 'colours=x', 'shades')):
        with pytest.raises(UserError, match=refused):
            test(*arguments)
    with pytest.raises(UserError, match='names code to run, which a file of JSON may not'):
        (tmp_path / 'config.json').write_text(json.dumps(evil_tree()))
        test('--config=config.json')
    assert not payload()
    # The user may: here, and with the field of the config.
    with pytest.raises(ValueError, match="module 'payload' has no attribute 'make'"):
        test('--datasets', f'shades={EVIL}')
    assert payload()


@pytest.mark.parametrize(
    'changes, field',
    [
        ({}, f'datasets.shades.path={EVIL}'),
        ({'compilation_cache_dir': 'x'}, 'compilation_cache_dir=x'),
    ],
)
def test_a_config_of_json_names_no_code(changes, field, payload, tmp_path):
    tree = evil_tree(**changes)
    if changes:
        tree['datasets']['shades']['path'] = 'shades'
    (tmp_path / 'config.JSON').write_text(json.dumps(tree))
    name, _, value = field.partition('=')
    with pytest.raises(UserError, match=f'config.{name}=.{value}. names code .* --config.{field}$'):
        load_config(['--config=config.JSON', '--config.epochs=1'])
    stated = load_config(['--config=config.JSON', f'--config.{field}'])
    assert stated == tiny.config(**changes or {'datasets__shades__path': EVIL})
    assert load_config(['--config=config.JSON', f'--config.{name}=y'])
    assert not payload()


def test_a_config_of_json_is_no_python(payload, tmp_path):
    (tmp_path / 'config.json').write_text('import payload')
    for name in ('config.json', 'config.json:x'):
        with pytest.raises(UserError, match='not JSON|no variants'):
            load_config([f'--config={name}'])
    assert not payload()


@pytest.mark.parametrize('root, path', [(EVIL, ''), (EVIL, 'x'), ('dmvr:payload', ':make')])
def test_the_root_of_data_is_a_directory(root, path, payload):
    assert open.dataset_path('', EVIL) == EVIL
    config = tiny.config(data_root=root)
    shades = dataclasses.replace(config.datasets['shades'], path=path)
    with pytest.raises(ValueError, match='no dataset.json here'):
        RecordData(dataclasses.replace(config, datasets={'shades': shades}))
    assert not payload()


# Characters that mean something to who shows them.

STEERING = ['\x1b[2J', '\x1b]0;title\x07', '\r', '\x9b1m', '\u202e']


@pytest.mark.parametrize('character', ['\n', *STEERING])
def test_names_that_steer_a_terminal(character, tmp_path):
    name = f'run{character}x'
    for make in (lambda: DatasetSpec('d', (name,)), lambda: DatasetSpec(name, ('a',))):
        with pytest.raises(ValueError, match='must not hold control characters'):
            make()
    tiny_records.write_records(tmp_path, [[b'x']], [[0]], num_classes=1)
    described = json.loads((tmp_path / 'dataset.json').read_text())
    (tmp_path / 'dataset.json').write_text(json.dumps({**described, 'classes': [name]}))
    with pytest.raises(ValueError, match='must not hold control characters'):
        dataset_info.load_dataset_info(tmp_path)
    clip = annotations.Clip('v.mp4', 'v', (0,))
    with pytest.raises(ValueError, match='must not hold control characters'):
        plan.check_annotations(annotations.Annotations((name,), {'train': [clip]}))


@pytest.mark.parametrize('character', STEERING)
def test_messages_show_such_characters_spelt(character, capsys, tmp_path):
    text = f'a{character}b\tä'
    with pytest.raises(SystemExit):
        errors.run_command(lambda: _raise(UserError(text)))
    command_line.exit_code(lambda: _raise(ValueError(text)))
    before = logging.getLogger().handlers[:]
    try:
        progress.set_up_logging(tmp_path)
        logging.getLogger('multitrain_jax').warning('%s\nnext line', text)
    finally:
        logging.getLogger().handlers[:] = before
    shown = capsys.readouterr().err
    for written in (shown, (tmp_path / 'log.txt').read_text()):
        assert character not in written
        assert f'a{repr(character)[1:-1]}b\tä' in written and '\nnext line' in written
    assert shown.count('ä') == 3


def _raise(error):
    raise error


def test_names_in_pictures_are_no_formulas(tmp_path):
    names = ['$\\frac{$', '$x^', '\\input{/etc/passwd}', 'a_b$c_d$']
    heat_map(
        tmp_path / 'x.png',
        np.eye(4),
        rows=names,
        columns=names,
        title=names[0],
        row_title=names[1],
        column_title=names[2],
        value_title='x',
        signed=False,
    )
    assert cv2.imread(str(tmp_path / 'x.png')) is not None


def reads_of_json(source):
    """Lines of a module that parse JSON where nesting beyond Python's stack would not be told."""
    tree = ast.parse(source)
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.Try)
        and any(
            caught in ('Exception', 'RecursionError')
            for handler in block.handlers
            for caught in re.findall(r'\w+', ast.unparse(handler.type or ast.Name('Exception')))
        )
        for part in block.body
        for node in ast.walk(part)
    }
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ('json.loads', 'json.load')
        and not ast.unparse(node).startswith('json.loads(json.dumps(')
        and id(node) not in guarded
    ]


# What our own processes say to each other, and what only ever lies in a directory of the user's.
OWN_JSON = {
    'data_pipelines/conversion/worker.py',
    'data_pipelines/conversion/worker_pool.py',
    'data_pipelines/conversion/beam.py',
    'data_pipelines/service_batches.py',
    'multitrain_jax/probing/features.py',
}


def test_json_that_is_nested_too_deeply_is_told():
    assert reads_of_json('json.loads(x)') and not reads_of_json(
        'try:\n    json.loads(x)\nexcept (ValueError, RecursionError):\n    pass'
    )
    rooms = ('data_pipelines/', 'multitrain_jax/')
    names = {str(path.relative_to(ROOT)): path for path in SOURCES}
    assert {
        name: found
        for name, path in names.items()
        if name.startswith(rooms) and name not in OWN_JSON
        if (found := reads_of_json(path.read_text(encoding='utf-8')))
    } == {}


@pytest.mark.parametrize(
    'content', ['[' * 100_000, '[]', '{}', '{"bytes": []}', '{"datasets": []}']
)
def test_strange_json_beside_our_files(content, tmp_path):
    places = ('metrics.json', 'results.json', f'{plan.NOTES}/s.json', rendering.STAMP)
    for place in places:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(content)
    (tmp_path / 's').touch()
    assert plan.read_note(tmp_path, 's') is None
    with pytest.raises(UserError, match='results.json: (damaged|not the results)'):
        results.load(tmp_path)
    files.place_for(tmp_path.parent, tmp_path.name, {'datasets': {'a': 1}})
    with pytest.raises(ValueError, match='seed=None, not 1'):
        rendering._check_stamp(tmp_path, {'seed': 1}, ())


# Sizes that a few bytes claim.


def jpeg_of(height, width):
    """A JPEG of 64 x 80 px whose header claims another size."""
    data = bytearray(tiny_records.jpeg(np.zeros((64, 80, 3), np.uint8)))
    at = (
        data.index(b'\xff\xc0') + 5
    )  # start of frame, baseline: length, precision, then height and width
    data[at : at + 4] = struct.pack('>HH', height, width)
    return bytes(data)


def png_of(height, width):
    data = bytearray(cv2.imencode('.png', np.zeros((64, 80, 3), np.uint8))[1].tobytes())
    data[16:24] = struct.pack('>II', width, height)
    return bytes(data)


@pytest.mark.parametrize('make', [jpeg_of, png_of])
@pytest.mark.parametrize('factor', [1, 2])
def test_huge_pictures(make, factor):
    good = make(64, 80)
    assert decode.decode_frame([good], 0).shape == (64, 80, 3)
    tracemalloc.start()
    with pytest.raises(decode.FrameError, match='65500 x 65500 px: too large to be true'):
        decode.decode_frame([make(65500, 65500)], 0, factor)
    out = np.empty((2, 32, 40, 3), np.uint8)
    with pytest.raises(decode.FrameError, match='frame 1'):  # after a good one
        decode.decode_window(
            [good, make(65500, 65500)],
            np.array([0, 1]),
            decode.Window(0, 0, 64, 80),
            out,
            reduced=factor > 1,
        )
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_videos_that_would_become_huge(tmp_path):
    video_writer.write_video(
        tmp_path / 'strip.mkv',
        [np.zeros((2, 4096, 3), np.uint8)] * 3,
        codec='ffv1',
        options={'preset': ''},
    )
    with pytest.raises(video_file.VideoError, match='4096x2 would become .* too large'):
        video_file.read_frames(tmp_path / 'strip.mkv', short_side=320)


def test_lengths_of_records(tmp_path):
    """A header whose checksum is right, and whose length is not there."""
    path = tmp_path / 'train-00000-of-00001'
    for length in (1 << 20, 1 << 40, (1 << 64) - 1):
        stated = struct.pack('<Q', length)
        path.write_bytes(stated + struct.pack('<I', tfrecord.masked_crc32c(stated)) + b'x' * 100)
        with pytest.raises(RecordError, match='cut short inside the record at byte 0'):
            list(read_records(path))


def test_numbers_of_boxes():
    count = 5000
    sides = np.linspace(0, 0.5, count, dtype=np.float32)
    context = {
        regions.KEY_FRAME_INDEX: np.array([0]),
        regions.KEY_FRAME_TIMESTAMP: np.array([0]),
        regions.REGION_LABEL: np.zeros(count, np.int64),
        regions.REGION_TRACK: np.arange(count),
        **{
            f'region/bbox/{side}': sides + (0.5 if 'max' in side else 0)
            for side in ('xmin', 'ymin', 'xmax', 'ymax')
        },
    }
    example = decode_sequence_example(encode_sequence_example(context, {IMAGE_ENCODED: [b'x']}))
    with pytest.raises(RecordError, match='5000 pairs of boxes and classes'):
        regions.regions(example, 80)


def test_npz_bombs(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / 'x.npz', a=np.zeros(1 << 20), b=np.ones(3))
    assert (tmp_path / 'x.npz').stat().st_size < 20_000
    assert npz.read_npz(tmp_path / 'x.npz', ['b'])['b'].tolist() == [1, 1, 1]
    monkeypatch.setattr(npz, 'MAX_BYTES', 1 << 20)
    with pytest.raises(ValueError, match='GiB unpacked'):
        npz.read_npz(tmp_path / 'x.npz', ['b'])


# Names that become paths.


@pytest.mark.parametrize('name', ['../x', 'a/b', '/etc/x', '..', '.hidden', 'a\\b', 'a\0', ''])
def test_names_of_datasets(name, tmp_path):
    with pytest.raises(UserError, match='a name must not be empty'):
        DatasetSpec(name, ('a',))
    np.savez(
        tmp_path / 'x.npz',
        video=np.array(['v']),
        label=np.zeros(1, np.int64),
        score=np.zeros((1, 1), np.float32),
        classes=np.array(['a']),
        dataset=np.array(name.rstrip('\0') or '.'),
        multi_label=np.array(False),
    )
    if '\0' not in name:
        with pytest.raises(UserError, match='a name must not be empty'):
            predictions.load(tmp_path / 'x.npz')


def test_links_inside_the_videos_are_followed(tmp_path):
    """They are the user's own; annotation files cannot make any (their paths: tests/mistakes)."""
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere' / 'x.mp4').write_bytes(b'x')
    (tmp_path / 'videos').mkdir()
    (tmp_path / 'videos' / 'a').symlink_to(tmp_path / 'elsewhere')
    assert [clip.key for clip in read_folder(tmp_path / 'videos').splits['train']] == ['a/x.mp4']


PLAYLISTS = {
    'x.m3u8': '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{elsewhere}.ts\n#EXT-X-ENDLIST\n',
    'x.mp4': 'ffconcat version 1.0\nfile beside.mp4\n',
}


@pytest.mark.parametrize('name', PLAYLISTS)
def test_a_video_opens_no_other_file(name, tmp_path):
    elsewhere, videos = tmp_path / 'elsewhere', tmp_path / 'videos'
    videos.mkdir()
    frames = [np.zeros((64, 64, 3), np.uint8)] * 30
    for path in (elsewhere.with_suffix('.ts'), videos / 'beside.mp4'):
        video_writer.write_video(path, frames)
    (videos / name).write_text(PLAYLISTS[name].format(elsewhere=elsewhere))
    with pytest.raises(video_file.VideoError, match='a playlist .* names other files'):
        video_file.read_frames(videos / name, short_side=32)
    assert not probe.holds_video(videos / name)
