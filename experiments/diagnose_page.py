"""The page of `diagnose.py`: tables and plots, from its lines alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import page
from experiments.ledger import Ledger
from experiments.page import row, table_head

_STARTS = {'random': 'random start', 'pretrained': 'pre-trained start'}
_TERMS = {
    'cross_entropy': 'cross-entropy',
    'projection': 'projection loss',
    'std': 'variance term',
    'covariance': 'covariance term',
}


def write(path: Path, ledger: Ledger) -> None:
    """Writes the page and, beside it, its plots and a copy of the lines."""
    lines = [line for line in ledger.lines if 'start' in line]
    plain = [line for line in lines if not line['watched']]
    traced = [line for line in lines if line['watched']]
    pictures = [path.with_name(f'{path.stem}_{name}.png') for name in ('LAMBDA', 'TRACE')]
    _plot_lambda(pictures[0], plain)
    _plot_traces(pictures[1], traced)
    text = [
        '# What the two losses do to a small model',
        '',
        *_findings(plain),
        '',
        *_why(plain, traced),
        *_before(plain),
        *_unmeasured(plain, traced),
        page.WRITTEN,
        '',
        '    python experiments/diagnose.py --output=runs/method',
        '',
        f'{page.date_and_machine(lines)} Top-1 on the validation videos of both datasets, percent,'
        f' mean over seeds ± standard deviation. {page.PAIRED}',
        *_section('lambda_inf, by start and batch', _lambda_table(plain)),
        *_section(
            'Warm-up of the informative loss', _other_table(plain, _is_ramp, 'lambda_inf 0.1')
        ),
        *_section(
            'Its terms by themselves, batch 16, lambda_inf 0.1',
            _other_table(plain, _is_part, 'term'),
        ),
        *_section('Projection loss, batch 16', _other_table(plain, _is_projection, 'loss')),
        *_section(
            'Plain accumulation: the informative loss of every 16 clips by itself',
            _other_table(plain, _is_plain, 'batch, lambda_inf'),
        ),
        *_section('Gradients and spectra', _trace_table(traced)),
        '',
        f'![accuracy by lambda_inf]({pictures[0].name})',
        '',
        f'![gradient shares and spectra along a training]({pictures[1].name})',
        *page.checked(ledger),
        '',
    ]
    path.write_text('\n'.join(text), encoding='utf-8')
    page.copy_lines(path, ledger)


def _findings(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the figures say: a sentence for each change of the loss, by start and batch."""
    changes = {
        f'lambda_inf {lam:g}' + (", the paper's" if lam == 0.1 else ''): {'lambda_inf': lam}
        for lam in sorted({line['lambda_inf'] for line in lines} - {0.0}, reverse=True)
    }
    changes['lambda_inf rising to 0.1 over half of the updates'] = {'lambda_inf': 0.1, 'ramp': 0.5}
    changes['the projection loss alone'] = {'lambda_proj': 1.0}
    found = []
    for title, change in changes.items():
        differences = {}
        for start, name in _STARTS.items():
            for batch in sorted({line['batch'] for line in lines}):
                base = {'start': start, 'batch': batch, 'lambda_inf': 0.0, **_PLAIN}
                values = _difference(lines, base | change, base)
                if len(values) > 1:
                    differences[f'{name} and batch {batch}'] = values
        if differences:
            found.append(f'* {page.claim(title, differences)}.')
    return ['In points of top-1, against cross-entropy alone:', '', *found]


