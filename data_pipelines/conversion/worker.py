"""What a worker process of the converter runs: `python -m data_pipelines.conversion.worker`.

A worker is an ordinary process that reads jobs, one JSON object per line, from its standard input
and answers with events, one JSON object per line, on its standard output: see `main`. It is not a
`multiprocessing` child on purpose: that would either fork a parent that may be running JAX, or
import the parent's main module anew; and a decoder that crashes takes down this process only.
"""

import json
import os
import sys

import cv2

from data_pipelines.annotations import Clip, KeyFrame
from data_pipelines.conversion.options import Storage
from data_pipelines.conversion.shard import convert_shard


def _clip_from_json(clip: dict) -> Clip:
    """`dataclasses.asdict` undone."""
    key_frame = clip['key_frame']
    return Clip(**{**clip, 'key_frame': None if key_frame is None else KeyFrame(**key_frame)})


def main() -> None:
    """Serves jobs until the standard input ends.

    A job has the arguments of `convert_shard`: path, clips, classes, options, frames_path,
    known_failures. The events of a job are {"clip": number} and {"stored": bool} around each clip,
    then {"result": ...} or {"error": text}.
    """
    # What a library prints must not get between the events.
    events = os.fdopen(os.dup(1), 'w', encoding='ascii')
    os.dup2(2, 1)

    def report(**event) -> None:
        events.write(json.dumps(event) + '\n')
        events.flush()

    cv2.setNumThreads(1)  # the workers themselves are the parallelism
    for line in sys.stdin:
        job = json.loads(line)
        try:
            result = convert_shard(
                job['path'],
                [_clip_from_json(clip) for clip in job['clips']],
                {int(number): name for number, name in job['classes'].items()},
                Storage(**job['options']),
                frames_path=job['frames_path'],
                known_failures={
                    int(number): text for number, text in job['known_failures'].items()
                },
                before_clip=lambda number: report(clip=number),
                after_clip=lambda good: report(stored=good),
            )
        except BrokenPipeError:
            os._exit(1)  # the converter has gone; nobody is left to tell
        except OSError as error:
            report(error=f'{job["path"]}: cannot be written ({error.strerror or error})')
        else:
            report(result=result)


if __name__ == '__main__':
    main()
