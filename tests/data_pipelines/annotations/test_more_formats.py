"""Lists in the official syntax of more datasets; each expected clip is written down by hand."""

import json
import os

import pytest

from data_pipelines.annotations.charades import read_charades
from data_pipelines.annotations.diving48 import read_diving48
from data_pipelines.annotations.epic_kitchens import read_epic_kitchens
from data_pipelines.annotations.finegym import read_finegym
from data_pipelines.annotations.kinetics710 import read_kinetics710
from data_pipelines.annotations.multithumos import read_multithumos
from data_pipelines.annotations.segments import Segment, Video, clips_of
from data_pipelines.annotations.table import read_csv_table
from data_pipelines.annotations.twentybn import read_twentybn
from tests.helpers.file_tree import make_files, summary


def write(tmp_path, **files):
    """Writes NAME_suffix=text as NAME.suffix; returns their paths."""
    paths = []
    for name, text in files.items():
        stem, _, suffix = name.rpartition('_')
        paths.append(tmp_path / f'{stem}.{suffix}')
        paths[-1].write_text(text, encoding='utf-8')
    return paths


# Jester, Something-Something V1


def test_jester(tmp_path):
    labels, train, val, test = write(
        tmp_path,
        labels_csv='Swiping Left\nDrumming Fingers\nNo gesture\n',
        train_csv='34870;Drumming Fingers\n56557;Swiping Left\n',
        val_csv='9223;No gesture\n',
        test_csv='70206\n',
    )
    make_files(tmp_path / 'v', '34870/00001.jpg', '9223/00001.jpg', 'more/56557.webm')
    found = read_twentybn(labels, {'train': train, 'validation': val}, tmp_path / 'v')
    assert found.classes == ('Swiping Left', 'Drumming Fingers', 'No gesture')
    assert summary(found, 'train', tmp_path / 'v') == [
        ('34870', '34870', 'Drumming Fingers', None, None),
        ('56557', 'more/56557.webm', 'Swiping Left', None, None),
    ]
    assert summary(found, 'validation', tmp_path / 'v')[0][:3] == ('9223', '9223', 'No gesture')
    with pytest.raises(ValueError, match='line 1: wanted "video;class", got .70206. .* test set'):
        read_twentybn(labels, {'test': test}, tmp_path / 'v')
    train.write_text('1;Swiping Left\n2;Swiping\n3;x\n')
    with pytest.raises(ValueError, match=r"no class 'Swiping' \(1 more damaged lines: 3\)"):
        read_twentybn(labels, {'train': train}, tmp_path / 'v')
    with pytest.raises(ValueError, match='no such directory of videos'):
        read_twentybn(labels, {'train': train}, tmp_path / 'nowhere')


# Charades, MultiTHUMOS

CHARADES = (
    'id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n'
    'AMT7R,X,Kitchen,6,7,Yes,"He eats, then sits.",food,A person eats.,'
    'c002 0.00 10.00;c001 4.00 6.00;c002 20.00 30.50,32.00\n'
    'BBBBB,X,Hall,6,7,Yes,,,,,12.00\n'
    '46GP8,Y,Hall,5,7,No,"a ""b""",,,c000 1.00 2.00,9.50\n'
)


