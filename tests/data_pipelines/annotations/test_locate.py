import os

import pytest

from data_pipelines.annotations.locate import VideoFiles
from tests.helpers.file_tree import make_files
from tests.helpers.video_writer import write_numbered


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


def test_of_several_files_in_a_folder_the_listed_suffix_decides(tmp_path):
    make_files(tmp_path, 'a/v.avi', 'a/v.mp4', 'a/v', 'b/v.AVI', 'b/v.mkv')
    videos = VideoFiles(tmp_path)
    assert videos.find('a/v') == str(tmp_path / 'a/v.mp4')
    for suffix in ('.avi', '.mp4'):
        assert videos.find('a/v', suffix=suffix) == str(tmp_path / f'a/v{suffix}')
    assert videos.find('a/v', suffix='.webm') == str(tmp_path / 'a/v.mp4')
    assert videos.find('b/v', suffix='.avi') == str(tmp_path / 'b/v.AVI')
    assert videos.find('b/v', suffix='.mp4') == str(tmp_path / 'b/v.AVI')


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


def test_any_suffix_if_ffmpeg_opens_it(tmp_path):
    make_files(tmp_path, 'a.mp4', 'a.m2ts', 'b.json', 'c.xyz', 'd.png')
    write_numbered(tmp_path / 'e.m2ts', 3)
    videos = VideoFiles(tmp_path)
    assert videos.find('a') == str(tmp_path / 'a.mp4')  # what is a video for certain comes first
    assert videos.find('e') == str(tmp_path / 'e.m2ts')
    for name in 'bd':  # what lies beside videos is none of them
        assert not os.path.exists(videos.find(name))
    assert not videos.notes()
    assert videos.find('c') == str(tmp_path / 'c.xyz')  # is there: converting it says what it is
    (note,) = videos.notes()
    assert '1 of the listed videos have a file in which FFmpeg finds no video' in note
    (tmp_path / 'a.mp4').unlink()
    assert VideoFiles(tmp_path).find('e') == str(tmp_path / 'e.m2ts')  # the only video


def test_names_in_one_normal_form(tmp_path):
    make_files(tmp_path, 'cafe\u0301/re\u0301.mp4', 'th\u00e9/r\u00e9.mp4')
    videos = VideoFiles(tmp_path)
    assert videos.find('caf\u00e9/r\u00e9') == str(tmp_path / 'cafe\u0301/re\u0301.mp4')
    assert videos.find('the\u0301/re\u0301') == str(tmp_path / 'th\u00e9/r\u00e9.mp4')
    assert 're\u0301' in videos and 'r\u00e9' in videos
