import csv
import dataclasses
import importlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import simplejpeg

from data_pipelines import index
from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.folder import read_folder
from data_pipelines.annotations.formats import FORMATS
from data_pipelines.conversion import plan as planning
from data_pipelines.conversion.dataset import convert
from data_pipelines.conversion.estimate import estimate
from data_pipelines.conversion.options import Options, from_arguments
from data_pipelines.convert import _parser, main
from data_pipelines.datasets.dataset_info import load_dataset_info
from data_pipelines.storage.record_index import shard_name
from data_pipelines.storage.sequence_example import (
    encoded_frames,
    label_indices,
)
from tests.helpers.golden import shared_path
from tests.helpers.read_records import read_examples
from tests.helpers.video_writer import numbers_of, write_numbered

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """train: 6 good videos and a bad one, of 3 classes; validation: 2. Video n has 5 + n frames."""
    root = tmp_path_factory.mktemp('videos')
    number = 0
    for split, classes in (
        ('train', ['jump', 'run', 'run', 'run', 'sit', 'sit']),
        ('validation', ['jump', 'sit']),
    ):
        for name in ('jump', 'run', 'sit'):
            (root / split / name).mkdir(parents=True, exist_ok=True)
        for name in classes:
            write_numbered(root / split / name / f'{number}.mp4', 5 + number)
            number += 1
    (root / 'train' / 'run' / 'bad.mp4').write_bytes(b'no video')
    return root


@pytest.fixture(scope='module')
def converted(videos, tmp_path_factory):
    output = tmp_path_factory.mktemp('converted') / 'motions'
    info = convert(
        read_folder(videos), output, Options(workers=2, shards=3, max_failures=0.2, progress=False)
    )
    return output, info


def contents(directory):
    """Name -> bytes of everything that readers read."""
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if '-of-' in path.name or path.suffix in ('.index', '.frames', '.csv')
    }


# What is written.


def test_records(converted):
    output, _ = converted
    found = {}
    for example in read_examples(output, 'train'):
        name = example.context['video/filename'][0].decode()
        frames = np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in encoded_frames(example)])
        count = len(frames)
        assert numbers_of(frames) == list(range(count))
        assert simplejpeg.decode_jpeg_header(encoded_frames(example)[0])[:3] == (
            64,
            80,
            'YCbCr',
        )
        assert example.context['image/height'].tolist() == [64]
        assert example.context['image/width'].tolist() == [80]
        assert example.context['image/frame_rate'].tolist() == [25]
        assert example.context['clip/start/timestamp'].tolist() == [0]
        assert example.context['clip/end/timestamp'].tolist() == [count * 40_000]
        found[name] = (
            count,
            label_indices(example).tolist(),
            example.context['clip/label/text'],
        )
    assert found == {
        'jump/0.mp4': (5, [0], [b'jump']),
        'run/1.mp4': (6, [1], [b'run']),
        'run/2.mp4': (7, [1], [b'run']),
        'run/3.mp4': (8, [1], [b'run']),
        'sit/4.mp4': (9, [2], [b'sit']),
        'sit/5.mp4': (10, [2], [b'sit']),
    }
    assert len(read_examples(output, 'validation')) == 2


def test_jpegs_are_baseline_420(converted):
    jpeg = encoded_frames(read_examples(converted[0], 'train')[0])[0]
    frame_header = jpeg.index(b'\xff\xc0')  # SOF0: baseline (ITU-T T.81, table B.1)
    components = jpeg[frame_header + 9]
    factors = [jpeg[frame_header + 11 + 3 * i] for i in range(components)]
    assert factors == [0x22, 0x11, 0x11]


def test_dataset_json(converted):
    output, info = converted
    assert load_dataset_info(output) == info
    assert info.name == 'motions' and info.classes == ('jump', 'run', 'sit')
    train, validation = info.splits['train'], info.splits['validation']
    assert (train.records, train.shards, train.class_counts) == (6, 3, (1, 3, 2))
    assert (validation.records, validation.shards, validation.class_counts) == (2, 2, (1, 0, 1))
    assert train.failures == (
        ('run/bad.mp4', 'empty or unreadable (Invalid data found when processing input)'),
    )
    assert not validation.failures and not train.damaged
    assert info.frame_rate is None and info.arguments['quality'] == 90
    with open(output / 'failures.csv', newline='') as file:
        assert list(csv.reader(file)) == [
            ['split', 'file', 'reason'],
            [
                'train',
                'run/bad.mp4',
                'empty or unreadable (Invalid data found when processing input)',
            ],
        ]
    assert (output / 'train.index').exists() and (output / 'validation.index').exists()
    written = {
        split: (output / f'{split}.frames').read_bytes() for split in ('train', 'validation')
    }
    assert index.main([str(output)]) == 0  # Made from the shards, the same.
    assert written == {split: (output / f'{split}.frames').read_bytes() for split in written}


