"""Writes a run on one page of HTML: curves, accuracy, classes, clips. Also while it trains.

    python -m multitrain_jax.report runs/quickstart
    python -m multitrain_jax.report runs/quickstart --output=quickstart.html

The page needs no network and no other file. Clips are read from the run's data: start it where the
run was started. It computes on the CPU, beside a run on an accelerator.
"""

from multitrain_jax.errors import ArgumentParser, run_command


def main() -> int:
    parser = ArgumentParser('multitrain_jax.report', __doc__)
    parser.add_argument('workdir', metavar='WORKDIR', help='of a run that trains or has trained')
    parser.add_argument('--output', help='the page (default: WORKDIR/report.html)')
    args = parser.parse_args()
    import jax  # after the arguments: --help stays fast

    jax.config.update('jax_platforms', 'cpu')  # the run may hold the accelerators
    from multitrain_jax import run_report

    print(f'report: {run_report.write(args.workdir, args.output)}')
    return 0


if __name__ == '__main__':
    run_command(main)
