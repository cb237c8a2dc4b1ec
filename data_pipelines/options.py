"""What there is to say about reading data, each setting once.

`multitrain_jax.config` composes its tree of these.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Annotated, Literal

import numpy as np

from data_pipelines.settings import (
    AnyFloat,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    settings,
)

CODE_PREFIX = 'dmvr:'  # of paths of datasets that name a module, which reading them imports


@settings
class DatasetOptions:
    """How clips are taken from the videos of a dataset."""

    # directory of dataset.json and shards (a config's is under data_root), also remote;
    # 'tfds:NAME', prepared by TFDS; or 'dmvr:MODULE:FUNCTION', read by a DMVR factory
    path: str | os.PathLike
    _: dataclasses.KW_ONLY
    # 'strided': frames at a fixed step from a part of the video; 'uniform': over all of it;
    # 'key_frame': at a fixed step around the key frame (the middle one of a record without)
    sampling: Literal['strided', 'uniform', 'key_frame'] = 'strided'
    stride: PositiveInt = 1  # that step, in frames at target_frame_rate; 'uniform' has none
    target_frame_rate: PositiveFloat | None = None  # frames/s that stride counts; None: stored ones
    flip: bool = True  # mirror half of the training clips; False where left and right matter
    # 'auto': boxes where key frames have them, else labels of clips; 'classification': labels of
    # clips in any case: of a clip with boxes, the actions of its key frame, whoever does them
    task: Literal['auto', 'classification'] = 'auto'
    # records of a class are drawn in proportion to its number of records to this power, in every
    # schedule: 0.0: classes alike, 0.5: by the square root; None: every record once per epoch
    balance: Fraction | None = None
    # directory of the videos that records of `--storage=link` name; in a config as path
    video_root: str | os.PathLike | None = None
    # clips of a batch that is all of this dataset, see `ScheduleOptions`; None: as other batches
    batch_size: PositiveInt | None = None


@settings
class BoxOptions:
    """What is done with the boxes of a dataset that has them."""

    # places for boxes of a clip; of more, training takes a random subset, testing the highest
    # scores
    max_boxes: PositiveInt = 32
    jitter: NonNegativeFloat = 0.0  # training: deviation of each side, in parts of the box's extent
    min_visible: Fraction = 0.25  # training: a box of which less is left after the crop is dropped
    train_on_proposals: bool = False  # a detector's boxes over a labelled one are labelled like it
    proposal_iou: Annotated[float, Range(gt=0, le=1)] = 0.75  # from this overlap on
    candidates: Literal['proposals', 'ground_truth'] = 'proposals'  # the boxes that are tested
    min_candidate_score: Fraction = 0.8  # a detector's boxes with a lower score are left out
    test_short_sides: tuple[PositiveInt, ...] = ()  # pixels, each a further view; (): evaluation's
    test_flip: bool = False  # each view mirrored, too


@settings
class Source(DatasetOptions):
    """One split of a dataset, to be opened."""

    name: str  # in messages, and for `ScheduleOptions`
    split: str  # the shards' common name, such as `train`
    boxes: BoxOptions = BoxOptions()


def _schedule_rules(schedule: 'ScheduleOptions') -> None:
    kind, weights, power = schedule.kind, schedule.weights, schedule.size_power
    if kind != 'weighted' and (weights is not None or power != 1.0):
        raise ValueError(f'weights and size_power need kind="weighted", which is {kind!r}')
    if weights is not None and power != 1.0:
        raise ValueError(f'weights and size_power={power:g} are both given: leave one of them out')
    if kind != 'task_by_task' and schedule.order is not None:
        raise ValueError(f'order={schedule.order} needs kind="task_by_task", which is {kind!r}')


@settings(rules=_schedule_rules)
class ScheduleOptions:
    """How mini-batches are made of several datasets (arXiv 2207.03807, section 3)."""

    # 'concatenate': clips of the union, in proportion to size; 'weighted': drawn with given
    # probabilities, every clip or the dataset of each batch; 'accumulated': each update has a batch
    # of every dataset, their gradients are summed; and with batches of one dataset each
    # 'alternating': in turn; 'uniform': drawn with equal probabilities; 'task_by_task': all batches
    # of one dataset, then of the next, which is transfer learning
    kind: Literal[
        'concatenate', 'weighted', 'alternating', 'uniform', 'accumulated', 'task_by_task'
    ] = 'concatenate'
    by: Literal['example', 'batch'] = 'example'  # 'weighted': what is drawn
    # 'weighted': probabilities by name, of any sum; None: size ** size_power
    weights: Mapping[str, NonNegativeFloat] | None = None
    size_power: AnyFloat = 1.0  # between by size (1) and all alike (0)
    order: tuple[str, ...] | None = None  # 'task_by_task': names; None: as the datasets are given

    @property
    def by_dataset(self) -> bool:
        """Whether every dataset has a batch size of its own."""
        return self.kind != 'concatenate' and not (self.kind == 'weighted' and self.by == 'example')


@settings
class OrderOptions:
    """Which clips make which training batch."""

    seed: Annotated[int, Range(ge=0, le=2**32 - 1)] = 0  # of everything random
    epochs: PositiveFloat = 50.0  # passes over the union of the training splits
    batch_size: PositiveInt = 512  # clips per update, over all devices of all hosts
    schedule: ScheduleOptions = ScheduleOptions()  # how batches are made of several datasets


def _input_rules(options: 'InputOptions') -> None:
    if options.short_side[0] > options.short_side[1]:
        raise ValueError(f'short_side={options.short_side} must be (smallest, largest) in pixels')


@settings(rules=_input_rules)
class InputOptions:
    """How the host makes training batches."""

    # pixels; clips are resized to a random short side in this range, then cropped
    short_side: tuple[PositiveInt, PositiveInt] = (256, 320)
    repeats: PositiveInt = 1  # samples of each record in its batch (repeated augmentation)
    num_threads: PositiveInt | None = None  # that read and decode; None: one per core
    # processes that these threads are spread over: a single one stops at some hundred clips/s; 0:
    # threads of this process; None: that below 8 threads, else one for two threads, and for 256
    # clips
    num_processes: NonNegativeInt | None = None
    max_bad_records: NonNegativeInt = 100  # damaged records to skip before the run stops
    # decode at half size where that suffices: faster, slightly other pixels
    reduced_decoding: bool = False
    # 'HOST:PORT' of a tf.data service whose workers make training batches; None: this host
    tf_data_service: str | None = None


@settings
class ViewOptions:
    """Which test views are taken of a video."""

    batch_size: PositiveInt = 512  # views per batch, over all devices of all hosts
    short_side: PositiveInt = 256  # pixels, to which frames are resized before they are cropped
    temporal_views: PositiveInt = 3  # clips spread over the video; only 'strided' has several
    spatial_views: Literal[1, 3] = 3  # centre, or left, centre, right (top, centre, bottom)


@settings
class ClipSize:
    """What the model takes."""

    num_frames: PositiveInt
    crop_size: PositiveInt  # pixels, of height and width


def check_schedule(schedule: ScheduleOptions, names: Sequence[str]) -> None:
    """Checks that a schedule names the datasets that there are.

    Raises:
        ValueError: it does not.
    """
    for field, named in (('weights', schedule.weights), ('order', schedule.order)):
        if named is not None and sorted(named) != sorted(names):
            raise ValueError(
                f'schedule.{field} names {", ".join(named)}: must name each of the datasets '
                f'{", ".join(names)} once'
            )


def check_crops_fit(
    name: str, short_side: int | Sequence[int], size_name: str, crop_size: int
) -> None:
    """Checks that frames of these short sides hold a crop; `name`, `size_name`: what to call both.

    Raises:
        ValueError: one does not.
    """
    if np.min(short_side, initial=crop_size) < crop_size:
        raise ValueError(
            f'{name}={short_side} must not be below {size_name}={crop_size}: crops would not fit'
        )
