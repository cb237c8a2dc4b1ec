"""The converter's jobs as an Apache Beam pipeline, for clusters: `convert ... --beam=OPTIONS`.

Beam deals the shards to its workers; what converts one, and what is written, is the same as without
Beam. The workers need this package, its requirements and Beam, and must see videos and output under
the same paths as this machine (a shared file system). The pipeline itself holds only the names of
the shards; their jobs lie in files beside them, since those of hundreds of thousands of clips would
exceed what runners take.
"""

from collections.abc import Callable, Sequence
import json
import pathlib
import shutil
import threading

from data_pipelines.conversion import plan as planning
from data_pipelines.conversion.worker_pool import run_jobs

_JOBS = 'jobs'  # folder for the jobs, in that of the notes
_POLL_SECONDS = 2.0


def require_beam() -> None:
    """Raises ValueError where Beam is not installed."""
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'Apache Beam is not installed ({error}); pip install apache-beam'
        ) from error


def convert_on_beam(
    output: pathlib.Path,
    jobs: Sequence[tuple[planning.ShardPlan, dict]],
    beam_options: Sequence[str],
    on_clip: Callable[[int, int], None],
    video_timeout: float,
) -> None:
    """Runs jobs of `worker.main` in a pipeline; each shard is noted as finished by its worker.

    Args:
      output: directory of the shards.
      jobs: what is to be converted.
      beam_options: such as `['--runner=FlinkRunner', '--parallelism=64']`; none: locally.
      on_clip: called with (clips done, failures among them) as shards are finished.
      video_timeout: seconds that one clip may take.

    Raises:
      OSError: the pipeline failed, or its workers do not write where we read.
    """
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

    if not jobs:
        return
    folder = output / planning.NOTES / _JOBS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for plan, job in jobs:
        (output / planning.NOTES / f'{plan.name}.json').unlink(missing_ok=True)
        content = {'noted': plan.noted(), 'video_timeout': video_timeout, 'job': job}
        (folder / plan.name).write_text(json.dumps(content))
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(output, jobs, on_clip, done), daemon=True)
    watcher.start()
    try:
        with apache_beam.Pipeline(options=PipelineOptions(list(beam_options))) as pipeline:
            _ = (
                pipeline
                | 'Shards' >> apache_beam.Create([str(folder / plan.name) for plan, _ in jobs])
                | 'Deal' >> apache_beam.Reshuffle()
                | 'Convert' >> apache_beam.Map(_convert_shard)
            )
    except Exception as error:  # runners raise what they like
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise OSError(f'{output}: the Beam pipeline failed: {lines[-1].strip()}') from error
    finally:
        done.set()
        watcher.join()
        shutil.rmtree(folder, ignore_errors=True)
    for plan, _ in jobs:
        if plan.finished_result(output, 0) is None:
            raise OSError(
                f'{output / plan.name}: the Beam pipeline ended without this shard; is the output '
                'on a file system that its workers share with this machine?'
            )


def _convert_shard(job_file: str) -> None:
    """What a Beam worker does."""
    path = pathlib.Path(job_file)
    if not path.exists():
        raise OSError(
            f'{path}: not there for a Beam worker; the output must lie on a file system that all '
            'workers share'
        )
    content = json.loads(path.read_text())

    def on_result(shard: pathlib.Path, result: dict) -> None:
        planning.write_note(shard, content['noted'], result)

    # In a process of its own: a decoder that crashes or hangs must not end the Beam worker.
    run_jobs(
        [(pathlib.Path(content['job']['path']), content['job'])],
        1,
        lambda count, failures: None,
        on_result,
        video_timeout=content['video_timeout'],
    )


def _watch(
    output: pathlib.Path,
    jobs: Sequence[tuple[planning.ShardPlan, dict]],
    on_clip: Callable[[int, int], None],
    done: threading.Event,
) -> None:
    """Tells of shards as they are finished: the one kind of progress that every runner shows."""
    waiting = [plan for plan, _ in jobs]
    while waiting:
        ended = done.wait(_POLL_SECONDS)  # asked before looking, so that the last look is at all
        for plan in list(waiting):
            result = plan.finished_result(output, 0)
            if result is not None:
                on_clip(len(plan.clips), len(result['failures']))
                waiting.remove(plan)
        if ended:
            return
