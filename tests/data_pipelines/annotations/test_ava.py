import pytest

from data_pipelines.annotations import KeyFrame
from data_pipelines.annotations.ava import read_ava
from tests.helpers import tiny_ava


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    return tiny_ava.write_ava(tmp_path_factory.mktemp('ava'))


def read(files, **arguments):
    splits = {split: [files[split]] for split in ('train', 'validation')}
    return read_ava(splits, files['actions'], files['videos'], **{'video_start': 900, **arguments})


def test_one_clip_per_key_frame(files):
    annotations = read(
        files,
        timestamps=files['timestamps'],
        excluded=[files['excluded']],
        proposals=[files['proposals']],
        context_seconds=3,
    )
    assert annotations.classes == ('bend/bow (at the waist)', 'stand', 'watch (a person)')
    assert annotations.details == {'action_ids': [1, 12, 80]}
    assert annotations.multi_label and annotations.localisation
    train = annotations.splits['train']
    assert [clip.key for clip in train] == ['movie_A,0902', 'movie_A,0904', 'movie_B,0902']
    assert [clip.path for clip in train] == [
        str(files['videos'] / 'trainval' / name)
        for name in ('movie_A.mp4', 'movie_A.mp4', 'movie_B.mkv')
    ]
    first, second, _ = train
    assert (first.start, first.end, first.labels) == (0.5, 3.5, (0, 1, 2))
    assert first.key_frame == KeyFrame(
        time=2.0,
        boxes=((0.1, 0.2, 0.5, 0.9), (0.1, 0.2, 0.5, 0.9), (0.6, 0.1, 0.9, 0.8)),
        actions=(1, 2, 0),
        persons=(0, 0, 1),
        proposals=((0.61, 0.11, 0.91, 0.81), (0.111, 0.201, 0.501, 0.901)),  # best first
        scores=(0.99, 0.95),
    )
    assert second.key_frame.proposals == ()
    (validation,) = annotations.splits['validation']
    assert validation.key_frame.scores == (0.75,)  # once, though listed for two actions


def test_videos_may_be_named_with_their_suffix(files, tmp_path):
    boxes = tmp_path / 'train.csv'
    boxes.write_text('movie_B.mkv,0902,0,0,1,0.5,1,7\nmovie_B.v2,0902,0,0,1,0.5,1,7\n')
    first, second = read({**files, 'train': boxes}).splits['train']
    assert (first.path, first.key) == (
        str(files['videos'] / 'trainval' / 'movie_B.mkv'),
        'movie_B.mkv,0902',
    )
    assert second.path == str(
        files['videos'] / 'movie_B.v2.mp4'
    )  # not a suffix: there is no such video


def test_clips_are_clamped_to_the_start_of_the_video(files):
    clip = read(files, context_seconds=5).splits['train'][0]
    assert (clip.start, clip.end, clip.key_frame.time) == (0, 4.5, 2)


def test_key_frames_without_boxes(files, tmp_path):
    (tmp_path / 'more.csv').write_text('movie_C,0902\n')
    boxes = {'validation': [files['validation'], tmp_path / 'more.csv']}

    def keys(**arguments):
        annotations = read_ava(
            boxes, files['actions'], files['videos'], video_start=900, **arguments
        )
        return [(clip.key, clip.labels) for clip in annotations.splits['validation']]

    assert keys() == [('movie_C,0903', (1,))]
    assert keys(without_boxes=True) == [('movie_C,0902', ()), ('movie_C,0903', (1,))]
    assert keys(without_boxes=True, timestamps=files['timestamps']) == [
        ('movie_C,0902', ()),
        ('movie_C,0903', (1,)),
        ('movie_C,0904', ()),
        ('movie_C,0905', ()),
    ]


def test_key_frames_on_kinetics_clips(files, tmp_path):
    (tmp_path / 'kinetics.csv').write_text(
        'abcdefghijk,17.010000,0.1,0.1,0.5,0.5,12\n'
        'abcdefghijk,25.000000,0.1,0.1,0.5,0.5,12\n'
        'abcdefghijk,90.000000,0.1,0.1,0.5,0.5,12\n'
        'lmnopqrstuv,3.000000,0.1,0.1,0.5,0.5,1\n'
    )
    for name in (
        'videos/standing up/abcdefghijk_000012_000022.mp4',
        'videos/waiting/abcdefghijk_000016_000026.mp4',
        'videos/waiting/xabcdefghijk_000080_000100.mp4',
        'videos/lmnopqrstuv.webm',
        'videos/lmnopqrstuv_000000_000010.mp4',
        'videos/movie_A.mp4',
        'videos/movie_B.mp4',
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    annotations = read_ava(
        {'train': [files['train'], tmp_path / 'kinetics.csv']},
        files['actions'],
        tmp_path / 'videos',
    )
    found = {
        clip.key: (clip.path.removeprefix(f'{tmp_path}/videos/'), round(clip.key_frame.time, 6))
        for clip in annotations.splits['train']
        if 'movie' not in clip.key
    }
    assert found == {
        # Of the two pieces the one that has more of it on both sides.
        'abcdefghijk,17.010000': ('standing up/abcdefghijk_000012_000022.mp4', 5.01),
        'abcdefghijk,25.000000': ('waiting/abcdefghijk_000016_000026.mp4', 9.0),
        'abcdefghijk,90.000000': ('abcdefghijk.mp4', 90.0),  # there is none: it fails later
        'lmnopqrstuv,3.000000': ('lmnopqrstuv.webm', 3.0),  # the whole video
    }
    assert len(annotations.splits['train']) == 4 + 4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'context_seconds': 0}, 'context_seconds=0: must be positive'),
        ({'context_seconds': float('nan')}, 'must be positive'),
        ({'video_start': -1}, 'video_start=-1: must not be negative'),
        ({'video_start': 1000}, 'train.csv, line 1: 902 s lies before the 1000 s'),
    ],
)
def test_bad_arguments(files, arguments, message):
    with pytest.raises(ValueError, match=message):
        read(files, **arguments)


def test_files_that_do_not_belong_together(files, tmp_path):
    with pytest.raises(
        ValueError, match='train.csv, line 1: the key frame movie_A,0902 is in .* already'
    ):
        read_ava({'train': [files['train']] * 2}, files['actions'], files['videos'])
    (tmp_path / 'timestamps.txt').write_text('0902\n0903\n')
    with pytest.raises(
        ValueError, match='train.csv, line 4: the timestamp 0904 is not in the list'
    ):
        read(files, timestamps=tmp_path / 'timestamps.txt')
    (tmp_path / 'proposals.csv').write_text('movie_Z,0902,0.1,0.2,0.3,0.4,,0.9\n')
    with pytest.raises(ValueError, match='proposals.csv: no proposal for any key frame'):
        read(files, proposals=[tmp_path / 'proposals.csv'])


def test_videos_cannot_lead_out_of_their_directory(files, tmp_path):
    (tmp_path / 'boxes.csv').write_text('../secret,0902,0.1,0.1,0.5,0.5,12,0\n')
    with pytest.raises(ValueError, match='boxes.csv, line 1: .*no path inside'):
        read_ava({'train': [tmp_path / 'boxes.csv']}, files['actions'], files['videos'])
