"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) between clips, also of different datasets.

The batch is cut into groups of `mix_group` consecutive clips. Inside a group, clip i is mixed
with clip group - 1 - i, and all clips of the group share one draw: mixup or CutMix, lambda, box.
(PySlowFast does this with the local batch as the only group.) A group never straddles two devices,
so its outcome depends on its position in the global batch and not on the number of devices, and
nothing travels between devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from multitrain_jax.augment.erasing import Box, inside
from multitrain_jax.objectives.targets import Targets


class Mix(NamedTuple):
    """How one group is mixed. A clip keeps `lam` of itself; with `cut`, all outside the box."""

    lam: jax.Array  # f32[]
    cut: jax.Array  # bool[]
    box: Box


def cutmix_box(lam: jax.Array, centre: tuple[jax.Array, jax.Array], height: int, width: int) -> Box:
    """The box that a partner's pixels fill: sides sqrt(1 - lam) of the frame's, clipped there.

    Half the side is rounded down, so a box of odd side is one pixel smaller than drawn, as in timm.
    """
    side = jnp.sqrt(1.0 - lam)
    half_rows = (height * side).astype(jnp.int32) // 2
    half_columns = (width * side).astype(jnp.int32) // 2
    y, x = centre
    return Box(
        jnp.clip(y - half_rows, 0, height),
        jnp.clip(y + half_rows, 0, height),
        jnp.clip(x - half_columns, 0, width),
        jnp.clip(x + half_columns, 0, width),
    )


def lambda_of_box(box: Box, height: int, width: int) -> jax.Array:
    """f32[]: the share of the frame outside the box."""
    area = (box.bottom - box.top) * (box.right - box.left)
    return 1.0 - area.astype(jnp.float32) / (height * width)


def draw_mix(
    key: jax.Array,
    height: int,
    width: int,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    probability: float,
    switch_probability: float,
) -> Mix:
    """Draws how one group is mixed.

    Args:
        key: typed PRNG key.
        height, width: of a frame, pixels.
        mixup_alpha, cutmix_alpha: both parameters of the Beta distribution of lambda; 0 turns that
            form off.
        probability: of mixing at all.
        switch_probability: of CutMix where both forms are on.
    """
    key_lam, key_choices = jax.random.split(key)
    mixed, cut, y, x = jax.random.uniform(key_choices, (4,))
    if mixup_alpha and cutmix_alpha:
        cut = cut < switch_probability
        alpha = jnp.where(cut, cutmix_alpha, mixup_alpha)
    else:
        cut = jnp.asarray(cutmix_alpha > 0)
        alpha = jnp.asarray(cutmix_alpha or mixup_alpha)
    lam = symmetric_beta(key_lam, alpha)
    lam = jnp.where(mixed < probability, lam, 1.0)
    centre = tuple(jnp.floor(u * side).astype(jnp.int32) for u, side in ((y, height), (x, width)))
    box = cutmix_box(lam, centre, height, width)
    return Mix(jnp.where(cut, lambda_of_box(box, height, width), lam), cut, box)


def symmetric_beta(key: jax.Array, alpha: jax.Array) -> jax.Array:
    """f32[] from Beta(alpha, alpha), alpha > 0.

    `jax.random.beta` rejects until it accepts; its loops would be a fifth of the whole step's time
    to compile on a CPU. Here Beta(alpha + 1, alpha + 1) is drawn as Ulrich does (1984; in Devroye,
    Non-Uniform Random Variate Generation, IX.3.5), and both of its parameters are lowered by one,
    as Stuart does with a Gamma's (1962).
    """
    tiny = jnp.finfo(jnp.float32).tiny
    u, v, w, angle = jax.random.uniform(key, (4,), minval=tiny)
    s = jnp.sqrt(1.0 - u ** (1.0 / (alpha + 0.5))) * jnp.cos(2.0 * jnp.pi * angle)
    logit = jnp.log1p(s) - jnp.log1p(-s)  # of (1 + s) / 2
    return jax.nn.sigmoid(logit + (jnp.log(v) - jnp.log(w)) / alpha)


def mix_group(video: jax.Array, targets: Targets, mix: Mix) -> tuple[jax.Array, Targets]:
    """Mixes the clips of one group with each other, in reversed order.

    A clip of weight 0 (padding) is not mixed into another one and receives nothing.

    Args:
        video: f32[G, T, H, W, 3].
        targets: of these G clips, one slot each.
        mix: from `draw_mix`.

    Returns:
        video f32[G, T, H, W, 3] and targets with two slots: the clip itself, and its partner.
    """
    height, width = video.shape[2:4]
    real = (targets.weight > 0) & (targets.weight[::-1] > 0)  # [G]
    own = jnp.where(mix.cut, ~inside(mix.box, height, width), mix.lam)  # [H, W]
    own = jnp.where(real[:, None, None, None, None], own[None, None, :, :, None], 1.0)
    video = own * video + (1.0 - own) * video[::-1]
    lam = jnp.where(real, mix.lam, 1.0)[:, None]  # [G, 1]
    targets = targets.replace(
        label=jnp.concatenate([targets.label, targets.label[::-1]], axis=1),
        dataset=jnp.concatenate([targets.dataset, targets.dataset[::-1]], axis=1),
        lam=jnp.concatenate([lam, 1.0 - lam], axis=1),
    )
    return video, targets
