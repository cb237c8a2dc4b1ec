"""The picture of profile_step.py: the time of every kind beside its roofline,
and each kind under the roofs.
"""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')

from matplotlib import pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from tools.profile_kinds import OTHER  # noqa: E402

_SMALLEST = 0.002  # share of the step below which a kind is not drawn


def draw(result, file: Path, title: str) -> None:
    """Draws a `profile_step.Profile`.

    Args:
        result: the profile.
        file: the picture; its suffix is the format.
        title: what was profiled.
    """
    kinds = {
        kind: row
        for kind, row in result.kinds().items()
        if row.ms > _SMALLEST * result.step_ms and kind != OTHER
    }
    colors = dict(zip(kinds, plt.colormaps['tab20'](np.arange(len(kinds)) % 20)))
    figure, (bars, roofs) = plt.subplots(1, 2, figsize=(14, 6), constrained_layout=True)
    figure.suptitle(title)

    names = [*kinds, 'not attributed']
    places = np.arange(len(names))
    forward = [row.ms - row.backward_ms for row in kinds.values()] + [result.not_attributed_ms]
    backward = [row.backward_ms for row in kinds.values()] + [0.0]
    bars.barh(places, forward, color='tab:blue', label='forward, or neither')
    bars.barh(places, backward, left=forward, color='tab:orange', label='backward')
    roofline = [row.roofline_ms for row in kinds.values()]
    bars.plot(roofline, places[:-1], 'k|', markersize=14, label='roofline')
    bars.set_yticks(places, names)
    bars.invert_yaxis()
    bars.set_xlabel('ms of a step')
    bars.legend()

    intensity = {
        kind: (row.products + row.other) / max(row.bytes, 1.0) for kind, row in kinds.items()
    }
    reached = {kind: (row.products + row.other) / row.ms / 1e6 for kind, row in kinds.items()}
    drawn = [kind for kind in kinds if reached[kind] > 0]
    wide = np.geomspace(
        min(intensity[kind] for kind in drawn) / 2, 2 * max(intensity[kind] for kind in drawn), 200
    )
    roofs.loglog(wide, np.minimum(result.flop_rate, result.bandwidth * wide) / 1e9, 'k-')
    for kind in drawn:
        size = 30 + 1500 * kinds[kind].ms / result.step_ms
        roofs.scatter(intensity[kind], reached[kind], size, color=colors[kind], alpha=0.7)
        roofs.annotate(
            kind,
            (intensity[kind], reached[kind]),
            xytext=(6, 6),
            textcoords='offset points',
            fontsize=9,
        )
    roofs.set_xlabel('FLOP per byte of operands and results')
    roofs.set_ylabel('GFLOP/s (area: time)')
    roofs.grid(alpha=0.3)
    figure.savefig(file, dpi=100)
    plt.close(figure)
