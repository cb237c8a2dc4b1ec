"""The same videos in every storage: the same records but for the frames' form,
the same clips by number.
"""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.annotations.folder import read_folder
from data_pipelines.clip import decode
from data_pipelines.clip.crops import Window
from data_pipelines.conversion.dataset import convert
from data_pipelines.conversion.options import Options
from data_pipelines.convert import main
from data_pipelines.datasets.dataset_info import load_dataset_info
from data_pipelines.datasets.stored import frames_of
from data_pipelines.inspection.checks import inspect_directory
from data_pipelines.inspection.contact_sheet import contact_sheet
from data_pipelines.options import Source
from data_pipelines.storage.indexing import write_frame_index
from data_pipelines.storage.reader import RecordReader
from data_pipelines.storage.record_index import load_index
from data_pipelines.storage.sequence_example import RecordError
from tests.helpers import tiny_ava
from tests.helpers.batches import evaluation_batches, train_batches
from tests.helpers.golden import shared_path
from tests.helpers.video_writer import numbers_of, write_numbered

VIDEOS = pathlib.Path(__file__).parents[1] / 'data' / 'videos'
STORAGES = {
    'jpeg': {},
    'h264': {'storage': 'h264'},
    'h264_gop8': {'storage': 'h264', 'gop': 8},
    'link': {'storage': 'link'},
}
OTHERS = [name for name in STORAGES if name != 'jpeg']
PACKETS = [name for name in OTHERS if name != 'link']
FORM = ('image/format', 'image/key_frame_interval', 'clip/data_path')  # they differ


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """Frames tell their numbers; every fourth pixel row or column is cut by no crop of 64."""
    root = tmp_path_factory.mktemp('videos')
    for name in ('bend', 'jump'):
        (root / name).mkdir()
    write_numbered(root / 'bend' / 'b.mp4', 37, options={'bf': '2', 'g': '12'})
    shutil.copy(VIDEOS / 'b_frames.avi', root / 'bend')
    shutil.copy(VIDEOS / 'joined.ts', root / 'jump')
    write_numbered(root / 'jump' / 'v.mkv', 25, times=[40 * k + k * k for k in range(25)])
    return root


def _convert(annotations, output, **options):
    convert(annotations, output, Options(workers=1, shards=2, progress=False, **options))
    return output


@pytest.fixture(scope='module')
def datasets(videos, tmp_path_factory):
    """Storage -> directory of the records."""
    root = tmp_path_factory.mktemp('datasets')
    annotations = read_folder(videos)
    return {
        name: _convert(annotations, root / name, **options) for name, options in STORAGES.items()
    }


def _video_root(directory):
    return load_dataset_info(directory).arguments.get('video_root')


def _source(directory, **fields):
    fields = {'video_root': _video_root(directory)} | fields
    return Source(directory, directory.name, 'train', **fields)


def _records(directory):
    reader = RecordReader(directory, 'train')
    return [reader.read_clip(number) for number in range(len(reader))]


def _pixels(example, video_root=None):
    """All frames of a record."""
    frames = frames_of(example, video_root=video_root)
    stored = frames.fetch(range(len(frames)))
    return np.stack([decode.decode_frame(stored, number) for number in range(len(frames))])


@pytest.mark.parametrize('storage', OTHERS)
def test_records_differ_in_the_form_of_their_frames_only(datasets, storage):
    for own, example in zip(_records(datasets['jpeg']), _records(datasets[storage]), strict=True):
        assert own.context['image/format'] == [b'JPEG']
        assert example.context['image/format'] == [storage.partition('_')[0].upper().encode()]
        for name in sorted({*own.context, *example.context} - {*FORM}):
            if not name.startswith('link/'):
                np.testing.assert_array_equal(own.context[name], example.context[name], name)
        stored = _pixels(example, _video_root(datasets[storage]))
        assert numbers_of(stored) == numbers_of(_pixels(own))


@pytest.mark.parametrize('storage', OTHERS)
@pytest.mark.parametrize(
    'sampling',
    [
        dict(sampling='strided', stride=2),
        dict(sampling='strided', stride=3, target_frame_rate=20.0),
        dict(sampling='uniform'),
        dict(sampling='key_frame', stride=2),
    ],
    ids=lambda fields: ' '.join(map(str, fields.values())),
)
def test_clips_are_equal(datasets, storage, sampling):
    options = dict(num_frames=5, crop_size=48, short_side=(48, 64), batch_size=3, num_steps=6)
    both = [
        list(train_batches([_source(datasets[name], **sampling)], **options, seed=3))
        for name in ('jpeg', storage)
    ]
    for jpeg, other in zip(*both, strict=True):
        assert jpeg.keys() == other.keys()
        for name in jpeg.keys() - {'video'}:
            np.testing.assert_array_equal(jpeg[name], other[name])
        _assert_same_pictures(jpeg['video'], other['video'])


