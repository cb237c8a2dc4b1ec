"""Views per second of an evaluation, and what reading and computing reach alone.

    python -m benchmarks.evaluate [--videos=50] [--rounds=3]

The protocol and model of configs/quickstart.py, with random parameters, on synthetic videos that
are rendered and converted for the occasion. "together" is what the evaluation of a run does;
"reading" makes the same batches and throws them away; "computing" scores one batch as often as
there are batches. The three take turns; medians. The evaluation waits for data where reading alone
is not faster than computing alone. On CPU both share the cores.
"""

import argparse
import tempfile

import jax
import numpy as np

from benchmarks import synthetic_step
from multitrain_jax.config import read_config, with_datasets
from multitrain_jax.evaluation import results, views
from multitrain_jax.models.multitrain import abstract_model
from multitrain_jax.parallel import host_memory
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import data_mesh, replicate
from multitrain_jax.record_data import RecordData


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--videos', type=int, default=50, help='of each of the two datasets')
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    host_memory.keep_freed_memory()
    with tempfile.TemporaryDirectory() as root:
        values = synthetic_step.shipped_config('quickstart').to_dict()
        values['synthetic'] |= dict(train_videos=20, validation_videos=args.videos)
        config = read_config(values | dict(data_root=root))
        source = RecordData(config)
        driver = Pmap(data_mesh())
        graphdef, shapes = abstract_model(with_datasets(config, source.datasets))
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf: 0.02 * rng.standard_normal(leaf.shape, np.float32), shapes
        )
        params = replicate(params, driver.mesh)
        step = views.make_eval_step(graphdef, source.datasets, config.augment, driver)
        heads = range(len(source.datasets))
        first = next(source.evaluation_batches(0))
        share = driver.to_devices(views.model_inputs(first))
        batches = sum(1 for head in heads for _ in source.evaluation_batches(head))

        def reading() -> None:
            for head in heads:
                for _ in source.evaluation_batches(head):
                    pass

        def computing() -> None:
            for _ in range(batches):
                scores = step(params, share)
            jax.block_until_ready(scores)

        runs = [lambda: results.evaluate(step, params, source, driver), reading, computing]
        taken = synthetic_step.take_turns(runs, args.rounds)
    count = sum(dataset.evaluation_records * dataset.views for dataset in source.datasets)
    device = jax.devices()[0]
    print(
        f'jax {jax.__version__}, {device.device_kind} ({device.platform}), {count} views in '
        f'{batches} batches'
    )
    for name, own in zip(('together', 'reading', 'computing'), taken):
        print(
            f'{name:<12}{count / own[0]:>9.0f} views/s {count / own[1]:>9.0f} views per s of '
            'processor time'
        )


if __name__ == '__main__':
    main()
