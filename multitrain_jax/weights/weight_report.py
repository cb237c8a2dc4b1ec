"""What became of every parameter when weights were taken over into another model, as a table."""

from collections.abc import Sequence
import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one parameter (of one head, of one projection).

    Attributes:
        name: of the parameter.
        outcome: one word.
        note: more about it.
    """

    name: str
    outcome: str
    note: str = ''


def summary(rows: Sequence[Row]) -> str:
    """How often each outcome occurs, in one line."""
    outcomes = [row.outcome for row in rows]
    return ', '.join(f'{outcomes.count(outcome)} {outcome}' for outcome in dict.fromkeys(outcomes))


def table(rows: Sequence[Row]) -> str:
    """One line for each row."""
    name_width = max((len(row.name) for row in rows), default=0)
    outcome_width = max((len(row.outcome) for row in rows), default=0)
    return '\n'.join(
        f'{r.name:<{name_width}}  {r.outcome:<{outcome_width}}  {r.note}'.rstrip() for r in rows
    )


def shape_text(shape: Sequence[int]) -> str:
    """`[2, 3]`."""
    return f'[{", ".join(map(str, shape))}]'
