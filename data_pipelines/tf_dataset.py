"""Our batches as a `tf.data.Dataset`, for code that wants one."""

from collections.abc import Callable, Iterator

from data_pipelines.tensorflow_import import import_tensorflow
from data_pipelines.workers import Batch, Batches


def as_tf_dataset(make_batches: Callable[[], Batches]):
    """The same batches, in the same order, as elements of a `tf.data.Dataset`.

        dataset = as_tf_dataset(functools.partial(
            train_batches, [source], ClipSize(32, 224), OrderOptions(batch_size=16),
            InputOptions(short_side=(256, 320)), num_steps=1000))

    Texts are UTF-8 there. Every iteration over the dataset starts from the beginning. Reading and
    decoding stay where they are: in this process, on the threads of the batches.

    Args:
        make_batches: starts batches, by `train_batches` or `evaluation_batches`.

    Raises:
        ValueError: TensorFlow is not installed.
    """
    tf = import_tensorflow()
    with make_batches() as batches:
        signature = {
            name: tf.TensorSpec(shape, tf.as_dtype(kind))
            for name, (shape, kind) in batches.element_spec.items()
        }

    def generate() -> Iterator[Batch]:
        with make_batches() as batches:
            yield from batches

    return tf.data.Dataset.from_generator(generate, output_signature=signature)