def test_charades(tmp_path):
    classes, train = write(
        tmp_path,
        classes_txt='c000 Holding some clothes\nc001 Putting clothes somewhere\nc002 Eating\n',
        train_csv=CHARADES,
    )
    make_files(tmp_path / 'v', 'AMT7R.mp4', 'BBBBB.mp4', '46GP8.mp4')

    def read(**options):
        found = read_charades(classes, {'train': train}, tmp_path / 'v', **options)
        assert found.multi_label and found.classes[2] == 'Eating'
        assert found.notes == ('1 videos have no label and are left out',)
        return [(c.key, c.labels, c.start, c.end) for c in found.splits['train']]

    assert read() == [('AMT7R', (1, 2), None, None), ('46GP8', (0,), None, None)]
    assert read(clips='segments') == [
        ('AMT7R_0', (2,), 0, 10),  # c001 covers a fifth of it
        ('AMT7R_1', (1, 2), 4, 6),
        ('AMT7R_2', (2,), 20, 30.5),
        ('46GP8_0', (0,), 1, 2),
    ]
    assert read(clips='windows', window=8.0) == [
        ('AMT7R_0', (1, 2), 0, 8),  # c001 lies in it
        # 8 to 16 s: 2 of the 10 s of c002, a fourth of the window
        ('AMT7R_2', (2,), 16, 24),
        ('AMT7R_3', (2,), 24, 32),
        ('46GP8_0', (0,), 0, 8),
    ]
    with pytest.raises(ValueError, match='window=0.0: must be positive'):
        read(clips='windows', window=0.0)
    for actions, message in (
        ('c003 1.00 2.00', r"wanted actions \"c000 start end\" of the 3 classes, got 'c003"),
        ('c001 1.00', 'wanted actions'),
    ):
        train.write_text(CHARADES.replace('c000 1.00 2.00', actions))
        with pytest.raises(ValueError, match=f'train.csv, line 4: {message}'):
            read()
    train.write_text('id,actions\n')
    with pytest.raises(ValueError, match='wanted a header with id, actions, length; length is'):
        read()


def test_multithumos(tmp_path):
    (classes,) = write(tmp_path, class_list_txt='1 BaseballPitch\n2 Run\n3 Throw\n')
    make_files(tmp_path / 'v', 'video_validation_0000266.mp4', 'video_test_0000004.mp4')
    annotations = tmp_path / 'annotations'
    annotations.mkdir()
    write(
        annotations,
        BaseballPitch_txt='video_validation_0000266 72.8 76.4\nvideo_test_0000004 1.0 3.0\n',
        Run_txt='video_validation_0000266 10.0 12.0\n',
        Throw_txt='video_validation_0000266 74.0 76.0\n',
    )
    found = read_multithumos(classes, annotations, tmp_path / 'v')
    assert found.multi_label and found.classes == ('BaseballPitch', 'Run', 'Throw')
    assert [(c.key, c.labels, c.start, c.end) for c in found.splits['train']] == [
        ('video_validation_0000266_0', (1,), 10, 12),
        ('video_validation_0000266_1', (0, 2), 72.8, 76.4),  # 2 of 3.6 s are of the throw
        ('video_validation_0000266_2', (0, 2), 74, 76),
    ]
    assert [c.labels for c in found.splits['test']] == [(0,)]
    found = read_multithumos(classes, annotations, tmp_path / 'v', clips='videos')
    assert [(c.key, c.labels) for c in found.splits['train']] == [
        ('video_validation_0000266', (0, 1, 2))
    ]
    write(annotations, Run_txt='video_validation_0000266 10.0\nx 1 2\n')
    with pytest.raises(ValueError, match=r'Run.txt, line 1: wanted "video start end".*: 2\)'):
        read_multithumos(classes, annotations, tmp_path / 'v')


def test_every_moment_of_a_window_counts():
    """Against labels counted at every hundredth of a second."""
    segments = (Segment(0, 1.0, 4.5), Segment(1, 3.2, 3.7), Segment(2, 0.0, 9.9), Segment(3, 8, 30))
    for clip in clips_of([Video('v', 'v', segments, 25.0)], 'windows', 5.0):
        moments = [
            clip.start + (n + 0.5) / 100 for n in range(round((clip.end - clip.start) * 100))
        ]
        for label, start, end in segments:
            inside = sum(start <= moment < end for moment in moments) / 100
            most = max(inside / (clip.end - clip.start), inside / (end - start))
            assert (label in clip.labels) == (most >= 0.5 - 1e-9), (clip, label)


# Diving48, EPIC-Kitchens, FineGym


def test_diving48(tmp_path):
    vocabulary, train = write(
        tmp_path,
        vocab_json='[["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"]]',
        train_json=json.dumps(
            [
                {'vid_name': 'AA_00029', 'label': 1, 'start_frame': 0, 'end_frame': 63},
                {'vid_name': 'BB_00001', 'label': 0, 'start_frame': 0, 'end_frame': 99},
            ]
        ),
    )
    make_files(tmp_path / 'v', 'rgb/AA_00029.mp4', 'rgb/BB_00001.mp4')
    found = read_diving48(vocabulary, {'train': train}, tmp_path / 'v')
    assert summary(found, 'train', tmp_path / 'v') == [
        ('AA_00029', 'rgb/AA_00029.mp4', 'Back 15som 15Twis FREE', None, None),
        ('BB_00001', 'rgb/BB_00001.mp4', 'Back 15som 05Twis FREE', None, None),
    ]
    train.write_text('[{"vid_name": "a", "label": 2}, {"label": 0}, 3]')
    with pytest.raises(ValueError, match=r'entry 1: wanted .* from 0 to 1 \(2 more .*: 2, 3\)'):
        read_diving48(vocabulary, {'train': train}, tmp_path / 'v')


