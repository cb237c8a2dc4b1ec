"""All augmentation of a training batch, and the preparation of a test batch, on the accelerator.

The host has already chosen frames, resized, cropped and flipped; here comes what needs arithmetic,
in the order of the published recipes: RandAugment or colour jitter on pixels, normalisation,
erasing, mixing. Everything random follows from (key, position in the global batch), so the same
global batch becomes the same clips on any number of devices.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from data_pipelines.settings import Fraction, NonNegativeFloat, PositiveFloat, Range, settings
from multitrain_jax.augment.color import color_jitter
from multitrain_jax.augment.erasing import random_erasing
from multitrain_jax.augment.mixing import draw_mix, mix_group
from multitrain_jax.augment.normalize import MEAN, STD, Rgb, normalize
from multitrain_jax.augment.randaugment import parse_rand_augment, rand_augment
from multitrain_jax.objectives.targets import Targets, make_targets


def _augment_rules(config: 'AugmentConfig') -> None:
    if config.rand_augment:
        parse_rand_augment(config.rand_augment)


@settings(rules=_augment_rules)
class AugmentConfig:
    """Which augmentations a training batch gets. What is off (the default) is not compiled."""

    mean: Rgb = MEAN  # of pixels scaled to 0..1
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = STD  # of pixels scaled to 0..1
    rand_augment: str = ''  # for example 'rand-m7-n4-mstd0.5-inc1'; '': off
    color_jitter: Fraction = 0.0  # largest change of brightness, contrast and saturation
    erasing_probability: Fraction = 0.0  # of a clip having a box of noise
    mixup_alpha: NonNegativeFloat = 0.0  # of Beta(alpha, alpha) for mixup's lambda; 0: no mixup
    cutmix_alpha: NonNegativeFloat = 0.0  # likewise for CutMix; 0: no CutMix
    mix_probability: Fraction = 1.0  # of a group being mixed, where mixup or CutMix is on
    mix_switch_probability: Fraction = 0.5  # of CutMix, where both are on
    # clips that share one draw; divides every device's share of the batch
    mix_group: Annotated[int, Range(ge=2, remedy='a clip and its partner')] = 2

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed, and so have two slots of targets."""
        return (self.mixup_alpha > 0 or self.cutmix_alpha > 0) and self.mix_probability > 0

    def check_batch(self, clips_per_device: int) -> None:
        """Raises ValueError when groups of mixed clips would straddle devices."""
        if self.mixes and clips_per_device % self.mix_group:
            raise ValueError(
                f'{clips_per_device} clips per device do not divide into groups of '
                f'mix_group={self.mix_group}: change batch_size or mix_group'
            )


@jax.named_scope('augmentation')
def augment_train(
    video: jax.Array,
    label: jax.Array,
    dataset: jax.Array,
    weight: jax.Array,
    *,
    key: jax.Array,
    first_row: jax.Array | int,
    config: AugmentConfig,
    max_classes: int,
    has_boxes: jax.Array | None = None,
) -> tuple[jax.Array, Targets]:
    """Augments and normalises this device's shard of a training batch.

    A clip with boxes stays in its place and unmixed, so that they still fit: only its colours are
    jittered.

    Args:
        video: u8[B, T, H, W, 3].
        label: i32[B] class numbers or f32[B, C] multi-hot.
        dataset: i32[B].
        weight: f32[B], 0 for padding.
        key: typed PRNG key of this step, the same on all devices.
        first_row: position of the first clip in the global batch: axis_index * B.
        config: static.
        max_classes: C, what all heads are padded to.
        has_boxes: bool[B], clips of localising datasets; None: there are none. Their targets have
            weight 0.

    Returns:
        video f32[B, T, H, W, 3], normalised, and targets of one slot, or of two when clips are
        mixed.

    Raises:
        ValueError: B does not divide into groups of mixed clips.
    """
    batch = video.shape[0]
    config.check_batch(batch)
    if has_boxes is not None:
        weight = jnp.where(has_boxes, 0.0, weight)  # clips of weight 0 are not mixed
    targets = make_targets(label, dataset, weight, max_classes)

    def unless_boxes(changed: jax.Array, video: jax.Array) -> jax.Array:
        return (
            changed
            if has_boxes is None
            else jnp.where(has_boxes[:, None, None, None, None], video, changed)
        )

    key_clips, key_groups = jax.random.split(key)
    keys = _keys_by_position(key_clips, first_row, batch)
    # Distinct numbers per purpose, so that turning one augmentation off leaves the others as they
    # were.
    key_for = [jax.vmap(lambda k, n=n: jax.random.fold_in(k, n))(keys) for n in range(3)]

    if config.rand_augment:
        video = unless_boxes(
            rand_augment(video, key_for[0], parse_rand_augment(config.rand_augment)), video
        )
    if config.color_jitter:
        video = color_jitter(video.astype(jnp.float32), key_for[1], config.color_jitter)
    video = normalize(video, mean=config.mean, std=config.std)
    if config.erasing_probability:
        video = unless_boxes(random_erasing(video, key_for[2], config.erasing_probability), video)
    if config.mixes:
        video, targets = _mix(video, targets, key_groups, first_row, config)
    return video, targets


def prepare_eval(video: jax.Array, *, mean: Rgb = MEAN, std: Rgb = STD) -> jax.Array:
    """Clips for testing: u8[B, T, H, W, 3] are normalised, floating point ones already are."""
    if jnp.issubdtype(video.dtype, jnp.floating):
        return video.astype(jnp.float32)
    return normalize(video, mean=mean, std=std)


def _keys_by_position(key: jax.Array, first: jax.Array | int, count: int) -> jax.Array:
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count))


def _mix(
    video: jax.Array,
    targets: Targets,
    key: jax.Array,
    first_row: jax.Array | int,
    config: AugmentConfig,
) -> tuple[jax.Array, Targets]:
    """`mix_group` over all groups of this device."""
    batch, _, height, width, _ = video.shape
    size, groups = config.mix_group, batch // config.mix_group
    keys = _keys_by_position(key, first_row // size, groups)
    mixes = jax.vmap(
        lambda k: draw_mix(
            k,
            height,
            width,
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
            probability=config.mix_probability,
            switch_probability=config.mix_switch_probability,
        )
    )(keys)
    grouped = jax.tree.map(lambda x: x.reshape(groups, size, *x.shape[1:]), (video, targets))
    mixed = jax.vmap(mix_group)(*grouped, mixes)
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), mixed)
