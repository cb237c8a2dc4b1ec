"""Wrong annotation files of every format: conversion tells file and line, and writes nothing."""

import pytest

from tests.helpers.calling import check_mistake
from tests.helpers.tiny import quick_compile  # noqa: F401

VIDEOS = ['--videos={videos}', '--output={new}']
KINETICS = 'label,youtube_id,time_start,time_end,split,is_cc\n'
ACTIVITYNET = '{{"database": {{"x": {{"subset": "training", "annotations": {0}}}}}}}'
AVA = 'movie_A,0902,0.1,0.2,0.5,0.9,12,0\n'
NAMED = ['--actions={ava_actions}', '--videos={ava_videos}', '--output={new}']


def pyslowfast(content, *parts, options=('--path_prefix={videos}',), split='train', **files):
    arguments = ['--csv', split + '={tmp}/a', *options, '--output={new}']
    return 'pyslowfast', arguments, {'a': content, **files}, parts


def kinetics(content, *parts, **more):
    splits = [argument for name in more for argument in ('--csv', f'{name}={{tmp}}/{name}')]
    return (
        'kinetics',
        ['--csv', 'train={tmp}/a', *splits, *VIDEOS],
        {'a': KINETICS + content, **more},
        parts,
    )


def moments(categories, content, *parts):
    arguments = ['--categories={tmp}/c', '--csv', 'train={tmp}/a', *VIDEOS]
    return 'moments_in_time', arguments, {'c': categories, 'a': content}, parts


def something(labels, content, *parts):
    arguments = ['--labels={tmp}/l', '--annotations', 'train={tmp}/a', *VIDEOS]
    return 'something_v2', arguments, {'l': labels, 'a': content}, parts


def activitynet(content, *parts):
    return 'activitynet', ['--json={tmp}/a', *VIDEOS], {'a': content}, parts


def hmdb51(content, *parts):
    return 'hmdb51', ['--splits={tmp}', *VIDEOS], {'a_test_split1.txt': content}, parts


def ucf101(classes, content, *parts):
    files = {'classInd.txt': classes, 'trainlist01.txt': content, 'testlist01.txt': 'a/y.avi'}
    return 'ucf101', ['--lists={tmp}', *VIDEOS], files, parts


def ava(content, *parts, options=(), **files):
    return 'ava', ['--boxes', 'train={tmp}/a', *NAMED, *options], {'a': content, **files}, parts


def actions(content, *parts):
    arguments = ['--boxes', 'train={ava_train}', '--actions={tmp}/a', *NAMED[1:]]
    return 'ava', arguments, {'a': content}, parts


def table(content, *parts, options=()):
    return 'csv', ['--csv', 'train={tmp}/a', *VIDEOS, *options], {'a': content}, parts


def kinetics710(value, *parts, **files):
    return 'kinetics710', ['--csv', value, *VIDEOS], files, parts