EPIC = (
    'narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,'
    'start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n'
    'P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,1,door,0,'
    '[\'door\'],[3]\n'
    'P01_01_1,P01,P01_01,00:00:02.629,01:02:03.37,01:02:06.17,262,370,turn on light,turn-on,0,'
    'light,1,"[\'light\', \'x\']",[114]\n'
)  # fmt: skip


def test_epic_kitchens_verbs_and_nouns_of_one_video(tmp_path):
    verbs, nouns, train = write(
        tmp_path,
        verb_csv="id,key,instances,category\n0,turn-on,\"['turn-on', 'start']\",access\n"
        '1,open,"[\'open\']",access\n',
        noun_csv='id,key,instances,category\n1,light,[],x\n0,door,[],y\n',
        train_csv=EPIC,
    )
    make_files(tmp_path / 'v', 'P01/videos/P01_01.MP4')
    for label, classes, names in (
        ('verb', verbs, ('open', 'turn-on')),
        ('noun', nouns, ('door', 'light')),
    ):
        found = read_epic_kitchens({'train': train}, classes, tmp_path / 'v', label=label)
        assert summary(found, 'train', tmp_path / 'v') == [
            ('P01_01_0', 'P01/videos/P01_01.MP4', names[0], 0.14, 3.37),
            ('P01_01_1', 'P01/videos/P01_01.MP4', names[1], 3723.37, 3726.17),
        ]
    train.write_text(EPIC.replace('light,1,', 'light,7,'))
    with pytest.raises(ValueError, match="line 3: noun_class '7', but .* names 0 to 1"):
        read_epic_kitchens({'train': train}, nouns, tmp_path / 'v', label='noun')


def test_finegym(tmp_path):
    categories, train, times = write(
        tmp_path,
        gym99_categories_txt='Clabel: 0; set: 1; Glabel: 1; (VT) round-off, flic-flac on\n'
        'Clabel: 2; set: 22; Glabel: 9; (FX) switch leap\n'
        'Clabel: 1; set: 1; Glabel: 3; (VT) round-off, flic-flac on\n',
        train_txt='A0xAXXysHUo_E_002407_002435_A_0003_0005 2\n'
        '-0xAX_ysHUo_E_000010_000035_A_0020_0022 1\n',
        times_json=json.dumps(
            {
                'A0xAXXysHUo': {
                    'E_002407_002435': {'segments': {'A_0003_0005': {'timestamps': [[3.45, 4.62]]}}}
                }
            }
        ),
    )
    make_files(
        tmp_path / 'v',
        'A0xAXXysHUo_E_002407_002435_A_0003_0005.mp4',
        '-0xAX_ysHUo_E_000010_000035_A_0020_0022.mkv',
        'whole/A0xAXXysHUo.mp4',
        'whole/-0xAX_ysHUo.mp4',
    )
    found = read_finegym(categories, {'train': train}, tmp_path / 'v')
    assert found.classes == (
        '(VT) round-off, flic-flac on',
        '(VT) round-off, flic-flac on#2',
        '(FX) switch leap',
    )
    assert [(c.key, c.labels, c.start) for c in found.splits['train']] == [
        ('A0xAXXysHUo_E_002407_002435_A_0003_0005', (2,), None),
        ('-0xAX_ysHUo_E_000010_000035_A_0020_0022', (1,), None),
    ]
    found = read_finegym(categories, {'train': train}, tmp_path / 'v', untrimmed=True, times=times)
    assert [(row[1], *row[3:]) for row in summary(found, 'train', tmp_path / 'v')] == [
        ('whole/A0xAXXysHUo.mp4', 2410.45, 2411.62),
        ('whole/-0xAX_ysHUo.mp4', 30, 32),  # whole seconds, where no times are given
    ]
    train.write_text('A0xAXXysHUo_E_002407_002435_A_0003_0005 3\n')
    with pytest.raises(ValueError, match='line 1: wanted "ELEMENT class" of 3 classes'):
        read_finegym(categories, {'train': train}, tmp_path / 'v')


