"""Costs of a program in XLA's text form, by hand: a loop of 5 products,
a slice of a stack, padding, a collective.
"""

import pytest

from tools import hlo_cost, hlo_ops, hlo_text

_LOOP = """\
HloModule jit_f, is_scheduled=true

%condition.1 (state.1: (s32[], f32[8,256], f32[5,256,256])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)S(1)}, f32[5,256,256]{2,1,0:T(8,128)}) parameter(0)
  %limit.1 = s32[]{:T(128)} constant(5)
  %counter.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less.1 = pred[]{:T(512)} compare(%counter.1, %limit.1), direction=LT
}

%fused_product (stack.2: f32[5,256,256], x.2: f32[8,256], counter.2: s32[]) -> f32[8,256] {
  %stack.2 = f32[5,256,256]{2,1,0:T(8,128)} parameter(0)
  %x.2 = f32[8,256]{1,0:T(8,128)S(1)} parameter(1)
  %counter.2 = s32[]{:T(128)} parameter(2)
  %zero.2 = s32[]{:T(128)} constant(0)
  %slice.2 = f32[1,256,256]{2,1,0:T(8,128)} dynamic-slice(%stack.2, %counter.2, %zero.2, %zero.2), dynamic_slice_sizes={1,256,256}
  %matrix.2 = f32[256,256]{1,0:T(8,128)} bitcast(%slice.2)
  ROOT %product.2 = f32[8,256]{1,0:T(8,128)S(1)} convolution(%x.2, %matrix.2), dim_labels=bf_io->bf
}

%body.1 (state.3: (s32[], f32[8,256], f32[5,256,256])) -> (s32[], f32[8,256], f32[5,256,256]) {
  %state.3 = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)S(1)}, f32[5,256,256]{2,1,0:T(8,128)}) parameter(0)
  %counter.3 = s32[]{:T(128)S(1)} get-tuple-element(%state.3), index=0
  %x.3 = f32[8,256]{1,0:T(8,128)S(1)} get-tuple-element(%state.3), index=1
  %stack.3 = f32[5,256,256]{2,1,0:T(8,128)} get-tuple-element(%state.3), index=2
  %fusion.3 = f32[8,256]{1,0:T(8,128)S(1)} fusion(%stack.3, %x.3, %counter.3), kind=kOutput, calls=%fused_product, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
  ROOT %tuple.3 = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)S(1)}, f32[5,256,256]{2,1,0:T(8,128)}) \
tuple(%counter.3, %fusion.3, %stack.3)
}

ENTRY %main.1 (x: f32[8,256], stack: f32[5,256,256], wide: bf16[16,96]) -> f32[8,256] {
  %x = f32[8,256]{1,0:T(8,128)S(1)} parameter(0)
  %stack = f32[5,256,256]{2,1,0:T(8,128)} parameter(1)
  %wide = bf16[16,96]{1,0:T(8,128)(2,1)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %negative = bf16[16,96]{1,0:T(8,128)(2,1)S(1)} negate(%wide), backend_config={"window_config":{"estimated_cycles":"7"}}
  %start = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)S(1)}, f32[5,256,256]{2,1,0:T(8,128)}) tuple(%zero, %x, %stack)
  %loop = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)S(1)}, f32[5,256,256]{2,1,0:T(8,128)}) while(%start), \
condition=%condition.1, body=%body.1
  %y = f32[8,256]{1,0:T(8,128)S(1)} get-tuple-element(%loop), index=1
  ROOT %sum = f32[8,256]{1,0:T(8,128)S(1)} all-reduce(%y), channel_id=1, replica_groups={{0,1}}, to_apply=%add
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    cost = hlo_cost.of_program(_LOOP)
    assert cost.flops == 5 * 2 * 8 * 256 * 256
    assert cost.cycles == 5 * 1000 + 7
    assert cost.unknown_loops == 0


def test_bytes_are_those_of_the_slices_in_hbm_with_their_padding():
    # Each round reads one matrix of the stack; all else is in the core's own memory, save 16 rows
    # of 96, which fill 128.
    assert hlo_cost.of_program(_LOOP).bytes == 5 * 256 * 256 * 4 + 16 * 128 * 2


def test_collectives():
    assert hlo_cost.of_program(_LOOP).collectives == {'all-reduce': (1, 8 * 256 * 4)}


def test_convolution_counts_products_of_real_numbers():
    text = """\
