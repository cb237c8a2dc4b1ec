import os

import pytest

from data_pipelines.annotations.locate import VideoFiles
from tests.helpers.file_tree import make_files


def test_any_folder_and_container(tmp_path):
    make_files(
        tmp_path,
        'a.mp4',
        'train/riding a bike/b.MKV',
        'train/c.webm',
        'c.txt',
        '.d.mp4',
        'e.mp4.part',
    )
    videos = VideoFiles(tmp_path)
    assert videos.find('a') == str(tmp_path / 'a.mp4')
    assert videos.find('b') == str(tmp_path / 'train/riding a bike/b.MKV')
    assert videos.find('other/c') == str(tmp_path / 'train/c.webm')
    assert videos.find('first', 'c') == str(tmp_path / 'train/c.webm')
    for missing in ('d', 'e', 'e.mp4', 'first'):
        assert videos.find(missing) == str(tmp_path / f'{missing}.mp4')
        assert not os.path.exists(videos.find(missing))


def test_of_several_files_the_folders_decide(tmp_path):
    make_files(tmp_path, 'x/run_fast/v.avi', 'x/sit/v.mp4', 'y/sit/v.avi', 'y/sit/v.mp4')
    videos = VideoFiles(tmp_path)
    assert videos.find('run fast/v') == str(tmp_path / 'x/run_fast/v.avi')
    assert videos.find('sit/v') == str(tmp_path / 'x/sit/v.mp4')
    assert videos.find('y/sit/v') == str(tmp_path / 'y/sit/v.mp4')
    assert videos.find('v') == str(tmp_path / 'x/sit/v.mp4')


def test_folders_of_classes(tmp_path):
    make_files(tmp_path, 'run fast/v.mp4', 'other/w.mp4', 'x.mp4')
    videos = VideoFiles(tmp_path, ['run fast', 'sit'])
    assert videos.find('run_fast/v') == str(tmp_path / 'run fast/v.mp4')
    assert videos.find('sit/v') == str(tmp_path / 'sit/v.mp4')  # missing
    assert videos.find('sit/w') == str(tmp_path / 'other/w.mp4')
    assert videos.find('sit/x') == str(tmp_path / 'x.mp4')


def test_links_are_followed_once(tmp_path):
    make_files(tmp_path, 'elsewhere/v.mp4')
    (tmp_path / 'videos').mkdir()
    os.symlink(tmp_path / 'elsewhere', tmp_path / 'videos/link')
    os.symlink(tmp_path / 'videos', tmp_path / 'elsewhere/loop')
    assert VideoFiles(tmp_path / 'videos').find('v') == str(tmp_path / 'videos/link/v.mp4')


def test_names_do_not_lead_out(tmp_path):
    make_files(tmp_path, 'videos/v.mp4', 'secret.mp4')
    videos = VideoFiles(tmp_path / 'videos')
    for name in ('../secret', '/etc/secret', 'a/../../secret', 'a\\..\\secret', 'a\0b', '', '.'):
        with pytest.raises(ValueError, match='x.csv, line 3: .* is no path inside'):
            videos.find(name, where='x.csv, line 3')


def test_no_videos(tmp_path):
    with pytest.raises(ValueError, match='no videos in it'):
        VideoFiles(tmp_path)
    with pytest.raises(ValueError, match='no such directory'):
        VideoFiles(tmp_path / 'nowhere')
