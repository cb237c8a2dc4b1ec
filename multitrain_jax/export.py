"""Writes what predictions need of a run: parameters, and `model.json` with all else.

python -m multitrain_jax.export runs/quickstart --output=exports/quickstart
python -m multitrain_jax.export runs/quickstart --best --output=exports/best
"""

import argparse

from multitrain_jax.errors import ArgumentParser, run_command
from multitrain_jax.model_argument import add_model_argument, model_argument


def main() -> int:
    parser = ArgumentParser(
        prog='python -m multitrain_jax.export',
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_model_argument(parser)
    parser.add_argument(
        '--output', required=True, help='directory of the export; an older export there is replaced'
    )
    args = parser.parse_args()
    model = model_argument(parser, args)
    from multitrain_jax.checkpoints import exports  # after the arguments: --help stays fast

    exports.check_output(args.output)
    trained = model.open()
    trained.export(args.output)
    what = 'model' if trained.step is None else f'step {trained.step}'
    print(f'exported {what} to {args.output}')
    return 0


if __name__ == '__main__':
    run_command(main)
