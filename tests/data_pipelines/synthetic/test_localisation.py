import collections
import csv
import dataclasses
import json

import numpy as np
import pytest

from data_pipelines.synthetic import classification, layers, localisation
from data_pipelines.synthetic.localisation import ACTIONS, MOVEMENTS, TURNS, Video
from data_pipelines.videos.video_file import FrameStream

SIZES = dict(train_videos=6, validation_videos=3, progress=False)


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes')
    return root, localisation.render_scenes(root, **SIZES, workers=1)


def _rows(path):
    with open(path, newline='') as file:
        return list(csv.reader(file))


def test_boxes_are_where_the_pixels_of_their_shape_are():
    """Every shape alone before and behind nothing: the pixels that it changes are its box."""
    compared = 0
    for index in range(12):
        crowd = Video('train', index, 0).crowd()
        scene = crowd.scene
        t = round(float(scene.frame_rate))
        boxes = crowd.boxes()
        actors = scene.layers[-len(crowd.actions) :]
        assert len(boxes) == len(actors)
        empty = layers.render(dataclasses.replace(scene, layers=()))[t].astype(int)
        for box, layer in zip(boxes, actors):
            alone = layers.render(dataclasses.replace(scene, layers=(layer,)))[t].astype(int)
            y, x = np.nonzero(np.abs(alone - empty).max(-1) > 20)
            seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
            stated = np.array(box.corners) * ([scene.width, scene.height] * 2)
            np.testing.assert_allclose(seen, stated, atol=1.6)  # pixels
            compared += 1
    assert compared > 12


def test_movements_are_those_of_the_actions():
    seen = set()
    for index in range(60):
        crowd = Video('train', index, 1).crowd()
        for actions, layer in zip(crowd.actions, crowd.scene.layers[-len(crowd.actions) :]):
            way = {
                'x': layer.centre[:, 0],
                'y': layer.centre[:, 1],
                'size': np.log(layer.diameter),
                'angle': layer.angle,
            }
            moving = {name for name, values in way.items() if np.ptp(values) > 1e-9}
            assert moving == {ACTIONS[name].variable for name in actions} - {None}
            for name in actions:
                action = ACTIONS[name]
                if action.path in ('forward', 'backward'):
                    sign = 1 if action.path == 'forward' else -1
                    assert (sign * np.diff(way[action.variable]) > 0).all()
                seen.add(name)
    assert len(seen) >= 9


def test_training_is_long_tailed_and_validation_is_not():
    counts = {split: collections.Counter() for split in ('train', 'validation')}
    boxes = collections.Counter()
    for split, count in counts.items():
        for index in range(600):
            rng = Video(split, index, 0).generator(0)
            actions = [localisation._draw_actions(rng, split == 'train') for _ in range(2)]
            boxes[split] += len(actions)
            for those in actions:
                assert sum(name in MOVEMENTS for name in those) == 1 and len(those) <= 2
                count.update(those)
    weights = np.array([action.weight for action in MOVEMENTS.values()])
    expected = boxes['train'] * weights / weights.sum()
    found = np.array([counts['train'][name] for name in MOVEMENTS])
    np.testing.assert_array_less(
        np.abs(found - expected), 4 * np.sqrt(expected) + 1
    )  # 4 deviations
    for name, action in TURNS.items():
        share = counts['train'][name] / boxes['train']
        assert abs(share - action.weight) < 4 * np.sqrt(action.weight / boxes['train'])
    even = np.array([counts['validation'][name] for name in MOVEMENTS])
    assert np.abs(even - even.mean()).max() < 4 * np.sqrt(even.mean())


def test_files_are_complete_and_in_the_official_form(rendered):
    root, paths = rendered
    text = paths['action_list'].read_text()
    for number, name in enumerate(ACTIONS, 1):
        assert (
            f'label {{\n  name: "{name}"\n  label_id: {number}\n  label_type: PERSON_MOVEMENT\n}}\n'
            in text
        )
    for split, videos in (('train', 6), ('validation', 3)):
        truth = _rows(paths[split])
        expected = [
            (f'scene_{split}_{index:05d}', '0001', list(ACTIONS).index(name) + 1, person)
            for index in range(videos)
            for person, box in enumerate(Video(split, index, 0).crowd().boxes())
            for name in box.actions
        ]
        assert [(row[0], row[1], int(row[6]), int(row[7])) for row in truth] == expected
        for row in truth:
            x1, y1, x2, y2 = map(float, row[2:6])
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
        for row in _rows(paths[f'{split}_proposals']):
            assert len(row) == 8 and row[6] == '' and 0 < float(row[7]) <= 1
        for index in range(videos):
            video = Video(split, index, 0)
            frames = sum(1 for _ in FrameStream(str(paths['videos'] / split / f'{video.name}.mp4')))
            assert frames == video.scene().num_frames >= 24


def test_proposals_find_most_boxes():
    found = total = 0
    for index in range(40):
        video = Video('train', index, 0)
        boxes = video.crowd().boxes()
        proposals = localisation.propose(video.generator(1), boxes)
        scores = [score for _, score in proposals]
        assert scores == sorted(scores, reverse=True)
        for box in boxes:
            low, high = np.array(box.corners[:2]), np.array(box.corners[2:])
            total += 1
            found += any(
                np.abs(np.array(corners) - np.concatenate([low, high])).max() < 0.1
                for corners, _ in proposals
            )
    assert 0.85 < found / total <= 1


def test_relations_name_classes_of_the_other_datasets(rendered):
    relations = json.loads((rendered[0] / 'relations.json').read_text())
    for dataset, related in relations.items():
        assert list(related) == list(ACTIONS)
        for names in related.values():
            assert set(names) <= set(classification.DATASETS[dataset].actions)
    assert relations['directions']['grow'] == ['approaching']
    assert relations['motions']['move up'] == ['ring rising', 'star rising']
    assert relations['motions']['stand still'] == []


def test_neither_workers_nor_numbers_change_a_video(rendered, tmp_path):
    localisation.render_scenes(
        tmp_path, train_videos=17, validation_videos=1, progress=False, workers=2
    )
    for video in (Video('train', 5, 0), Video('validation', 0, 0)):
        assert (tmp_path / video.path).read_bytes() == (rendered[0] / video.path).read_bytes()


def test_another_dataset_in_the_directory_is_an_error(rendered):
    with pytest.raises(ValueError, match='seed=0, not 1'):
        localisation.render_scenes(rendered[0], **SIZES, seed=1)
    with pytest.raises(ValueError, match='train_videos is 0'):
        localisation.render_scenes(rendered[0], train_videos=0)
