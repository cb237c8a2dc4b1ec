"""Writes embeddings of videos, of sliding windows or of whole ones, a file for each video.

    python -m multitrain_jax.features runs/quickstart --output=features --window=2 videos/
    python -m multitrain_jax.features runs/quickstart --output=features --logits 'videos/**/*.mp4'
    find /data -name '*.mkv' | python -m multitrain_jax.features imports/k400 --output=features -

A VIDEO is a file that FFmpeg decodes, a URL, a folder, a quoted pattern, a list (.csv, .txt: a line
for each video), or -, such lines on standard input.

DIR/NAME.npz has `embedding` f32[N, D] and `times` f64[N, 2], beginning and end in seconds, of N
windows; without --window of the views that the model is tested with. --logits adds `logits/DATASET`
f32[N, C]. DIR/index.csv has a line for each video, also for one that cannot be read, which does not
stop the others (exit code 2). The same command again does what is missing.
"""

import os
import sys
import time
import typing

from multitrain_jax.errors import EXIT_USER_ERROR, ArgumentParser, run_command
from multitrain_jax.inference import video_arguments
from multitrain_jax.model_argument import add_model_argument, model_and_others

if typing.TYPE_CHECKING:
    from multitrain_jax.inference.stream import End, Seen


def main() -> int:
    parser = ArgumentParser('multitrain_jax.features', __doc__)
    add = parser.add_argument
    add_model_argument(parser, 'VIDEO')
    add('--output', required=True, metavar='DIR', help='directory of the files')
    add('--logits', action='store_true', help='of every dataset, too')
    add('--format', choices=('npz', 'npy'), default='npz')
    add('--dataset', help="whose sampling of frames to follow (default: the model's first)")
    video_arguments.add_video_arguments(parser)
    args = parser.parse_intermixed_args()  # flags may stand between MODEL and VIDEO
    chosen, arguments = model_and_others(parser, args)
    video_arguments.check_videos(parser, arguments)
    if args.logits and args.format == 'npy':
        parser.error('--logits needs --format=npz: a .npy file has one array')
    cutting = video_arguments.cut(parser, args)
    videos = video_arguments.list_videos(arguments)

    from multitrain_jax.inference import feature_files
    from multitrain_jax.inference.model import Model  # after the arguments: --help stays fast
    from multitrain_jax.parallel.compilation_cache import keep_compiled

    keep_compiled()
    model = Model(chosen.open(), batch_size=args.batch_size)
    dataset = model.sampled_like(args.dataset)
    settings = feature_files.settings_of(model, dataset=dataset, logits=args.logits, **cutting)
    files = feature_files.FeatureFiles(args.output, videos, settings, form=args.format)
    with _Progress([video.path for video in files.todo]) as report:
        unreadable = feature_files.write_features(
            model, files, dataset=dataset, logits=args.logits, report=report, **cutting
        )
    print(f'{len(videos) - unreadable} of {len(videos)} videos in {args.output}', file=sys.stderr)
    return EXIT_USER_ERROR if unreadable else 0


class _Progress:
    """Shows how much is done, by bytes, and the time left; says what is wrong with videos."""

    def __init__(self, paths: list[str]):
        from tqdm import tqdm

        self._paths = paths
        self._bytes = [
            max(1, os.path.getsize(path)) if os.path.isfile(path) else 1 for path in paths
        ]
        self._total = sum(self._bytes)
        self._shares = [0.0] * len(paths)
        self._ended = self._windows = 0
        self._bar = tqdm(
            total=100,
            bar_format='{percentage:3.0f}% [{elapsed}<{remaining}{postfix}]',
            disable=not paths,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )
        self._begun = time.monotonic()

    def __call__(self, event: 'Seen | End') -> None:
        from multitrain_jax.inference import predictions

        ended = hasattr(event, 'error')
        self._ended += ended
        self._windows += not ended
        if ended and (text := predictions.complaint(self._paths[event.video], event)):
            self._bar.write(text, sys.stderr)
        share = 1.0 if ended else event.progress
        step, self._shares[event.video] = share - self._shares[event.video], share
        rate = self._windows / (time.monotonic() - self._begun)
        self._bar.set_postfix_str(
            f'{self._ended} of {len(self._paths)} videos, {rate:.3g} windows/s', refresh=False
        )
        self._bar.update(100 * step * self._bytes[event.video] / self._total)

    def __enter__(self) -> '_Progress':
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


if __name__ == '__main__':
    run_command(main)
