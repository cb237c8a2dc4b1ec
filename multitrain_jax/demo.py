"""Opens a local page to drop videos on: their classes over time, and where the model looked.

    python -m multitrain_jax.demo runs/quickstart
    python -m multitrain_jax.demo runs/quickstart --port=8000

Needs gradio: pip install 'multitrain_jax[demo]'. The page can be reached from this computer only;
--host=0.0.0.0 opens it to all who reach the computer, without any password.
"""

from multitrain_jax.errors import ArgumentParser, run_command
from multitrain_jax.model_argument import add_model_argument, model_argument


def main() -> int:
    parser = ArgumentParser('multitrain_jax.demo', __doc__)
    add_model_argument(parser)
    parser.add_argument('--host', default='127.0.0.1', help='(default: 127.0.0.1, this computer)')
    parser.add_argument('--port', type=int, help='(default: the first free one from 7860 on)')
    args = parser.parse_args()
    chosen = model_argument(parser, args)

    from multitrain_jax.inference import demo_page
    from multitrain_jax.inference.model import Model  # after the arguments: --help stays fast
    from multitrain_jax.parallel.compilation_cache import keep_compiled

    keep_compiled()
    model = Model(chosen.open())
    model.check_heads()
    demo_page.launch(demo_page.page(model, chosen.path), args.host, args.port)
    return 0


if __name__ == '__main__':
    run_command(main)
