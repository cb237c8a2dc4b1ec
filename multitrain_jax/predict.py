"""Names the best classes of videos, for every dataset that a model was trained on.

    python -m multitrain_jax.predict runs/quickstart a.mp4 b.avi
    python -m multitrain_jax.predict runs/quickstart --json a.mp4 > predictions.json
    python -m multitrain_jax.predict runs/quickstart --window=2 --timeline=day.png \\
        --csv=day.csv day.mp4
    python -m multitrain_jax.predict runs/quickstart --follow rtsp://camera/stream
    python -m multitrain_jax.predict --checkpoint=runs/ava/export --overlay=out.mp4 \\
        --boxes=boxes.csv a.mp4

A VIDEO is a file that FFmpeg decodes, a URL, a folder, a quoted pattern ('videos/**/*.mp4'), a
list (.csv, .txt: a line for each video), or -, such lines on standard input. Exit code 2 when a
video could not be read.

A video is answered as a whole, by the mean of several views along it: meant for short ones that
show one thing. --window cuts it into windows, each of which is answered as a video of its own: for
long ones, of any length. --timeline, --explain and --follow do so in any case, by windows as long
as a clip of the model.

--explain writes the video once for each dataset, side by side, hot where the picture spoke for the
class that the window got (Grad-CAM). It says what this model used, which need not be what matters.

--follow answers a video while it is being made, a line for each window (with --json, JSON): a file
that grows, a URL, a pipe, a device (lavfi:testsrc, where FFmpeg has it v4l2:/dev/video0), or -,
which then is the video on standard input. It ends when nothing came for --silence seconds.

--overlay writes the video with the best class of every dataset in its corner, that of the window at
the time, and, for datasets with boxes, with the best actions at each box. Boxes come from a csv
file with lines `video,timestamp,x1,y1,x2,y2` (name of the video, seconds, shares of width and
height; further columns are ignored), and are shown from half a second before their moment to half a
second after it. Without a file the box is the whole frame, once a second.
"""

import argparse
import contextlib
import os
import sys
import typing

from multitrain_jax.errors import EXIT_USER_ERROR, ArgumentParser, UserError, run_command
from multitrain_jax.inference import video_arguments
from multitrain_jax.model_argument import add_model_argument, model_and_others

if typing.TYPE_CHECKING:
    from multitrain_jax.inference.model import Model
    from multitrain_jax.inference.predictions import Output

_OF_ONE = ('timeline', 'overlay', 'explain')  # what is made of one video only
_SILENCE = 30.0  # seconds


def _parser() -> ArgumentParser:
    parser = ArgumentParser('multitrain_jax.predict', __doc__)
    add = parser.add_argument
    add_model_argument(parser, 'VIDEO')
    add(
        '--top',
        type=int,
        default=5,
        help='classes per dataset (default: 5; in a table of windows 1)',
    )
    add('--json', action='store_true', help='print JSON instead of a table')
    add('--csv', metavar='FILE', help='write the best classes of each window, too')
    video_arguments.add_video_arguments(parser)
    add('--timeline', metavar='PNG', help='draw what is seen in the (one) video when')
    add('--overlay', metavar='MP4', help='write the (one) video with the answers drawn on it')
    add(
        '--explain',
        metavar='MP4',
        help='write where the model looked in the (one) video, and a strip of it beside, a .png',
    )
    add('--boxes', metavar='CSV', help='with --overlay: boxes whose actions to tell')
    add('--follow', action='store_true', help='videos that are still being made')
    add(
        '--silence',
        type=float,
        metavar='SECONDS',
        help='with --follow: without anything new, after which a video has ended (default: '
        f'{_SILENCE:g})',
    )
    return parser


