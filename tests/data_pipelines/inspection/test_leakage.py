"""Videos that are trained on and tested on: found by name, by content, and nothing else found."""

import csv
import json
import pathlib

import numpy as np
import pytest

from data_pipelines.annotations import Annotations, Clip
from data_pipelines.conversion.dataset import convert
from data_pipelines.conversion.options import Options
from data_pipelines.inspect import main
from data_pipelines.inspection import leakage
from data_pipelines.inspection.leakage import Match, Videos, find_leaks, frame_bits, video_id
from tests.helpers.tiny_records import smooth_image
from tests.helpers.video_writer import write_video

VIDEOS = 24


@pytest.fixture(scope='module')
def datasets(tmp_path_factory):
    """a trains on videos 0 to 11 and tests on 12 to 15; b trains on 16 to 19 and tests on 8 to 15.

    Smaller, at another rate and quality: videos 8 to 11 are the leak. Of the names only those of
    video 9 and of 23, which is another video in either, are the same.
    """
    root = tmp_path_factory.mktemp('leakage')
    rng = np.random.default_rng(0)
    paths = []
    for number in range(VIDEOS):
        phases = rng.uniform(0, 30, 3)
        shift = rng.integers(2, 9)
        still = rng.integers(0, 60, (6, 8)).repeat(16, 0).repeat(16, 1)  # of its own
        images = []
        for frame in range(20):
            image = sum(
                smooth_image(96, 128, phase + frame / shift).astype(float) * weight
                for phase, weight in zip(phases, (0.5, 0.3, 0.2))
            )
            images.append(np.clip(image * 0.5 + still[..., None] * 2, 0, 255).astype(np.uint8))
        paths.append(str(root / f'{number}.mp4'))
        write_video(paths[-1], images, rate=20)

    def dataset(name, options, **splits):
        clips = {
            split: tuple(
                Clip(paths[number], NAMES[name].get(number, f'{name}_{number:03d}.mp4'), (0,))
                for number in numbers
            )
            for split, numbers in splits.items()
        }
        options = Options(workers=1, progress=False, **options)
        convert(Annotations(('x',), clips), root / name, options)
        return str(root / name)

    a = dataset('a', {}, train=[*range(12), 22], validation=range(12, 16))
    smaller = {'short_side': 60, 'frame_rate': 12.5, 'quality': 70}
    b = dataset('b', smaller, train=range(16, 20), test=[*range(8, 16), 23])
    return a, b


NAMES = {
    'a': {9: 'AAAAAAAAAAA_000001_000011', 22: 'train/other video.mp4'},
    'b': {9: 'AAAAAAAAAAA_000005_000015', 23: 'deeper/other video.avi', 10: '0010'},
}


def test_the_same_videos_are_found(datasets, tmp_path, capsys):
    a, b = datasets
    path = tmp_path / 'leaks.csv'
    assert main([a, b, '--json', '--no_sheet', f'--leaks={path}', '--threads=2']) == 0
    report = json.loads(capsys.readouterr().out)
    assert [dataset['directory'] for dataset in report['datasets']] == [a, b]
    (leak,) = report['leaks']
    assert (leak['trained'], leak['tested'], leak['clips']) == (f'{a}, train', f'{b}, test', 9)
    expected = [
        ('b_008.mp4', 'a_008.mp4', 'content'),
        ('AAAAAAAAAAA_000005_000015', 'AAAAAAAAAAA_000001_000011', 'name and content'),
        ('0010', 'a_010.mp4', 'content'),
        ('b_011.mp4', 'a_011.mp4', 'content'),
        ('deeper/other video.avi', 'train/other video.mp4', 'name'),
    ]
    found = [(m['tested'], m['trained'], m['same']) for m in leak['matches']]
    assert sorted(found) == sorted(expected)
    with open(path, newline='') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['trained', 'trained_video', 'tested', 'tested_video', 'same']
    assert sorted((row[3], row[1], row[4]) for row in rows[1:]) == sorted(expected)


