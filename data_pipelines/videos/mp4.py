"""Frames -> H.264 in an MP4 file."""

from collections.abc import Iterable
from fractions import Fraction
import os
import pathlib

import av
import numpy as np

from data_pipelines import files


def write_video(
    path: str | os.PathLike[str], frames: Iterable[np.ndarray], frame_rate: Fraction | int
) -> None:
    """Encodes frames, each u8[H, W, 3] with H and W even, RGB. The file is complete or not there.

    The bytes are always the same for one version of libx264, which therefore runs on one thread.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.complete_or_absent(path) as unfinished,
        av.open(unfinished, 'w', format='mp4') as container,
    ):
        options = {'preset': 'superfast', 'crf': '20', 'threads': '1'}
        stream = container.add_stream('libx264', rate=frame_rate, options=options)
        stream.pix_fmt = 'yuv420p'
        for number, frame in enumerate(frames):
            if not number:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
