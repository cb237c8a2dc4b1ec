"""Matrices of classes against classes as pictures."""

from collections.abc import Iterable, Sequence
import os

import numpy as np

MOST_NAMES = 40  # rows or columns whose names can still be read


def heat_map(
    path: str | os.PathLike,
    matrix: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    row_title: str,
    column_title: str,
    value_title: str,
    signed: bool,
    dots: Iterable[tuple[int, int]] = (),
    frames: Iterable[tuple[int, int]] = (),
    note: str = '',
) -> None:
    """Writes a heat map as PNG.

    Args:
        path: of the PNG.
        matrix: f[rows, columns].
        rows, columns: names of the classes.
        title, row_title, column_title: what the picture, its rows and its columns are.
        value_title: what the numbers are.
        signed: whether the numbers are around 0 (blue, white, red) or from 0 to 1 (white to blue).
        dots, frames: (row, column) of cells to mark.
        note: what dots and frames mean, below the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    width = 0.26 * len(columns) + 0.075 * max(map(len, rows)) + 1.6  # inches
    height = 0.26 * len(rows) + 0.075 * max(map(len, columns)) + 1.2
    figure = Figure((width, height), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if signed:
        limit = np.abs(matrix).max() or 1.0
        image = axes.imshow(matrix, cmap='RdBu_r', vmin=-limit, vmax=limit)
    else:
        image = axes.imshow(matrix, cmap='Blues', vmin=0, vmax=1)
    plain = {'parse_math': False}  # names with dollar signs are no formulas
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8, **plain)
    axes.set_yticks(range(len(rows)), rows, fontsize=8, **plain)
    axes.set_xlabel(column_title, **plain)
    axes.set_ylabel(row_title, **plain)
    axes.set_title(title, fontsize=10, **plain)
    for row, column in dots:
        axes.plot(column, row, '.', color='black', markersize=5)
    for row, column in frames:
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor='black', linewidth=1.5)
        )
    figure.colorbar(image, label=value_title, shrink=0.8)
    if note:
        figure.supxlabel(note, fontsize=8, **plain)
    figure.savefig(path)
