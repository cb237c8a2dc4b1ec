"""Parts of a page of HTML that needs nothing else: tables, curves, heat maps, bars, animated clips.

Every function escapes what it is given. Colours are the page's variables, so that light and dark
need no second picture.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
import html
import math
from pathlib import Path
import tempfile
from typing import Any

import numpy as np

_MOST_POINTS = 400  # of a curve
_MOST_LETTERS = 26  # of a name beside a heat map
_CELL, _LETTER = 15, 6.2  # pixels
_MOST_FRAMES, WIDTH = 16, 160  # of an animation; pixels

# No network, whatever the page's content may say.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --soft: #667; --line: #dde; --card: #f6f7f9;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #b8860b; --c5: #56b4e9; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --ink: #e6e7ea; --soft: #9aa; --line: #343841;
  --card: #1d2026; --c0: #5ab4ee; --c1: #f08a4b; --c2: #3cc79c; --c3: #e3a0c6; --c4: #e0b84c; --c5: #8fd0f5; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1100px; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: .2rem 0; overflow-wrap: anywhere } h2 { margin: 2.2rem 0 .6rem; font-size: 1.25rem }
h3 { margin: 1.2rem 0 .4rem; font-size: 1rem }
p { margin: .4rem 0; max-width: 46rem } .soft, figcaption { color: var(--soft) }
nav { display: flex; flex-wrap: wrap; gap: .3rem .9rem; margin: .6rem 0 } a { color: var(--c0) }
.wide { overflow-x: auto } .tall { max-height: 30rem; overflow-y: auto }
.grid { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)) }
.clips { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)) }
figure { margin: 0; padding: .5rem; background: var(--card); border-radius: 6px; min-width: 0 }
figure img { width: 100%; border-radius: 4px; display: block } figcaption { font-size: .82rem; overflow-wrap: anywhere }
svg { display: block } svg text { fill: var(--soft); font: 10px system-ui, sans-serif }
.curve { width: 100%; height: auto } .curve .axis { stroke: var(--line) }
.curve polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round }
.key { display: inline-block; margin-right: .8rem } .key i { display: inline-block; width: .8rem; height: .2rem;
  margin-right: .3rem; vertical-align: middle }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .22rem .7rem .22rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top }
th:first-child, td:first-child, .text { text-align: left; overflow-wrap: break-word; max-width: 34rem }
th { cursor: pointer; white-space: nowrap; position: sticky; top: 0; background: var(--paper) }
th[aria-sort=ascending]::after { content: ' \\25b4' } th[aria-sort=descending]::after { content: ' \\25be' }
.bars { display: grid; grid-template-columns: minmax(5rem, 14rem) 1fr 3.2rem; gap: .15rem .6rem; font-size: .85rem;
  align-items: center } .bars b { font-weight: 400; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.bars u { height: .8rem; border-radius: 2px; min-width: 1px } .bars span { text-align: right }
pre { overflow-x: auto; background: var(--card); padding: .6rem; border-radius: 6px; font-size: .8rem }
.good { color: var(--c2) } .bad { color: var(--c1) }
"""
_SCRIPT = """
for (const head of document.querySelectorAll('th')) head.addEventListener('click', () => {
  const table = head.closest('table'), column = head.cellIndex, body = table.tBodies[0];
  const falling = head.getAttribute('aria-sort') !== 'descending';
  for (const other of table.querySelectorAll('th')) other.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', falling ? 'descending' : 'ascending');
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const number = text => text === '' ? -Infinity : Number(text);
  const rows = [...body.rows], numeric = rows.every(row => !Number.isNaN(number(value(row))));
  rows.sort((a, b) => numeric ? number(value(a)) - number(value(b)) : value(a).localeCompare(value(b)));
  body.append(...(falling ? rows.reverse() : rows));
});
"""


def text(value: Any) -> str:
    """Anything as harmless HTML."""
    return html.escape(str(value))