@pytest.mark.parametrize('workers', [1, 3])
def test_number_of_workers_does_not_matter(videos, converted, tmp_path, workers):
    convert(
        read_folder(videos),
        tmp_path,
        Options(workers=workers, shards=3, max_failures=0.2, progress=False),
    )
    assert contents(tmp_path) == contents(converted[0])


def test_options(videos, tmp_path):
    info = convert(
        read_folder(videos, ['validation']),
        tmp_path,
        Options(
            name='other',
            shards=1,
            workers=1,
            frame_rate=10,
            short_side=32,
            quality=30,
            max_seconds=0.25,
            progress=False,
        ),
    )
    assert (info.name, info.frame_rate) == ('other', 10)
    for example in read_examples(tmp_path, 'validation'):
        frames = encoded_frames(example)
        assert len(frames) == 3  # at 0, 0.1, 0.2 s
        assert simplejpeg.decode_jpeg(frames[0]).shape == (32, 40, 3)
        assert example.context['image/frame_rate'].tolist() == [10]
        assert example.context['clip/end/timestamp'].tolist() == [250_000]


def test_clips_with_times_and_several_labels(videos, tmp_path):
    path = str(videos / 'validation/sit/7.mp4')  # 12 frames
    clips = (Clip(path, 'a', (1, 0), start=0.2, end=0.4), Clip(path, 'b', (1,), end=0.08))
    info = convert(
        Annotations(('x', 'y'), {'test': clips}, multi_label=True),
        tmp_path,
        Options(workers=1, progress=False),
    )
    assert info.multi_label and info.splits['test'].class_counts == (1, 2)
    first, second = read_examples(tmp_path, 'test')
    assert label_indices(first).tolist() == [1, 0]
    assert first.context['clip/label/text'] == [b'y', b'x']
    assert first.context['clip/start/timestamp'].tolist() == [200_000]
    assert first.context['clip/end/timestamp'].tolist() == [400_000]
    numbers = numbers_of([simplejpeg.decode_jpeg(frame) for frame in encoded_frames(first)])
    assert numbers == [5, 6, 7, 8, 9]
    assert len(encoded_frames(second)) == 2


# Bad videos.


