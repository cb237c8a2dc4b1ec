"""Reads off the projections of a trained model which classes of two datasets belong together.

    python -m multitrain_jax.projections runs/quickstart
    python -m multitrain_jax.projections runs/quickstart \\
        --relations=data/quickstart/videos/relations.json

The projection from dataset A to dataset B maps A's logits to B's classes; its largest weights name
the pairs of classes that go together (MultiTrain, supplement, table 4). Prints them for every
ordered pair of datasets, and writes `projections.json` and a heat map `A_to_B.png` of each pair
into --output.
"""

import json
from pathlib import Path

from multitrain_jax.errors import ArgumentParser, UserError, run_command
from multitrain_jax.model_argument import add_model_argument, model_argument


def main() -> int:
    parser = ArgumentParser('multitrain_jax.projections', __doc__)
    add = parser.add_argument
    add_model_argument(parser)
    add('--top', type=int, default=5, help='pairs of classes per pair of datasets (default: 5)')
    add(
        '--relations',
        help='JSON with the classes that are known to be related; the synthetic datasets have one',
    )
    add('--output', help='directory of the files (default: WORKDIR/projections)')
    add('--json', action='store_true', help='print JSON instead of tables')
    args = parser.parse_args()
    if args.top < 1:
        parser.error(f'--top={args.top} must be at least 1')
    model = model_argument(parser, args)
    from multitrain_jax.reporting.projections import (  # after the arguments: --help stays fast
        draw,
        projections_of,
        read_relations,
        to_json,
        to_text,
    )

    trained = model.open()
    projections = projections_of(trained)
    relations = {} if args.relations is None else read_relations(args.relations, projections)
    output = Path(args.output or trained.directory / 'projections').expanduser()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--output={output}: cannot be made ({error.strerror})') from error
    content = json.dumps(
        [to_json(one, args.top, relations) for one in projections], indent=1, ensure_ascii=False
    )
    (output / 'projections.json').write_text(content + '\n', encoding='utf-8')
    for projection in projections:
        draw(projection, output / f'{projection.source}_to_{projection.target}.png', relations)
    if args.json:
        print(content)
    else:
        print('\n'.join(to_text(one, args.top, relations) for one in projections))
        print(f'heat maps and projections.json: {output}')
    return 0


if __name__ == '__main__':
    run_command(main)