def document(title: str, body: str) -> str:
    """The whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{text(title)}</title><style>{_STYLE}</style></head>\n'
        f'<body>{body}<script>{_SCRIPT}</script></body></html>\n'
    )


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page with a heading; '' without parts."""
    content = '\n'.join(filter(None, parts))
    whole = f'<section id="{text(name)}"><h2>{text(title)}</h2>\n{content}</section>\n'
    return whole if content else ''


def paragraph(value: Any, kind: str = '') -> str:
    return f'<p class="{kind}">{text(value)}</p>'


def percent(value: float | None) -> tuple[str, float | str]:
    """A cell of a table, and what it is sorted by."""
    if value is None or math.isnan(value):
        return '', ''
    return f'{100 * value:.1f}', value


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], *, words: Sequence[int] = ()
) -> str:
    """A table that is sorted by a click on a column's name.

    Args:
        header: names of the columns.
        rows: of cells: a value, or (text, what it is sorted by).
        words: columns after the first that hold words.
    """

    def cell(column: int, value: Any) -> str:
        shown, key = value if isinstance(value, tuple) else (value, None)
        kind = ' class="text"' if column in words else ''
        data = '' if key is None else f' data-value="{text(key)}"'
        return f'<td{kind}{data}>{text(shown)}</td>'

    heads = ''.join(
        f'<th{" class=text" if n in words else ""}>{text(name)}</th>'
        for n, name in enumerate(header)
    )
    lines = ''.join(
        f'<tr>{"".join(cell(n, value) for n, value in enumerate(row))}</tr>\n' for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>'
        f'<tbody>\n{lines}</tbody></table></div>'
    )


