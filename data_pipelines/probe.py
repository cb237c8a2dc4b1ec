"""Which files are videos: known by their suffix, else by what FFmpeg finds in them."""

import os

VIDEO_SUFFIXES = frozenset(
    '.mp4 .avi .mkv .webm .mov .m4v .mpg .mpeg .wmv .flv .3gp .ts .mts .ogv .asf .vob'.split()
)
IMAGE_SUFFIXES = frozenset('.jpg .jpeg .png .bmp .webp .tif .tiff .ppm .avif .heic .jxl'.split())
# What lies beside videos and is none: not worth opening, and some of it FFmpeg would draw.
_OTHER_SUFFIXES = frozenset(
    '.txt .csv .tsv .json .jsonl .md .rst .html .xml .yaml .yml .pbtxt .log .nfo .srt .vtt .ass '
    '.pdf .zip .tar .gz .rar .7z .npy .npz .pt .pth .pkl .h5 .mat .py .sh .db .part .tmp'.split()
)
_MPEG_VIDEO_SUFFIXES = frozenset(('m1v', 'm2v', 'mpv'))  # FFmpeg names none itself
# Formats of files that name others, which lie anywhere: a video is one file.
PLAYLISTS = ('hls', 'concat', 'dash', 'imf', 'webm_dash_manifest', 'sdp')
_DRAWN_TEXT = ('tty', 'bin', 'xbin', 'adf', 'idf')  # formats


def suffix_of(path: str) -> str:
    """The suffix of a name, with its dot, in small letters."""
    return os.path.splitext(path)[1].lower()


def may_be_video(path: str) -> bool:
    """Whether a name is not evidently that of something else."""
    return suffix_of(path) not in IMAGE_SUFFIXES | _OTHER_SUFFIXES


def is_video(path: str) -> bool:
    """Whether a file is a video: its suffix says so, or FFmpeg finds moving pictures in it."""
    return suffix_of(path) in VIDEO_SUFFIXES or holds_video(path)


def holds_video(path: str) -> bool:
    """Whether FFmpeg finds a video in a file: no still, text, playlist, or music with a cover."""
    # A pipe is no file, for example: opening it would wait.
    if not may_be_video(path) or not os.path.isfile(path):
        return False
    import av  # readers of videos with usual suffixes need it not

    try:
        with av.open(f'file:{path}') as container:
            name = container.format.name
            if name in (*_DRAWN_TEXT, *PLAYLISTS, 'image2') or name.endswith('_pipe'):
                return False
            # Raw streams have no signature: FFmpeg also sees one in a file of records full of
            # JPEGs.
            if container.format.long_name.startswith('raw '):
                own = container.format.extensions or _MPEG_VIDEO_SUFFIXES
                if suffix_of(path).removeprefix('.') not in own:
                    return False
            cover = av.stream.Disposition.attached_pic
            return any(
                stream.codec_context is not None and not stream.disposition & cover
                for stream in container.streams.video
            )
    except (av.error.FFmpegError, OSError, ValueError, EOFError):
        return False
