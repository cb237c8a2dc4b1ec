"""What is finished is not done again, and half a line is as none."""

import json

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
