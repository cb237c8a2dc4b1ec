"""Says whether this machine, and an experiment on it, are ready to train, and how to mend that.

    python -m multitrain_jax.doctor
    python -m multitrain_jax.doctor --config=configs/multitrain.py --config.data_root=/data

Without --config: packages, devices, a training step of a tiny model, decoding, limits of the
system. With it also that the config can be read, that its datasets are there, fit and decode, how
batches divide over the devices, what memory the model takes, and whether what it starts from can be
read. Nothing is downloaded, rendered or trained; where a NAME.index is missing it is written, as a
run would.

Exit code 0 where nothing fails (warnings are no failures), 1 where something does, 2 for a wrong
command line.
"""

from collections.abc import Callable, Iterator
import dataclasses
import json
import logging
import sys
import textwrap

from multitrain_jax import config_reading
from multitrain_jax.diagnosis.check import Check
from multitrain_jax.errors import ArgumentParser, run_command

_EXIT_FAILURE = 1
_WIDTH = 118
_NAMES = 29  # columns of the names


def examine(part: Callable[..., Iterator[Check]], *args) -> Iterator[Check]:
    """The checks of a part; whatever goes wrong in one of them is told as a failure."""
    log = logging.getLogger('multitrain_jax')
    level = log.level
    log.setLevel(logging.ERROR)  # what a run would warn of is told by the checks
    try:
        yield from part(*args)
    except Exception as error:  # the doctor outlives every patient
        yield Check(
            'fail',
            part.__name__.replace('_', ' '),
            f'{type(error).__name__}: {" ".join(str(error).split())}',
        )
    finally:
        log.setLevel(level)


def _parts(
    config_arguments: list[str],
) -> Iterator[tuple[str, Callable[..., Iterator[Check]], tuple]]:
    """(heading, function, its arguments); imported in turn: the first lines come at once."""
    from multitrain_jax.diagnosis import machine

    yield 'packages', machine.packages, ()
    yield 'devices', machine.devices, ()
    yield 'this machine', machine.system, ()
    yield 'decoding', machine.decoding, ()
    yield 'training', machine.training_step, ()
    if config_arguments:
        from multitrain_jax.diagnosis import experiment

        yield 'experiment', experiment.experiment, (config_arguments,)


def _lines(check: Check, colour: bool) -> str:
    state = f'{check.state:<4}'
    if colour:
        state = f'\033[{ {"ok": 32, "warn": 33, "fail": 31}[check.state] }m{state}\033[0m'
    indent = ' ' * (8 + _NAMES)
    text = _wrapped(check.text, indent, indent)[len(indent) :]
    lines = [f'  {state}  {check.name:<{_NAMES - 2}}  {text}']
    if len(check.name) > _NAMES - 2:
        lines = [f'  {state}  {check.name}', f'{indent}{text}']
    if check.remedy:
        lines.append(_wrapped(f'-> {check.remedy}', indent, f'{indent}   '))
    return '\n'.join(lines)


def _wrapped(text: str, first: str, others: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _summary(checks: list[Check]) -> str:
    counts = {state: sum(check.state == state for check in checks) for state in ('warn', 'fail')}
    told = [
        f'{count} {name}{"s" if count > 1 else ""}'
        for name, count in (('failure', counts['fail']), ('warning', counts['warn']))
        if count
    ]
    return ', '.join(told) if told else f'all is well ({len(checks)} checks)'


def main() -> int:
    parser = ArgumentParser('multitrain_jax.doctor', __doc__)
    add = parser.add_argument
    add('--config', metavar='FILE', help='and --config.FIELD=VALUE: the experiment to look at')
    add('--json', action='store_true', help='print JSON instead of a table, at the end')
    own, others = config_reading.split_arguments(sys.argv[1:])
    args = parser.parse_args(others)
    colour = not args.json and sys.stdout.isatty()
    found: list[tuple[str, Check]] = []
    for heading, part, arguments in _parts(own):
        if not args.json:
            print(f'\n{heading}' if found else heading, flush=True)
        for check in examine(part, *arguments):
            found.append((heading, check))
            if not args.json:
                print(_lines(check, colour), flush=True)
    checks = [check for _, check in found]
    failed = any(check.state == 'fail' for check in checks)
    if args.json:
        content = [{'part': heading, **dataclasses.asdict(check)} for heading, check in found]
        print(json.dumps({'ok': not failed, 'checks': content}, indent=1, ensure_ascii=False))
    else:
        print(f'\n{_summary(checks)}')
    return _EXIT_FAILURE if failed else 0


if __name__ == '__main__':
    run_command(main)