def _why(plain: Sequence[Mapping[str, Any]], traced: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the figures say of the reason, at batch 16."""
    found = []
    for start, title in _STARTS.items():
        base = {'start': start, 'batch': 16, 'lambda_inf': 0.0, **_PLAIN}
        parts = {
            name: _difference(plain, base | {'lambda_inf': 0.1, 'part': part}, base)
            for part, name in (('std', 'variance term'), ('covariance', 'covariance term'))
        }
        if all(len(values) > 1 for values in parts.values()):
            learned = [
                np.mean(list(_by_seed(plain, 'train_top1', **one).values()))
                for one in (base | {'lambda_inf': 0.1}, base)
            ]
            found.append(
                f'* {page.claim(f"{title}, 0.1, each term by itself", parts)}. Top-1 on training '
                f'clips is {learned[0]:.0f} % with both and {learned[1]:.0f} % without.'
            )
        looks = [
            line['trace']
            for lam in (0.1, 0.01)
            for line in traced
            if _is(line, start=start, batch=16, lambda_inf=lam)
        ]
        if len(looks) == 2:
            pull, rank, between = (
                [one(trace) for trace in looks]
                for one in (
                    lambda trace: (
                        trace[0]['gradient/informative'] / trace[0]['gradient/cross_entropy']
                    ),
                    lambda trace: trace[-1]['embedding/effective_rank'],
                    lambda trace: 100 * trace[-1]['embedding/between_classes'],
                )
            )
            text = (
                f'* {title}, 0.1 beside 0.01: before the first update the informative loss pulls '
                f'the backbone {pull[0]:.1f} and {pull[1]:.1f} times as hard as the cross-entropy; '
                f'in the end the embedding has an effective rank of {rank[0]:.0f} and '
                f'{rank[1]:.0f}, and {between[0]:.0f} and {between[1]:.0f} % of its variance on '
                'validation clips is between classes'
            )
            if rank[0] > rank[1] and between[0] < between[1]:
                text += ': the dimensions that the loss adds tell clips apart, not classes'
            found.append(f'{text}.')
    return ['Why (batch 16):', '', *found, ''] if found else []


# By the quickstart's own data path and model (16 frames of 64 px), 80 videos of each dataset, 1000
# updates at batch 16 from a random start: the least and the most of two seeds and two datasets.
_BEFORE = {
    'lambda_inf 0.1': ({'lambda_inf': 0.1}, (-15.5, -7.0)),
    'lambda_inf 0.01': ({'lambda_inf': 0.01}, (-1.5, 5.5)),
    'the projection loss': ({'lambda_proj': 1.0}, (-2.5, 5.0)),
}


def _before(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What two seeds of the quickstart said, beside this page."""
    base = {'start': 'random', 'batch': 16, 'lambda_inf': 0.0, **_PLAIN}
    texts = []
    for title, (change, (least, most)) in _BEFORE.items():
        values = _difference(lines, base | change, base)
        if len(values) > 1:
            texts.append(f'{title} {least:+.1f} to {most:+.1f}, here {page.verdict(values)}')
    if not texts:
        return []
    return [
        'Two seeds of the quickstart (another model: 16 frames of 64 px, 1000 updates) had said, '
        f'from a random start: {"; ".join(texts)}.',
        '',
    ]


def _unmeasured(
    plain: Sequence[Mapping[str, Any]], traced: Sequence[Mapping[str, Any]]
) -> list[str]:
    missing = sorted({line['batch'] for line in traced} - {line['batch'] for line in plain})
    return [
        text
        for batch in missing
        for text in (
            f'Accuracy at batch {batch} has not been measured yet: it is in the last table only.',
            '',
        )
    ]


def _section(title: str, body: Sequence[str]) -> list[str]:
    return ['', f'## {title}', '', *body] if body else []


def _is(line: Mapping[str, Any], **wanted: Any) -> bool:
    return all(line[name] == value for name, value in wanted.items())


_PLAIN = {'lambda_proj': 0.0, 'ramp': 0.0, 'accumulation': 'two_pass', 'part': 'both'}


def _by_seed(lines: Sequence[Mapping[str, Any]], figure: str, **wanted: Any) -> dict[int, float]:
    scale = 1.0 if figure == 'cross_entropy' else 100.0
    return {line['seed']: scale * line[figure] for line in lines if _is(line, **wanted)}


def _difference(
    lines: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any], other: Mapping[str, Any]
) -> np.ndarray:
    """f[seeds], of those that both have."""
    mine, base = (_by_seed(lines, 'average', **one) for one in (wanted, other))
    return np.array([mine[seed] - base[seed] for seed in sorted(mine.keys() & base.keys())])


