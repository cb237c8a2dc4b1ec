"""The rendered directory: files, annotations, relations, restarts, the command."""

import collections
import json
import pathlib

import av
import numpy as np
import pytest

from data_pipelines.annotations import folder, pyslowfast
from data_pipelines.synthetic import __main__ as command
from data_pipelines.synthetic import classification, rendering
from data_pipelines.synthetic.layers import render

SIZES = dict(train_videos=20, validation_videos=10)


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp('synthetic')
    return root, classification.render_datasets(root, **SIZES, workers=1, progress=False)


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
        return np.stack(frames), stream.average_rate, stream.codec_context.name


def test_a_folder_reader_finds_the_motions(rendered):
    root, paths = rendered
    found = folder.read_folder(paths['motions']['train'].parent)
    assert found.classes == tuple(classification.DATASETS['motions'].actions)
    for split, size in (('train', 20), ('validation', 10)):
        clips = found.splits[split]
        assert collections.Counter(clip.labels for clip in clips) == {
            (label,): size // 10 for label in range(10)
        }
        video = classification.Video('motions', split, 7, seed=0)
        (clip,) = (clip for clip in clips if clip.path.endswith('_00007.mp4'))
        assert pathlib.Path(clip.path) == root / video.path and clip.labels == (video.label,)


def test_a_pyslowfast_reader_finds_the_directions(rendered):
    root, paths = rendered
    paths = paths['directions']
    found = pyslowfast.read_pyslowfast(
        {split: paths[split] for split in ('train', 'validation')},
        classes_file=paths['classes'],
        path_prefix=paths['train'].parent,
    )
    assert found.classes == tuple(classification.DATASETS['directions'].actions)
    for split, size in (('train', 20), ('validation', 10)):
        for index, clip in enumerate(found.splits[split]):
            video = classification.Video('directions', split, index, seed=0)
            assert pathlib.Path(clip.path) == root / video.path and pathlib.Path(clip.path).exists()
            assert clip.labels == (video.label,)
        assert index == size - 1
    # A path must not tell the class.
    assert not any(
        name.split()[0] in clip.key for name in found.classes for clip in found.splits['train']
    )


@pytest.mark.parametrize('dataset', ['motions', 'directions'])
def test_files_hold_the_rendered_frames(rendered, dataset):
    for index in (0, 3, 11):
        video = classification.Video(dataset, 'train', index, seed=0)
        scene = video.scene()
        frames, rate, codec = decode(rendered[0] / video.path)
        expected = render(scene)
        assert codec == 'h264' and rate == scene.frame_rate
        assert frames.shape == expected.shape
        error = np.mean((frames.astype(np.float64) - expected) ** 2, axis=(1, 2, 3))
        assert 10 * np.log10(255**2 / error.max()) > 27  # dB


def test_relations(rendered):
    relations = json.loads(rendered[1]['relations'].read_text())
    to_directions = relations['motions']['directions']
    to_motions = relations['directions']['motions']
    assert to_directions['star growing'] == to_directions['ring growing'] == ['approaching']
    assert to_directions['ring falling'] == ['moving down']
    assert to_directions['star sliding'] == [
        'moving left',
        'moving right',
        'left then right',
        'right then left',
    ]
    assert to_motions['receding'] == ['ring shrinking', 'star shrinking']
    assert to_motions['moving up'] == ['ring rising', 'star rising']
    assert to_motions['turning clockwise'] == to_motions['turning counter-clockwise'] == []
    assert {(a, b) for a, found in to_directions.items() for b in found} == {
        (a, b) for b, found in to_motions.items() for a in found
    }


def test_number_of_workers_and_of_videos_does_not_matter(rendered, tmp_path):
    classification.render_datasets(
        tmp_path, train_videos=10, validation_videos=10, workers=2, progress=False
    )
    other = contents(tmp_path)
    videos = [name for name in other if name.endswith('.mp4')]
    assert len(videos) == 40
    first = contents(rendered[0])
    assert all(other[name] == first[name] for name in videos)


