"""Which part of the model or of the step an operation of a compiled program belongs to,
by the program's named scopes.
"""

import collections
from collections.abc import Callable
import dataclasses
import functools
import os
import re

from tools.hlo_ops import Operation, Operations
from tools.hlo_text import Instruction

# The `jax.named_scope`s of the step; of nested ones the innermost says what an operation is.
KINDS = {
    'attention': 'queries times keys, softmax, weights times values, pooled queries added',
    'attention_linear': 'linear layers before and after the attention',
    'relative_positions': 'queries times position vectors, one-hot codes at the keys',
    'pooling': 'depthwise convolutions of queries, keys and values',
    'layer_norm': 'all of them',
    'mlp': 'the two linear layers and GELU',
    'max_pool': 'skip path of the blocks that pool',
    'skip_linear': 'skip path of the blocks that widen',
    'block': 'branches scaled (stochastic depth) and added to the skip path',
    'stage': 'loops over blocks: slices of stacked parameters, activations kept for the backward',
    'patch_embedding': 'patch convolution, positions, class token',
    'backbone': 'what of it is in none of the above',
    'heads': 'of classification and localisation, projections between datasets, expander',
    'loss': 'the objective',
    'augmentation': 'pixels to the normalised video, targets',
    'optimizer': 'clipping, AdamW, moving average, test for finite numbers',
}
OTHER = 'other'  # in no scope: keys, the mean over devices


@dataclasses.dataclass(frozen=True)
class Part:
    """Attributes:
    scopes: the known scopes that an operation is in, the outermost first.
    backward: whether it belongs to the backward pass, with what that recomputes.
    """

    scopes: tuple[str, ...]
    backward: bool

    @property
    def kind(self) -> str:
        return self.scopes[-1] if self.scopes else OTHER


def scoped(op_name: str) -> Part | None:
    """The part that a path of scopes, as XLA's metadata hold it,
    leads to; None: it has no known scope.
    """
    scopes = tuple(scope for scope in re.split(r'[/()]+', op_name) if scope in KINDS)
    return Part(scopes, 'transpose(' in op_name) if scopes else None


class Parts:
    """Assigns every operation to one part.

    A fusion counts as the product of matrices or convolution in it that has most FLOPs; without
    any, as the part that computes most numbers in it. Where XLA says nothing of an operation
    (copies into another order, some products that it simplified), it is in the scopes that those
    which make its operands and use its result have in common: between pooled queries and a softmax,
    both in "attention", it is attention.
    """

    def __init__(self, operations: Operations):
        self._operations = operations
        self._computations = operations.program.computations
        self._users = {
            computation: self._users_in(instructions)
            for computation, instructions in self._computations.items()
        }
        self._of_instruction = functools.cache(self._of_instruction)

    @staticmethod
    def _users_in(instructions: dict[str, Instruction]) -> dict[str, list[str]]:
        users = collections.defaultdict(list)
        for one in instructions.values():
            for operand in one.operands:
                users[operand].append(one.name)
        return users

    def of(self, operation: Operation) -> Part:
        one, computation = operation.instruction, operation.computation
        found = self._of_instruction(one)
        if found:
            return found
        own, users = self._computations[computation], self._users[computation]
        makers = self._nearest(own, one.name, lambda name: own[name].operands)
        takers = self._nearest(own, one.name, lambda name: users.get(name, ()))
        both = makers | takers
        # What a loop over blocks hands on was made or is used somewhere else.
        inner = {part for part in both if part.kind != 'stage'}
        for parts in (inner, takers & inner, makers & inner, both):
            scopes = os.path.commonprefix([part.scopes for part in parts])
            if scopes:
                before = parts & makers
                backward = (
                    any(part.backward for part in before)
                    if before
                    else all(part.backward for part in parts)
                )
                return Part(tuple(scopes), backward)
        return Part((), False)

    def _nearest(self, own: dict[str, Instruction], start: str, neighbours: Callable) -> set[Part]:
        """The known parts that are met first on all paths from an instruction."""
        found, seen, waiting = set(), {start}, [start]
        while waiting:
            for name in neighbours(waiting.pop()):
                if name not in seen:
                    seen.add(name)
                    part = self._of_instruction(own[name])
                    if part:
                        found.add(part)
                    else:
                        waiting.append(name)
        return found

    def _of_instruction(self, one: Instruction) -> Part | None:
        weights: dict[Part, tuple[float, int]] = collections.defaultdict(lambda: (0.0, 0))
        for called in one.called if one.opcode == 'fusion' else ():
            for inner in self._computations[called].values():
                part = self._of_instruction(inner)
                if part and inner.opcode not in ('parameter', 'constant', 'bitcast', 'broadcast'):
                    flops, numbers = weights[part]
                    flops += self._operations.flops(called, inner.name)
                    weights[part] = flops, numbers + sum(array.size for array in inner.arrays)
        return max(weights, key=weights.get) if weights else scoped(one.op_name)