def test_awkward_videos(tmp_path):
    folder = shared_path('videos/bad')
    names = sorted(path.name for path in folder.iterdir())
    clips = tuple(Clip(str(folder / name), name, (0,)) for name in names)
    clips += (Clip(str(folder / 'missing.mp4'), 'missing.mp4', (0,)),)
    clips += (Clip(str(folder / 'gray.mp4'), 'past the end', (0,), start=9),)
    os.mkfifo(tmp_path / 'fifo.mp4')  # opening it would wait for ever
    clips += (Clip(str(tmp_path / 'fifo.mp4'), 'fifo.mp4', (0,)),)
    clips += (Clip(os.fsdecode(bytes(tmp_path) + b'/\xff.mp4'), 'a\udcff.mp4', (0,)),)
    annotations = Annotations(('only',), {'test': clips})
    output = tmp_path / 'keep'
    info = convert(
        annotations,
        output,
        Options(workers=2, frame_rate=10, max_failures=0.5, progress=False),
    )
    failures = dict(info.splits['test'].failures)
    assert set(failures) == {
        'empty.mp4',
        'text_file.mp4',
        'truncated_no_index.mp4',
        'audio_only.mp4',
        'missing.mp4',
        'past the end',
        'fifo.mp4',
        'a\udcff.mp4',
    }
    assert (
        failures['audio_only.mp4'] == 'no video stream'
        and failures['missing.mp4'] == 'no such file'
        and failures['fifo.mp4'] == 'not a file'  # at once, not after video_timeout
    )
    damaged = dict(info.splits['test'].damaged)
    assert set(damaged) == {'truncated_faststart.mp4', 'corrupt_middle.mp4'}
    assert ' of 112 frames' in damaged['truncated_faststart.mp4']
    with open(output / 'damaged.csv', newline='', encoding='utf-8') as file:
        assert {row['file']: row['damage'] for row in csv.DictReader(file)} == damaged
    stored = {e.context['video/filename'][0].decode(): e for e in read_examples(output, 'test')}
    assert set(stored) == set(names) - set(failures)
    # Frames, height, width; from ../shared/videos/README.md.
    shapes = {
        'alpha_vp9.webm': (10, 120, 160),
        'corrupt_middle.mp4': (40, 180, 240),
        'gray.mp4': (20, 180, 240),
        'no_duration_stream.webm': (20, 180, 240),
        'odd_size_175x143.avi': (20, 143, 175),
        'odd_size_175x143_yuv444.mp4': (20, 143, 175),
        'one_frame.mp4': (1, 180, 240),
        'rgba_png.mov': (4, 60, 80),
        'rotated_90.mp4': (40, 240, 180),
        'truncated_faststart.mp4': (18, 180, 240),
        'variable_frame_rate.mp4': (40, 180, 240),
        'very_short_0.2s.mp4': (2, 180, 240),
        'vidéo de tëst – 動画 (1).mp4': (10, 180, 240),
        'yuv444_10bit.mp4': (20, 180, 240),
    }
    found = {}
    for name, example in stored.items():
        jpegs = encoded_frames(example)
        assert len({simplejpeg.decode_jpeg_header(jpeg) for jpeg in jpegs}) == 1
        found[name] = (len(jpegs), *simplejpeg.decode_jpeg(jpegs[0]).shape[:2])
    assert found == shapes

    info = convert(
        annotations,
        tmp_path / 'skip',
        Options(
            workers=2,
            frame_rate=10,
            short_side=32,
            max_failures=0.5,
            damaged='skip',
            progress=False,
        ),
    )
    assert set(dict(info.splits['test'].failures)) == set(failures) | set(damaged)
    assert not (tmp_path / 'skip' / 'damaged.csv').exists()


def test_too_many_failures(videos, tmp_path):
    with pytest.raises(
        ValueError, match=r'1 of 9 videos failed, more than max_failures=0.1.*failures.csv'
    ):
        convert(read_folder(videos), tmp_path, Options(workers=1, progress=False))
    assert not (tmp_path / 'dataset.json').exists()
    assert (tmp_path / 'failures.csv').exists()
    # Allowing more costs no second conversion.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob('*-of-00???')}
    convert(read_folder(videos), tmp_path, Options(workers=1, max_failures=0.2, progress=False))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob('*-of-00???')} == before


def test_shards_of_failed_videos_only_are_no_news(videos, tmp_path, caplog):
    """The failures are told; that their shards hold nothing follows from that."""
    bad = str(videos / 'train' / 'run' / 'bad.mp4')
    clips = [Clip(bad, f'{number}.mp4', (0,)) for number in range(5)]
    clips.append(Clip(str(videos / 'train/run/1.mp4'), 'good.mp4', (0,)))
    annotations = Annotations(('x',), {'a': tuple(clips)})
    options = Options(workers=1, shards=6, max_failures=1, progress=False)
    assert convert(annotations, tmp_path, options).splits['a'].records == 1
    assert not caplog.records


def test_all_failed(tmp_path):
    clips = (Clip('nowhere.mp4', 'nowhere.mp4', (0,)),)
    with pytest.raises(
        ValueError, match=r"all 1 videos of the split 'a' failed.*nowhere.mp4: no such file"
    ):
        convert(
            Annotations(('x',), {'a': clips}),
            tmp_path,
            Options(workers=1, max_failures=1, progress=False),
        )


def _worker_fault(tmp_path, monkeypatch, code):
    """Makes workers run `code` whenever they open a video; `path` is its name."""
    folder = tmp_path / 'fault'
    folder.mkdir()
    (folder / 'sitecustomize.py').write_text(
        'import sys\n'
        'if "data_pipelines.conversion.worker" in " ".join(sys.orig_argv):\n'
        '    import os, signal, time\n'
        '    from data_pipelines.videos import video_file\n'
        '    original = video_file.FrameStream.__init__\n'
        '    def init(self, path, **kwargs):\n'
        f'        {code}\n'
        '        original(self, path, **kwargs)\n'
        '    video_file.FrameStream.__init__ = init\n'
    )
    monkeypatch.setenv('PYTHONPATH', str(folder))


