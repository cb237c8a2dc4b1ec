"""The best classes of videos, for every dataset that a model was trained on.

    python -m multitrain_jax.predict --checkpoint=runs/quickstart/export a.mp4 b.avi
    python -m multitrain_jax.predict --checkpoint=runs/quickstart/export --json a.mp4 > predictions.json

Scores are averaged over several views of each video. Exit code 2 when a video could not be read.
"""

import argparse
import json
import sys

from multitrain_jax.errors import EXIT_USER_ERROR, run_command


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='python -m multitrain_jax.predict', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--checkpoint', required=True, help='an export: WORKDIR/export, or made by multitrain_jax.export')
    parser.add_argument('--top', type=int, default=5, help='classes per dataset (default: 5)')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.add_argument('videos', nargs='+', metavar='VIDEO', help='any file that PyAV (FFmpeg) decodes')
    args = parser.parse_args()
    if args.top < 1:
        parser.error(f'--top={args.top} must be at least 1')

    from multitrain_jax.inference import load  # after the arguments: --help stays fast

    model = load(args.checkpoint)
    everything, unreadable = [], 0
    for video in args.videos:
        try:
            best, damage = model.predict_with_damage(video, top=args.top)
        except (ValueError, OSError) as error:
            unreadable += 1
            print(f'error: {error}', file=sys.stderr)
            everything.append({'video': video, 'error': str(error)})
            continue
        if damage:
            print(f'warning: {video}: damaged, {damage}', file=sys.stderr)
        everything.append({
            'video': video,
            'damage': damage,
            'predictions': {
                name: [{'class': label, 'score': score} for label, score in pairs] for name, pairs in best.items()
            },
        })
        if not args.json:
            print(_table(video, best))
    if args.json:
        print(json.dumps(everything, indent=1, ensure_ascii=False))
    return EXIT_USER_ERROR if unreadable else 0


def _table(video: str, best: dict[str, list[tuple[str, float]]]) -> str:
    lines = [video]
    width = max(len(label) for pairs in best.values() for label, _ in pairs)
    for name, pairs in best.items():
        for rank, (label, score) in enumerate(pairs):
            lines.append(f'  {name if rank == 0 else "":<{max(map(len, best))}}  {label:<{width}}  {100 * score:5.1f} %')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    run_command(main)