# csv of one's own


def test_own_videos_with_several_labels(tmp_path):
    train, val = write(
        tmp_path,
        train_csv='video,labels\nx/a.mp4,run|jump\n"b, c.avi",sit\n',
        val_csv='video;labels\nd;jump | run | sit\n',
    )
    make_files(tmp_path / 'v', 'x/a.mp4', 'b, c.avi', 'deep/d.mkv')
    found = read_csv_table({'train': train, 'validation': val}, tmp_path / 'v')
    assert found.multi_label and found.classes == ('jump', 'run', 'sit')
    assert [(c.key, c.labels) for c in found.splits['train']] == [
        ('x/a.mp4', (1, 0)),
        ('b, c.avi', (2,)),
    ]
    assert found.splits['train'][1].path == str(tmp_path / 'v' / 'b, c.avi')
    assert [(c.key, c.labels) for c in found.splits['validation']] == [('d', (0, 1, 2))]
    train.write_text('video,labels\na.mp4,run\nb.mp4,jump\n')
    assert not read_csv_table({'train': train}, tmp_path / 'v').multi_label
    assert read_csv_table({'train': train}, tmp_path / 'v', multi_label=True).multi_label


def test_files_that_differ_in_their_suffix_only(tmp_path):
    whole, parts = write(
        tmp_path,
        whole_csv='video,label\na.avi,run\na.mp4,sit\n',
        parts_csv='video,label,start,end\na.mov,run,1,2\na.mov,sit,2,3\n',
    )
    make_files(tmp_path / 'v', 'a.avi', 'a.mp4', 'a.mov')
    found = read_csv_table({'train': whole, 'validation': parts}, tmp_path / 'v')
    for split, names in (('train', ['a.avi', 'a.mp4']), ('validation', ['a.mov', 'a.mov'])):
        assert [os.path.basename(clip.path) for clip in found.splits[split]] == names


def test_hvu(tmp_path):
    (train,) = write(
        tmp_path,
        HVU_csv='Tags,youtube_id,time_start,time_end\n'
        'grass|Running,dQw4w9WgXcQ,12,22.0\nsky,AAAAAAAAAAA,0.0,10.0\nsky,BBBBBBBBBBB,3,13\n',
    )
    make_files(
        tmp_path / 'v', 'dQw4w9WgXcQ_000012_000022.mp4', 'AAAAAAAAAAA.mp4', 'BBBBBBBBBBB.mp4'
    )
    found = read_csv_table({'train': train}, tmp_path / 'v')
    assert found.classes == ('Running', 'grass', 'sky') and found.multi_label
    assert [(c.key, c.labels, c.start, c.end) for c in found.splits['train']] == [
        ('dQw4w9WgXcQ_000012_000022', (1, 0), None, None),  # the clip alone
        ('AAAAAAAAAAA_000000_000010', (2,), 0, 10),  # cut out of the whole
        ('BBBBBBBBBBB_000003_000013', (2,), 3, 13),
    ]