def _paired(
    lines: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any], other: Mapping[str, Any]
) -> str:
    return page.difference(_difference(lines, wanted, other))


def _lambda_table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for start, title in _STARTS.items():
        for batch in sorted({line['batch'] for line in lines}):
            base = {'start': start, 'batch': batch, 'lambda_inf': 0.0, **_PLAIN}
            for lam in sorted({line['lambda_inf'] for line in lines}):
                own = base | {'lambda_inf': lam}
                top1 = np.array(list(_by_seed(lines, 'average', **own).values()))
                if len(top1) < 2:
                    continue
                means = [
                    np.mean(list(_by_seed(lines, name, **own).values()))
                    for name in ('train_top1', 'cross_entropy')
                ]
                cells = [
                    str(batch),
                    f'{lam:g}',
                    page.spread(top1),
                    _paired(lines, own, base) if lam else '',
                    f'{means[0]:.0f}',
                    f'{means[1]:.2f}',
                ]
                rows.append(row(title, cells))
    head = ['start', 'batch', 'lambda_inf', 'top-1', 'more than 0', 'train top-1', 'train CE']
    note = (
        '"train": augmented, mixed clips of the last 25 updates (labels smoothed: a cross-entropy '
        'of about 0.5 is the least there is).'
    )
    return [*table_head(head), *rows, '', note]


