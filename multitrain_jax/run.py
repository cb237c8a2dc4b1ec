"""Trains, evaluates and exports one experiment; continues where --workdir stopped.

python run.py --config=configs/quickstart.py --workdir=runs/quickstart
python run.py --config=configs/quickstart.py --workdir=runs/other --config.epochs=5 --config.seed=1
python run.py --config=configs/quickstart.py --print_config
multitrain train --config=quickstart --workdir=runs/quickstart       (once installed, from anywhere)
"""

import sys

from absl import flags

from multitrain_jax import config_reading
from multitrain_jax.errors import UserError, run_command
from multitrain_jax.parallel.hosts import FLAG_HELP, joined


def _parse_flags() -> tuple[flags.FlagValues, list[str]]:
    """Reads the command line, of which each mistake becomes one line: (flags, config's part)."""
    values = flags.FlagValues()
    own_flags = dict(flag_values=values)
    flags.DEFINE_string('workdir', None, 'Of the run, which continues from it.', **own_flags)
    flags.DEFINE_boolean('print_config', False, 'Show all fields and end.', **own_flags)
    flags.DEFINE_boolean('multi_host', False, FLAG_HELP['multi_host'], **own_flags)
    for name, define, limit in (
        ('coordinator_address', flags.DEFINE_string, {}),
        ('num_processes', flags.DEFINE_integer, {'lower_bound': 1}),
        ('process_id', flags.DEFINE_integer, {'lower_bound': 0}),
    ):
        define(name, None, FLAG_HELP[name], **limit, **own_flags)
    arguments = sys.argv[1:]
    if not arguments or any(argument in ('-h', '--help') for argument in arguments):
        print(__doc__)
        print('Any field: --config.GROUP.FIELD=VALUE; with --print_config all of them are shown.')
        print(f'Experiments that come with it: {", ".join(config_reading.shipped())}')
        sys.exit(0 if arguments else 2)
    try:
        arguments = values.read_flags_from_files(arguments, force_gnu=False)
        own, others = config_reading.split_arguments(arguments)
        rest = values([sys.argv[0], *others])
    except flags.Error as error:
        text = ' '.join(str(error).split())
        if isinstance(error, flags.UnrecognizedFlagError):
            from multitrain_jax.config import Config  # it brings JAX

            if error.flagname.partition('.')[0] in Config.__dataclass_fields__:
                text = f'unknown flag --{error.flagname}; did you mean --config.{error.flagname}?'
        raise UserError(text) from error
    if rest[1:]:
        raise UserError(f'unexpected argument {rest[1]!r}; flags begin with --')
    if not any(argument.startswith('--config=') for argument in own):
        raise UserError('--config is missing, for example --config=configs/quickstart.py')
    if not (values.workdir or values.print_config):
        raise UserError('--workdir is missing, for example --workdir=runs/quickstart')
    return values, own


def main() -> int:
    values, arguments = _parse_flags()

    import jax  # after the flags: mistakes in them are answered at once

    from multitrain_jax.config import describe, load_config
    from multitrain_jax.evaluation import results
    from multitrain_jax.parallel import host_memory, mesh
    from multitrain_jax.reporting import progress

    config = load_config(arguments)
    if values.print_config:
        print(describe(config))
        return 0
    if config.cpu_devices:
        mesh.use_cpu_devices(config.cpu_devices)
    by_hand = values.coordinator_address, values.num_processes, values.process_id
    with joined(values.multi_host, *by_hand):
        host_memory.keep_freed_memory()
        from multitrain_jax.replay import replay
        from multitrain_jax.train import train_and_evaluate
        from multitrain_jax.training.workdir import make_workdir

        workdir = make_workdir(values.workdir)
        progress.set_up_logging(workdir, process=jax.process_index())
        if config.replay is not None:
            print(replay(config, workdir))
            return 0
        if config.probe is not None:
            from multitrain_jax.probing import run

            outcomes = run.run(config, workdir)
            print('\n'.join([*run.table(config, outcomes), '', *run.models(workdir, outcomes)]))
            return 0
        outcome = train_and_evaluate(config, workdir)
        if jax.process_index() == 0:
            print(results.table(outcome))
    return 0


if __name__ == '__main__':
    run_command(main)
