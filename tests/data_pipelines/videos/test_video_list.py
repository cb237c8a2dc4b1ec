"""Videos as a command line names them."""

import pytest

from data_pipelines.videos.video_list import list_videos


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with videos by name only, which nobody opens."""
    monkeypatch.chdir(tmp_path)
    for name in ('b.mp4', 'a.avi', 'deep/er/c.mkv', 'deep/x, y.mp4', 'deep/notes.txt', 'x 1.mp4'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'0')
    return tmp_path


def _listed(*arguments, **options):
    return [tuple(video) for video in list_videos(arguments, **options)]


def test_files_urls_and_devices_stay_as_they_are(place):
    assert _listed('b.mp4', 'missing.mp4', 'http://host/v.mp4', 'lavfi:testsrc') == [
        ('b.mp4', 'b.mp4'),
        ('missing.mp4', 'missing.mp4'),
        ('http://host/v.mp4', 'host/v.mp4'),
        ('lavfi:testsrc', 'lavfi:testsrc'),
    ]
    assert _listed(str(place / 'deep/er/c.mkv')) == [(str(place / 'deep/er/c.mkv'), 'c.mkv')]
    assert _listed('b.mp4', 'b.mp4') == [('b.mp4', 'b.mp4')] * 2


def test_folders_are_searched_to_the_bottom(place):
    assert [name for _, name in _listed('.')] == [
        'a.avi', 'b.mp4', 'x 1.mp4', 'deep/x, y.mp4', 'deep/er/c.mkv',
    ]  # fmt: skip
    assert _listed('deep') == [('deep/x, y.mp4', 'x, y.mp4'), ('deep/er/c.mkv', 'er/c.mkv')]


def test_patterns(place):
    assert _listed('deep/**/*.mkv') == [('deep/er/c.mkv', 'er/c.mkv')]
    assert [name for _, name in _listed('*.*')] == ['a.avi', 'b.mp4', 'x 1.mp4']
    (place / '[1].mp4').write_bytes(b'0')
    assert _listed('[1].mp4') == [('[1].mp4', '[1].mp4')]  # a file of that name comes first


@pytest.mark.parametrize(
    ('name', 'text', 'expected'),
    [
        ('l.txt', 'b.mp4\n\ndeep/er/c.mkv\n', ['b.mp4', 'deep/er/c.mkv']),
        ('l.txt', 'b.mp4 3\nx 1.mp4 12\n', ['b.mp4', 'x 1.mp4']),  # PySlowFast's
        ('l.csv', 'b.mp4,3,running\ndeep/x, y.mp4\n', ['b.mp4', 'deep/x, y.mp4']),
        ('l.csv', 'label,Path,start\nrun,b.mp4,0\n"a, b",a.avi,1\n', ['b.mp4', 'a.avi']),
        ('l.tsv', 'video\tlabel\nx 1.mp4\t0\n', ['x 1.mp4']),
        ('deep/l.txt', 'er/c.mkv\n', ['deep/er/c.mkv']),  # beside the list
        ('l.txt', 'gone.mp4\nb.mp4\nhttp://host/v.mp4\n', ['gone.mp4', 'b.mp4', 'http://host/v.mp4']),
        ('l.txt', '../b.mp4\n/etc/b.mkv\nb.mp4', ['../b.mp4', '/etc/b.mkv', 'b.mp4']),
    ],
)  # fmt: skip
def test_lists(place, name, text, expected):
    (place / name).write_text(text)
    if '..' in text:
        with pytest.raises(ValueError, match='would both be called b.mp4'):
            list_videos([name])
        text = text.rpartition('\n')[0]
        (place / name).write_text(text)
        expected = expected[:-1]
        (place.parent / 'b.mp4').write_bytes(b'0')
    found = list_videos([name])
    assert [video.path for video in found] == expected
    assert not any('..' in video.name or video.name.startswith('/') for video in found)


def test_lists_do_not_open_devices(place):
    found = list_videos(['-'], lines=['lavfi:testsrc', 'rtsp://host/v', 'b.mp4'])
    assert [video.path for video in found] == ['./lavfi:testsrc', './rtsp://host/v', 'b.mp4']


def test_lines_of_standard_input(place):
    assert [path for path, _ in _listed('-', lines=['b.mp4\n', '\n', 'x 1.mp4\n'])] == [
        'b.mp4',
        'x 1.mp4',
    ]


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('empty', 'empty: no video in it'),
        ('*.webm', r'\*.webm: no video in it'),
        ('deep/notes.txt', 'none of which exists: .no such'),
        ('empty.txt', 'empty.txt: no video'),
    ],
)
def test_what_holds_no_video(place, argument, message):
    (place / 'empty').mkdir()
    (place / 'empty.txt').write_text('\n')
    (place / 'deep/notes.txt').write_text('no such\n')
    with pytest.raises(ValueError, match=message):
        list_videos([argument])


def test_two_videos_of_one_name_are_refused(place):
    (place / 'deep/b.mp4').write_bytes(b'0')
    with pytest.raises(ValueError, match='b.mp4 and deep/b.mp4 would both be called b.mp4'):
        list_videos(['b.mp4', 'deep'])


def test_files_of_one_name_are_called_by_their_folders(place):
    """As a shell makes arguments of VIDEOS/*/*.mp4."""
    (place / 'deep/b.mp4').write_bytes(b'0')
    names = lambda *paths: [video.name for video in list_videos(paths)]  # noqa: E731
    assert names('b.mp4', 'deep/b.mp4') == ['b.mp4', 'deep/b.mp4']
    assert names('b.mp4', 'deep/b.mp4', 'b.mp4') == ['b.mp4', 'deep/b.mp4', 'b.mp4']
    assert names('deep/b.mp4', str(place / 'deep/er/c.mkv')) == ['b.mp4', 'c.mkv']
    assert names('b.mp4', './b.mp4') == ['b.mp4', 'b.mp4']