def test_video_that_crashes_the_decoder(videos, converted, tmp_path, monkeypatch):
    _worker_fault(tmp_path, monkeypatch, "if 'run/2' in path: os.kill(os.getpid(), signal.SIGSEGV)")
    output = tmp_path / 'out'
    info = convert(
        read_folder(videos), output, Options(workers=2, shards=3, max_failures=0.5, progress=False)
    )
    assert (
        dict(info.splits['train'].failures)['run/2.mp4']
        == 'the worker process died on it (signal SIGSEGV)'
    )
    assert info.splits['train'].records == 5
    names = {e.context['video/filename'][0] for e in read_examples(output, 'train')}
    assert b'run/2.mp4' not in names and b'run/3.mp4' in names
    assert (
        contents(output)['validation-00000-of-00002']
        == contents(converted[0])['validation-00000-of-00002']
    )


def test_video_that_hangs_the_decoder(videos, converted, tmp_path, monkeypatch):
    _worker_fault(tmp_path, monkeypatch, "while 'run/2' in path: time.sleep(1)")
    output = tmp_path / 'out'
    arguments = dict(workers=2, shards=3, max_failures=0.5, progress=False)
    info = convert(read_folder(videos), output, Options(video_timeout=10, **arguments))
    assert (
        dict(info.splits['train'].failures)['run/2.mp4']
        == 'took longer than 10 s (the limit, video_timeout)'
    )
    assert info.splits['train'].records == 5
    names = {e.context['video/filename'][0] for e in read_examples(output, 'train')}
    assert b'run/2.mp4' not in names and b'run/3.mp4' in names
    # The same limit changes nothing; a higher one tries that shard again, and only that one.
    times = _mtimes(output)
    monkeypatch.delenv('PYTHONPATH')
    convert(read_folder(videos), output, Options(video_timeout=10, **arguments))
    assert _mtimes(output) == times
    convert(read_folder(videos), output, Options(video_timeout=60, **arguments))
    assert contents(output) == contents(converted[0])
    assert len({name for name, time in _mtimes(output).items() if time != times[name]}) == 1


def test_want_of_memory_is_tried_again(videos, converted, tmp_path, monkeypatch):
    _worker_fault(tmp_path, monkeypatch, "if 'run/2' in path: os.kill(os.getpid(), signal.SIGKILL)")
    output = tmp_path / 'out'
    arguments = dict(workers=1, shards=3, max_failures=0.5, progress=False)
    info = convert(read_folder(videos), output, Options(**arguments))
    assert 'signal SIGKILL' in dict(info.splits['train'].failures)['run/2.mp4']
    monkeypatch.delenv('PYTHONPATH')
    convert(read_folder(videos), output, Options(**arguments))
    assert contents(output) == contents(converted[0])


def test_any_exception_is_one_video_lost(videos, tmp_path, monkeypatch):
    _worker_fault(tmp_path, monkeypatch, "if 'run/2' in path: raise KeyError('odd')")
    info = convert(
        read_folder(videos), tmp_path / 'out', Options(workers=1, max_failures=0.5, progress=False)
    )
    assert dict(info.splits['train'].failures)['run/2.mp4'] == "KeyError: 'odd'"


def test_worker_that_does_not_start(videos, tmp_path, monkeypatch):
    _worker_fault(tmp_path, monkeypatch, 'pass')
    (tmp_path / 'fault' / 'cv2.py').write_text('import sys; sys.exit(3)')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'fault'))
    with pytest.raises(OSError, match='worker process ended with code'):
        # The root of the package comes first in the path of a worker; what shadows cv2 next.
        convert(
            read_folder(videos),
            tmp_path / 'out',
            Options(workers=2, max_failures=0.5, progress=False),
        )


# Starting again.


def _mtimes(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.glob('*-of-00???')}


def test_second_run_changes_nothing(videos, tmp_path):
    arguments = dict(workers=1, shards=3, max_failures=0.2, progress=False)
    convert(read_folder(videos), tmp_path, Options(**arguments))
    before, times = contents(tmp_path), _mtimes(tmp_path)
    convert(read_folder(videos), tmp_path, Options(**arguments))
    assert contents(tmp_path) == before and _mtimes(tmp_path) == times


