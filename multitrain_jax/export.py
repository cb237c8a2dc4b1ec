"""Writes what predictions need of a model: in our form, or as files for other programs.

python -m multitrain_jax.export runs/quickstart --output=exports/quickstart
python -m multitrain_jax.export runs/quickstart --best --output=exports/best
python -m multitrain_jax.export runs/quickstart --format=stablehlo --output=stablehlo

docs/exports.md shows how each format is loaded.
"""

import sys

from multitrain_jax.errors import ArgumentParser, run_command
from multitrain_jax.exporting.formats import FORMATS
from multitrain_jax.model_argument import add_model_argument, model_argument

_OURS = 'multitrain_jax'


def main() -> int:
    parser = ArgumentParser('multitrain_jax.export', __doc__)
    add = parser.add_argument
    add_model_argument(parser)
    add(
        '--output',
        required=True,
        help='directory of the export; an older one of our format there is replaced',
    )
    add(
        '--format',
        choices=FORMATS,
        default=_OURS,
        help='\n'.join(f'{name}: {form.summary}' for name, form in FORMATS.items()),
    )
    args = parser.parse_args()
    model = model_argument(parser, args)
    from multitrain_jax.checkpoints import exports  # after the arguments: --help stays fast

    if args.format == _OURS:  # before the model is read
        exports.check_output(args.output)
    trained = model.open()
    notes: list[str] = []
    what = 'model' if trained.step is None else f'step {trained.step}'
    for path in FORMATS[args.format].write(args.output, trained, notes):
        print(f'exported {what} to {path}')
    for note in notes:
        print(f'note: {note}', file=sys.stderr)
    return 0


if __name__ == '__main__':
    run_command(main)
