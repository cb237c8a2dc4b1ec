"""Trains, evaluates and exports one experiment; continues where --workdir stopped.

python run.py --config=configs/quickstart.py --workdir=runs/quickstart
python run.py --config=configs/quickstart.py --workdir=runs/other --config.epochs=5 --config.seed=1
"""

import sys

from absl import flags
from ml_collections import config_flags

from multitrain_jax import config_file
from multitrain_jax.errors import UserError, run_command
from multitrain_jax.parallel.hosts import FLAG_HELP, joined

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Experiment, a file of configs/.', lock_config=True
)
flags.DEFINE_string(
    'workdir', None, 'Gets checkpoints, metrics and the export; a run continues from it.'
)

flags.DEFINE_boolean('multi_host', False, FLAG_HELP['multi_host'])
flags.DEFINE_string('coordinator_address', None, FLAG_HELP['coordinator_address'])
flags.DEFINE_integer('num_processes', None, FLAG_HELP['num_processes'], lower_bound=1)
flags.DEFINE_integer('process_id', None, FLAG_HELP['process_id'], lower_bound=0)


def _parse_flags() -> None:
    """Reads the command line; every mistake in it becomes one line."""
    if len(sys.argv) == 1 or any(argument in ('-h', '--help') for argument in sys.argv[1:]):
        print(__doc__)
        print('Any field: --config.GROUP.FIELD=VALUE; the fields are commented in the config file.')
        sys.exit(0 if len(sys.argv) > 1 else 2)
    try:
        rest = FLAGS(sys.argv)
        config = _CONFIG.value
        if config is not None:
            config.to_dict()  # a file that could not be loaded fails here, not before
    except config_file.MISTAKES as error:
        raise UserError(config_file.explain(error, sys.argv[1:])) from error
    if rest[1:]:
        raise UserError(f'unexpected argument {rest[1]!r}; flags begin with --')
    if config is None:
        raise UserError('--config is missing, for example --config=configs/quickstart.py')
    if not FLAGS.workdir:
        raise UserError('--workdir is missing, for example --workdir=runs/quickstart')


def main() -> int:
    _parse_flags()

    import jax  # after the flags: mistakes in them are answered at once

    from multitrain_jax.config import read_config
    from multitrain_jax.evaluation import results
    from multitrain_jax.parallel import host_memory, mesh
    from multitrain_jax.reporting import progress

    config = read_config(_CONFIG.value)
    if config.cpu_devices:
        mesh.use_cpu_devices(config.cpu_devices)
    with joined(FLAGS.multi_host, FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id):
        host_memory.keep_freed_memory()
        from multitrain_jax.train import make_workdir, train_and_evaluate
        from multitrain_jax.training.replay import replay

        workdir = make_workdir(FLAGS.workdir)
        progress.set_up_logging(workdir, process=jax.process_index())
        if config.replay is not None:
            print(replay(config, workdir))
            return 0
        outcome = train_and_evaluate(config, workdir)
        if jax.process_index() == 0:
            print(results.table(outcome))
    return 0


if __name__ == '__main__':
    run_command(main)
