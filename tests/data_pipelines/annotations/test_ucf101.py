import pytest

from data_pipelines.annotations.ucf101 import read_ucf101
from tests.helpers.file_tree import make_files, summary

CLASSES = '1 ApplyEyeMakeup\r\n2 YoYo\r\n3 Archery\r\n'
TRAIN = 'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nYoYo/v_YoYo_g25_c05.avi 2\n'
TEST = 'ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\nArchery/v_Archery_g07_c04.avi\n'


@pytest.fixture
def root(tmp_path):
    lists = tmp_path / 'ucfTrainTestlist'
    lists.mkdir()
    (lists / 'classInd.txt').write_bytes(CLASSES.encode())
    (lists / 'trainlist02.txt').write_text(TRAIN)
    (lists / 'testlist02.txt').write_text(TEST)
    make_files(
        tmp_path / 'UCF-101',
        'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi',
        'v_YoYo_g25_c05.mp4',
        'ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi',
    )
    return tmp_path


def read(root, fold=2):
    return read_ucf101(root / 'ucfTrainTestlist', root / 'UCF-101', fold)


def test_fold(root):
    annotations = read(root)
    assert annotations.classes == ('ApplyEyeMakeup', 'YoYo', 'Archery')  # the official order
    makeup = 'ApplyEyeMakeup/v_ApplyEyeMakeup_g{}_c01.avi'
    assert summary(annotations, 'train', root / 'UCF-101') == [
        (makeup.format('08'), makeup.format('08'), 'ApplyEyeMakeup', None, None),
        ('YoYo/v_YoYo_g25_c05.avi', 'v_YoYo_g25_c05.mp4', 'YoYo', None, None),
    ]
    assert summary(annotations, 'test', root / 'UCF-101') == [
        (makeup.format('01'), makeup.format('01'), 'ApplyEyeMakeup', None, None),
        ('Archery/v_Archery_g07_c04.avi', 'Archery/v_Archery_g07_c04.mp4', 'Archery', None, None),
    ]
    with pytest.raises(ValueError, match='trainlist01.txt: no such file'):
        read(root, fold=1)


@pytest.mark.parametrize(
    'file, text, message',
    [
        ('trainlist02.txt', TRAIN + 'v_YoYo_g25_c06.avi 2\n', 'line 3: wanted "CLASS/video'),
        ('trainlist02.txt', 'Yo/v.avi 2\n', "line 1: .*classInd.txt has no class 'Yo'"),
        ('trainlist02.txt', 'YoYo/v.avi 3\n', "line 1: class 3, but .*'YoYo' the number 2"),
        ('testlist02.txt', 'YoYo/../../v.avi\n', 'line 1: .* is no path inside'),
        ('testlist02.txt', '\n', 'no video in it'),
        ('classInd.txt', 'YoYo\n', 'line 1: wanted "number class"'),
        ('classInd.txt', '1 YoYo\n3 Archery\n', 'none of them has the number 2'),
        ('classInd.txt', '0 YoYo\n1 Archery\n', 'none of them has the number 2'),
    ],
)
def test_mistakes(root, file, text, message):
    (root / 'ucfTrainTestlist' / file).write_text(text)
    with pytest.raises(ValueError, match=f'{file}.*{message}'):
        read(root)