def test_text(datasets, capsys):
    a, b = datasets
    assert main([a, b, '--no_sheet', '--quick']) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith(f'{a}, train'))
    assert row.split()[-5:] == ['2', '4', '5', 'of', '9']
    assert sum(line.startswith(f'{b}, test: ') for line in lines) == 5
    assert main([a, '--no_sheet', '--quick', '--leaks=/dev/null']) == 0
    assert 'no video is trained on in one split and tested' in capsys.readouterr().out


def test_videos_that_records_link_to(datasets, capsys):
    a, _ = datasets
    root = pathlib.Path(a).parent
    clips = tuple(Clip(str(root / f'{number}.mp4'), f'l{number}.mp4', (0,)) for number in (3, 13))
    options = Options(workers=1, progress=False, storage='link')
    linked = root / 'linked'
    convert(Annotations(('x',), {'validation': clips}), linked, options)
    common = [a, str(linked), '--no_sheet', '--quick', '--json']
    for roots in ([root], ['nowhere', root]):
        assert main([*common, *(f'--video_root={root}' for root in roots)]) == 0
        (leak,) = json.loads(capsys.readouterr().out)['leaks']
        assert [(m['tested'], m['trained']) for m in leak['matches']] == [('l3.mp4', 'a_003.mp4')]
    assert main([*common, *['--video_root=.'] * 3]) == 2
    assert '--video_root is given 3 times for 2 directories' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('name', 'known'),
    [
        ('train/abseiling/dQw4w9WgXcQ_000012_000022.mp4', 'dQw4w9WgXcQ'),
        ('dQw4w9WgXcQ.webm', 'dQw4w9WgXcQ'),
        ('v_dQw4w9WgXcQ_3', 'dQw4w9WgXcQ'),
        ('v_dQw4w9WgXcQ', 'dQw4w9WgXcQ'),
        ('dQw4w9WgXcQ,0902', 'dQw4w9WgXcQ'),
        ('dQw4w9WgXcQ_000012_000022,191.5', 'dQw4w9WgXcQ'),
        ('dQw4w9WgXcQ_E_002407_002435_A_0003_0005', 'dQw4w9WgXcQ'),
        ('dQw4w9WgXcQ#2', 'dQw4w9WgXcQ'),
        ('ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi', 'v_ApplyEyeMakeup_g08_c01'),
        ('scene_train_00001', 'scene_train_00001'),  # 11 signs before a number are no id
        ('e\u0301tude', '\u00e9tude'),
        ('78687', ''),  # Something-Something and Jester count both
        ('run/1.mp4', ''),
        ('', ''),
    ],
)
def test_names(name, known):
    assert video_id(name) == known


def test_of_many_clips_exactly_the_equal_ones_are_found():
    """Every tenth tested clip is one of the trained ones with up to 20 bits changed."""
    rng = np.random.default_rng(1)
    trained = rng.integers(0, 2**63, (20_000, 4), np.uint64) * 2 + 1
    tested = rng.integers(0, 2**63, (3_000, 4), np.uint64)
    for number in range(0, 3_000, 10):
        tested[number] = trained[number * 5]
        for bit in rng.choice(256, rng.integers(0, 21), replace=False):
            tested[number, bit // 64] ^= np.uint64(1 << int(bit % 64))
    tested[5] = trained[7] = 0  # nothing is known of these
    videos = [
        Videos(place, tuple(map(str, range(len(bits)))), bits)
        for place, bits in (('a', trained), ('b', tested))
    ]
    (leak,) = find_leaks(zip((True, False), videos))
    assert leak.matches == tuple(Match(str(n), str(n * 5), 'content') for n in range(0, 3_000, 10))


def test_pictures_that_show_nothing_are_not_compared():
    black = np.zeros((4, 72, 72, 3), np.uint8)
    assert not frame_bits(black).any()
    black[:, 10:14, 10:14] = 255  # a logo
    assert not frame_bits(black).any()
    scene = np.stack([smooth_image(72, 72, phase) for phase in range(4)])
    assert frame_bits(scene).all()
    assert (frame_bits(scene) == frame_bits((scene * 0.7 + 20).astype(np.uint8))).mean() > 0.7
    assert leakage.trains('train') and leakage.trains('Train_small')
    assert not leakage.trains('validation')
