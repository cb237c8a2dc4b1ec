import pathlib

import pytest

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.conversion import estimate as estimating
from data_pipelines.conversion.dataset import convert
from data_pipelines.conversion.estimate import describe, estimate
from data_pipelines.conversion.options import Options
from data_pipelines.convert import main
from tests.helpers.video_writer import write_numbered


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """40 videos of 3 to 12 frames, classes of 30 and 10, and one that is none."""
    root = tmp_path_factory.mktemp('videos')
    for number in range(40):
        folder = root / 'train' / ('run' if number < 30 else 'sit')
        folder.mkdir(parents=True, exist_ok=True)
        write_numbered(folder / f'{number}.mp4', 3 + number % 10)
    (root / 'train' / 'sit' / 'bad.mp4').write_bytes(b'no video')
    return root


def annotations_of(videos):
    clips = [
        Clip(str(path), path.stem, (int(path.parent.name == 'sit'),))
        for path in sorted(videos.glob('train/*/*.mp4'))
    ]
    clips.append(Clip(str(videos / 'gone.mp4'), 'gone', (1,)))
    # A second clip of the same file: its bytes on disk count once.
    clips.append(Clip(str(videos / 'train/run/0.mp4'), 'again', (0,), end=0.04))
    return Annotations(('run', 'sit'), {'train': tuple(clips)})


def shard_bytes(directory):
    return sum(path.stat().st_size for path in pathlib.Path(directory).glob('*-of-*'))


def test_counts_and_measures(videos, tmp_path, monkeypatch):
    annotations = annotations_of(videos)
    output = tmp_path / 'out'
    found = estimate(annotations, output, Options(workers=2, progress=False))
    assert not output.exists()
    counts = found.splits['train']
    assert (counts.clips, counts.class_counts, counts.finished) == (43, (31, 12), 0)
    assert counts.missing == ('gone',)
    files = list(videos.glob('train/*/*.mp4'))
    assert (counts.files, counts.bytes) == (41, sum(path.stat().st_size for path in files))
    assert (found.sample, found.workers) == (32, 2)
    assert found.seconds[0] > 0

    convert(annotations, output, Options(workers=2, max_failures=0.5, progress=False))
    size = shard_bytes(output)
    assert 0 < found.bytes[1] < size / 3
    assert abs(found.bytes[0] - size) < 4 * found.bytes[1]
    # All of them is no estimate: the very size. And what is done takes no more time.
    monkeypatch.setattr(estimating, '_MINIMUM_SAMPLE', 100)
    found = estimate(annotations, output, Options(workers=2, progress=False))
    assert found.bytes == (pytest.approx(size), 0)
    assert found.splits['train'].finished == 43 and found.seconds == (0, 0)
    assert [key for key, _ in found.sample_failures] == ['bad']
    text = describe(found, annotations.classes, output, 0.1)
    assert 'failed in the sample: bad: empty or unreadable' in text
    assert 'missing in train: gone' in text
    assert 'DOES NOT FIT' not in text


def test_command(videos, tmp_path, capsys):
    output = tmp_path / 'out'
    arguments = [f'--videos={videos}', f'--output={output}', '--short_side=32', '--workers=1']
    assert main(['folder', *arguments, '--dry_run']) == 0
    said = capsys.readouterr().out.splitlines()
    assert not output.exists()
    assert [line.split() for line in said[:3]] == [['class', 'train'], ['run', '30'], ['sit', '11']]
    assert said[5].split()[:6] == ['train', '41', '2', '0', '0', '41']
    assert said[-2].startswith('measured on 32 clips: ')
    assert said[-1].startswith('time with 1 workers: ')


def test_nothing_there(tmp_path):
    annotations = Annotations(('a',), {'train': (Clip('nowhere.mp4', 'n', (0,)),)})
    found = estimate(annotations, tmp_path / 'out', Options(workers=1, progress=False))
    assert found.splits['train'].missing == ('n',)
    text = describe(found, ('a',), 'out', 0.1)
    assert 'no video file is there: no estimate' in text
    assert '100.0% of the clips are missing, more than max_failures=0.1 allows' in text
    assert 'allows' not in describe(found, ('a',), 'out', 1.0)


def test_too_large():
    counts = estimating.SplitCounts(9, (9,), 9, 10**9, (), 0)
    found = estimating.Estimate({'train': counts}, 9, (), (2e12, 1e11), (90_000, 600), 8, 10**12)
    text = describe(found, ('a',), 'out', 0.1)
    assert '2 TB (+- 100 GB) of records; out has 1 TB free' in text
    assert 'time with 8 workers: 25 h 0 min (+- 10 min)' in text
    assert 'THAT DOES NOT FIT' in text


def test_bad_arguments(videos, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='exists and is no directory'):
        estimate(annotations_of(videos), tmp_path / 'file', Options(progress=False))
    with pytest.raises(ValueError, match='workers=0'):
        estimate(annotations_of(videos), tmp_path / 'out', Options(workers=0, progress=False))
