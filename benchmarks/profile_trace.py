"""How long each operation of a program takes, from a trace of `jax.profiler`; needs JAX alone."""

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
    return sorted((event.start_ns, event.start_ns + event.duration_ns) for event in events if event.name == _STEP)


def intervals(profile: jax.profiler.ProfileData) -> list[tuple[str, float, float]]:
    """(name of the operation, start, end) in nanoseconds of every execution that the trace holds.

    On accelerators those of the device, on CPU those of all threads. There an operation lasts from the moment that one thread
    begins it until the last of the threads that share it has ended its part.
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
    begun, ended = [], {}
    for line in plane.lines:
        for event in line.events:
            if event.name.startswith('end: '):
                ended[dict(event.stats)['_c']] = event.start_ns
            elif event.duration_ns:
                stats = dict(event.stats)
                if 'hlo_op' in stats:
                    begun.append((stats['hlo_op'], stats.get('_p'), event.start_ns, event.start_ns + event.duration_ns))
    for name, number, start, end in begun:
        yield name, start, max(end, ended.get(number, end))


def shared_times(spans: list[tuple[str, float, float]]) -> dict[str, float]:
    """By name the time of its spans [start, end); where n overlap, each has an n-th: all add up to the time that any covers."""
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