# (format, arguments, files in {tmp}, parts of the line)
MISTAKES = [
    table('', 'no clip in it'),
    table('a,b\n1,2\n', 'which column is the video', 'it has a, b'),
    table('path,label\n1,2,3\n', 'line 2: 3 columns, but 2 in the header'),
    table('path,label\na,b\n', "no column 'x'", options=['--column', 'label=x']),
    table('path,label\na,b\n', 'wanted WHAT=NAME', options=['--column', 'colour=x']),
    table('path,label\na,b\n', 'is given twice', options=['--csv', 'train=x']),
    table('path,label\n../x,b\n', 'no path inside'),
    kinetics710('train=x', 'wanted NAME:SPLIT=FILE', 'kinetics400:train=train.csv'),
    kinetics710('k:dev={tmp}/a', 'SPLIT one of train, validation, test'),
    kinetics710('k:validation={tmp}/a', 'no video is left', a=KINETICS + 'x,y,1,2,val,0\n'),
    pyslowfast('', 'no line in it'),
    pyslowfast('a.mp4', 'line 1: wanted "path label"'),
    pyslowfast('a.mp4 0\nb.mp4 one\n', 'line 2: wanted "path label"'),
    pyslowfast('a.mp4 -1', 'line 1'),
    pyslowfast('a.mp4 0\na.mp4 1', 'line 2: a.mp4 was listed in line 1 already'),
    pyslowfast('a.mp4 999999999', 'line 1: class 999999999'),
    pyslowfast('a.mp4 99999999999999999999', 'line 1: wanted "path label"'),
    pyslowfast('/etc/passwd 0', 'no path inside the directory'),
    pyslowfast('../../a.mp4 0', 'no path inside the directory'),
    pyslowfast(b'\xff\xfe\x00', 'not UTF-8'),
    pyslowfast('a.mp4 9', 'line 1: class 9', '0 to 1', options=['--classes={tmp}/c'], c='x\ny'),
    pyslowfast(
        'a.mp4 0',
        "line 3: 'x' is the name of class 0 already",
        options=['--classes={tmp}/c'],
        c='x\ny\nx',
    ),
    pyslowfast('a.mp4 0', 'must be made of letters', split='a/b'),
    pyslowfast('a.mp4 0', '=train', 'wanted SPLIT=FILE', options=['--csv', '=train']),
    pyslowfast('a.mp4 0', "the split 'train' is given twice", options=['--csv', 'train=x']),
    pyslowfast('a.mp4 0', '/nowhere: no such file', options=['--classes=/nowhere']),
    pyslowfast('a.mp4 0', '/nowhere: no such file', options=['--csv', 'test=/nowhere']),
    kinetics('', 'no clip in it'),
    kinetics('a,b,c,d,train,0\n', "line 2: wanted a time in seconds, got 'c'"),
    kinetics('a,b,1,0,train,0\n', 'line 2: the clip lasts from 1 to 0'),
    kinetics('a,b,nan,2,train,0\n', "got 'nan'"),
    kinetics('a,b,1,2\n', 'line 2: 4 columns'),
    kinetics(',b,1,2,train,0\n', 'line 2: no label'),
    kinetics('"a,b,1', 'not csv'),
    kinetics('a,../x,1,2,train,0\n', 'no path inside'),
    kinetics('a,b,1,2,train,0\na,c,1,2,val,0\n', 'several splits'),
    kinetics('a,b,1,2,train,0\n', 'no clip of the class', validation=KINETICS + 'c,b,1,2,val,0\n'),
    moments('', 'x', 'no class in it'),
    moments('a', 'x', 'line 1: wanted "class,number"'),
    moments('a,1', 'f.mp4,a', 'none of them has the number 0'),
    moments('a,0\nb,0', 'f.mp4,a', 'number 0 is given'),
    moments('a,0', 'f.mp4,b,1,1', "no class 'b'"),
    moments('a,0', '../f.mp4,a', 'no path inside'),
    something('', '[]', 'line 1: not JSON'),
    something('[]', '[]', 'not an object'),
    something('[' * 100_000, '[]', 'nested too deeply'),
    something('{"a": "x"}', '[]', 'wanted a class number'),
    something('{"a": "0"}', '{}', 'not a list'),
    something('{"a": "0"}', '[]', 'no video in it'),
    something(
        '{"a": "0"}', '[{"id": true, "template": "a"}]', 'entry 1: wanted an object with "id"'
    ),
    something('{"a": "0"}', '[{"id": 1}]', 'no "template"'),
    something('{"a": "0"}', '[{"id": 1, "template": "b"}]', "no class 'b'"),
    something('{"a": "0"}', '[{"id": "../x", "template": "a"}]', 'no path inside'),
    activitynet('{}', 'no object "database"'),
    activitynet('{"database": {}}', 'no labelled segment'),
    activitynet('{"database": {"x": {"subset": ["training"]}}}', "the subset is ['training']"),
    activitynet(ACTIVITYNET.format(3), '"annotations" is no list'),
    activitynet(ACTIVITYNET.format('[{"label": "a"}]'), 'annotation 1: "segment" is None'),
    activitynet(ACTIVITYNET.format('[{"label": "a", "segment": [1, NaN]}]'), 'a time in seconds'),
    hmdb51('x', 'line 1: wanted "video 0|1|2"'),
    hmdb51('', "split 'train': no videos"),
    hmdb51('../../x.avi 1', 'no path inside'),
    ucf101('', 'a/x.avi 1', 'no class in it'),
    ucf101('1 a', 'x', 'wanted "CLASS/video [number]"'),
    ucf101('1 a', 'b/x.avi 1', "no class 'b'"),
    ucf101('1 a', 'a/x.avi 2', 'class 2, but'),
    ucf101('1 a', 'a/../../x.avi 1', 'no path inside'),
    ava('', 'no line in it'),
    ava('x', '1 columns'),
    ava('movie_A,0902,0.1,0.2,0.5,0.9,99,0', 'action 99 is not in the action list'),
    ava('movie_A,0902,0.5,0.2,0.1,0.9,12,0', 'has no area'),
    ava('movie_A,0902,10,20,50,90,12,0', 'lies outside the frame'),
    ava('movie_A,noon,0.1,0.2,0.5,0.9,12,0', "timestamp 'noon' is not a number"),
    ava('movie_A,1e300,0.1,0.2,0.5,0.9,12,0', 'wanted seconds'),
    ava('../movie_A,0902,0.1,0.2,0.5,0.9,12,0', 'no path inside'),
    ava(AVA, 'must be positive', options=['--context_seconds=0']),
    ava(AVA, 'lies before the 950 s', options=['--video_start=950']),
    ava(AVA, '--max_seconds would cut', options=['--max_seconds=1']),
    ava(AVA, 'not in the list of included', options=['--timestamps={tmp}/t'], t='0903'),
    ava(AVA, '1 columns, wanted video,timestamp', options=['--excluded={tmp}/t'], t='movie_A'),
    ava(AVA, 'score 2', options=['--proposals={tmp}/t'], t='movie_A,0902,0.1,0.2,0.5,0.9,,2'),
    ava(
        AVA,
        'no proposal for any key frame',
        options=['--proposals={tmp}/t'],
        t='movie_Z,0902,0.1,0.2,0.5,0.9,,0.5',
    ),
    actions('', 'no action in it'),
    actions('label {', 'found the end of the file'),
    actions('label { name: "a" }', 'wanted a name and an id'),
    actions(
        'label { name: "a" label_id: 1 } label { name: "a" label_id: 2 }', 'was listed already'
    ),
]


@pytest.mark.parametrize(
    ('annotation_format', 'arguments', 'files', 'parts'),
    MISTAKES,
    ids=lambda value: value if isinstance(value, str) else ' ',
)
def test_one_line(annotation_format, arguments, files, parts, filled, tmp_path):
    for name, content in files.items():
        (tmp_path / 'tmp' / name).write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    check_mistake('convert', [annotation_format, *filled(arguments)], parts)
    assert not (tmp_path / 'new').exists()