ENTRY %main (x: f32[2,5,4], kernel: f32[3,4,6]) -> f32[2,5,6] {
  %x = f32[2,5,4]{2,1,0:T(8,128)} parameter(0)
  %kernel = f32[3,4,6]{2,1,0:T(8,128)} parameter(1)
  ROOT %y = f32[2,5,6]{2,1,0:T(8,128)} convolution(%x, %kernel), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f
}
"""
    # 5 places with 3 taps each, of which the first and the last place have one in the padding.
    assert hlo_cost.of_program(text).flops == 2 * 2 * 4 * 6 * (5 * 3 - 2)


def _operations(text: str) -> hlo_ops.Operations:
    return hlo_ops.Operations(hlo_text.Program(text))


def test_products_by_cublas():
    text = """\
ENTRY %main (x: bf16[2,8,256], w: bf16[2,256,64]) -> bf16[2,8,64] {
  %x = bf16[2,8,256]{2,1,0} parameter(0)
  %w = bf16[2,256,64]{2,1,0} parameter(1)
  %gemm = (bf16[2,8,64]{2,1,0}, s8[4194304]{0}) custom-call(%x, %w), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"alpha_real":1,"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],\
"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}}}
  ROOT %y = bf16[2,8,64]{2,1,0} get-tuple-element(%gemm), index=0
}
"""
    assert hlo_cost.of_program(text).flops == 2 * 2 * 8 * 64 * 256


def test_a_gradient_by_cudnn_costs_what_the_convolution_does():
    text = """\
ENTRY %main (g: f32[2,5,6], kernel: f32[3,4,6]) -> f32[2,5,4] {
  %g = f32[2,5,6]{2,1,0} parameter(0)
  %kernel = f32[3,4,6]{2,1,0} parameter(1)
  %call = (f32[2,5,4]{2,1,0}, u8[0]{0}) custom-call(%g, %kernel), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f, \
custom_call_target="__cudnn$convBackwardInput"
  ROOT %dx = f32[2,5,4]{2,1,0} get-tuple-element(%call), index=0
}
"""
    assert hlo_cost.of_program(text).flops == 2 * 2 * 4 * 6 * (5 * 3 - 2)


@pytest.mark.parametrize(('target', 'products'), [('fmhaSoftmax', 2), ('fmhaSoftmaxBackward', 5)])
def test_attention_by_cudnn(target, products):
    text = f"""\
ENTRY %main (q: bf16[2,50,3,8], k: bf16[2,20,3,8], v: bf16[2,20,3,8]) -> bf16[2,3,50,8] {{
  %q = bf16[2,50,3,8]{{3,2,1,0}} parameter(0)
  %k = bf16[2,20,3,8]{{3,2,1,0}} parameter(1)
  %v = bf16[2,20,3,8]{{3,2,1,0}} parameter(2)
  %call = (bf16[2,3,50,8]{{3,1,2,0}}, u8[0]{{0}}) custom-call(%q, %k, %v), custom_call_target="__cudnn${target}"
  ROOT %y = bf16[2,3,50,8]{{3,1,2,0}} get-tuple-element(%call), index=0
}}
"""
    assert hlo_cost.of_program(text).flops == products * 2 * 2 * 3 * 50 * 20 * 8


def test_other_arithmetic():
    text = """\
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (x: f32[8,16]) -> f32[8] {
  %x = f32[8,16]{1,0} parameter(0)
  %y = f32[8,16]{1,0} tanh(%x)
  %square = f32[8,16]{1,0} multiply(%y, %y)
  %zero = f32[] constant(0)
  ROOT %total = f32[8]{0} reduce(%square, %zero), dimensions={1}, to_apply=%add
}

