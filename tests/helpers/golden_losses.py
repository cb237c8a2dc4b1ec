"""Reads the golden losses of the original implementation into the form our objective takes."""

import json

import numpy as np

from multitrain_jax.objectives.objective import DatasetObjective, ObjectiveConfig
from multitrain_jax.objectives.targets import Targets
from multitrain_jax.objectives.uncertainty import LIMIT
from tests.helpers.golden import reference_path

# The reference's names of its losses.
OUR_NAMES = {
    'soft_cross_entropy': 'cross_entropy',
    'normalized_soft_cross_entropy': 'normalized_cross_entropy',
    'reverse_soft_cross_entropy': 'reverse_cross_entropy',
    'nce_and_rce': 'normalized_and_reverse_cross_entropy',
    'mean_absolute_error': 'mean_absolute_error',
}
PADDING = 1e4  # in logits of classes that do not exist: must change nothing


def load():
    arrays = np.load(reference_path('multitrain_losses_a.npz'))
    return arrays, json.loads(str(arrays['meta_json']))


class MultiHeadCase:
    """One `multihead/<case>`, stacked over heads and padded to the most classes."""

    def __init__(self, name: str):
        arrays, meta = load()
        options = meta['cases'][name]
        self.names, self.num_classes = meta['datasets'], meta['num_classes']
        self._arrays, self._prefix = arrays, f'multihead/{name}'
        number, most, batch = len(self.names), max(self.num_classes), options['batch']
        self.logits = self._stack('preds')
        self.grad_logits = self._stack('grad', padding=0.0)
        self.projected = self.grad_projected = None
        if options['add_cross_proj']:
            self.projected = self._stack_pairs('preds')
            self.grad_projected = self._stack_pairs('grad', padding=0.0)
        # How much of the projected logits is added to the heads' own, instead of a loss of their
        # own.
        self.add_projected = (
            options['proj_loss_weight'] if options['cross_proj_add_to_pred'] else 0.0
        )
        self.learned = options['use_mtl_weight']
        if self.learned:
            self.variances = arrays[f'{self._prefix}/sigma_sqs']
            self.grad_variances = arrays[f'{self._prefix}/grad_sigma_sqs']
        self.loss = float(arrays[f'{self._prefix}/loss'])

        own = np.stack([arrays[f'{self._prefix}/masks/{d}'] for d in self.names])  # [N, B]
        dataset = np.argmax(own, axis=0)
        label = np.zeros((batch, 1, most))
        for clip, d in enumerate(dataset):
            row = arrays[f'{self._prefix}/labels/{self.names[d]}'][clip]
            label[clip, 0, : len(row)] = row
        self.targets = Targets(
            label=label,
            dataset=dataset[:, None].astype(np.int32),
            lam=np.ones((batch, 1)),
            weight=np.sum(own, axis=0),
        )
        self.datasets = tuple(
            # A learned weight is 1 / (2 s) there: ours starts from the fixed one, which is then
            # 1/2.
            DatasetObjective(
                d, classes, 0.5 if self.learned else weight, multi_label=d in options['multilabel']
            )
            for d, classes, weight in zip(self.names, self.num_classes, options['loss_weights'])
        )
        softmax = [
            loss
            for loss, d in zip(options['loss_funcs'], self.names)
            if d not in options['multilabel']
        ]
        self.config = ObjectiveConfig(
            lambda_proj=0.0
            if self.add_projected or self.projected is None
            else options['proj_loss_weight'],
            lambda_inf=0.0,
            label_smoothing=0.0,  # already in the labels
            classification_loss=OUR_NAMES[softmax[0]],
            projection_loss=OUR_NAMES[options['proj_loss_func']],
            learned_dataset_weights=self.learned,
        )
        assert (number, batch) == self.logits.shape[:2]

    def _padded(self, key: str, padding: float) -> np.ndarray:
        row = self._arrays[f'{self._prefix}/{key}']
        width = max(self.num_classes) - row.shape[1]
        return np.pad(row, ((0, 0), (0, width)), constant_values=padding)

    def _stack(self, kind: str, padding: float = PADDING) -> np.ndarray:
        return np.stack([self._padded(f'{kind}/{d}', padding) for d in self.names])  # [N, B, C]

    def _stack_pairs(self, kind: str, padding: float = PADDING) -> np.ndarray:
        number = len(self.names)
        return np.stack(
            [
                np.stack(
                    [
                        self._padded(f'{kind}/{self.names[(d + 1 + j) % number]}_{target}', padding)
                        for j in range(number - 1)
                    ]
                )
                for d, target in enumerate(self.names)
            ]
        )  # [N, N-1, B, C]


def parameter_of(variance: np.ndarray) -> np.ndarray:
    """The learned parameter that stands for a variance: ours is a logarithm with a smooth limit."""
    return LIMIT * np.arctanh(np.log(variance) / LIMIT)


def variance_by_parameter(variance: np.ndarray) -> np.ndarray:
    """d variance / d parameter."""
    return variance * (1 - np.square(np.log(variance) / LIMIT))