def test_replaced_video_is_converted_anew(videos, tmp_path):
    import shutil

    copy = tmp_path / 'videos'
    shutil.copytree(videos, copy)
    arguments = dict(workers=1, shards=3, max_failures=0.2, progress=False)
    output = tmp_path / 'out'
    convert(read_folder(copy), output, Options(**arguments))
    times = _mtimes(output)
    write_numbered(copy / 'train/run/bad.mp4', 4)
    info = convert(read_folder(copy), output, Options(**arguments))
    assert info.splits['train'].records == 7 and not info.splits['train'].failures
    assert not (output / 'failures.csv').exists()
    changed = {name for name, time in _mtimes(output).items() if time != times[name]}
    assert len(changed) == 1
    assert len(read_examples(output, 'train')) == 7


def test_other_options_replace_everything_when_asked(videos, tmp_path):
    convert(
        read_folder(videos),
        tmp_path,
        Options(workers=1, shards=3, max_failures=0.2, progress=False),
    )
    convert(
        read_folder(videos),
        tmp_path,
        Options(workers=1, shards=2, short_side=32, max_failures=0.2, replace=True, progress=False),
    )
    assert sorted(_mtimes(tmp_path)) == sorted(
        f'{split}-0000{n}-of-00002' for split in ('train', 'validation') for n in range(2)
    )
    assert {int(e.context['image/height'][0]) for e in read_examples(tmp_path, 'train')} == {32}


def test_finished_dataset_is_not_replaced_unasked(videos, converted, tmp_path):
    output, _ = converted
    before = contents(output), (output / 'dataset.json').read_bytes(), _mtimes(output)
    same = dict(workers=1, shards=3, max_failures=0.2, progress=False)
    annotations = read_folder(videos)
    train = annotations.splits['train']

    def changed(clips, classes=annotations.classes):
        splits = {**annotations.splits, 'train': tuple(clips)}
        return dataclasses.replace(annotations, classes=classes, splits=splits)

    elsewhere = tmp_path / 'sit' / '4.mp4'  # of the same name
    elsewhere.parent.mkdir()
    write_numbered(elsewhere, 30)
    clips = {clip.key: clip for clip in train}
    for other, options, reason in (
        (annotations, {'quality': 30}, 'with quality=90, not 30'),
        (annotations, {'short_side': 32}, 'with short_side=None, not 32'),
        (annotations, {'shards': 2}, 'in 3 shards, not 2'),
        (changed(train[1:]), {}, r'of other videos \(7 clips, now 6\)'),
        (changed(train, ('jump', 'run', 'sit', 'x')), {}, r"of other classes \(None, now 'x'\)"),
        (changed(train, ('jump', 'ran', 'sit')), {}, r"of other classes \('run', now 'ran'\)"),
        (changed([dataclasses.replace(c, labels=(0,)) for c in train]), {}, 'videos or labels'),
        (changed([*train[:-1], dataclasses.replace(train[-1], key='x')]), {}, 'videos or labels'),
        (
            changed([*(clips | {'sit/4.mp4': _moved(clips['sit/4.mp4'], elsewhere)}).values()]),
            {},
            r"of other videos \('sit/4.mp4' had \d+ bytes, now \d+\)",
        ),
    ):
        for call in (convert, estimate):
            with pytest.raises(
                ValueError,
                match=f"holds a finished split 'train' .*{reason}; --replace converts it anew",
            ):
                call(other, output, Options(**{**same, **options}))
    assert before == (contents(output), (output / 'dataset.json').read_bytes(), _mtimes(output))
    convert(annotations, output, Options(**same))  # the same is no other one
    assert before == (contents(output), (output / 'dataset.json').read_bytes(), _mtimes(output))


def _moved(clip, path):
    return dataclasses.replace(clip, path=str(path))


def test_command_refuses_to_replace(videos, tmp_path, capsys):
    arguments = ['folder', f'--videos={videos}', f'--output={tmp_path}', '--max_failures=0.2']
    assert main(arguments) == 0
    before = contents(tmp_path)
    capsys.readouterr()
    for more in ([], ['--dry_run']):
        assert main([*arguments, '--fps=5', *more]) == 2
        said = capsys.readouterr().err
        assert 'frame_rate=None, not 5' in said and said.count('\n') == 1
    assert contents(tmp_path) == before
    assert main([*arguments, '--fps=5', '--replace']) == 0
    assert load_dataset_info(tmp_path).frame_rate == 5


