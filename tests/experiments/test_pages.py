"""Pages say what their lines say: means, paired differences, intervals, worked out by hand."""

import json
from pathlib import Path
import re

import numpy as np
import pytest

from experiments import (
    cofinetuning_page,
    diagnose,
    diagnose_page,
    multitrain,
    multitrain_page,
    page,
)
from experiments.ledger import Ledger

SEEDS = (0, 1, 2)
DONE = {'seconds': 60.0, 'finished': 1_700_000_000}


def ledger_of(lines, path) -> Ledger:
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return Ledger(path)


def row_of(text: str, *cells: str, more: int = 0) -> list[str]:
    """The cells of the only row that begins with these (and has so many `more`)."""
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()]
    rows = [row for row in rows if tuple(row[: len(cells)]) == cells]
    (found,) = [row for row in rows if not more or len(row) == len(cells) + more]
    return found[len(cells) :]


def test_interval_is_students():
    mean, low, high = page.interval(np.array([1.0, 2.0, 3.0, 6.0]))
    half = 3.182446 * np.std([1, 2, 3, 6], ddof=1) / 2  # t of 3 degrees of freedom
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - half, 3.0 + half), abs=1e-5)
    assert page.verdict(np.array([1.0, 1.1, 0.9])).startswith('gain: +1.0 [')
    assert page.verdict(np.array([-1.0, -1.1, -0.9])).startswith('loss: -1.0 [')
    assert page.verdict(np.array([-1.0, 1.1, 0.2])).startswith('no difference found: +0.1 [')


def test_claims_put_equal_verdicts_together():
    more, less = np.array([1.0, 1.1, 0.9]), np.array([-2.0, -2.1, -1.9])
    none = np.array([-1.0, 1.1, 0.2])
    text = page.claim('a against b', {'2': more, '4': none, '8': more + 1, '16': less})
    gains, nothing, losses = text.removeprefix('a against b: ').split('; ')
    assert gains.startswith('gain, 2 +1.0 [') and ', 8 +2.0 [' in gains
    assert nothing.startswith('no difference found, 4 +0.1 [')
    assert losses.startswith('loss, 16 -2.0 [')


def diagnose_line(seed, top1, **condition):
    look = {'step': 0, 'gradient/cosine': 0.25}
    look |= {f'gradient/{name}': 2.0 for name in ('cross_entropy', 'projection', 'informative')}
    look |= {'gradient/std': 5.0, 'gradient/covariance': 1.0}
    look |= {
        f'{part}/{what}': 3.0
        for part in ('embedding', 'expanded')
        for what in ('deviation', 'effective_rank', 'between_classes')
    }
    line = {'start': 'random', 'batch': 16, 'lambda_inf': 0.0, **diagnose.PLAIN}
    line |= {'watched': False, 'seed': seed, 'average': top1, 'train_top1': 0.99}
    line |= {'cross_entropy': 0.57, **DONE, **condition}
    return line | ({'trace': [look, {**look, 'step': 9}]} if line['watched'] else {})


def test_diagnose(tmp_path):
    lines = []
    for seed, base in zip(SEEDS, (0.70, 0.80, 0.60)):
        lines += [
            diagnose_line(seed, base),
            diagnose_line(seed, base - 0.10 - 0.01 * seed, lambda_inf=0.1),
            diagnose_line(seed, base - 0.05, lambda_inf=0.1, ramp=0.5),
            diagnose_line(seed, base - 0.04, lambda_inf=0.1, part='std'),
            diagnose_line(seed, base - 0.01, lambda_inf=0.1, part='covariance'),
            diagnose_line(seed, base + 0.02, lambda_proj=1.0),
        ]
    lines.append(diagnose_line(0, 0.5, lambda_inf=0.1, lambda_proj=1.0, watched=True))
    lines.append(lines[-1] | {'batch': 256})
    weak = diagnose_line(0, 0.5, lambda_inf=0.01, lambda_proj=1.0, watched=True)
    weak['trace'] = [
        look
        | {
            'gradient/informative': 0.2,
            'embedding/effective_rank': 2.0,
            'embedding/between_classes': 4.0,
        }
        for look in weak['trace']
    ]
    lines.append(weak)
    written = tmp_path / 'DIAGNOSE.md'
    diagnose_page.write(written, ledger_of(lines, tmp_path / 'a.jsonl'))
    text = written.read_text()
    assert (
        "* lambda_inf 0.1, the paper's: loss, random start and batch 16 -11.0 [-13.5, -8.5]."
        in text
    )
    first = row_of(text, 'random start', '16', '0')
    assert first == ['70.0 ± 10.0', '', '99', '0.57']
    other = row_of(text, 'random start', '16', '0.1', more=4)
    assert other[1] == '-11.0 [-13.5, -8.5], 0/3'
    assert 'at batch 256 has not been measured' in text and 'at batch 16' not in text
    assert 'loss, variance term -4.0 [-4.0, -4.0], covariance term -1.0 [' in text
    assert 'lambda_inf 0.1 -15.5 to -7.0, here loss: -11.0 [-13.5, -8.5]' in text
    assert '0.1 beside 0.01: before the first update' in text and 'not classes.' in text
    assert (
        'backbone 1.0 and 0.1 times as hard' in text
        and 'rank of 3 and 2, and 300 and 400 %' in text
    )
    ramp = row_of(text, 'random start', 'batch 16, rising over half of the updates')
    assert ramp[1].startswith('+6.0 [') and ramp[2].startswith('-5.0 [')
    assert row_of(text, 'random start', 'variance term alone')[1].startswith('+7.0 [')
    assert row_of(text, 'random start', 'projection')[2].startswith('+2.0 [')
    assert row_of(text, 'random start', '16', '0.1', '9')[:4] == ['2.00', '1.00', '2.50', '0.50']
    assert len((tmp_path / 'DIAGNOSE.jsonl').read_text().splitlines()) == len(lines)
    assert all((tmp_path / f'DIAGNOSE_{name}.png').exists() for name in ('LAMBDA', 'TRACE'))


