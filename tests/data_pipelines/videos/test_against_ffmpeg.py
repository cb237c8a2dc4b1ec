"""Which frame is shown when, against the ffmpeg program: codecs,
containers, B-frames, gaps, late starts.
"""

import json
import shutil
import subprocess

import numpy as np
import pytest

from data_pipelines.videos.decoder import TIME_TOLERANCE
from data_pipelines.videos.video_file import VideoError, read_frames
from tests.helpers.video_writer import number_image, numbers_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which('ffmpeg') is None, reason='needs the ffmpeg program'),
]

COUNT, RATE, HEIGHT, WIDTH = 100, 25, 64, 80
X264 = '-c:v libx264 -preset veryfast -crf 20'
CODECS = {
    'h264': f'{X264} -bf 0 -g 24',
    'h264_b': f'{X264} -bf 2 -g 24',
    'h264_open': f'{X264} -bf 3 -b_strategy 0 -x264-params b-pyramid=normal:open-gop=1 -g 24',
    'hevc_b': '-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=3:keyint=24',
    'mpeg4': '-c:v mpeg4 -q 3 -g 12',
    'mpeg4_b': '-c:v mpeg4 -q 3 -bf 2 -g 12',
    'xvid_b': '-c:v libxvid -q 3 -bf 2 -g 24',
    'mpeg2_b': '-c:v mpeg2video -q 3 -bf 2 -g 12',
    'mpeg1_b': '-c:v mpeg1video -q 3 -bf 2 -g 12',
    'msmpeg4': '-c:v msmpeg4 -q 3 -g 12',
    'wmv2': '-c:v wmv2 -q 3 -g 12',
    'flv1': '-c:v flv -q 3 -g 12',
    'mjpeg': '-c:v mjpeg -q 3',
    'ffv1': '-c:v ffv1',
    'theora': '-c:v libtheora -q 9 -g 12',
    'vp8': '-c:v libvpx -crf 8 -b:v 1M -g 24',
    'vp9': '-c:v libvpx-vp9 -crf 20 -b:v 0 -g 24 -cpu-used 8',
}
CONTAINERS = {
    'avi': 'h264 h264_b h264_open mpeg4 mpeg4_b xvid_b mpeg2_b msmpeg4 mjpeg ffv1 vp8',
    'mp4': 'h264 h264_b h264_open hevc_b mpeg4_b mpeg2_b vp9',
    'mov': 'h264_open mpeg4_b mjpeg',
    'mkv': 'h264_open hevc_b mpeg4_b mpeg2_b msmpeg4 mjpeg ffv1 vp9',
    'webm': 'vp8 vp9',
    'flv': 'flv1 h264_b',
    'ts': 'h264_b h264_open hevc_b mpeg4_b mpeg2_b',
    'm2ts': 'h264_b',
    'mpg': 'mpeg1_b mpeg2_b',
    'vob': 'mpeg2_b',
    'asf': 'h264_b mpeg4_b msmpeg4 wmv2',
    'ogv': 'theora',
    'nut': 'h264_open mpeg4_b',
    '3gp': 'h264_b',
    'mxf': 'mpeg2_b',
    'h264': 'h264 h264_open',
    'hevc': 'hevc_b',
    'm2v': 'mpeg2_b',
    'm4v': 'mpeg4_b',
}
SOUND = {
    'webm': 'libvorbis',
    'ogv': 'libvorbis',
    'flv': 'libmp3lame',
    '3gp': 'aac',
    'mxf': 'pcm_s16le',
    'others': 'mp2',
}
RAW = ('h264', 'hevc', 'm2v', 'm4v')
FORMATS = {'m4v': '-f m4v', 'mxf': '-b:v 2M'}
GAPS = "setpts='if(lt(N,20),N,if(lt(N,40),20+3*(N-20),if(lt(N,50),80+25*(N-40)/2,N+155)))*TB'"
VARIANTS = {
    'plain': '',
    'late clock': '-output_ts_offset 5',
    'late picture': '-vf setpts=PTS+0.6/TB',
    'gaps': f'-vf {GAPS}',
}


@pytest.fixture(scope='module')
def pixels():
    """All frames, RGB."""
    return b''.join(number_image(n, HEIGHT, WIDTH).tobytes() for n in range(COUNT))


