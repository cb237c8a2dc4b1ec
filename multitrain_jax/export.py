"""Writes what predictions need of a run: parameters, and `model.json` with all else.

python -m multitrain_jax.export runs/quickstart --output=exports/quickstart
python -m multitrain_jax.export runs/quickstart --best --output=exports/best
python -m multitrain_jax.export runs/finetune --format=huggingface --output=huggingface
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
    parser.add_argument(
        '--format',
        choices=('multitrain_jax', 'huggingface'),
        default='multitrain_jax',
        help="ours, or directories that Hugging Face's transformers loads, one for each dataset",
    )
    args = parser.parse_args()
    model = model_argument(parser, args)
    from multitrain_jax.checkpoints import exports  # after the arguments: --help stays fast

    if args.format == 'huggingface':
        from multitrain_jax.checkpoints import huggingface_export

        trained = model.open()
        for path in huggingface_export.write_directories(args.output, trained.info, trained.params):
            print(f'exported to {path}')
        return 0
    exports.check_output(args.output)
    trained = model.open()
    trained.export(args.output)
    what = 'model' if trained.step is None else f'step {trained.step}'
    print(f'exported {what} to {args.output}')
    return 0


if __name__ == '__main__':
    run_command(main)
