"""A local page: a video is dropped on it, and what a model sees in it comes back."""

import contextlib
from pathlib import Path
import tempfile
from typing import Any

import numpy as np

from multitrain_jax.errors import UserError, first_line
from multitrain_jax.inference import predictions, stream
from multitrain_jax.inference.explanation import Explanation
from multitrain_jax.inference.model import Model
from multitrain_jax.inference.predictions import Output, Told
from multitrain_jax.inference.timeline import Timeline, clock

_TOP = 5
_MOST_SECONDS = 600  # of a video: who waits at a page waits minutes, not an hour
# Names of fonts that computers have: nothing is fetched from the network.
_FONTS = ['system-ui', 'sans-serif']


class _Mean(Output):
    """Keeps what is said of the whole video."""

    scores: dict[str, np.ndarray] = {}

    def video(self, video: str, told: Told) -> None:
        self.scores = dict(told.mean)
        if told.end.error is not None:
            raise told.end.error


def answer(model: Model, video: str, folder: str) -> tuple[list[dict[str, float]], str, str]:
    """What is seen in a video.

    Args:
        model: that sees, by windows as long as its clips.
        video: the file.
        folder: where the pictures go.

    Returns:
        For each dataset its best classes with their scores; the timeline, a PNG file; the heat, an
        MP4 file.

    Raises:
        ValueError: the video cannot be read, or is longer than ten minutes.
    """
    _refuse_long(video)
    line, heat, mean = str(Path(folder) / 'timeline.png'), str(Path(folder) / 'heat.mp4'), _Mean()
    seen = stream.see(model, [video], window=stream.clip_length(model), heat=True)
    outputs = [mean, Timeline(model, line), Explanation(model, heat, 1)]
    predictions.tell(model, [video], seen, outputs)
    return [dict(pairs) for pairs in model.best(mean.scores, _TOP).values()], line, heat


def _refuse_long(video: str) -> None:
    from data_pipelines.videos.video_file import FrameStream

    stream = FrameStream(video)
    with contextlib.closing(iter(stream)) as frames:
        next(frames)  # its header has been read then
    if (seconds := stream.stated_seconds or 0) > _MOST_SECONDS:
        raise ValueError(
            f'{Path(video).name} lasts {clock(round(seconds))}; this page takes up to '
            f'{clock(_MOST_SECONDS)}: cut a part out of it, or use `multitrain predict`'
        )


def page(model: Model, name: str) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
        model: that sees.
        name: what the page calls it.

    Raises:
        UserError: gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError("the page needs gradio: pip install 'multitrain_jax[demo]'") from error

    folder = tempfile.TemporaryDirectory(prefix='multitrain_demo_')

    def run(video: str | None):
        if video is None:
            raise gr.Error('first drop a video', print_exception=False)
        try:
            best, line, heat = answer(model, video, tempfile.mkdtemp(dir=folder.name))
        except ValueError as error:
            raise gr.Error(first_line(error), print_exception=False) from error
        return [*best, line, heat]

    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.Markdown(f'## {name}')
        with gr.Row():
            with gr.Column():
                gr.Markdown('A video')
                video = gr.Video(show_label=False, sources=['upload'], elem_id='video')
            with gr.Column():
                gr.Markdown('Where the model looked')
                heat = gr.Video(show_label=False, elem_id='heat', interactive=False)
        with gr.Row():
            labels = [gr.Label(label=dataset) for dataset in model.info.datasets]
        line = gr.Image(show_label=False, elem_id='timeline', interactive=False)
        video.upload(run, video, [*labels, line, heat])
    return blocks


def launch(blocks: Any, host: str, port: int | None, *, block: bool = True) -> str:
    """Serves the page; returns its address. `block`: until it is interrupted."""
    import gradio as gr

    theme = gr.themes.Default(font=_FONTS, font_mono=['monospace'])
    _, address, _ = blocks.launch(
        server_name=host, server_port=port, theme=theme, share=False, prevent_thread_lock=not block
    )
    return address
