"""All formats of annotations that are read: a new one is a module here and a line in this list."""

from data_pipelines.annotations import (
    activitynet,
    ava,
    folder,
    hmdb51,
    kinetics,
    moments_in_time,
    pyslowfast,
    something_v2,
    ucf101,
)
from data_pipelines.annotations.format import Format

# By the name of the subcommand, in the order of the help.
FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        folder.FORMAT,
        pyslowfast.FORMAT,
        kinetics.FORMAT,
        moments_in_time.FORMAT,
        something_v2.FORMAT,
        activitynet.FORMAT,
        hmdb51.FORMAT,
        ucf101.FORMAT,
        *ava.FORMATS,
    )
}