def main() -> int:
    parser = _parser()
    args = parser.parse_intermixed_args()  # flags may stand between MODEL and VIDEO
    chosen, arguments = model_and_others(parser, args)
    _check(parser, args, arguments)

    from multitrain_jax.inference import predictions, stream
    from multitrain_jax.inference.model import Model  # after the arguments: --help stays fast
    from multitrain_jax.parallel.compilation_cache import keep_compiled

    cutting = video_arguments.cut(parser, args)
    if args.follow:
        paths = list(arguments)
    else:
        paths = [video.path for video in video_arguments.list_videos(arguments)]
    for option in (*_OF_ONE, 'csv'):
        if (name := getattr(args, option)) is None:
            continue
        if option != 'csv' and len(paths) > 1:
            parser.error(f'--{option}={name} is of one video, but {len(paths)} are given')
        video_arguments.refuse_to_overwrite(parser, option, name, [*paths, *arguments])
    keep_compiled()
    model = Model(chosen.open(), batch_size=args.batch_size)
    model.check_heads()
    if cutting['window'] is None and (args.timeline or args.explain or args.follow):
        cutting['window'] = stream.clip_length(model)
    silence = (args.silence or _SILENCE) if args.follow else None
    heat = args.explain is not None
    seen = stream.see(model, paths, **cutting, heat=heat, silence=silence)
    outputs = _outputs(model, args, windows=cutting['window'] is not None)
    with contextlib.closing(seen):
        unreadable = predictions.tell(model, paths, seen, outputs)
    for output in outputs:
        output.close()
    return EXIT_USER_ERROR if unreadable else 0


def _check(parser: ArgumentParser, args: argparse.Namespace, videos: list[str]) -> None:
    video_arguments.check_videos(parser, videos)
    if args.top < 1:
        parser.error(f'--top={args.top} must be at least 1')
    if args.boxes and not args.overlay:
        parser.error(f'--boxes={args.boxes} needs --overlay')
    if args.explain and not args.explain.endswith('.mp4'):
        parser.error(f'--explain={args.explain} must end in .mp4')
    if args.timeline:
        from matplotlib.backend_bases import FigureCanvasBase

        suffix = os.path.splitext(args.timeline)[1]
        if suffix and suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
            parser.error(f'--timeline={args.timeline}: no picture ends in {suffix}; end it in .png')
    if args.silence is not None and not args.follow:
        parser.error(f'--silence={args.silence:g} needs --follow')
    if args.silence is not None and not args.silence > 0:
        parser.error(f'--silence={args.silence:g} must be positive')
    for name in _OF_ONE:
        if args.follow and getattr(args, name):
            parser.error(f'--{name} is of a video that is complete: leave --follow out')
    written = [name for name in (args.csv, args.timeline, args.overlay, args.explain) if name]
    if args.explain:
        from multitrain_jax.inference.explanation import strip_path

        written.append(strip_path(args.explain))
    if len(set(map(os.path.realpath, written))) < len(written):
        parser.error(f'two outputs would be one file: {", ".join(written)}')


def _outputs(model: 'Model', args: argparse.Namespace, *, windows: bool) -> list['Output']:
    from multitrain_jax.inference import predictions

    outputs: list[Output] = [predictions.Complaints(sys.stderr)]
    if args.json and args.follow:
        outputs.append(predictions.JsonLines(model, args.top))
    elif args.json:
        outputs.append(predictions.Json(model, args.top, windows=windows))
    elif windows:
        outputs.append(predictions.WindowTable(model))
    else:
        outputs.append(predictions.VideoTable(model, args.top))
    if args.csv:
        try:
            file = open(args.csv, 'w', encoding='utf-8', newline='')
        except OSError as error:
            raise UserError(f'--csv={args.csv}: cannot be written ({error.strerror})') from error
        outputs.append(predictions.Csv(model, file, args.top))
    if args.timeline:
        from multitrain_jax.inference.timeline import Timeline

        outputs.append(Timeline(model, args.timeline))
    if args.explain:
        from multitrain_jax.inference.explanation import Explanation

        outputs.append(Explanation(model, args.explain, args.spatial_views or 1))
    if args.overlay:
        from multitrain_jax.inference.overlay import Overlay

        outputs.append(Overlay(model, args.overlay, args.boxes, whole=not windows))
    return outputs


if __name__ == '__main__':
    run_command(main)
