"""Small videos whose frames carry their number, for tests."""

import fractions

import av
import cv2
import numpy as np

_BITS = 8
_BLOCK = 16  # pixels; a macroblock, so that compression does not blur one bit into the next


def number_image(number: int, height: int = 64, width: int = 80) -> np.ndarray:
    """Frame `number`: its bits as black and white blocks, u8 [H, W, 3]."""
    image = np.full((height, width, 3), 96, np.uint8)
    for bit in range(_BITS):
        row, column = divmod(bit, 4)
        value = 230 if number >> bit & 1 else 20
        image[row * _BLOCK : (row + 1) * _BLOCK, column * _BLOCK : (column + 1) * _BLOCK] = value
    return image


def numbers_of(frames: np.ndarray) -> list[int]:
    """The numbers that frames [T, H, W, 3] of the size of `number_image` carry."""
    numbers = []
    for frame in frames:
        number = 0
        for bit in range(_BITS):
            row, column = divmod(bit, 4)
            block = frame[
                row * _BLOCK + 4 : row * _BLOCK + 12, column * _BLOCK + 4 : column * _BLOCK + 12
            ]
            number |= int(block.mean() > 128) << bit
        numbers.append(number)
    return numbers


def write_video(
    path, images, *, rate=25, times=None, codec='libx264', options=None, **stream_attributes
):
    """Encodes images u8 [H, W, 3]; `times` (milliseconds, one each) overrules `rate`."""
    with av.open(str(path), 'w') as output:
        stream = output.add_stream(
            codec, rate=rate, options={'preset': 'ultrafast', **(options or {})}
        )
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = 'yuv420p'
        stream.codec_context.thread_count = 1
        for name, value in stream_attributes.items():
            setattr(stream.codec_context, name, value)
        if times is not None:
            stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
            if times is not None:
                frame.pts, frame.time_base = times[number], fractions.Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def write_numbered(path, count, **arguments):
    """Encodes frames number 0 to count - 1."""
    write_video(path, [number_image(number) for number in range(count)], **arguments)


def write_images(folder, numbers, name='{:05d}.png', first=1):
    """Image `number` shows it; its name counts from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        image = number_image(number)[..., ::-1]
        assert cv2.imwrite(str(folder / name.format(number + first)), image)
    return folder
