"""What videos are opened from: files, URLs, pipes, devices; also while they are being made."""

import os
import re
import stat

import av

from data_pipelines.probe import PLAYLISTS

_OPEN_SECONDS = 20.0  # that a server or a device has to answer
SILENCE = 30.0  # seconds; a stream of which nothing more comes for so long has ended
# A title that is no UTF-8 does not matter here: PyAV takes it from version 19 on, and before when
# it is told to.
_ANY_TITLE = {} if int(av.__version__.partition('.')[0]) >= 19 else {'metadata_errors': 'replace'}
STANDARD_INPUT = '-'
_URL = re.compile(r'[a-z][a-z0-9+.-]*://')


class VideoError(ValueError):
    """A video that cannot be used. The text is one line: file, what is wrong.

    Attributes:
      reason: what is wrong, without the file.
    """

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f'{os.fspath(path)}: {reason}')
        self.reason = reason


def is_file(name: str) -> bool:
    """Whether a name is that of a file, rather than a URL, a device or standard input."""
    return name != STANDARD_INPUT and not _URL.match(name) and _device(name) is None


def open_source(name: str, silence: float | None = None) -> av.container.InputContainer:
    """Opens a video.

    Args:
      name: a file; a URL that FFmpeg opens (`rtsp://`, `http://`, ...); `FORMAT:NAME` of a device
        or generator that it has (`v4l2:/dev/video0`, `lavfi:testsrc`); or `-`, standard input.
      silence: None reads what there is. Seconds: the video is still being made, and has ended when
        nothing came for so long; a file is read on where it grows.

    Raises:
      VideoError: the file is missing, empty, a directory or a playlist.
      av.error.FFmpegError: it cannot be opened as a video.
    """
    options = {'fflags': '-genpts'}
    timeout = None if silence is None else (max(_OPEN_SECONDS, silence), silence)
    if name == STANDARD_INPUT:
        return av.open('pipe:0', options=options, timeout=timeout, **_ANY_TITLE)
    if _URL.match(name):
        if name.startswith('rtsp'):
            options['rtsp_transport'] = 'tcp'  # packets that are lost would be damage
        timeout = timeout or (_OPEN_SECONDS, SILENCE)
        return av.open(name, options=options, timeout=timeout, **_ANY_TITLE)
    if (device := _device(name)) is not None:
        return av.open(device[1], format=device[0], timeout=timeout, **_ANY_TITLE)
    _check_file(name)
    if silence is not None:
        options['follow'] = '1'
    # The prefix: a name may hold a colon.
    container = av.open(f'file:{name}', options=options, timeout=timeout, **_ANY_TITLE)
    if (kind := container.format.name) in PLAYLISTS:
        container.close()
        raise VideoError(name, f'a playlist ({kind}): names other files, which are not opened')
    return container


def _device(name: str) -> tuple[str, str] | None:
    """(format, name) of what is no file and begins with a format of FFmpeg's."""
    kind, colon, rest = name.partition(':')
    if colon and kind in av.formats_available and not os.path.exists(name):
        return kind, rest
    return None


def _check_file(path: str) -> None:
    try:
        found = os.stat(path)
    except OSError:
        raise VideoError(path, 'no such file') from None
    if stat.S_ISDIR(found.st_mode):
        raise VideoError(path, 'a directory, not a video')
    if stat.S_ISREG(found.st_mode) and not found.st_size:
        raise VideoError(path, 'empty or unreadable (0 bytes)')