def test_small_videos_are_not_enlarged(videos, tmp_path, capsys):
    """Videos of 80 x 64 pixels, when 100 are wanted."""
    arguments = ['folder', f'--videos={videos}', '--split=validation', '--workers=1']
    for more, size, told in (
        (['--short_side=100'], (64, 80), True),
        (['--short_side=100', '--upscale'], (100, 125), False),
        (['--short_side=64'], (64, 80), False),
        (['--short_side=32'], (32, 40), False),
    ):
        output = tmp_path / more[-1].strip('-')
        assert main([*arguments, *more, f'--output={output}']) == 0
        said = capsys.readouterr().out
        assert ('2 clips are smaller than --short_side=100' in said) == told
        assert load_dataset_info(output).splits['validation'].small == 2 * told
        for example in read_examples(output, 'validation'):
            assert simplejpeg.decode_jpeg(encoded_frames(example)[0]).shape == (*size, 3)
            assert example.context['image/height'].tolist() == [size[0]]


def test_what_an_earlier_version_enlarged_goes_on_with_upscale(videos, tmp_path):
    """Its notes and `dataset.json` know no `upscale`."""
    annotations = read_folder(videos, ['validation'])
    options = Options(short_side=100, upscale=True, workers=1, progress=False)
    info = convert(annotations, tmp_path, options)
    assert 'upscale' not in info.arguments
    before = _mtimes(tmp_path)
    convert(annotations, tmp_path, options)
    assert _mtimes(tmp_path) == before
    with pytest.raises(ValueError, match='with upscale=True, not False'):
        convert(annotations, tmp_path, dataclasses.replace(options, upscale=False))