def _assert_same_pictures(clips, others):
    """Equal but for what is lost in storage; a frame with another number differs by far more."""
    difference = abs(clips.astype(int) - others).mean((2, 3, 4))  # [B, T]
    assert difference.max() < 4
    neighbours = abs(clips[:, 1:].astype(int) - others[:, :-1]).mean((2, 3, 4))
    moves = abs(clips[:, 1:].astype(int) - clips[:, :-1]).mean((2, 3, 4)) > 8
    assert moves.any() and (neighbours[moves] > 2 * difference[:, 1:][moves]).all()


@pytest.mark.parametrize('storage', OTHERS)
def test_views_are_equal(datasets, storage):
    options = dict(
        num_frames=4, crop_size=48, short_side=56, batch_size=8, temporal_views=2, spatial_views=3
    )
    both = [
        list(evaluation_batches(_source(datasets[name], stride=3), **options))
        for name in ('jpeg', storage)
    ]
    for jpeg, other in zip(*both, strict=True):
        for name in jpeg.keys() - {'video'}:
            np.testing.assert_array_equal(jpeg[name], other[name])
        _assert_same_pictures(jpeg['video'], other['video'])


@pytest.mark.parametrize('storage', OTHERS)
def test_windows_are_cut_from_the_whole_frames(datasets, storage):
    example, root = _records(datasets[storage])[0], _video_root(datasets[storage])
    whole = _pixels(example, root)
    frames = frames_of(example, video_root=root)
    window = Window(7, 13, 33, 51)
    numbers = [3, 4, 11]
    cut = frames.fetch(numbers).decode(numbers, window)
    for number, part in zip(numbers, cut, strict=True):
        np.testing.assert_array_equal(part, whole[number, 7:40, 13:64])


@pytest.mark.parametrize('storage', STORAGES)
def test_threads_hosts_and_resuming_change_nothing(datasets, storage):
    options = dict(num_frames=4, crop_size=32, short_side=(32, 40), batch_size=4, seed=5)
    sources = [_source(datasets[storage], stride=2)]
    want = list(train_batches(sources, **options, num_steps=5, num_threads=1))
    runs = [
        (want, train_batches(sources, **options, num_steps=5, num_threads=4, prefetch=4)),
        (want[3:], train_batches(sources, **options, start_step=3, num_steps=2)),
    ]
    for expected, batches in runs:
        for batch, found in zip(expected, batches, strict=True):
            for name in batch:
                np.testing.assert_array_equal(batch[name], found[name])
    halves = [
        list(train_batches(sources, **options, num_steps=5, host=host, num_hosts=2))
        for host in (0, 1)
    ]
    for batch, parts in zip(want, zip(*halves, strict=True), strict=True):
        rows = np.concatenate([part['video'] for part in parts])
        assert sorted(row.tobytes() for row in rows) == sorted(
            row.tobytes() for row in batch['video']
        )


def test_storages_mixed_in_one_run(datasets):
    options = dict(num_frames=4, crop_size=32, short_side=(32, 40), batch_size=6, num_steps=6)
    sources = [_source(datasets[name]) for name in STORAGES]
    batches = list(train_batches(sources, **options, seed=1))
    others = train_batches(sources, **options, seed=1, num_processes=1, num_threads=2)
    for batch, other in zip(batches, others, strict=True):
        np.testing.assert_array_equal(batch['video'], other['video'])
    assert {int(d) for batch in batches for d in batch['dataset']} == set(range(len(sources)))
    jpeg = [
        dataclasses.replace(_source(datasets['jpeg']), name=str(k)) for k in range(len(sources))
    ]
    for batch, other in zip(batches, train_batches(jpeg, **options, seed=1), strict=True):
        np.testing.assert_array_equal(batch['label'], other['label'])
        assert abs(batch['video'].astype(int) - other['video']).mean((1, 2, 3, 4)).max() < 4


@pytest.mark.parametrize('storage', STORAGES)
def test_inspection(datasets, storage):
    for quick in (False, True):
        root = _video_root(datasets[storage])
        report = inspect_directory(datasets[storage], quick=quick, video_root=root)
        assert not report.all_problems()
        records = report.splits['train'].records
        assert [record.frames for record in records] == [
            len(frames_of(example)) for example in _records(datasets[storage])
        ]
        assert {record.size for record in records} == {(80, 64)}
    sheet = contact_sheet(report, clips=4)
    want = contact_sheet(inspect_directory(datasets['jpeg']), clips=4)
    assert sheet.shape == want.shape and abs(sheet.astype(int) - want).mean() < 4


@pytest.mark.parametrize('storage', PACKETS)
def test_damage_is_counted_and_found_by_inspection(datasets, storage, tmp_path, caplog):
    directory = tmp_path / 'damaged'
    shutil.copytree(datasets[storage], directory)
    reader = RecordReader(directory, 'train')
    path = directory / reader.shard_of(1)
    places = _records(directory)[1].feature_lists['image/encoded']._places
    content = bytearray(path.read_bytes())
    content[int(reader.index.offsets[1]) + 12 + int(places[1][0]) + 20] ^= 255  # in frame 0
    path.write_bytes(content)
    (problem,) = inspect_directory(directory).all_problems()
    assert 'checksum' in str(problem)
    options = dict(num_frames=4, crop_size=32, short_side=(32, 40), batch_size=4, num_steps=3)
    with train_batches(
        [_source(directory, sampling='uniform')], **options, max_bad_records=1
    ) as batches:
        assert len(list(batches)) == 3 and batches.bad_records == 1
    assert 'damaged frame 0' in caplog.text
    with pytest.raises(RecordError, match='damaged frame 0'):
        list(train_batches([_source(directory, sampling='uniform')], **options))