def curves(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Curves over steps in one picture; '' where there is no finite point.

    Args:
        title: what they show.
        series: (step, value) by name.
    """
    series = {
        name: [(x, y) for x, y in _thinned(points) if math.isfinite(y)]
        for name, points in series.items()
    }
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ''
    width, height, left, top, bottom = 360, 190, 46, 8, 22
    xs, ys = zip(*(point for points in series.values() for point in points))
    first, last, low, high = min(xs), max(xs), min(ys), max(ys)
    if high - low < 1e-12:
        low, high = low - max(abs(low), 1e-3) / 2, high + max(abs(high), 1e-3) / 2
    across = lambda x: left + (x - first) / max(last - first, 1e-9) * (width - left - 8)  # noqa: E731
    down = lambda y: top + (high - y) / (high - low) * (height - top - bottom)  # noqa: E731
    parts = []
    for value in _ticks(low, high):
        y = down(value)
        parts.append(
            f'<line class="axis" x1="{left}" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{left - 5}" y="{y + 3:.1f}" text-anchor="end">{value:.4g}</text>'
        )
    for x, anchor in ((first, 'start'), (last, 'end')):
        parts.append(
            f'<text x="{across(x):.1f}" y="{height - 6}" text-anchor="{anchor}">{x:g}</text>'
        )
    keys = []
    for number, (name, points) in enumerate(series.items()):
        colour = f'var(--c{number % 6})'
        if len(points) == 1:
            ((x, y),) = points
            parts.append(
                f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="3" style="fill:{colour}"/>'
            )
        else:
            line = ' '.join(f'{across(x):.1f},{down(y):.1f}' for x, y in points)
            parts.append(f'<polyline points="{line}" style="stroke:{colour}"/>')
        keys.append(
            f'<span class="key"><i style="background:{colour}"></i>'
            f'{text(name)} {points[-1][1]:.4g}</span>'
        )
    return (
        f'<figure><h3>{text(title)}</h3><svg class="curve" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{text(title)}">{"".join(parts)}</svg>'
        f'<figcaption>{"".join(keys)}</figcaption></figure>'
    )


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    every = -(-len(points) // _MOST_POINTS)
    return [*points[::every], *points[-1:]] if every > 1 else points


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 4
    step = 10 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw * 0.999)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def heat(
    matrix: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    unit: str,
    marks: Iterable[tuple[int, int]] = (),
) -> str:
    """A heat map; a cell tells its names and number.

    Args:
        matrix: f[rows, columns]; negative numbers have another colour.
        rows, columns: names.
        unit: what the numbers are.
        marks: (row, column) of cells with a dot.
    """
    most = float(np.abs(matrix).max(initial=0)) or 1.0
    left, top = (
        10 + _LETTER * min(_MOST_LETTERS, max(map(len, names), default=0))
        for names in (rows, columns)
    )
    width, height = left + _CELL * len(columns) + 4, top + _CELL * len(rows) + 4
    parts = []
    for row, name in enumerate(rows):
        y = top + _CELL * row
        parts.append(
            f'<text x="{left - 4:.0f}" y="{y + 11:.0f}" '
            f'text-anchor="end">{text(_short(name))}</text>'
        )
        for column, other in enumerate(columns):
            value = float(matrix[row, column])
            parts.append(
                f'<rect x="{left + _CELL * column:.0f}" y="{y:.0f}" width="{_CELL - 1}" '
                f'height="{_CELL - 1}" style="fill:var(--c{int(value < 0)})" '
                f'fill-opacity="{0.04 + 0.96 * abs(value) / most:.3f}">'
                f'<title>{text(name)} / {text(other)}: {value:.4g} {text(unit)}</title></rect>'
            )
    for column, name in enumerate(columns):
        x = left + _CELL * column + 10
        parts.append(
            f'<text transform="translate({x:.0f} {top - 4:.0f}) '
            f'rotate(-90)">{text(_short(name))}</text>'
        )
    for row, column in marks:
        x, y = (start + _CELL * (place + 0.47) for start, place in ((left, column), (top, row)))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" style="fill:var(--ink)"/>')
    return (
        f'<div class="wide"><svg width="{width:.0f}" height="{height:.0f}" role="img" '
        f'aria-label="heat map, {text(unit)}">{"".join(parts)}</svg></div>'
    )


def _short(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f'{name[: _MOST_LETTERS - 1]}…'


def bars(entries: Iterable[tuple[str, float, int, str]]) -> str:
    """Bars from 0 to 1: (name, length, number of the colour, what is said of it)."""
    lines = ''.join(
        f'<b title="{text(name)}">{text(name)}</b><div title="{text(said)}"><u '
        f'style="display:block;width:{100 * value:.1f}%;background:var(--c{colour})"></u></div><span>{100 * value:.0f} '
        '%</span>'
        for name, value, colour, said in entries
    )
    return f'<div class="tall"><div class="bars">{lines}</div></div>'


def clip(video: np.ndarray, caption: str, kind: str = '') -> str:
    """An animated picture with a line below.

    Args:
        video: u8[T, H, W, 3].
        caption: of it.
        kind: 'good', 'bad' or ''.
    """
    import cv2

    frames = video[
        np.linspace(0, len(video) - 1, min(len(video), _MOST_FRAMES)).round().astype(int)
    ]
    if frames.shape[2] > WIDTH:
        size = WIDTH, round(frames.shape[1] * WIDTH / frames.shape[2])
        frames = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    animation = cv2.Animation()
    animation.frames = [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]
    animation.durations = np.full(len(frames), 120)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'clip.webp'
        if not cv2.imwriteanimation(str(path), animation, [cv2.IMWRITE_WEBP_QUALITY, 80]):
            raise RuntimeError('OpenCV has written no WebP')
        data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{text(caption)}" src="data:image/webp;base64,{data}">'
        f'<figcaption class="{kind}">{text(caption)}</figcaption></figure>'
    )


def clips(figures: Sequence[str]) -> str:
    return f'<div class="clips">{"".join(figures)}</div>' if figures else ''
