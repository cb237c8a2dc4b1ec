"""How long each operation of a program takes, from a trace of `jax.profiler`; needs JAX alone."""

import bisect
from collections.abc import Callable, Iterator
import glob
import re
import tempfile

import jax

# Of a TPU's trace, where operations have no other name than their text.
_TPU_LINE = 'XLA Ops'
_STEP = 'profiled step'


def trace(run: Callable[[], None], steps: int) -> jax.profiler.ProfileData:
    """The trace of `steps` calls of `run`, which must wait for what it computes."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # every Python call would be recorded
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(steps):
                with jax.profiler.TraceAnnotation(_STEP):
                    run()
        (file,) = glob.glob(f'{folder}/**/*.xplane.pb', recursive=True)
        return jax.profiler.ProfileData.from_file(file)


def steps_of(profile: jax.profiler.ProfileData) -> list[tuple[float, float]]:
    """(start, end) of every step, in nanoseconds."""
    events = (event for plane in profile.planes for line in plane.lines for event in line.events)
    return sorted(
        (event.start_ns, event.start_ns + event.duration_ns)
        for event in events
        if event.name == _STEP
    )


def intervals(profile: jax.profiler.ProfileData) -> list[tuple[str, float, float]]:
    """(name of the operation, start, end) in nanoseconds of all work that the trace holds.

    On accelerators the kernels of the device; on CPU what each thread does, and of nested
    operations the innermost. A part of an operation that one thread hands to another counts from
    when that one begins it.
    """
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith('/device:')]
    of_devices = [found for plane in devices for line in plane.lines for found in _on_device(line)]
    return of_devices or [found for plane in planes for found in _on_host(plane)]


def _on_device(line) -> Iterator[tuple[str, float, float]]:
    for event in line.events:
        name = dict(event.stats).get('hlo_op')
        if name is None and line.name == _TPU_LINE:
            name = re.match(r'%?([\w.\-]+)', event.name)[1]
        if name is not None:
            yield name, event.start_ns, event.start_ns + event.duration_ns


def _on_host(plane) -> Iterator[tuple[str, float, float]]:
    threads = [_Thread(line) for line in plane.lines]
    handed = {
        number: thread.at(when) for thread in threads for number, when in thread.handed.items()
    }

    def operation(what: str | int | None) -> str | None:
        while isinstance(what, int):  # a part may be cut and handed on again
            what = handed.get(what)
        return what

    for thread in threads:
        for start, end, what in thread.spans:
            if (name := operation(what)) is not None:
                yield name, start, end


class _Thread:
    """Attributes:
    spans: what it does, (start, end, what): the name of an operation, the number of a part that
    another thread handed to it,
        or None: the executor looks for what to do next. In order and without overlap.
    handed: {number of a part that it hands to another: when}.
    """

    def __init__(self, line):
        self.handed: dict[int, float] = {}
        nested: list[tuple[float, float, str | int | None]] = []
        begun: list[tuple[float, int]] = []
        for event in sorted(line.events, key=lambda event: event.start_ns):
            start, end, stats = (
                event.start_ns,
                event.start_ns + event.duration_ns,
                dict(event.stats),
            )
            if event.name == 'ThreadpoolListener::Record':
                self.handed[stats['_p']] = start
            elif event.name == 'ThreadpoolListener::StartRegion':
                begun.append((start, stats['_c']))
            elif event.name == 'ThreadpoolListener::StopRegion' and begun:
                since, number = begun.pop()
                nested.append((since, start, number))
            elif event.name.startswith('ThunkExecutor::Execute'):
                nested.append((start, end, None))
            elif event.duration_ns and 'hlo_op' in stats:
                nested.append((start, end, stats['hlo_op']))
        self.spans = _innermost(nested)
        self._starts = [start for start, _, _ in self.spans]

    def at(self, when: float) -> str | int | None:
        """What it does at a time."""
        place = bisect.bisect_right(self._starts, when) - 1
        return self.spans[place][2] if place >= 0 and when < self.spans[place][1] else None


def _innermost(nested: list[tuple[float, float, object]]) -> list[tuple[float, float, object]]:
    """Spans (start, end, what) that contain each other -> spans without overlap,
    each of the innermost.
    """
    found, outer, at = [], [], 0.0

    def close(until: float) -> None:
        nonlocal at
        while outer and outer[-1][0] <= until:
            end, what = outer.pop()
            found.append((at, end, what))
            at = end

    for start, end, what in sorted(nested, key=lambda span: (span[0], -span[1])):
        close(start)
        if outer:
            found.append((at, start, outer[-1][1]))
        at = start
        outer.append((end, what))
    close(float('inf'))
    return [(start, end, what) for start, end, what in found if end > start]


def shared_times(spans: list[tuple[str, float, float]]) -> dict[str, float]:
    """By name the time of its spans [start, end); where n overlap,
    each has an n-th: all add up to the time that any covers.
    """
    edges = sorted(
        [(start, True, number) for number, (_, start, _) in enumerate(spans)]
        + [(end, False, number) for number, (_, _, end) in enumerate(spans)]
    )
    times = dict.fromkeys((name for name, _, _ in spans), 0.0)
    active: dict[int, str] = {}
    before = 0.0
    for at, begins, number in edges:
        for name in active.values():
            times[name] += (at - before) / len(active)
        before = at
        if begins:
            active[number] = spans[number][0]
        else:
            active.pop(number, None)
    return times
