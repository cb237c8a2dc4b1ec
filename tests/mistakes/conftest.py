"""What commands are given: a finished run, records, videos, and annotation files of a small AVA."""

import pathlib

import pytest

from tests.helpers import tiny, tiny_ava, video_writer


@pytest.fixture(scope='session')
def places(finished_run, tmp_path_factory) -> dict[str, pathlib.Path]:
    """Names of places for the tables. Nothing in them may change."""
    root = tmp_path_factory.mktemp('places')
    (root / 'ava').mkdir()
    found = {f'ava_{name}': path for name, path in tiny_ava.write_ava(root / 'ava').items()}
    for split in ('train', 'validation'):
        for label in ('a', 'b'):
            folder = root / 'videos' / split / label
            folder.mkdir(parents=True)
            video_writer.write_numbered(folder / f'{split}_{label}.mp4', 4)
    (root / 'empty').mkdir()
    (root / 'text.txt').write_text('no such thing\n')
    return found | {
        'run': finished_run[2],
        'export': finished_run[2] / 'export',
        'data': tiny.write_datasets(root / 'data'),
        'videos': root / 'videos',
        'video': root / 'videos' / 'train' / 'a' / 'train_a.mp4',
        'empty': root / 'empty',
        'text': root / 'text.txt',
        'config': tiny.CONFIG_FILE,
    }


@pytest.fixture
def filled(places, tmp_path):
    """Puts places into the arguments of a table;
    {new} is one that does not exist, {tmp} an empty directory.
    """
    (tmp_path / 'tmp').mkdir()
    own = {**places, 'new': tmp_path / 'new', 'tmp': tmp_path / 'tmp'}
    return lambda arguments: [argument.format_map(own) for argument in arguments]