def _write(path, pixels, codec, variant='plain'):
    container = path.suffix[1:]
    source = f'-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r {RATE} -i -'
    sound = SOUND.get(container, SOUND['others'])
    sound = f'-f lavfi -i sine=d=4.4:r=48000 -c:a {sound} -ac 2'
    timing = VARIANTS[variant]
    if '-vf' in timing and container != 'avi':
        timing += ' -vsync vfr'
    command = f'ffmpeg -v error -y {source} {sound if variant == "late picture" else ""} {timing} '
    command += f'{CODECS[codec]} {FORMATS.get(container, "")} -pix_fmt yuv420p -threads 1'
    subprocess.run([*command.split(), path], input=pixels, check=True)


def _by_ffmpeg(path, *options):
    """Numbers of the frames that the program writes."""
    command = ['ffmpeg', '-v', 'error', '-i', path, '-map', '0:v:0', *options]
    command += ['-pix_fmt', 'rgb24', '-f', 'rawvideo', '-']
    pixels = subprocess.run(command, capture_output=True, check=True).stdout
    return numbers_of(np.frombuffer(pixels, np.uint8).reshape(-1, HEIGHT, WIDTH, 3))


def _times_by_ffmpeg(path):
    """Seconds since the first frame; None where the program knows none."""
    command = 'ffprobe -v error -select_streams v:0 -of json -show_entries'.split()
    command += ['frame=best_effort_timestamp_time', path]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    times = [frame.get('best_effort_timestamp_time') for frame in found['frames']]
    return None if None in times else np.array(times, float) - float(times[0])


def _segment(path, **arguments):
    try:
        return numbers_of(read_frames(path, **arguments).frames)
    except VideoError:
        return []


@pytest.mark.parametrize(
    'container, codec',
    [(container, codec) for container, codecs in CONTAINERS.items() for codec in codecs.split()],
)
def test_equal_to_ffmpeg(tmp_path, pixels, container, codec):
    for variant in VARIANTS:
        if variant != 'plain' and container in RAW:
            continue
        path = tmp_path / f'{variant}.{container}'
        _write(path, pixels, codec, variant)
        own = read_frames(path)
        numbers = numbers_of(own.frames)
        assert numbers == _by_ffmpeg(path, '-vsync', 'passthrough'), variant
        assert own.damage == '', variant
        times = _times_by_ffmpeg(path)
        if times is not None and len(times) == len(numbers):
            np.testing.assert_allclose(
                own.timestamps - own.timestamps[0], times, atol=2 * TIME_TOLERANCE, err_msg=variant
            )
        picked = read_frames(path, frame_rate=7)
        by_ffmpeg = _by_ffmpeg(path, '-vf', 'setpts=PTS-STARTPTS,fps=7:round=up')
        assert numbers_of(picked.frames) == by_ffmpeg, variant
        picked = read_frames(path, frame_rate=RATE)
        by_ffmpeg = _by_ffmpeg(path, '-vf', f'setpts=PTS-STARTPTS,fps={RATE}')
        assert numbers_of(picked.frames) == by_ffmpeg, variant
        # Segments are parts of the whole, however they are found.
        for start in (0.9, 1.013, 1.5, 1.97, 2.5, 3.3):
            for end in (start + 0.5, None):
                inside = (own.timestamps >= start - TIME_TOLERANCE) & (
                    own.timestamps < (np.inf if end is None else end) - TIME_TOLERANCE
                )
                want = np.array(numbers)[inside].tolist()
                assert _segment(path, start=start, end=end) == want, (variant, start, end)


@pytest.mark.parametrize(
    'container, codec',
    [
        *((container, codec) for container in ('ts', 'm2ts') for codec in ('h264_open', 'mpeg2_b')),
        *(('mpg', codec) for codec in ('mpeg1_b', 'mpeg2_b')),
        ('vob', 'mpeg2_b'),
    ],
)
def test_joined_recordings(tmp_path, pixels, container, codec):
    """The program's own -vsync passthrough shows every frame; their times we know."""
    middle, parts = len(pixels) // 2, b''
    for part in (pixels[:middle], pixels[middle:]):
        path = tmp_path / f'part.{container}'
        _write(path, part, codec)
        parts += path.read_bytes()
    joined = tmp_path / f'joined.{container}'
    joined.write_bytes(parts)
    own = read_frames(joined)
    assert numbers_of(own.frames) == list(range(COUNT))
    assert numbers_of(own.frames) == _by_ffmpeg(joined, '-vsync', 'passthrough')
    np.testing.assert_allclose(own.timestamps, np.arange(COUNT) / RATE, atol=TIME_TOLERANCE)
    assert 'times jump at 2.000 s;' in own.damage
    for start in (0.9, 1.5, 2.2, 3.3):
        want = [k for k in range(COUNT) if start - 1e-6 <= k / RATE < start + 0.5 - 1e-6]
        assert _segment(joined, start=start, end=start + 0.5) == want