@pytest.mark.parametrize('storage', OTHERS)
def test_restart_keeps_what_is_done_and_other_options_do_not_mix(videos, tmp_path, storage):
    annotations, options = read_folder(videos), STORAGES[storage]
    output = _convert(annotations, tmp_path / 'd', **options)
    before = {path: path.stat().st_mtime_ns for path in output.glob('train-*')}
    _convert(annotations, output, **options)
    assert {path: path.stat().st_mtime_ns for path in output.glob('train-*')} == before
    (again,) = {path.read_bytes() for path in output.glob('train-00000-*')}
    first = next(output.glob('train-00000-*'))
    first.unlink()
    _convert(annotations, output, **options)
    assert first.read_bytes() == again
    with pytest.raises(ValueError, match=f'with storage={options["storage"]}, not jpeg; --replace'):
        _convert(annotations, output)
    # The frame index, written anew, is the same.
    frames = (output / 'train.frames').read_bytes()
    (output / 'train.frames').unlink()
    write_frame_index(output, 'train', load_index(output, 'train'))
    assert (output / 'train.frames').read_bytes() == frames


@pytest.mark.parametrize('storage', PACKETS)
def test_failures_and_damage_are_told_as_of_jpegs(tmp_path, storage):
    videos = tmp_path / 'videos' / 'awkward'
    videos.mkdir(parents=True)
    for path in shared_path('videos/bad').iterdir():
        shutil.copy(path, videos)
    lists = {}
    for name in ('jpeg', storage):
        output = _convert(
            read_folder(videos.parent), tmp_path / name, max_failures=1.0, **STORAGES[name]
        )
        lists[name] = [(output / file).read_text() for file in ('failures.csv', 'damaged.csv')]
        assert not inspect_directory(output).all_problems()
    assert lists['jpeg'] == lists[storage]


@pytest.mark.parametrize('storage', OTHERS)
def test_boxes_are_equal(tmp_path, storage):
    (tmp_path / 'ava').mkdir()
    files = tiny_ava.write_ava(tmp_path / 'ava')
    command = [
        'ava',
        *(f'--boxes={split}={files[split]}' for split in ('train', 'validation')),
        *(f'--{name}={files[name]}' for name in ('actions', 'timestamps', 'excluded', 'proposals')),
        f'--videos={files["videos"]}',
        '--video_start=900',
        '--context_seconds=1.5',
        '--shards=1',
        '--workers=1',
    ]
    found = {}
    for name in ('jpeg', storage):
        flags = [f'--{flag}={value}' for flag, value in STORAGES[name].items()]
        assert main([*command, *flags, f'--output={tmp_path / name}']) == 0
        source = _source(tmp_path / name, sampling='key_frame', stride=4)
        options = dict(num_frames=5, crop_size=48, short_side=(48, 60), batch_size=3, num_steps=2)
        views = dict(num_frames=5, crop_size=48, short_side=56, batch_size=2, spatial_views=3)
        found[name] = [*train_batches([source], **options), *evaluation_batches(source, **views)]
    for jpeg, other in zip(found['jpeg'], found[storage], strict=True):
        for name in jpeg.keys() - {'video'}:
            np.testing.assert_array_equal(jpeg[name], other[name])
        _assert_same_pictures(jpeg['video'], other['video'])


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--storage=h264 --quality=80', "quality=80 is for storage='jpeg', which is 'h264'"),
        ('--gop=8', "gop=8 is for storage='h264', which is 'jpeg'"),
        ('--crf=30', "crf=30 is for storage='h264', which is 'jpeg'"),
        ('--storage=h264 --gop=0', 'gop=0 must be between 1 and 250'),
        ('--storage=h264 --crf=52', 'crf=52 must be between 0 and 51'),
        ('--storage=avi', 'invalid choice'),
        (
            '--storage=link --short_side=32',
            "short_side=32 stores smaller frames, but storage='link'",
        ),
        ('--storage=link --quality=70', "quality=70 is for storage='jpeg', which is 'link'"),
        ('--video_root=/', "video_root=/ is for storage='link', which is 'jpeg'"),
    ],
)
def test_options_that_do_not_fit(videos, tmp_path, capsys, flags, message):
    command = ['folder', f'--videos={videos}', f'--output={tmp_path / "d"}', *flags.split()]
    try:
        assert main(command) != 0
    except SystemExit as error:
        assert error.code != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('path', ['http://localhost:1/a.mp4', 'lavfi:testsrc=d=1', '-'])
def test_lists_name_files_only(tmp_path, storage, path):
    """FFmpeg would open addresses and devices, too; lists come from outside."""
    annotations = Annotations(('one',), {'train': (Clip(path, 'a', (0,)),)})
    with pytest.raises(ValueError, match='not a file'):
        _convert(annotations, tmp_path / 'd', **STORAGES[storage])
