"""An image MViTv2 by its formulas (arXiv 2112.01526), in float64:
the truth for weights inflated in time.
"""

import math

import numpy as np

_erf = np.vectorize(math.erf)


def draw_state_dict(
    *, width=8, blocks=(1, 2), side=32, classes=5, kv_stride=4
) -> dict[str, np.ndarray]:
    """Random weights under the names and in the layouts that published image models have."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(0, 0.3, shape).astype(np.float32)  # noqa: E731
    state = {'patch_embed.proj.weight': draw(width, 3, 7, 7), 'patch_embed.proj.bias': draw(width)}
    number, width_in, head_width, grid = 0, width, width, side // 4
    for stage, count in enumerate(blocks):
        out, kv = width * 2**stage, max(kv_stride // 2**stage, 1)
        for i in range(count):
            pools = stage > 0 and i == 0
            rows = 2 * max(grid // (2 if pools else 1), grid // kv) - 1
            name = f'blocks.{number}'
            state |= {f'{name}.norm1.weight': draw(width_in), f'{name}.norm1.bias': draw(width_in)}
            state |= {f'{name}.attn.rel_pos_{a}': draw(rows, head_width) for a in 'hw'}
            for layer, a, b in (
                ('attn.qkv', 3 * out, width_in),
                ('attn.proj', out, out),
                ('mlp.fc1', 4 * out, out),
                ('mlp.fc2', out, 4 * out),
            ):
                state |= {f'{name}.{layer}.weight': draw(a, b), f'{name}.{layer}.bias': draw(a)}
            for p in 'qkv':
                # A frame's axis is there in some published models and not in others.
                shape = (head_width, 1, 1, 3, 3) if p == 'q' else (head_width, 1, 3, 3)
                state[f'{name}.attn.pool_{p}.weight'] = draw(*shape)
                state[f'{name}.attn.norm_{p}.weight'] = draw(head_width)
                state[f'{name}.attn.norm_{p}.bias'] = draw(head_width)
            state |= {f'{name}.norm2.weight': draw(out), f'{name}.norm2.bias': draw(out)}
            if width_in != out:
                state |= {
                    f'{name}.proj.weight': draw(out, width_in),
                    f'{name}.proj.bias': draw(out),
                }
            grid = grid // 2 if pools else grid
            number, width_in = number + 1, out
    state |= {'norm.weight': draw(width_in), 'norm.bias': draw(width_in)}
    return state | {
        'head.projection.weight': draw(classes, width_in),
        'head.projection.bias': draw(classes),
    }


def logits(state: dict[str, np.ndarray], image: np.ndarray, *, kv_stride=4) -> np.ndarray:
    """[classes] of an image [H, W, 3]."""
    state = {name: array.astype(np.float64) for name, array in state.items()}
    patch = state['patch_embed.proj.weight']  # [D, 3, 7, 7]
    x = _slide(image.astype(np.float64), 7, 4, lambda w: np.einsum('yxc,dcyx->d', w, patch))
    x = x + state['patch_embed.proj.bias']  # [h, w, D]
    depth = 1 + max(int(name.split('.')[1]) for name in state if name.startswith('blocks.'))
    kv = kv_stride
    for i in range(depth):
        part = {
            n.removeprefix(f'blocks.{i}.'): a
            for n, a in state.items()
            if n.startswith(f'blocks.{i}.')
        }
        pools = 'proj.weight' in part
        kv = max(kv // 2, 1) if pools else kv
        x = _block(part, x, 2 if pools else 1, kv)
    x = _norm(x, state['norm.weight'], state['norm.bias']).mean((0, 1))
    return state['head.projection.weight'] @ x + state['head.projection.bias']


def _block(part, x, stride, kv_stride):
    normal = _norm(x, part['norm1.weight'], part['norm1.bias'])
    skip = x
    if 'proj.weight' in part:
        skip = _linear(normal, part, 'proj')
    if stride > 1:
        skip = _slide(skip, 3, stride, lambda w: w.max((0, 1)), fill=-np.inf)
    x = skip + _attention(part, normal, stride, kv_stride)
    hidden = _linear(_norm(x, part['norm2.weight'], part['norm2.bias']), part, 'mlp.fc1')
    hidden = 0.5 * hidden * (1 + _erf(hidden / math.sqrt(2)))
    return x + _linear(hidden, part, 'mlp.fc2')


def _attention(part, x, stride, kv_stride):
    head_width = part['attn.norm_q.weight'].shape[0]
    qkv = _linear(x, part, 'attn.qkv')
    heads = qkv.shape[-1] // 3 // head_width
    out = []
    for h in range(heads):
        q, k, v = (
            _pool(part, p, qkv[..., (i * heads + h) * head_width :][..., :head_width], s)
            for i, (p, s) in enumerate(zip('qkv', (stride, kv_stride, kv_stride)))
        )  # each [h', w', d]
        bias = _relative(q, k, part['attn.rel_pos_h'], part['attn.rel_pos_w'])  # [h, w, h', w']
        scores = np.einsum('abd,yxd->abyx', q, k) / math.sqrt(head_width) + bias
        weights = np.exp(scores - scores.max((2, 3), keepdims=True))
        weights /= weights.sum((2, 3), keepdims=True)
        out.append(np.einsum('abyx,yxd->abd', weights, v) + q)
    return _linear(np.concatenate(out, -1), part, 'attn.proj')


def _relative(q, k, table_h, table_w):
    bias = np.zeros((*q.shape[:2], *k.shape[:2]))
    for axis, table in ((0, table_h), (1, table_w)):
        nq, nk = q.shape[axis], k.shape[axis]
        step_q, step_k = max(nk / nq, 1.0), max(nq / nk, 1.0)
        for i in range(nq):
            for j in range(nk):
                row = table[int(i * step_q - j * step_k + (nk - 1) * step_k)]
                if axis == 0:
                    bias[i, :, j, :] += (q[i] @ row)[:, None]
                else:
                    bias[:, i, :, j] += (q[:, i] @ row)[:, None]
    return bias


def _pool(part, p, x, stride):
    kernel = part[f'attn.pool_{p}.weight'].reshape(-1, 3, 3)  # [d, 3, 3]
    pooled = _slide(x, 3, stride, lambda w: np.einsum('yxd,dyx->d', w, kernel))
    return _norm(pooled, part[f'attn.norm_{p}.weight'], part[f'attn.norm_{p}.bias'])


def _slide(x, size, stride, function, fill=0.0):
    """`function` of every window of an [H, W, C] map padded by half the window."""
    half = size // 2
    padded = np.pad(x, ((half, half), (half, half), (0, 0)), constant_values=fill)
    rows, columns = ((n + 2 * half - size) // stride + 1 for n in x.shape[:2])
    return np.stack(
        [
            np.stack(
                [
                    function(padded[y * stride : y * stride + size, c * stride : c * stride + size])
                    for c in range(columns)
                ]
            )
            for y in range(rows)
        ]
    )


def _linear(x, part, name):
    return x @ part[f'{name}.weight'].T + part[f'{name}.bias']


def _norm(x, weight, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * weight + bias
