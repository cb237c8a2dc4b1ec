"""Conversion by an Apache Beam pipeline: the same as without. Needs the extra `beam`."""

import importlib.util
import os
import pathlib

import pytest

from data_pipelines.conversion import beam
from data_pipelines.convert import main
from data_pipelines.datasets.dataset_info import load_dataset_info
from tests.helpers.video_writer import write_numbered

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec('apache_beam') is None, reason='Apache Beam is not installed'
)


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """train: 5 good videos, one that is none; validation: 2."""
    root = tmp_path_factory.mktemp('videos')
    for number in range(7):
        name = ('run', 'sit')[number % 2]
        folder = root / ('train' if number < 5 else 'validation') / name
        folder.mkdir(parents=True, exist_ok=True)
        write_numbered(folder / f'{number}.mp4', 5 + number)
    (root / 'train' / 'run' / 'bad.mp4').write_bytes(b'no video')
    return root


def arguments(videos, output, *more):
    return [
        'folder',
        f'--videos={videos}',
        f'--output={output}',
        '--name=motions',
        '--shards=3',
        '--max_failures=0.5',
        *more,
    ]


def contents(directory):
    """All files but the notes for restarts, in which times are."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.fixture(scope='module')
def local(videos, tmp_path_factory):
    output = tmp_path_factory.mktemp('local')
    assert main(arguments(videos, output, '--workers=1')) == 0
    return contents(output)


@needs_beam
def test_same_bytes_as_without_beam(videos, local, tmp_path):
    assert main(arguments(videos, tmp_path, '--beam')) == 0
    assert contents(tmp_path) == local
    assert {'dataset.json', 'failures.csv', 'train.index', 'train-00002-of-00003'} <= set(local)
    assert load_dataset_info(tmp_path).splits['train'].failures[0][0] == 'run/bad.mp4'
    assert sorted(os.listdir(tmp_path / '.convert')) == [
        'lock',
        *(
            f'train-{number:05d}-of-00003.{kind}'
            for number in range(3)
            for kind in ('frames', 'json')
        ),
        *(
            f'validation-{number:05d}-of-00002.{kind}'
            for number in range(2)
            for kind in ('frames', 'json')
        ),
    ]


@needs_beam
@pytest.mark.parametrize('storage', ['h264', 'link'])
def test_other_storages(videos, tmp_path, storage):
    for name, how in (('local', '--workers=1'), ('beam', '--beam')):
        assert main(arguments(videos, tmp_path / name, how, f'--storage={storage}')) == 0
    assert contents(tmp_path / 'beam') == contents(tmp_path / 'local')


@needs_beam
def test_restart_with_and_without_beam(videos, local, tmp_path):
    main(arguments(videos, tmp_path, '--beam'))
    kept, lost = tmp_path / 'train-00000-of-00003', tmp_path / 'train-00001-of-00003'
    before = kept.stat().st_mtime_ns
    lost.unlink()
    assert main(arguments(videos, tmp_path, '--beam')) == 0
    assert kept.stat().st_mtime_ns == before and contents(tmp_path) == local
    lost.unlink()
    assert main(arguments(videos, tmp_path, '--workers=1')) == 0
    assert kept.stat().st_mtime_ns == before and contents(tmp_path) == local


@needs_beam
def test_beam_workers_in_other_processes(videos, local, tmp_path, monkeypatch):
    """As on a cluster: they know nothing but the pipeline."""
    monkeypatch.setenv('PYTHONPATH', str(pathlib.Path(__file__).parents[2]))
    options = '--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2'
    assert main(arguments(videos, tmp_path, f'--beam={options}')) == 0
    assert contents(tmp_path) == local


@needs_beam
def test_pipeline_that_fails(videos, tmp_path, capsys):
    assert main(arguments(videos, tmp_path, '--beam=--runner=NoSuchRunner')) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert 'the Beam pipeline failed: ' in error and 'NoSuchRunner' in error
    assert not (tmp_path / 'dataset.json').exists()


@needs_beam
def test_shard_that_cannot_be_written(videos, tmp_path, monkeypatch, capsys):
    def no_room(*args, **kwargs):
        raise OSError('the disk is full')

    monkeypatch.setattr(beam, 'run_jobs', no_room)
    assert main(arguments(videos, tmp_path, '--beam')) == 2
    assert 'the Beam pipeline failed: ' in capsys.readouterr().err
    assert not (tmp_path / '.convert' / 'jobs').exists()


def test_worker_without_the_output(tmp_path):
    with pytest.raises(OSError, match='must lie on a file system that all workers share'):
        beam._convert_shard(str(tmp_path / 'jobs' / 'train-00000-of-00001'))


@pytest.mark.skipif(
    importlib.util.find_spec('apache_beam') is not None, reason='Apache Beam is installed'
)
def test_beam_is_missing(videos, tmp_path, capsys):
    """Nothing that is there is touched."""
    main(arguments(videos, tmp_path, '--workers=1'))
    before = contents(tmp_path)
    assert main(arguments(videos, tmp_path, '--beam', '--quality=50')) == 2
    assert 'pip install apache-beam' in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_workers_are_those_of_beam(videos, tmp_path, capsys):
    assert main(arguments(videos, tmp_path, '--beam', '--workers=2')) == 2
    assert '--workers has no effect with --beam' in capsys.readouterr().err