ENTRY %main (x: f32[8,16], n: s32[4]) -> f32[8] {
  %x.1 = f32[8,16]{1,0} parameter(0)
  %n = s32[4]{0} parameter(1)
  %more = s32[4]{0} add(%n, %n)
  ROOT %out = f32[8]{0} fusion(%x.1), kind=kLoop, calls=%fused
}
"""
    operations = _operations(text)
    every = {one.instruction.name: one for one in operations.executed()}
    assert set(every) == {'more', 'out'}
    assert operations.arithmetic('main', 'out') == 3 * 8 * 16  # tanh, product, sum
    assert operations.arithmetic('main', 'more') == 0  # not floating point
    assert operations.bytes(every['out']) == 4 * (8 * 16 + 8)


def test_of_a_conditional_the_dearest_branch_runs():
    text = """\
%small (x: f32[8]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  ROOT %negative = f32[8]{0} negate(%x.1)
}

%large (x: f32[8]) -> f32[8] {
  %x.2 = f32[8]{0} parameter(0)
  %twice = f32[8]{0} add(%x.2, %x.2)
  ROOT %again = f32[8]{0} add(%twice, %twice)
}

ENTRY %main (which: pred[], x: f32[8]) -> f32[8] {
  %which = pred[] parameter(0)
  %x = f32[8]{0} parameter(1)
  ROOT %out = f32[8]{0} conditional(%which, %x, %x), true_computation=%small, false_computation=%large
}
"""
    assert {one.instruction.name: one.runs for one in _operations(text).executed()} == {
        'negative': 0,
        'twice': 1,
        'again': 1,
    }


def test_a_fusion_that_runs_beside_others_counts_once():
    text = """\
%copy (stack.1: f32[5,8,16], x.1: f32[8,16], counter.1: s32[]) -> f32[5,8,16] {
  %stack.1 = f32[5,8,16]{2,1,0} parameter(0)
  %x.1 = f32[8,16]{1,0} parameter(1)
  %counter.1 = s32[] parameter(2)
  %part.1 = f32[1,8,16]{2,1,0} bitcast(%x.1)
  ROOT %stacked.1 = f32[5,8,16]{2,1,0} dynamic-update-slice(%stack.1, %part.1, %counter.1, %counter.1, %counter.1)
}

ENTRY %main (stack: f32[5,8,16], x: f32[8,16], counter: s32[]) -> f32[5,8,16] {
  %stack = f32[5,8,16]{2,1,0} parameter(0)
  %x = f32[8,16]{1,0} parameter(1)
  %counter = s32[] parameter(2)
  %start = ((f32[5,8,16]{2,1,0}, f32[8,16]{1,0}, s32[]), f32[5,8,16]{2,1,0}, u32[]) \
fusion-start(%stack, %x, %counter), kind=kLoop, calls=%copy
  ROOT %done = f32[5,8,16]{2,1,0} fusion-done(%start)
}
"""
    # A row of the stack is written, from x; the counter has 4 bytes.
    assert hlo_cost.of_program(text).bytes == 2 * 8 * 16 * 4 + 4


def test_pallas_kernels_count_what_they_are_handed_and_gpu_libraries_not_their_workspace():
    text = """\
ENTRY %main (x: bf16[16,96], y: bf16[96,32]) -> bf16[16,32] {
  %x = bf16[16,96]{1,0:T(8,128)(2,1)} parameter(0)
  %y = bf16[96,32]{1,0} parameter(1)
  %kernel = bf16[16,96]{1,0:T(8,128)(2,1)} custom-call(%x), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"5000","transcendentals":"1","bytes_accessed":"7"}}}
  %product = (bf16[16,32]{1,0}, s8[4194304]{0}) custom-call(%kernel, %y), custom_call_target="__cublas$lt$matmul", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  ROOT %z = bf16[16,32]{1,0} get-tuple-element(%product), index=0
}
"""
    cost = hlo_cost.of_program(text)
    assert cost.flops == 5000 + 2 * 16 * 96 * 32
    assert cost.bytes == 3 * 16 * 128 * 2 + 96 * 32 * 2 + 16 * 32 * 2
