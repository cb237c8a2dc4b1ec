import pytest

from data_pipelines.annotations.hmdb51 import read_hmdb51
from tests.helpers.file_tree import make_files, summary

HAIR = 'April_09_brush_hair_u_nm_np1_ba_goo_{}.avi'
WHEEL = '(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_{}.avi'


@pytest.fixture
def root(tmp_path):
    lists = tmp_path / 'testTrainMulti_7030_splits'
    lists.mkdir()
    for label, name in (('cartwheel', WHEEL), ('brush_hair', HAIR)):
        for fold, uses in (('1', '120'), ('2', '211')):
            lines = [f'{name.format(number)} {use} \n' for number, use in enumerate(uses)]
            (lists / f'{label}_test_split{fold}.txt').write_text(''.join(lines))
            make_files(tmp_path / 'videos', *(f'{label}/{name.format(n)}' for n in range(3)))
    return tmp_path


def test_folds(root):
    lists, videos = root / 'testTrainMulti_7030_splits', root / 'videos'
    first = read_hmdb51(lists, videos)
    assert first.classes == ('brush_hair', 'cartwheel')

    def rows(*wanted):
        return [
            (f'{label}/{name.format(n)}', f'{label}/{name.format(n)}', label, None, None)
            for label, name, n in wanted
        ]

    assert summary(first, 'train', videos) == rows(('brush_hair', HAIR, 0), ('cartwheel', WHEEL, 0))
    assert summary(first, 'test', videos) == rows(('brush_hair', HAIR, 1), ('cartwheel', WHEEL, 1))
    second = read_hmdb51(lists, videos, 2)
    assert summary(second, 'train', videos) == rows(
        ('brush_hair', HAIR, 1),
        ('brush_hair', HAIR, 2),
        ('cartwheel', WHEEL, 1),
        ('cartwheel', WHEEL, 2),
    )
    with pytest.raises(ValueError, match='no file CLASS_test_split3.txt in it'):
        read_hmdb51(lists, videos, 3)


@pytest.mark.parametrize(
    'line, message',
    [
        ('x.avi', 'line 1: wanted "video 0|1|2", got \'x.avi\''),
        ('x.avi 3', 'line 1: wanted "video 0|1|2"'),
        ('../../x.avi 1', 'line 1: .* is no path inside'),
    ],
)
def test_mistakes(root, line, message):
    lists = root / 'testTrainMulti_7030_splits'
    (lists / 'cartwheel_test_split1.txt').write_text(line)
    with pytest.raises(ValueError, match=f'cartwheel_test_split1.txt, {message}'):
        read_hmdb51(lists, root / 'videos')
    with pytest.raises(ValueError, match='no such directory'):
        read_hmdb51(root / 'nowhere', root / 'videos')
