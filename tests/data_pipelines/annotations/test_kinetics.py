import pytest

from data_pipelines.annotations.kinetics import read_kinetics
from tests.helpers.file_tree import make_files, summary

# As in the release of Kinetics-400: some labels are quoted.
TRAIN = """\
label,youtube_id,time_start,time_end,split,is_cc
"testifying","---QUuC4vJs",84,94,"train",0
"air drumming",--3ouPhoy2A,20,30,train,0
air drumming,_dbcJuKJQNs,40,50,train,0
testifying,-0_a1b2C3d4,0,10,train,1
"""
# Other columns in another order; Windows line ends, a byte order mark, fractions of a second.
VALIDATION = """\
\ufeffyoutube_id,split,label,time_end,time_start\r
_dbcJuKJQNs,val,air drumming,110,100\r
zzzzzzzzzzz,val,testifying,22.6,12.6\r
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / 'train.csv').write_bytes(TRAIN.encode())
    (tmp_path / 'val.csv').write_bytes(VALIDATION.encode())
    return {'train': tmp_path / 'train.csv', 'validation': tmp_path / 'val.csv'}


def test_files_as_found_in_practice(files, tmp_path):
    videos = make_files(
        tmp_path / 'videos',
        'train/testifying/---QUuC4vJs_000084_000094.mp4',
        'train/air_drumming/--3ouPhoy2A.mkv',
        'train/air drumming/_dbcJuKJQNs_000040_000050.mp4',
        '_dbcJuKJQNs.mp4',
        'val/zzzzzzzzzzz_000012_000022.webm',
    )
    annotations = read_kinetics(files, videos)
    assert annotations.classes == ('air drumming', 'testifying') and not annotations.multi_label
    assert summary(annotations, 'train', videos) == [
        (
            '---QUuC4vJs_000084_000094',
            'train/testifying/---QUuC4vJs_000084_000094.mp4',
            'testifying',
            None,
            None,
        ),
        (
            '--3ouPhoy2A_000020_000030',
            'train/air_drumming/--3ouPhoy2A.mkv',
            'air drumming',
            None,
            None,
        ),
        (
            '_dbcJuKJQNs_000040_000050',
            'train/air drumming/_dbcJuKJQNs_000040_000050.mp4',
            'air drumming',
            None,
            None,
        ),
        (
            '-0_a1b2C3d4_000000_000010',
            '-0_a1b2C3d4_000000_000010.mp4',  # missing
            'testifying',
            None,
            None,
        ),
    ]
    # _dbcJuKJQNs.mp4 might be either of two clips: it is taken for neither.
    assert summary(annotations, 'validation', videos) == [
        ('_dbcJuKJQNs_000100_000110', '_dbcJuKJQNs_000100_000110.mp4', 'air drumming', None, None),
        (
            'zzzzzzzzzzz_000012_000022',
            'val/zzzzzzzzzzz_000012_000022.webm',
            'testifying',
            None,
            None,
        ),
    ]


def test_untrimmed(files, tmp_path):
    videos = make_files(tmp_path / 'videos', '_dbcJuKJQNs.mp4', 'zzzzzzzzzzz.mp4')
    annotations = read_kinetics(files, videos, untrimmed=True)
    assert summary(annotations, 'validation', videos) == [
        ('_dbcJuKJQNs_000100_000110', '_dbcJuKJQNs.mp4', 'air drumming', 100, 110),
        ('zzzzzzzzzzz_000012_000022', 'zzzzzzzzzzz.mp4', 'testifying', 12.6, 22.6),
    ]
    assert summary(annotations, 'train', videos)[2][1:] == (
        '_dbcJuKJQNs.mp4',
        'air drumming',
        40,
        50,
    )


def test_every_line_is_a_clip(tmp_path):
    csv = tmp_path / 'a.csv'
    csv.write_text('label,youtube_id,time_start,time_end\nx,v,1,2\ny,v,1,2\n')
    videos = make_files(tmp_path / 'videos', 'v.mp4')
    clips = read_kinetics({'train': csv}, videos).splits['train']
    assert [(clip.key, clip.labels) for clip in clips] == [
        ('v_000001_000002', (0,)),
        ('v_000001_000002#2', (1,)),
    ]
    assert {clip.path for clip in clips} == {str(videos / 'v.mp4')}


HEADER = 'label,youtube_id,time_start,time_end,split\n'


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'line 1: wanted a header with label, youtube_id'),
        ('x,v,1,2,train\n', 'line 1: wanted a header'),
        ('youtube_id,time_start,time_end,split\nv,1,2,test\n', 'a list without labels'),
        (HEADER, 'no clip in it'),
        (HEADER + 'x,v,1,2,train\nx,v,1,2\n', 'line 3: 4 columns, but 5 in the header'),
        (HEADER + ',v,1,2,train\n', 'line 2: no label'),
        (HEADER + 'x,,1,2,train\n', 'line 2: no youtube_id'),
        (HEADER + 'x,v,a,2,train\n', "line 2: wanted a time in seconds, got 'a'"),
        (HEADER + 'x,v,nan,2,train\n', "line 2: wanted a time in seconds, got 'nan'"),
        (HEADER + 'x,v,3,2,train\n', 'line 2: the clip lasts from 3 to 2 s'),
        (HEADER + 'x,v,1,2,train\nx,w,1,2,val\n', r'clips of several splits \(train, val\)'),
        (HEADER + '"x"y,v,1,2,train\n', 'line 2: not csv'),
        (HEADER + 'x,../../etc/v,1,2,train\n', 'line 2: .* is no path inside'),
    ],
)
def test_mistakes(tmp_path, text, message):
    csv = tmp_path / 'train.csv'
    csv.write_text(text)
    videos = make_files(tmp_path / 'videos', 'v.mp4')
    with pytest.raises(ValueError, match=f'train.csv.*{message}'):
        read_kinetics({'train': csv}, videos)


def test_splits_must_have_the_same_classes(tmp_path):
    (tmp_path / 'train.csv').write_text(HEADER + 'x,v,1,2,train\ny,w,1,2,train\n')
    (tmp_path / 'val.csv').write_text(HEADER + 'x,u,1,2,val\n')
    csv_files = {'train': tmp_path / 'train.csv', 'validation': tmp_path / 'val.csv'}
    with pytest.raises(ValueError, match="val.csv: no clip of the class 'y', which .*train.csv"):
        read_kinetics(csv_files, make_files(tmp_path / 'videos', 'v.mp4'))
