"""All formats of annotations that are read: a new one is a module here and a line in this list."""

from data_pipelines.annotations import (
    activitynet,
    ava,
    charades,
    diving48,
    epic_kitchens,
    finegym,
    folder,
    hmdb51,
    kinetics,
    kinetics710,
    moments_in_time,
    multithumos,
    pyslowfast,
    something_v2,
    table,
    twentybn,
    ucf101,
)
from data_pipelines.annotations.format import Format

# By the name of the subcommand, in the order of the help.
FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        folder.FORMAT,
        table.FORMAT,
        pyslowfast.FORMAT,
        kinetics.FORMAT,
        kinetics710.FORMAT,
        moments_in_time.FORMAT,
        something_v2.FORMAT,
        *twentybn.FORMATS,
        activitynet.FORMAT,
        charades.FORMAT,
        multithumos.FORMAT,
        diving48.FORMAT,
        finegym.FORMAT,
        epic_kitchens.FORMAT,
        hmdb51.FORMAT,
        ucf101.FORMAT,
        *ava.FORMATS,
    )
}
