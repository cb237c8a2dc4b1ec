import dataclasses
import json

import pytest

from data_pipelines.datasets.dataset_info import (
    DatasetInfo,
    SplitInfo,
    load_dataset_info,
    save_dataset_info,
)

INFO = DatasetInfo(
    name='motions',
    classes=('rün', 'jump'),
    multi_label=False,
    splits={
        'train': SplitInfo(3, 2, (1, 2), (('a.mp4', 'empty'),), (('b.mp4', '1 of 2 frames'),)),
        'validation': SplitInfo(1, 1, (0, 1)),
    },
    frame_rate=12.5,
    arguments={'format': 'folder', 'short_side': None},
)


def test_round_trip(tmp_path):
    save_dataset_info(tmp_path, INFO)
    assert load_dataset_info(tmp_path) == INFO
    assert 'rün' in (tmp_path / 'dataset.json').read_text(encoding='utf-8')  # readable for people
    assert [path.name for path in tmp_path.iterdir()] == ['dataset.json']


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match='no dataset.json here; convert videos with'):
        load_dataset_info(tmp_path)
    with pytest.raises(ValueError, match='no dataset.json'):
        load_dataset_info(tmp_path / 'nowhere')


@pytest.mark.parametrize(
    'change, message',
    [
        ({'version': 2}, 'not a dataset description of version 1'),
        ({'format': 'other'}, 'not a dataset description'),
        ({'splits': {'train': {'records': 1}}}, 'damaged dataset description'),
        ({'splits': 3}, 'damaged dataset description'),
        ({'classes': ['a', 'a']}, 'names a class twice'),
        ({'classes': ['a']}, "counts 2 classes in the split 'train', but names 1"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, change, message):
    save_dataset_info(tmp_path, INFO)
    path = tmp_path / 'dataset.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load_dataset_info(tmp_path)


def test_not_json(tmp_path):
    (tmp_path / 'dataset.json').write_text('{')
    with pytest.raises(ValueError, match='dataset.json: not JSON'):
        load_dataset_info(tmp_path)


def test_wrong_counts_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match='counts 2 classes'):
        save_dataset_info(tmp_path, dataclasses.replace(INFO, classes=('one',)))
    assert not list(tmp_path.iterdir())


def test_files_of_before_localisation_are_read(tmp_path):
    info = DatasetInfo('old', ('a',), False, {'train': SplitInfo(1, 1, (1,))})
    save_dataset_info(tmp_path, info)
    content = json.loads((tmp_path / 'dataset.json').read_text())
    del content['localisation'], content['splits']['train']['box_counts']
    (tmp_path / 'dataset.json').write_text(json.dumps(content))
    assert load_dataset_info(tmp_path) == info


def test_box_counts_are_checked(tmp_path):
    splits = {'train': SplitInfo(1, 1, (1, 0), box_counts=(2, 3))}
    info = DatasetInfo('boxes', ('a', 'b'), True, splits, localisation=True)
    save_dataset_info(tmp_path, info)
    assert load_dataset_info(tmp_path) == info
    splits = {'train': SplitInfo(1, 1, (1, 0), box_counts=(2,))}
    with pytest.raises(ValueError, match='counts 1 classes'):
        save_dataset_info(tmp_path, dataclasses.replace(info, splits=splits))