def test_killed_midway(videos, converted, tmp_path, monkeypatch):
    # Workers stop for good at one video; then the converter is killed, and they end: their pipe may
    # still be open, and the shard would be finished.
    _worker_fault(
        tmp_path,
        monkeypatch,
        'parent = os.getppid()\n'
        "        for _ in range(30_000 * ('sit/5' in path)):\n"
        '            if os.getppid() != parent: os._exit(1)\n'
        '            time.sleep(0.02)',
    )
    output = tmp_path / 'out'
    command = [
        sys.executable,
        '-m',
        'data_pipelines.convert',
        'folder',
        f'--videos={videos}',
        f'--output={output}',
        '--workers=2',
        '--shards=3',
        '--max_failures=0.2',
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    notes = output / '.convert'
    deadline = time.monotonic() + 60
    while len(list(notes.glob('*-of-*.json'))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = _mtimes(output)
    assert (
        len(finished) == 4
    )  # of 3 + 2: the one that holds sit/5 is not there under its final name
    assert not (output / 'dataset.json').exists()
    monkeypatch.delenv('PYTHONPATH')
    assert subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 0
    assert contents(output) == contents(converted[0])
    assert finished.items() <= _mtimes(output).items()  # kept, not done again
    assert not list(output.glob('*.tmp'))


def test_splits_converted_one_after_the_other(videos, converted, tmp_path):
    arguments = dict(workers=1, shards=3, max_failures=0.2, progress=False)
    convert(read_folder(videos, ['validation']), tmp_path, Options(**arguments))
    info = convert(read_folder(videos, ['train']), tmp_path, Options(**arguments))
    assert dict(info.splits) == dict(converted[1].splits)
    assert contents(tmp_path) == contents(converted[0])
    with pytest.raises(
        ValueError,
        match=r"holds the split 'validation' already, with each video's own frame rate, not 10",
    ):
        convert(read_folder(videos, ['train']), tmp_path, Options(frame_rate=10, progress=False))
    other = Annotations(('x',), {'train': (Clip('a', 'a', (0,)),)})
    with pytest.raises(
        ValueError, match=r"holds the split 'validation' already, with other classes"
    ):
        convert(other, tmp_path, Options(progress=False))
    assert contents(tmp_path) == contents(converted[0])


def test_foreign_shards_are_left_alone(videos, tmp_path):
    foreign = tmp_path / 'train-00000-of-00009'
    foreign.write_bytes(b'precious')
    with pytest.raises(
        ValueError, match='train-00000-of-00009: a shard that this command did not write'
    ):
        convert(read_folder(videos), tmp_path, Options(progress=False))
    assert foreign.read_bytes() == b'precious'


def test_only_one_conversion_at_a_time(videos, tmp_path):
    (tmp_path / '.convert').mkdir()
    with planning.locked(tmp_path):
        with pytest.raises(ValueError, match='another conversion is writing here'):
            convert(read_folder(videos), tmp_path, Options(progress=False))


# Mistakes, and the command.


@pytest.mark.parametrize(
    'arguments, message',
    [
        ({'workers': 0}, 'workers=0 must be at least 1'),
        ({'shards': 0}, 'shards=0'),
        ({'quality': 0}, 'quality=0 must be between 1 and 100'),
        ({'short_side': -3}, 'short_side=-3 must be between 1 and 8192'),
        ({'frame_rate': 0.0}, r'frame_rate=0.0 must be in \(0, 1000\]'),
        ({'max_failures': 5}, 'max_failures=5 must be between 0 and 1'),
        ({'damaged': 'mend'}, "damaged='mend' must be one of 'keep', 'skip'"),
        ({'video_timeout': 0}, 'video_timeout=0 must be positive'),
    ],
)
def test_bad_arguments(videos, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        convert(read_folder(videos), tmp_path / 'out', Options(progress=False, **arguments))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'annotations, message',
    [
        (Annotations(('a', 'a'), {'t': (Clip('x', 'x', (0,)),)}), 'name a class twice'),
        (Annotations(('a',), {}), 'no split'),
        (Annotations(('a',), {'t': ()}), "split 't': no videos"),
        (Annotations(('a',), {'t/u': (Clip('x', 'x', (0,)),)}), "split 't/u': the name must be"),
        (
            Annotations(('a',), {'t': (Clip('x', 'x', (1,)),)}),
            r"'x' has the classes \(1,\), .* each 0 to 0",
        ),
        (Annotations(('a',), {'t': (Clip('x', 'x', ()),)}), 'wanted at least one'),
        (
            Annotations(('a',), {'t': (Clip('x', 'k', (0,)), Clip('y', 'k', (0,)))}),
            "two clips are called 'k'",
        ),
    ],
)
def test_bad_annotations(tmp_path, annotations, message):
    with pytest.raises(ValueError, match=message):
        convert(annotations, tmp_path / 'out', Options(progress=False))


def test_command_folder(videos, tmp_path, capsys):
    output = tmp_path / 'motions'
    code = main(
        [
            'folder',
            f'--videos={videos}',
            f'--output={output}',
            '--split=train',
            '--max_failures=0.2',
        ]
    )
    said = capsys.readouterr()
    assert code == 0
    assert '6 train clips of 3 classes' in said.out
    assert '1 videos failed: ' in said.out and 'failures.csv' in said.out
    assert load_dataset_info(output).arguments['format'] == 'folder'
    assert load_dataset_info(output).arguments['videos'] == str(videos)


def test_command_pyslowfast(videos, tmp_path, capsys):
    (tmp_path / 'val.csv').write_text('jump/6.mp4 0\nsit/7.mp4 2\n')
    (tmp_path / 'classes.txt').write_text('jump\nrun\nsit\n')
    output = tmp_path / 'kinetics'
    code = main(
        [
            'pyslowfast',
            '--csv',
            f'validation={tmp_path / "val.csv"}',
            f'--classes={tmp_path / "classes.txt"}',
            f'--path_prefix={videos / "validation"}',
            f'--output={output}',
            '--workers=1',
        ]
    )
    assert code == 0 and '2 validation clips of 3 classes' in capsys.readouterr().out
    info = load_dataset_info(output)
    assert info.classes == ('jump', 'run', 'sit') and info.splits['validation'].class_counts == (
        1,
        0,
        1,
    )
    found = {
        e.context['video/filename'][0]: int(label_indices(e)[0])
        for e in read_examples(output, 'validation')
    }
    assert found == {b'jump/6.mp4': 0, b'sit/7.mp4': 2}


@pytest.mark.parametrize(
    'argv, message',
    [
        (['folder', '--videos=/nowhere'], '/nowhere: no such directory'),
        (['pyslowfast', '--csv=train.csv'], 'wanted SPLIT=FILE'),
        (['pyslowfast', '--csv=train=/nowhere.csv'], '/nowhere.csv: no such file'),
        (['pyslowfast', '--csv=a=x', '--csv=a=y'], "'a' is given twice"),
    ],
)
def test_command_mistakes(tmp_path, capsys, argv, message):
    assert main([*argv, f'--output={tmp_path / "out"}']) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ') and message in said and said.count('\n') == 1


@pytest.mark.parametrize(
    'argument, message',
    [
        ('--fps=0', 'frame_rate=0.0 must be in (0, 1000], or None'),
        ('--fps=ten', "argument --fps: invalid float value: 'ten'"),
        ('--max_seconds=nan', 'max_seconds=nan must be positive, or None'),
        ('--video_timeout=-1', 'video_timeout=-1.0 must be positive'),
        ('--max_failures=10', 'max_failures=10.0 must be between 0 and 1'),
    ],
)
def test_command_numbers(capsys, argument, message):
    try:
        code = main(['folder', '--videos=v', '--output=o', argument])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and message in capsys.readouterr().err


def test_command_on_a_file_as_output(videos, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    assert main(['folder', f'--videos={videos}', f'--output={tmp_path / "file"}']) == 2
    assert 'exists and is no directory' in capsys.readouterr().err


@pytest.mark.parametrize('argv', [['--help'], ['folder', '--help'], ['pyslowfast', '--help']])
def test_help_has_an_example(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    assert 'example: python -m data_pipelines.convert' in capsys.readouterr().out


def test_formats_of_images_know_their_rate():
    for name, one in FORMATS.items():
        args = _parser().parse_args([name, *shlex.split(one.example)])
        known = 12 if name in ('jester', 'something_v1') else None
        assert from_arguments(args).images_per_second == known


def test_neither_jax_nor_tensorflow_is_imported():
    code = (
        'import sys, data_pipelines.convert, data_pipelines.conversion.worker; '
        'print([m for m in ("jax", "tensorflow", "multitrain_jax") if m in sys.modules])'
    )
    said = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == '[]'


# DMVR's own library reads what we write.


@pytest.fixture
def dmvr(monkeypatch):
    pytest.importorskip('tensorflow')
    # DMVR imports these for its text tokenizers, one of them undeclared; nothing here uses them.
    for name in ('clip', 'clip.simple_tokenizer', 'sentencepiece', 'tensorflow_text'):
        try:
            importlib.import_module(name)
        except ImportError:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    modalities = pytest.importorskip('dmvr.modalities', exc_type=ImportError)
    video_dataset = pytest.importorskip('dmvr.video_dataset', exc_type=ImportError)
    return modalities, video_dataset


def test_dmvr_reads_our_shards(dmvr, converted):
    modalities, video_dataset = dmvr
    output, info = converted

    class Factory(video_dataset.BaseVideoDatasetFactory):
        def _build(self, is_training):
            modalities.add_image(
                self.parser_builder,
                self.sampler_builder,
                self.decoder_builder,
                self.preprocessor_builder,
                self.postprocessor_builder,
                is_training=is_training,
                num_frames=4,
                min_resize=64,
                crop_size=64,
            )
            modalities.add_label(
                self.parser_builder,
                self.decoder_builder,
                self.preprocessor_builder,
                num_classes=len(info.classes),
                add_label_name=True,
            )

    factory = Factory([str(output / shard_name('train', n, 3)) for n in range(3)])
    dataset = factory.configure(is_training=False).make_dataset(
        shuffle=False, num_epochs=1, batch_size=1
    )
    rows = list(dataset.as_numpy_iterator())
    ours = read_examples(output, 'train')
    assert len(rows) == len(ours) == 6
    for row, example in zip(rows, ours):  # DMVR reads the shards one after the other, as we do
        assert row['label_name'].ravel().tolist() == example.context['clip/label/text']
        assert [row['label'].argmax()] == label_indices(example).tolist()
        # One test clip: 4 frames from the middle. The centre crop cuts 8 columns off each side.
        encoded = encoded_frames(example)
        first = (len(encoded) - 4) // 2
        stored = [simplejpeg.decode_jpeg(jpeg, fastdct=True) for jpeg in encoded[first : first + 4]]
        frames = (row['image'][0] * 255).round()
        np.testing.assert_allclose(frames, np.stack(stored)[:, :, 8:72], atol=3)
