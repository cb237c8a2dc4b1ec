"""Operations of small programs in XLA's text form and the part of the model that they count as."""

from tools.hlo_ops import Operations
from tools.hlo_text import Program
from tools.profile_kinds import Part, Parts, scoped

_PATH = 'jit(step)/transpose(jvp(backbone))/stage/while/body/closed_call/block/attention/pooling/layer_norm/mul'


def _parts(text: str) -> dict[str, Part]:
    operations = Operations(Program(text))
    parts = Parts(operations)
    return {one.instruction.name: parts.of(one) for one in operations.executed()}


def test_the_innermost_scope_counts():
    part = scoped(_PATH)
    assert part.kind == 'layer_norm' and part.backward
    assert part.scopes == ('backbone', 'stage', 'block', 'attention', 'pooling', 'layer_norm')
    assert scoped('jit(step)/jit(_where)/select_n') is None
    assert not scoped('jit(step)/jvp(backbone)/stage/block/mlp/dot_general').backward


def test_a_fusion_counts_as_its_product():
    parts = _parts("""\
%fused (x: f32[8,16], w: f32[16,4]) -> f32[8,4] {
  %x = f32[8,16]{1,0} parameter(0)
  %w = f32[16,4]{1,0} parameter(1)
  %wide = f32[8,16]{1,0} tanh(%x), metadata={op_name="jit(f)/jvp(loss)/tanh"}
  %dot = f32[8,4]{1,0} dot(%wide, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(f)/heads/dot"}
  ROOT %out = f32[8,4]{1,0} negate(%dot), metadata={op_name="jit(f)/jvp(loss)/neg"}
}

%loop (x: f32[8,16]) -> f32[8] {
  %y = f32[8,16]{1,0} parameter(0)
  %a = f32[8,16]{1,0} tanh(%y), metadata={op_name="jit(f)/mlp/tanh"}
  %b = f32[8,16]{1,0} add(%a, %y), metadata={op_name="jit(f)/mlp/add"}
  %c = f32[8,16]{1,0} negate(%b), metadata={op_name="jit(f)/block/neg"}
  ROOT %d = f32[8,4]{1,0} slice(%c), slice={[0:8], [0:4]}, metadata={op_name="jit(f)/block/slice"}
}

ENTRY %main (x: f32[8,16], w: f32[16,4]) -> (f32[8,4], f32[8,4]) {
  %p = f32[8,16]{1,0} parameter(0)
  %q = f32[16,4]{1,0} parameter(1)
  %product = f32[8,4]{1,0} fusion(%p, %q), kind=kOutput, calls=%fused, metadata={op_name="jit(f)/jvp(loss)/neg"}
  %plain = f32[8,4]{1,0} fusion(%p), kind=kLoop, calls=%loop, metadata={op_name="jit(f)/block/slice"}
  ROOT %both = (f32[8,4]{1,0}, f32[8,4]{1,0}) tuple(%product, %plain)
}
""")
    assert parts['product'].kind == 'heads'
    assert parts['plain'].kind == 'mlp'  # two thirds of the numbers


def test_what_xla_added_is_between_its_neighbours():
    query = 'jit(f)/jvp(backbone)/stage/block/attention/pooling/layer_norm/mul'
    softmax = 'jit(f)/jvp(backbone)/stage/block/attention/exp'
    parts = _parts(f"""\
ENTRY %main (x: f32[8,8], y: f32[8,8]) -> f32[8,8] {{
  %x = f32[8,8]{{1,0}} parameter(0)
  %y = f32[8,8]{{1,0}} parameter(1)
  %query = f32[8,8]{{1,0}} negate(%x), metadata={{op_name="{query}"}}
  %turned = f32[8,8]{{0,1}} bitcast(%query)
  %logits = f32[8,8]{{1,0}} dot(%turned, %y), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  %weights = f32[8,8]{{1,0}} exponential(%logits), metadata={{op_name="{softmax}"}}
  %kept = f32[8,8]{{0,1}} copy(%weights)
  %lonely = f32[8,8]{{1,0}} add(%y, %y)
  ROOT %out = (f32[8,8]{{0,1}}, f32[8,8]{{1,0}}) tuple(%kept, %lonely)
}}
""")
    assert parts['logits'] == Part(('backbone', 'stage', 'block', 'attention'), backward=False)
    assert parts['kept'].kind == 'attention'
    assert parts['lonely'] == Part((), backward=False) and parts['lonely'].kind == 'other'
