"""TensorFlow, imported only where it is asked for, and kept away from the accelerators."""

import functools


@functools.cache
def import_tensorflow():
    """The module `tensorflow`; its GPUs are hidden, because JAX has them in the same process.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ValueError(
            f'TensorFlow is needed here and cannot be imported ({error}); '
            'pip install tensorflow-cpu'
        ) from error
    tf.config.set_visible_devices([], 'GPU')
    return tf