def test_seed_split_dataset_and_index_give_different_videos():
    scenes = [
        classification.Video(*arguments).scene()
        for arguments in [
            ('motions', 'train', 0, 0),
            ('motions', 'train', 0, 1),
            ('motions', 'validation', 0, 0),
            ('directions', 'train', 0, 0),
            ('motions', 'train', 10, 0),
        ]
    ]
    assert len({float(scene.actor.diameter[0]) for scene in scenes}) == len(scenes)


def test_an_interrupted_rendering_is_completed(tmp_path, monkeypatch):
    sizes = dict(train_videos=3, validation_videos=2, workers=1, progress=False)
    write, written = rendering.write_video, []

    def stop_at_the_fifth(path, frames, frame_rate):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)
        write(path, frames, frame_rate)

    monkeypatch.setattr(rendering, 'write_video', stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        classification.render_datasets(tmp_path, **sizes)
    assert json.loads((tmp_path / 'synthetic.json').read_text())['complete'] is False
    times = {path: path.stat().st_mtime_ns for path in written}

    monkeypatch.setattr(rendering, 'write_video', write)
    classification.render_datasets(tmp_path, **sizes)
    assert json.loads((tmp_path / 'synthetic.json').read_text())['complete'] is True
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert sum(name.endswith('.mp4') for name in contents(tmp_path)) == 10

    # Finished: nothing is rendered or written again.
    monkeypatch.setattr(rendering, 'write_video', None)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.*')}
    classification.render_datasets(tmp_path, **sizes)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.*')}


def test_a_video_is_written_whole_or_not_at_all(tmp_path):
    frames = np.zeros((4, 16, 16, 3), np.uint8)

    class Interrupted(Exception):
        pass

    class Frames:
        shape = frames.shape

        def __iter__(self):
            yield from frames[:2]
            raise Interrupted

    with pytest.raises(Interrupted):
        rendering.write_video(tmp_path / 'a.mp4', Frames(), 12)
    assert not list(tmp_path.iterdir())


def test_other_videos_in_the_directory_are_an_error(rendered, tmp_path):
    with pytest.raises(ValueError, match='seed=0, not 1: choose another directory'):
        classification.render_datasets(rendered[0], **SIZES, seed=1, workers=1, progress=False)
    with pytest.raises(ValueError, match='train_videos=20, not 21'):
        classification.render_datasets(
            rendered[0], train_videos=21, validation_videos=10, workers=1
        )
    (tmp_path / 'motions').mkdir()
    with pytest.raises(ValueError, match='motions exists but was not rendered here'):
        classification.render_datasets(tmp_path, **SIZES)
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='is a file'):
        classification.render_datasets(tmp_path / 'file', **SIZES)
    with pytest.raises(ValueError, match='validation_videos is 0, must be at least 1'):
        classification.render_datasets(tmp_path, validation_videos=0)


def test_command(tmp_path, capsys):
    arguments = [
        f'--output={tmp_path / "out"}',
        '--train_videos=2',
        '--validation_videos=1',
        '--workers=1',
        f'--sheet={tmp_path / "sheet.png"}',
    ]
    assert command.main(arguments) == 0
    printed = capsys.readouterr()
    assert '6/6' in printed.err  # the progress bar
    assert f'data_pipelines.convert folder --videos={tmp_path / "out" / "motions"}' in printed.out
    assert f'--path_prefix={tmp_path / "out" / "directions"}' in printed.out
    assert (tmp_path / 'sheet.png').read_bytes().startswith(b'\x89PNG')

    for wrong in (
        ['--seed=1'],
        ['--sheet=sheet.unknown'],
        ['--workers=0'],
        [f'--sheet={tmp_path}/nowhere/sheet.png'],
    ):
        assert command.main([*arguments, *wrong]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith('error: ')

    with pytest.raises(SystemExit) as stopped:
        command.main(['--help'])
    assert stopped.value.code == 0
    assert 'python -m data_pipelines.synthetic --output=' in capsys.readouterr().out
