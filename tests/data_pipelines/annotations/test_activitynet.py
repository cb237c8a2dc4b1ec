import json

import pytest

from data_pipelines.annotations.activitynet import read_activitynet
from tests.helpers.file_tree import make_files, summary

CONTENT = """\
{"database": {
  "sJFgo9H6zNo": {"subset": "training", "duration": 82.73, "resolution": "320x240",
    "url": "https://www.youtube.com/watch?v=sJFgo9H6zNo", "annotations": [
      {"segment": [0.010230, 39.5], "label": "Tennis serve with ball bouncing"},
      {"segment": [-0.004, 79.316], "label": "Making a sandwich"}]},
  "V1zhqaGFY2A": {"subset": "training", "duration": 7, "resolution": "1920x1080",
    "url": "https://www.youtube.com/watch?v=V1zhqaGFY2A", "annotations": []},
  "ABBQqwPOxw4": {"subset": "validation", "duration": 6.99, "resolution": "1920x1080",
    "url": "https://www.youtube.com/watch?v=ABBQqwPOxw4", "annotations": [
      {"segment": [1.6459157566302651, 6.941], "label": "Tennis serve with ball bouncing"},
      {"segment": [5, 5], "label": "Making a sandwich"}]},
  "zkBzr-Ffhpg": {"subset": "testing", "duration": 9.0, "resolution": "320x240",
    "url": "https://www.youtube.com/watch?v=zkBzr-Ffhpg", "annotations": []}},
 "taxonomy": [{"parentName": "Playing sports", "nodeName": "Tennis serve with ball bouncing",
   "nodeId": 1, "parentId": 2}],
 "version": "VERSION 1.3"}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'activity_net.v1-3.min.json'
    path.write_text(CONTENT)
    return path


@pytest.fixture
def videos(tmp_path):
    return make_files(tmp_path / 'videos', 'v1-2/train/v_sJFgo9H6zNo.mkv', 'v1-3/ABBQqwPOxw4.mp4')


def test_every_segment_is_a_clip(file, videos):
    annotations = read_activitynet(file, videos)
    sandwich, tennis = annotations.classes
    assert (sandwich, tennis) == ('Making a sandwich', 'Tennis serve with ball bouncing')
    assert list(annotations.splits) == ['train', 'validation']
    assert summary(annotations, 'train', videos) == [
        ('v_sJFgo9H6zNo_0', 'v1-2/train/v_sJFgo9H6zNo.mkv', tennis, 0.01023, 39.5),
        ('v_sJFgo9H6zNo_1', 'v1-2/train/v_sJFgo9H6zNo.mkv', sandwich, 0, 79.316),
    ]
    assert summary(annotations, 'validation', videos) == [
        ('v_ABBQqwPOxw4_0', 'v1-3/ABBQqwPOxw4.mp4', tennis, 1.6459157566302651, 6.941),
        ('v_ABBQqwPOxw4_1', 'v1-3/ABBQqwPOxw4.mp4', sandwich, 5, 5),  # will be a failure
    ]


def test_one_split_keeps_all_classes(file, videos):
    annotations = read_activitynet(file, videos, ['validation'])
    assert list(annotations.splits) == ['validation'] and len(annotations.classes) == 2
    with pytest.raises(ValueError, match="no split 'test' in it"):
        read_activitynet(file, videos, ['test'])


def changed(change):
    content = json.loads(CONTENT)
    change(content['database'])
    return content


@pytest.mark.parametrize(
    'content, message',
    [
        ([], 'not ActivityNet annotations'),
        ({}, 'no object "database" in it'),
        ({'database': {}}, 'no labelled segment in it'),
        ({'database': {'a': {'subset': 'train'}}}, "video 'a': the subset is 'train', wanted tra"),
        ({'database': {'a': 7}}, "video 'a': the subset is None"),
        (changed(lambda d: d['ABBQqwPOxw4'].update(annotations=7)), '"annotations" is no list'),
        (
            changed(lambda d: d['ABBQqwPOxw4']['annotations'][1].pop('label')),
            'video \'ABBQqwPOxw4\', annotation 2: no "label"',
        ),
        (
            changed(lambda d: d['ABBQqwPOxw4']['annotations'][0].update(segment=[1])),
            r'annotation 1: "segment" is \[1\], wanted',
        ),
        (
            changed(lambda d: d['ABBQqwPOxw4']['annotations'][0].update(segment=[1, 'end'])),
            "annotation 1: wanted a time in seconds, got 'end'",
        ),
        (
            changed(lambda d: d['ABBQqwPOxw4']['annotations'].pop()),
            "validation: no clip of the class 'Making a sandwich', which .*, train has",
        ),
        (changed(lambda d: d.update({'a/../../b': d['ABBQqwPOxw4']})), 'is no path inside'),
    ],
)
def test_mistakes(file, videos, content, message):
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f'activity_net.v1-3.min.json.*{message}'):
        read_activitynet(file, videos)
