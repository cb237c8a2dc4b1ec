"""Names the best classes of videos, for every dataset that a model was trained on.

    python -m multitrain_jax.predict runs/quickstart a.mp4 b.avi
    python -m multitrain_jax.predict runs/quickstart --json a.mp4 > predictions.json
    python -m multitrain_jax.predict --checkpoint=runs/ava/export --overlay=out.mp4 \\
        --boxes=boxes.csv a.mp4

Scores are averaged over several views of each video. Exit code 2 when a video could not be read.

--overlay writes the video with the best class of every dataset in its corner, and, for datasets with boxes, with the
best actions at each box. Boxes come from a csv file with lines `video,timestamp,x1,y1,x2,y2` (name of the video,
seconds, shares of width and height; further columns are ignored), and are shown from half a second
before their moment to half a second after it. Without a file the box is the whole frame, once a second.
"""

import argparse
import json
import os
import sys

from multitrain_jax.errors import EXIT_USER_ERROR, ArgumentParser, run_command
from multitrain_jax.model_argument import add_model_argument, model_and_others


def main() -> int:
    parser = ArgumentParser(
        prog='python -m multitrain_jax.predict',
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_model_argument(parser, 'VIDEO')
    parser.add_argument('--top', type=int, default=5, help='classes per dataset (default: 5)')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.add_argument(
        '--overlay', metavar='MP4', help='write the (one) video with the answers drawn on it'
    )
    parser.add_argument(
        '--boxes', metavar='CSV', help='with --overlay: boxes whose actions to tell'
    )
    args = parser.parse_intermixed_args()  # flags may stand between MODEL and VIDEO
    chosen, videos = model_and_others(parser, args)
    if not videos:
        parser.error('a VIDEO is missing: any file that PyAV (FFmpeg) decodes')
    if args.top < 1:
        parser.error(f'--top={args.top} must be at least 1')
    if args.overlay and len(videos) > 1:
        parser.error(f'--overlay={args.overlay} is of one video, but {len(videos)} are given')
    if args.overlay and os.path.realpath(args.overlay) == os.path.realpath(videos[0]):
        parser.error(f'--overlay={args.overlay} is the video itself, which would be overwritten')
    if args.boxes and not args.overlay:
        parser.error(f'--boxes={args.boxes} needs --overlay')

    from multitrain_jax.inference.model import Model  # after the arguments: --help stays fast

    model = Model(chosen.open())
    everything, unreadable = [], 0
    for video in videos:
        try:
            best, damage = model.predict_with_damage(video, top=args.top)
        except (ValueError, OSError) as error:
            unreadable += 1
            print(f'error: {error}', file=sys.stderr)
            everything.append({'video': video, 'error': str(error)})
            continue
        if damage:
            print(f'warning: {video}: damaged, {damage}', file=sys.stderr)
        everything.append(
            {
                'video': video,
                'damage': damage,
                'predictions': {
                    name: [{'class': label, 'score': score} for label, score in pairs]
                    for name, pairs in best.items()
                },
            }
        )
        if not args.json:
            print(_table(video, best))
        if args.overlay:
            from multitrain_jax.inference.overlay import write_overlay

            write_overlay(model, video, args.overlay, boxes_csv=args.boxes, best=best)
            print(f'{args.overlay}: written', file=sys.stderr)
    if args.json:
        print(json.dumps(everything, indent=1, ensure_ascii=False))
    return EXIT_USER_ERROR if unreadable else 0


def _table(video: str, best: dict[str, list[tuple[str, float]]]) -> str:
    lines = [video]
    width = max(len(label) for pairs in best.values() for label, _ in pairs)
    for name, pairs in best.items():
        for rank, (label, score) in enumerate(pairs):
            lines.append(
                f'  {name if rank == 0 else "":<{max(map(len, best))}}  {label:<{width}}  {100 * score:5.1f} %'
            )
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    run_command(main)
