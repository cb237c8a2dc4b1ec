"""Training clips as they enter the step, to be looked at."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import jax
import numpy as np

from multitrain_jax.augment.pipeline import AugmentConfig, augment_train
from multitrain_jax.batch import Batch, DatasetSpec, classifying
from multitrain_jax.objectives.objective import ObjectiveConfig
from multitrain_jax.objectives.tasks import make_objective


@functools.partial(
    jax.jit,
    static_argnames=('config', 'max_classes'),
    # It runs once: what counts is the time to compile.
    compiler_options={'xla_backend_optimization_level': 0},
)
def _augmented(run_key: jax.Array, step: int, *clips: jax.Array, **options):
    key, _ = jax.random.split(jax.random.fold_in(run_key, step))  # as in the step
    return augment_train(*clips, key=key, first_row=0, **options)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A clip after augmentation.

    Attributes:
        video: u8[T, H, W, 3].
        dataset: that it is from.
        labels: (dataset, class, how much of the clip's label it is) of all that it is mixed of.
        boxes: (x1, y1, x2, y2 as shares of the clip, names of the actions).
    """

    video: np.ndarray
    dataset: str
    labels: tuple[tuple[str, str, float], ...]
    boxes: tuple[tuple[np.ndarray, tuple[str, ...]], ...]


def samples(
    batch: Batch,
    datasets: Sequence[DatasetSpec],
    augment: AugmentConfig,
    run_key: jax.Array,
    step: int,
    *,
    most: int,
) -> list[Sample]:
    """The first clips of a step's batch, as they enter it.

    Args:
        batch: of the first host.
        datasets: in the order of their numbers.
        augment: what becomes of clips.
        run_key: PRNG key of the run.
        step: updates before this one.
        most: clips; those that are mixed with one another are all shown.
    """
    group = augment.mix_group if augment.mixes else 1
    count = min(len(batch['video']), max(group, most // group * group))
    shown = {name: batch[name][:count] for name in batch}
    objective = make_objective(
        ObjectiveConfig(), datasets, dict.fromkeys((spec.name for spec in datasets), 1.0)
    )
    video, targets = jax.device_get(
        _augmented(
            run_key,
            step,
            shown['video'],
            shown['label'],
            objective.head(shown['dataset']),
            shown['weight'],
            config=augment,
            max_classes=objective.max_classes,
            has_boxes=objective.has_boxes(shown['dataset']),
        )
    )
    pixels = (video * np.asarray(augment.std) + np.asarray(augment.mean)) * 255
    pixels = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
    heads = classifying(datasets)
    found = []
    for row in range(count):
        spec = datasets[shown['dataset'][row]]
        boxes = _boxes(shown, row, spec) if spec.localisation else []
        slots = zip(targets.dataset[row], targets.lam[row], targets.label[row], strict=True)
        labels = [
            (heads[head].name, heads[head].classes[number], float(lam * label[number]))
            for head, lam, label in ([] if spec.localisation else slots)
            for number in np.flatnonzero(label * lam)
        ]
        found.append(Sample(pixels[row], spec.name, tuple(labels), tuple(boxes)))
    return found


def _boxes(
    batch: Mapping[str, np.ndarray], row: int, spec: DatasetSpec
) -> list[tuple[np.ndarray, tuple[str, ...]]]:
    boxes, labels = batch['boxes'][row], batch['box_label'][row]
    return [
        (boxes[place], tuple(spec.classes[n] for n in np.flatnonzero(labels[place])))
        for place in np.flatnonzero(batch['box_mask'][row])
    ]


def sheet(found: Sequence[Sample], frames: int = 4) -> np.ndarray:
    """u8[clips * H, frames * W, 3]: a row of frames for each clip."""
    rows = []
    for sample in found:
        times = np.linspace(0, len(sample.video) - 1, frames).round().astype(int)
        rows.append(np.concatenate(sample.video[times], axis=1))
    return np.concatenate(rows)


def caption(sample: Sample) -> str:
    """Its labels in one line."""
    said = [
        f'{dataset}: {name}' + ('' if share > 0.995 else f' {share:.0%}')
        for dataset, name, share in sample.labels
    ]
    inside = [f'{sample.dataset}: {", ".join(names)}' for _, names in sample.boxes]
    return '; '.join(said or inside)
