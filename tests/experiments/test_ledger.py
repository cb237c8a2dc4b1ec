"""What is finished is not done again, and half a line is as none."""

import json
import multiprocessing
import time

from experiments.ledger import Ledger


def test_goes_on_where_it_was_stopped(tmp_path):
    path, done = tmp_path / 'runs' / 'a.jsonl', []

    def run(seed):
        done.append(seed)
        return {'top1': seed / 10}

    for seed in (1, 2):
        Ledger(path).ensure({'arm': 'joint', 'seed': seed}, lambda seed=seed: run(seed))
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 4])
    ledger = Ledger(path)
    assert ledger.ensure({'seed': 2, 'arm': 'joint'}, lambda: run(2))['top1'] == 0.2
    ledger.ensure({'arm': 'joint', 'seed': 3}, lambda: run(3))
    assert done == [1, 2, 3]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line['seed'] for line in lines] == [1, 2, 3] == [x['seed'] for x in Ledger(path).lines]
    assert [line['top1'] for line in ledger.find(arm='joint', seed=3)] == [0.3]
    assert not ledger.find(arm='single')


def _share(path, number):
    """Does four trainings with another process; each waits in its first until both are in one."""
    ledger = Ledger(path)

    def run():
        path.with_name(f'in_{number}').touch()
        end = time.monotonic() + 60
        while len(list(path.parent.glob('in_*'))) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        return {'by': number}

    ledger.spread([lambda seed=seed: ledger.ensure({'seed': seed}, run) for seed in range(4)])
    assert [ledger.find(seed=seed)[0]['seed'] for seed in range(4)] == [0, 1, 2, 3]


def test_processes_share_the_trainings(tmp_path):
    context = multiprocessing.get_context('spawn')
    path = tmp_path / 'a.jsonl'
    both = [context.Process(target=_share, args=(path, number)) for number in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    lines = Ledger(path).lines
    assert sorted(line['seed'] for line in lines) == [0, 1, 2, 3]
    assert {line['by'] for line in lines} == {0, 1}


def test_best_value_by_the_mean_over_seeds(tmp_path):
    figures = {(0.1, 0): 3.0, (0.1, 1): 5.0, (0.2, 0): 9.0, (0.2, 1): 0.0}
    ledger = Ledger(tmp_path / 'a.jsonl')
    assert ledger.best((0.1, 0.2), (0, 1), lambda *key: figures[key]) == 0.2
    figures[0.2, 0] = 7.0
    assert ledger.best((0.1, 0.2), (0, 1), lambda *key: figures[key]) == 0.1