def _is_ramp(line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    if not line['ramp']:
        return None
    return f'batch {line["batch"]}, rising over half of the updates', {'ramp': 0.0}


def _is_part(line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    if line['part'] == 'both':
        return None
    return f'{_TERMS[line["part"]]} alone', {'part': 'both'}


def _is_projection(line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    if not line['lambda_proj']:
        return None
    lam = line['lambda_inf']
    name = f'projection and informative {lam:g}' if lam else 'projection'
    return name, {'lambda_proj': 0.0, 'lambda_inf': 0.0}


def _is_plain(line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    if line['accumulation'] != 'plain':
        return None
    return f'{line["batch"]}, {line["lambda_inf"]:g}', {'accumulation': 'two_pass'}


def _other_table(
    lines: Sequence[Mapping[str, Any]],
    kind: Callable[[Mapping[str, Any]], tuple[str, Mapping[str, Any]] | None],
    title: str,
) -> list[str]:
    """What differs in one thing from another condition."""
    against = {
        _is_ramp: 'more than from the start on',
        _is_part: 'more than both terms',
        _is_projection: 'more than cross-entropy alone',
        _is_plain: 'more than two-pass',
    }[kind]
    names = ('start', 'batch', 'lambda_inf', *_PLAIN)
    rows, seen = [], []
    for line in lines:
        found, own = kind(line), {name: line[name] for name in names}
        if found is None or own in seen:
            continue
        seen.append(own)
        base = own | found[1]
        if len(_by_seed(lines, 'average', **own)) < 2 or not _by_seed(lines, 'average', **base):
            continue
        zero = own | {**_PLAIN, 'lambda_inf': 0.0}
        top1 = np.array(list(_by_seed(lines, 'average', **own).values()))
        cells = [found[0], page.spread(top1), _paired(lines, own, base), _paired(lines, own, zero)]
        rows.append((own['start'] == 'pretrained', row(_STARTS[own['start']], cells)))
    if not rows:
        return []
    head = ['start', title, 'top-1', against, 'more than lambda_inf 0']
    return [*table_head(head), *[text for _, text in sorted(rows, key=lambda one: one[0])]]


def _trace_table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """First, an early, and the last look at each training."""
    rows = []
    for line in lines:
        last = len(line['trace']) - 1
        for place in sorted({0, min(2, last), last // 2, last}):
            look = line['trace'][place]
            base = look['gradient/cross_entropy']
            cells = [
                f'{line["batch"]}',
                f'{line["lambda_inf"]:g}',
                str(look['step']),
                f'{base:.2f}',
                *[f'{look[f"gradient/{name}"] / base:.2f}' for name in list(_TERMS)[1:]],
                f'{look["gradient/cosine"]:+.2f}',
                f'{look["embedding/effective_rank"]:.0f}',
                f'{look["embedding/deviation"]:.2f}',
                f'{100 * look["embedding/between_classes"]:.0f}',
                f'{look["expanded/effective_rank"]:.0f}',
                f'{look["expanded/deviation"]:.2f}',
            ]
            rows.append(row(_STARTS[line['start']], cells))
    if not rows:
        return []
    head = ['start', 'batch', 'lambda_inf', 'update', 'CE gradient', *list(_TERMS.values())[1:]]
    head += [
        'cosine',
        'rank',
        'deviation',
        'between classes, %',
        'rank expanded',
        'deviation expanded',
    ]
    note = (
        'Norms at the parameters of the backbone, of one batch: that of the cross-entropy, and '
        'those of the others (with their weights) as multiples of it; "cosine" is between the '
        'cross-entropy and the informative loss. Embedding and expansion have 64 dimensions; '
        'ranks, deviations and the part of the variance between classes are of validation clips.'
    )
    return [*table_head(head), *rows, '', note]


def _plot_lambda(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    figure, axes = page.panels(1, len(_STARTS))
    places = sorted({line['lambda_inf'] for line in lines})
    for panel, (start, title) in zip(axes[0], _STARTS.items()):
        for batch in sorted({line['batch'] for line in lines}):
            x, y, error = [], [], []
            for place, lam in enumerate(places):
                own = {'start': start, 'batch': batch, 'lambda_inf': lam, **_PLAIN}
                top1 = list(_by_seed(lines, 'average', **own).values())
                if top1:
                    x.append(place)
                    y.append(np.mean(top1))
                    error.append(np.std(top1) / max(len(top1) - 1, 1) ** 0.5)
            panel.errorbar(x, y, error, marker='o', capsize=3, label=f'batch {batch}')
        panel.set_xticks(range(len(places)), [f'{lam:g}' for lam in places])
        panel.set_title(title, fontsize=9)
        panel.set_xlabel('lambda_inf')
        panel.grid(linewidth=0.3)
    axes[0][0].set_ylabel('top-1, %')
    axes[0][0].legend(fontsize=8)
    figure.savefig(path)


def _plot_traces(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Above gradient shares, below spectra, a column for each training."""
    figure, axes = page.panels(2, max(len(lines), 1), sharey='row', sharex='col', width=2.6)
    for column, line in enumerate(lines):
        steps = [look['step'] for look in line['trace']]
        norms = {
            name: np.array([look[f'gradient/{name}'] for look in line['trace']]) for name in _TERMS
        }
        total = sum(norms.values())
        upper, lower = axes[0][column], axes[1][column]
        upper.stackplot(
            steps, [norms[name] / total for name in _TERMS], labels=list(_TERMS.values())
        )
        upper.set_title(
            f'{_STARTS[line["start"]]}\nbatch {line["batch"]}, lambda_inf {line["lambda_inf"]:g}',
            fontsize=8,
        )
        upper.set_ylim(0, 1)
        upper.margins(x=0)
        for name, style in (('embedding', '-'), ('expanded', '--')):
            for what, colour in (
                ('effective_rank', 'tab:blue'),
                ('deviation', 'tab:red'),
                ('between_classes', 'tab:green'),
            ):
                values = [look[f'{name}/{what}'] for look in line['trace']]
                lower.plot(
                    steps, values, style, color=colour, label=f'{name}: {what.replace("_", " ")}'
                )
        lower.set_yscale('log')
        lower.set_xlabel('update')
        lower.grid(linewidth=0.3)
    axes[0][0].set_ylabel('share of the gradient norms')
    if lines:
        for panel, place in (
            (axes[0][0], 'outside right upper'),
            (axes[1][0], 'outside right lower'),
        ):
            figure.legend(*panel.get_legend_handles_labels(), loc=place, fontsize=8)
    figure.savefig(path)
