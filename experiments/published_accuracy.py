"""Tests a published Kinetics-400 checkpoint by its own protocol, and prints both figures.

    python experiments/published_accuracy.py --model=pyslowfast_s_16x4 \\
        --checkpoint=MViTv2_S_16x4_k400_f302660347.pyth --records=/data/kinetics400 \\
        --output=runs/published

RECORDS is the validation split of Kinetics-400, converted (`python -m data_pipelines.convert
kinetics ...`). The checkpoint is imported into OUTPUT/import first; an import of it (`python -m
multitrain_jax.import_torch`) may be given instead.

Of the 19,881 validation videos some have vanished from YouTube, others in every copy, and copies
differ in how they were re-encoded: within half a percent, the figures agree. What is equal whatever
the copy, and tested (`tests/pytorch/test_pyslowfast_loader.py`): the frames of every view,
resizing, crops, normalisation.
"""

import argparse
import dataclasses
from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data_pipelines.datasets.dataset_info import load_dataset_info  # noqa: E402
from multitrain_jax import import_torch  # noqa: E402
from multitrain_jax.checkpoints.exports import is_export  # noqa: E402
from multitrain_jax.checkpoints.trained_model import open_trained  # noqa: E402
from multitrain_jax.errors import ArgumentParser, UserError, run_command  # noqa: E402
from multitrain_jax.evaluation.metrics import summarise  # noqa: E402
from multitrain_jax.evaluation.setup import open_evaluation  # noqa: E402
from multitrain_jax.pytorch.checkpoint import read_torch  # noqa: E402
from multitrain_jax.reporting.progress import set_up_logging  # noqa: E402

DATASET, CLASSES = 'kinetics400', 400


@dataclasses.dataclass(frozen=True)
class Published:
    """A checkpoint, its accuracy and the test that gave it.

    Attributes:
        source: where the figures are.
        top1, top5: percent.
        short_side: pixels before cropping. PySlowFast resizes to the crop's size where it takes
            three crops.
        temporal_views, spatial_views: clips along the video, crops of each.
        options: what the file does not say.
    """

    source: str
    top1: float
    top5: float
    short_side: int
    temporal_views: int
    spatial_views: int
    options: import_torch.Options = import_torch.Options()


_PYSLOWFAST = 'PySlowFast, projects/mvitv2'
PUBLISHED = {
    'pyslowfast_s_16x4': Published(_PYSLOWFAST, 81.0, 94.6, 256, 5, 1),
    'pyslowfast_b_32x3': Published(_PYSLOWFAST, 82.9, 95.7, 256, 5, 1),
    'pyslowfast_l_40x3': Published(_PYSLOWFAST, 86.1, 97.0, 312, 5, 3),
    # 16 frames at 7.5 frames per second.
    'torchvision_mvit_v2_s': Published(
        'torchvision, MViT_V2_S_Weights.KINETICS400_V1',
        80.757,
        94.665,
        256,
        5,
        1,
        import_torch.Options(stride=4, target_frame_rate=30.0),
    ),
}


def imported(checkpoint: str, published: Published, records: str, output: Path) -> str:
    """The checkpoint as an export, with the classes of the records.

    Raises:
        UserError: the records are not those of 400 classes in alphabetical order, as the
            checkpoints' are.
    """
    if is_export(checkpoint):
        return checkpoint
    classes = load_dataset_info(records).classes
    if len(classes) != CLASSES or list(classes) != sorted(classes):
        raise UserError(
            f'--records={records}: {len(classes)} classes'
            + ('' if list(classes) == sorted(classes) else ', not in alphabetical order')
            + f'; the checkpoint has the {CLASSES} of Kinetics-400, in alphabetical order'
        )
    output.mkdir(parents=True, exist_ok=True)
    names = output / 'classes.txt'
    names.write_text(''.join(f'{name}\n' for name in classes), encoding='utf-8')
    arrays, settings = read_torch(checkpoint)
    options = dataclasses.replace(
        published.options, datasets={'': DATASET}, classes={'': str(names)}
    )
    print(
        import_torch.import_state_dict(
            arrays, str(output / 'import'), options, settings_text=settings
        )
    )
    return str(output / 'import')


def table(model: str, published: Published, top1: float, top5: float, videos: int) -> str:
    """Published figures beside ours."""
    views = f'{published.temporal_views} x {published.spatial_views} views'
    lines = [
        f'{model}, Kinetics-400 validation, {videos} videos, {views}, '
        f'short side {published.short_side}',
        f'             {"published":>10} {"here":>10} {"difference":>11}   ({published.source})',
    ]
    for name, theirs, ours in (('top-1', published.top1, top1), ('top-5', published.top5, top5)):
        lines.append(f'{name:<12} {theirs:>10.1f} {ours:>10.1f} {ours - theirs:>+11.1f}')
    return '\n'.join(lines)


def main() -> int:
    parser = ArgumentParser(
        prog='python experiments/published_accuracy.py',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--model', required=True, choices=tuple(PUBLISHED))
    parser.add_argument(
        '--checkpoint', required=True, help='the published file, or an import of it'
    )
    parser.add_argument('--records', required=True, help='directory of records')
    parser.add_argument('--output', required=True, help='directory for the import')
    parser.add_argument('--batch_size', type=int, default=32, help='views (default: %(default)s)')
    args = parser.parse_args()
    set_up_logging()
    published = PUBLISHED[args.model]
    output = Path(args.output).expanduser()
    checkpoint = imported(args.checkpoint, published, args.records, output)
    fields = ('short_side', 'temporal_views', 'spatial_views')
    evaluation = open_evaluation(
        open_trained(checkpoint, argument='--checkpoint'),
        chosen=[f'{DATASET}={args.records}'],
        protocol={
            'batch_size': args.batch_size,
            **{name: getattr(published, name) for name in fields},
        },
    )
    (head,) = evaluation.tested
    result = summarise(evaluation.score(head), evaluation.source.datasets[head])
    print(table(args.model, published, 100 * result.top1, 100 * result.top5, result.videos))
    return 0


if __name__ == '__main__':
    run_command(main)
