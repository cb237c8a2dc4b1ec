import pytest

from data_pipelines.annotations.moments_in_time import read_moments_in_time
from tests.helpers.file_tree import make_files, summary

# The official order is alphabetical, but nothing promises that.
CATEGORIES = 'clapping,1\nadult+female+singing,0\nblocking,2\n\n'
TRAIN = """\
blocking/getty-karate-video-id635808620_4.mp4,blocking,3,0
adult+female+singing/0P3XG_vf91c_35.mp4,adult+female+singing,9,4
blocking/getty-karate-video-id635808620_4.mp4,blocking,3,0
"""
VALIDATION = 'clapping/yt-zxQfALnTdfc_56.mp4,clapping,12,3\n'


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'moments_categories.txt').write_text(CATEGORIES)
    (tmp_path / 'trainingSet.csv').write_text(TRAIN)
    (tmp_path / 'validationSet.csv').write_text(VALIDATION)
    return make_files(
        tmp_path,
        'training/blocking/getty-karate-video-id635808620_4.mp4',
        'validation/blocking/getty-karate-video-id635808620_4.mp4',
        'training/adult+female+singing/0P3XG_vf91c_35.mp4',
        'training/clapping/yt-zxQfALnTdfc_56.mp4',
        'validation/clapping/yt-zxQfALnTdfc_56.mp4',
    )


def read(root):
    files = {'train': root / 'trainingSet.csv', 'validation': root / 'validationSet.csv'}
    return read_moments_in_time(root / 'moments_categories.txt', files, root)


def test_official_files(root):
    annotations = read(root)
    assert annotations.classes == ('adult+female+singing', 'clapping', 'blocking')
    blocking = 'blocking/getty-karate-video-id635808620_4.mp4'
    singing = 'adult+female+singing/0P3XG_vf91c_35.mp4'
    assert summary(annotations, 'train', root) == [
        (blocking, f'training/{blocking}', 'blocking', None, None),
        (singing, f'training/{singing}', 'adult+female+singing', None, None),
        (f'{blocking}#2', f'training/{blocking}', 'blocking', None, None),
    ]
    clapping = 'clapping/yt-zxQfALnTdfc_56.mp4'
    assert summary(annotations, 'validation', root) == [
        (clapping, f'validation/{clapping}', 'clapping', None, None)
    ]


@pytest.mark.parametrize(
    'file, text, message',
    [
        ('trainingSet.csv', 'a.mp4\n', r'line 1: wanted "file,class,..."'),
        ('trainingSet.csv', TRAIN + 'a.mp4,flying,1,0\n', "line 4: .* has no class 'flying'"),
        ('trainingSet.csv', '../a.mp4,clapping,1,0\n', 'line 1: .* is no path inside'),
        ('trainingSet.csv', '', 'no clip in it'),
        ('moments_categories.txt', 'clapping\n', 'line 1: wanted "class,number"'),
        ('moments_categories.txt', 'a,0\nb,0\n', "line 2: number 0 is given to 'a' already"),
        ('moments_categories.txt', 'a,0\na,1\n', "line 2: 'a' is listed twice"),
        ('moments_categories.txt', 'a,0\nb,2\n', 'none of them has the number 1'),
        ('moments_categories.txt', '', 'no class in it'),
    ],
)
def test_mistakes(root, file, text, message):
    (root / file).write_text(text)
    with pytest.raises(ValueError, match=f'{file}.*{message}'):
        read(root)
