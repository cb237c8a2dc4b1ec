"""Decodes damaged pictures, videos or exports in a process of its own, whose crash or hang the test
then sees.

    python -m tests.fuzz.worker KIND FILE FIRST LAST

Prints `SEED OUTCOME` of every seed; an exception that is not the decoder's own way of refusing ends
it.
"""

import pathlib
import resource
import shutil
import sys
import tempfile

from tests.helpers.mutation import mutate

_MEMORY = 12 << 30  # of addresses: an allocation of absurd size fails instead of being killed later


def jpeg(data: bytes, folder: pathlib.Path) -> str:
    """Windows of a sound frame and a damaged one:
    the pixels of the whole frames, or refused as these are.
    """
    import numpy as np
    import simplejpeg

    from data_pipelines.clip import decode
    from data_pipelines.clip.crops import Window

    sound = (folder / 'original').read_bytes()
    try:
        picture = decode.decode_frame([data], 0)
        assert picture.ndim == 3 and picture.shape[2] == 3
    except decode.FrameError:
        picture = None
    whole = [
        simplejpeg.decode_jpeg(frame, fastupsample=True)
        for frame in (sound, data)[: 1 + (picture is not None)]
    ]
    height, width = whole[0].shape[:2]
    for window in (
        Window(20, 50, 9, 15),
        Window(0, 0, 30, 40),
        Window(40, 44, height - 40, width - 44),
    ):
        clip = np.zeros((2, window.height, window.width, 3), np.uint8)
        try:
            decode.decode_window([sound, data], np.arange(2), window, clip)
        except decode.FrameError:
            assert picture is None or picture.shape != whole[0].shape
            continue
        rows, columns = (
            slice(window.top, window.top + window.height),
            slice(window.left, window.left + window.width),
        )
        assert (clip[0] == whole[0][rows, columns]).all()
        assert picture is None or (clip[1] == whole[1][rows, columns]).all()
    return 'refused' if picture is None else 'decoded'


def video(data: bytes, folder: pathlib.Path) -> str:
    from data_pipelines.videos import video_file

    (folder / 'x.mp4').write_bytes(data)
    try:
        found = video_file.read_frames(folder / 'x.mp4', max_seconds=10, short_side=64)
    except video_file.VideoError:
        return 'refused'
    assert len(found.frames) == len(found.timestamps)
    return 'decoded'


def export(data: bytes, folder: pathlib.Path) -> str:
    """`data` is that of model.json; the export stands beside it."""
    from multitrain_jax.checkpoints.exports import read_export
    from multitrain_jax.errors import UserError

    (folder / 'export' / 'model.json').write_bytes(data)
    try:
        read_export(folder / 'export')
    except UserError as error:
        assert '\n' not in str(error)
        return 'refused'
    return 'read'


def main(kind: str, path: str, first: int, last: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    original = pathlib.Path(path).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / 'original').write_bytes(original)
        if kind == 'export':
            shutil.copytree(pathlib.Path(path).parent, folder / 'export')
        for seed in range(first, last):
            print(seed, globals()[kind](mutate(original, seed), folder), flush=True)


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
