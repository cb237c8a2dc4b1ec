"""Numbers and tables in words, for what commands print. Nothing but the standard library."""

from collections.abc import Collection, Sequence


def bytes_text(count: float) -> str:
    """Bytes to three digits, in powers of 1000, as disks are sold: '4.7 kB', '1.2 TB'."""
    for unit in ('B', 'kB', 'MB', 'GB'):
        if count < 999.5:
            return f'{count:.3g} {unit}'
        count /= 1000
    return f'{count:.3g} TB'


def duration_text(seconds: float) -> str:
    """'4.2 s', '95 min', '25 h 0 min'."""
    if seconds < 99.5:
        return f'{seconds:.2g} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 120 else f'{minutes // 60} h {minutes % 60} min'


def table(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Lines of a table. The columns named in `left` are text, the others numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        '  '.join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def some(names: Sequence[str], most: int) -> str:
    """The first `most` names, and a mark where there are more."""
    return ', '.join(names[:most]) + (', ...' if len(names) > most else '')