def test_variance_between_classes():
    groups = np.repeat([0, 1, 2], 50)
    noise = np.random.default_rng(0).normal(size=(150, 4))
    noise -= np.stack([noise[groups == group].mean(0) for group in groups])
    means = np.array([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0, 2.0, 0, 0]])[groups]
    assert diagnose.between_classes(means, groups) == pytest.approx(1)
    assert diagnose.between_classes(noise, groups) == pytest.approx(0)
    share = means.var(0).sum() / (means.var(0).sum() + noise.var(0).sum())
    assert diagnose.between_classes(means + noise, groups) == pytest.approx(share)


def multitrain_lines(gain: dict[str, float]):
    names = multitrain.DATASETS[:2]
    for search in (True, False):
        for seed in SEEDS:
            common = {
                'videos': 24,
                'clips': 99,
                'seed': seed,
                'rate': 1e-3,
                'search': search,
                **DONE,
            }
            for place, name in enumerate(names):
                top1 = {name: 0.5 + 0.1 * place + 0.01 * seed}
                yield {'arm': 'single', 'dataset': name, 'top1': top1, **common}
            for arm, more in gain.items():
                top1 = {
                    name: 0.5 + 0.1 * place + 0.01 * seed + more * (1 + seed / 10)
                    for place, name in enumerate(names)
                }
                line = {'arm': arm, 'datasets': 2, 'top1': top1, **common}
                if arm == 'projection':
                    line |= {
                        'lambda_proj': 0.3,
                        'related': {'a to b': [6, 8, 1.6], 'b to a': [3, 10, 2.0]},
                    }
                yield line


def test_multitrain(tmp_path):
    lines = list(multitrain_lines({'joint': 0.05, 'projection': 0.03, 'both': 0.08}))
    # Other numbers of videos do not belong to the comparison.
    lines.append(lines[-1] | {'videos': 96, 'top1': dict.fromkeys(multitrain.DATASETS[:2], 1.0)})
    written = tmp_path / 'MULTITRAIN.md'
    multitrain_page.write(written, ledger_of(lines, tmp_path / 'a.jsonl'), multitrain.DATASETS)
    text = written.read_text()
    assert '* Joint training against single models: gain, 2 datasets +5.5 [' in text
    assert '(both losses) against joint training: gain, 2 datasets +3.3 [' in text
    assert row_of(text, '+ projection loss', more=1)[0] == '-2.2 [-2.7, -1.7], 0/3'
    assert row_of(text, 'single models', '3')[0] == '56.0 ± 1.0'
    assert row_of(text, 'joint, cross-entropy', '3')[:2] == ['61.5 ± 1.5', '56.5 ± 1.5']
    assert row_of(text, '+ projection loss', '0.001') == ['', '0.3']
    assert row_of(text, '+ projection loss', '2', '24') == ['50.0 ± 0.0', '20.0']


def test_cofinetuning(tmp_path):
    lines = []
    for search in (True, False):
        for seed in SEEDS:
            for arm, more in {'alone': 0.0, 'transfer': 0.1, 'weighted': 0.2}.items():
                figures = {
                    name: 0.3 + more + 0.01 * seed * (1 + more)
                    for name in ('mAP', 'frequent', 'middle')
                }
                line = {
                    'arm': arm,
                    'seed': seed,
                    'rate': 0.002,
                    'part': 0.25,
                    'search': search,
                    **figures,
                }
                line |= {'rare': 0.1 + 0.01 * seed, 'loss': 0.1, **DONE}
                lines.append(line | ({} if arm == 'alone' else {'upstream': 0.8}))
    written = tmp_path / 'COFINETUNING.md'
    cofinetuning_page.write(written, ledger_of(lines, tmp_path / 'a.jsonl'))
    text = written.read_text()
    first, *_ = [line for line in text.splitlines() if line.startswith('*')]
    assert first == '* Co-finetuning against transfer, mAP: gain, weighted +10.1 [+9.9, +10.3].'
    assert 'transfer, rare third: no difference found, weighted +0.0 [+0.0, +0.0].' in text
    assert row_of(text, 'scenes only', '3') == ['31.0 ± 1.0'] * 3 + ['11.0 ± 1.0', '']
    assert row_of(text, 'transfer', '0.002') == ['0.25']


HERE = Path(page.__file__).parent
WRITERS = {
    'COFINETUNING': (cofinetuning_page, ()),
    'DIAGNOSE': (diagnose_page, ()),
    'MULTITRAIN': (multitrain_page, (multitrain.DATASETS,)),
}


@pytest.mark.parametrize('name', WRITERS)
def test_committed_pages_say_what_their_lines_say(name, tmp_path, monkeypatch):
    module, arguments = WRITERS[name]
    for plot in [function for function in vars(module) if function.startswith('_plot')]:
        monkeypatch.setattr(module, plot, lambda *args: None)
    committed, written = HERE / f'{name}.md', tmp_path / f'{name}.md'
    module.write(written, Ledger(committed.with_suffix('.jsonl')), *arguments)

    def told(path):
        """Without the line that names the machine."""
        lines = path.read_text(encoding='utf-8').splitlines()
        return [line for line in lines if ' one core of ' not in line]

    assert told(written) == told(committed)
    for picture in re.findall(r'!\[.*\]\((.*)\)', committed.read_text(encoding='utf-8')):
        assert 1000 < (HERE / picture).stat().st_size < 300_000
