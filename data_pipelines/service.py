"""Makes training batches on other machines' processors, over TensorFlow's tf.data service.

    python -m data_pipelines.service dispatcher --port=5050            # once, on any machine
    python -m data_pipelines.service worker --dispatcher=HOST:5050     # on every machine to help

and in training `config.input.tf_data_service = 'HOST:5050'`. The workers need this code, the same
data under the same paths, and TensorFlow. Whoever can reach the ports can have them read and run
things: keep them inside a trusted network.
"""

import argparse
import sys

from data_pipelines.command_line import EXIT_INTERRUPTED, ArgumentParser, exit_code
from data_pipelines.service_batches import start_dispatcher, start_worker


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(
        prog='python -m data_pipelines.service',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    roles = parser.add_subparsers(dest='role', required=True)
    role = roles.add_parser('dispatcher', help='deals out work')
    role.add_argument('--port', type=int, default=5050, help='to listen on (default: 5050)')
    role = roles.add_parser('worker', help='makes batches')
    role.add_argument('--dispatcher', required=True, help='HOST:PORT of the dispatcher')
    role.add_argument('--port', type=int, default=0, help='to listen on (default: any)')
    role.add_argument(
        '--host', help='name or address that trainers reach this machine by (default: its name)'
    )
    role.add_argument('--threads', type=int, help='that decode (default: one per core)')
    args = parser.parse_args(arguments)
    return exit_code(lambda: _serve(args))


def _serve(args: argparse.Namespace) -> int:
    if not 0 <= args.port <= 65535:
        raise ValueError(f'--port={args.port}: must be from 0 to 65535')
    if args.role == 'dispatcher':
        server = start_dispatcher(args.port)
        print(f'dispatcher at {server.target}', flush=True)
    else:
        server = start_worker(
            args.dispatcher, port=args.port, host=args.host, num_threads=args.threads
        )
        print(f'worker for {args.dispatcher}', flush=True)
    try:
        server.join()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


if __name__ == '__main__':
    sys.exit(main())
