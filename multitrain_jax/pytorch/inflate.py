"""Weights of an image model as those of a video model.

An image MViTv2 (facebookresearch/mvit, or PySlowFast on ImageNet) has convolutions without a time
axis, or with one of a single frame, and no relative positions in time. Its kernels are put on the
middle frame of ours, zeros on the others ('centre'): on a clip of equal frames the video model then
computes exactly what the image model computes on that frame, at the clip's ends too, whatever lies
beyond them; training takes the other frames in. 'mean' spreads them evenly over the frames instead,
as Carreira and Zisserman (arXiv 1705.07750) and PySlowFast do: it sees all frames from the start,
but at the clip's ends, where frames are missing, patches come out weaker than they should.
"""

from collections.abc import Mapping
import re
from typing import Literal

import numpy as np

_PATCH = re.compile(r'(patch_embed\.proj|conv_proj)\.weight')
_POOL = re.compile(r'blocks\.\d+\.attn\.pool_[qkv](\.pool)?\.weight')
_FRAMES = 3  # of the kernels of video models

Inflation = Literal['centre', 'mean']


def is_image_model(state_dict: Mapping[str, np.ndarray]) -> bool:
    """Whether the patch convolution has no time axis."""
    return any(_PATCH.fullmatch(name) and array.ndim == 4 for name, array in state_dict.items())


def inflate(
    state_dict: Mapping[str, np.ndarray], how: Inflation
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Gives the convolutions that have no time axis, or one of a single frame, one of three frames.

    Args:
        state_dict: arrays by name.
        how: 'centre' or 'mean'; see above.

    Returns:
        All arrays, and the names of those that were inflated.
    """
    result, names = dict(state_dict), []
    for name, array in state_dict.items():
        if _PATCH.fullmatch(name) and array.ndim == 4:
            array = array[:, :, None]
        elif _POOL.fullmatch(name) and array.ndim == 4:
            array = array[:, :, None]
        elif not (_POOL.fullmatch(name) and array.ndim == 5 and array.shape[2] == 1):
            continue
        result[name] = _in_time(array, how)
        names.append(name)
    return result, names


def _in_time(kernel: np.ndarray, how: Inflation) -> np.ndarray:
    """[out, in, 1, h, w] -> [out, in, 3, h, w]."""
    if how == 'mean':
        return np.repeat(kernel / _FRAMES, _FRAMES, axis=2)
    result = np.zeros((*kernel.shape[:2], _FRAMES, *kernel.shape[3:]), kernel.dtype)
    result[:, :, _FRAMES // 2] = kernel[:, :, 0]
    return result
