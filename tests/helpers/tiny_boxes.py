"""The tiny experiment with boxes: between its two classifying datasets,
two that localise actions.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from multitrain_jax import config as configs
from multitrain_jax.batch import Batch, DatasetSpec
from tests.helpers import tiny

ACTIONS = {'scenes': ('stand', 'sit', 'wave'), 'scenes_more': ('walk', 'run', 'jump', 'talk')}
SCENES, SCENES_MORE = 1, 2  # their numbers among the datasets
MOST_BOXES = 3


def config(**changes: Any) -> configs.Config:
    """The tiny config with boxes and with changes, see `tiny.config`."""
    dataset = {'sampling': 'key_frame', 'stride': 1, 'target_frame_rate': None, 'flip': False}
    datasets = {f'datasets__{name}': {'path': name, **dataset} for name in ACTIONS}
    return tiny.config(
        **{
            'localisation': {'max_boxes': MOST_BOXES, 'head': {'dropout': 0.0}},
            **datasets,
            **changes,
        }
    )


def draw_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """f32[count, 4], each at least 0.2 wide and high."""
    corner = rng.uniform(0, 0.6, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(0.2, 0.4, (count, 2))], 1).astype(
        np.float32
    )


class BoxSource(tiny.ArraySource):
    """Noise with boxes on the clips of the localising datasets; some clips have none."""

    def __init__(self, config: configs.Config, **options: Any):
        super().__init__(config, **options)
        colours, shades = self.datasets
        scenes = (
            DatasetSpec(
                name,
                actions,
                views=colours.views,
                evaluation_records=colours.evaluation_records,
                localisation=True,
                train_counts=tuple(range(10, 10 + len(actions))),
            )
            for name, actions in ACTIONS.items()
        )
        self.datasets = (colours, *scenes, shades)

    def _label(self, dataset: int, number: int) -> int:
        return 0 if self.datasets[dataset].localisation else super()._label(dataset, number)

    def batch(self, step: int) -> Batch:
        batch = super().batch(step)
        rng = np.random.default_rng([4, step])
        clips, most = len(batch['dataset']), max(map(len, ACTIONS.values()))
        boxes = np.zeros((clips, MOST_BOXES, 4), np.float32)
        box_label = np.zeros((clips, MOST_BOXES, most), np.float32)
        box_mask = np.zeros((clips, MOST_BOXES), np.float32)
        for row, dataset in enumerate(batch['dataset']):
            spec = self.datasets[dataset]
            if spec.localisation:
                count = rng.integers(0, MOST_BOXES + 1) if row % 3 else MOST_BOXES
                boxes[row, :count] = draw_boxes(rng, count)
                box_label[row, :count, : len(spec.classes)] = (
                    rng.random((count, len(spec.classes))) < 0.4
                )
                box_mask[row, :count] = 1
        return {**batch, 'boxes': boxes, 'box_label': box_label, 'box_mask': box_mask}

    def evaluation_batches(self, dataset: int) -> Iterator[Batch]:
        """A localising dataset's records have as many candidates as their number,
        up to MOST_BOXES; the truth is them.
        """
        for batch in super().evaluation_batches(dataset):
            if not self.datasets[dataset].localisation:
                yield batch
                continue
            yield {
                name: array for name, array in batch.items() if name != 'label'
            } | self._candidates(dataset, batch)

    def _candidates(self, dataset: int, batch: Batch) -> Batch:
        clips, most = len(batch['record']), max(map(len, ACTIONS.values()))
        candidate = np.zeros((clips, MOST_BOXES, 4), np.float32)
        mask = np.zeros((clips, MOST_BOXES), np.float32)
        label = np.zeros((clips, MOST_BOXES, most), np.float32)
        for row, record in enumerate(batch['record'].tolist()):
            count = min(max(record, 0), MOST_BOXES)
            candidate[row, :count] = draw_boxes(
                np.random.default_rng([5, dataset, max(record, 0)]), count
            )
            mask[row, :count] = 1
            label[
                row,
                np.arange(count),
                (record + np.arange(count)) % len(self.datasets[dataset].classes),
            ] = 1
        return {
            'boxes': candidate,
            'box_mask': mask,
            'candidate': candidate,
            'candidate_score': mask,
            'candidate_mask': mask,
            'truth_box': candidate,
            'truth_label': label,
            'truth_mask': mask,
            'name': np.array(
                [f'clip{record},{900 + max(record, 0)}' for record in batch['record']], object
            ),
        }