def test_a_column_of_splits_and_columns_of_other_names(tmp_path):
    (table,) = write(
        tmp_path,
        all_csv='clip\tgesture\tsubset\ttitle\na\twave\ttrain\tx\nb\twave\ttest\ty\n',
    )
    make_files(tmp_path / 'v', 'a.mp4', 'b.mp4')
    found = read_csv_table({'': table}, tmp_path / 'v')
    assert {s: [c.key for c in clips] for s, clips in found.splits.items()} == {
        'train': ['a'],
        'test': ['b'],
    }
    found = read_csv_table({'train': table}, tmp_path / 'v', columns={'label': 'Title'})
    assert found.classes == ('x', 'y')
    for columns, message in (
        ({'label': 'tag'}, "no column 'tag'; it has clip, gesture, subset, title"),
        ({'video': 'name'}, "no column 'name'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_csv_table({'train': table}, tmp_path / 'v', columns=columns)
    table.write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match='which column is the video.*it has a, b'):
        read_csv_table({'train': table}, tmp_path / 'v')
    table.write_text('path,label\na,\n,x\n')
    with pytest.raises(ValueError, match=r'line 2: no label \(1 more damaged lines: 3\)'):
        read_csv_table({'train': table}, tmp_path / 'v')


def test_numbers_as_labels(tmp_path):
    train, names = write(
        tmp_path, train_csv='path,label\na.mp4,2\nb.mp4,0\n', n_csv='id,name\n1,y\n0,x\n2,z\n'
    )
    make_files(tmp_path / 'v', 'a.mp4', 'b.mp4')
    found = read_csv_table({'train': train}, tmp_path / 'v')
    assert found.classes == ('0', '1', '2')
    found = read_csv_table({'train': train}, tmp_path / 'v', classes_file=names)
    assert found.classes == ('x', 'y', 'z')
    assert [clip.labels for clip in found.splits['train']] == [(2,), (0,)]
    train.write_text('path,label\na.mp4,z\nb.mp4,w\n')
    with pytest.raises(ValueError, match="line 3: .*n.csv has no class 'w'"):
        read_csv_table({'train': train}, tmp_path / 'v', classes_file=names)


# Kinetics-710

HEADER = 'label,youtube_id,time_start,time_end,split\n'


def test_kinetics710(tmp_path):
    paths = write(
        tmp_path,
        train400_csv=HEADER + '"air drumming",AAAAAAAAAAA,1,11,train\n'
        'yoga,BBBBBBBBBBB,1,11,train\nyoga,CCCCCCCCCCC,1,11,train\nyoga,FFFFFFFFFFF,1,11,train\n',
        val400_csv=HEADER + 'yoga,DDDDDDDDDDD,1,11,val\n',
        train700_csv=HEADER + '"Air drumming",AAAAAAAAAAA,5,15,train\n'
        'zumba,DDDDDDDDDDD,1,11,train\nzumba,EEEEEEEEEEE,1,11,train\nyoga,FFFFFFFFFFF,2,12,train\n',
        val700_csv=HEADER + 'zumba,BBBBBBBBBBB,1,11,val\n',
        test700_csv='youtube_id,time_start,time_end,split\nCCCCCCCCCCC,1,11,test\n',
    )
    train400, val400, train700, val700, test700 = paths
    make_files(
        tmp_path / 'v',
        'AAAAAAAAAAA_000001_000011.mp4',
        'AAAAAAAAAAA_000005_000015.mp4',
        'EEEEEEEEEEE.mp4',
        'FFFFFFFFFFF_000001_000011.mp4',
        'DDDDDDDDDDD_000001_000011.mp4',
        'BBBBBBBBBBB_000001_000011.mp4',
    )
    found = read_kinetics710(
        {
            'kinetics400': {'train': train400, 'validation': val400},
            'kinetics700': {'train': train700, 'validation': val700, 'test': test700},
        },
        tmp_path / 'v',
    )
    assert found.classes == ('Air drumming', 'yoga', 'zumba')
    # A: the newest clip; B, C, D: tested on by one of them; F: only the older clip's file is there.
    assert summary(found, 'train', tmp_path / 'v') == [
        ('AAAAAAAAAAA_000005_000015', 'AAAAAAAAAAA_000005_000015.mp4', 'Air drumming', None, None),
        ('FFFFFFFFFFF_000001_000011', 'FFFFFFFFFFF_000001_000011.mp4', 'yoga', None, None),
        ('EEEEEEEEEEE_000001_000011', 'EEEEEEEEEEE.mp4', 'zumba', None, None),
    ]
    assert list(found.splits) == ['train', 'validation_kinetics400', 'validation_kinetics700']
    assert summary(found, 'validation_kinetics700', tmp_path / 'v')[0][2] == 'zumba'
    assert found.details == {
        'label_maps': {
            'kinetics400': {'air drumming': 0, 'yoga': 1},
            'kinetics700': {'Air drumming': 0, 'yoga': 1, 'zumba': 2},
        }
    }
    assert (
        '3 classes of 2 + 3; 8 training clips listed, 3 videos taken, 3 left out' in found.notes[0]
    )
