"""The one door to TensorFlow: imported on first use, quiet, and kept off the accelerators JAX needs."""

import contextlib
import functools
import os
from types import ModuleType

from ps_jax.errors import ConfigError


@functools.cache
def tensorflow() -> ModuleType:
    """Imports TensorFlow and hides GPUs from it.

    Returns:
      The module `tensorflow`.

    Raises:
      ConfigError: it is not installed; the message names the extra and the way without it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault(
        "TF_ENABLE_ONEDNN_OPTS", "0"
    )  # spares a note on a library that decoding does not use
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ConfigError(
            "reading a data set from disk needs TensorFlow: install the extra `data`, or, on a machine "
            "without TensorFlow, use batches written by `python -m input_pipeline.export_arrays` "
            "(--config.data.source=arrays)"
        ) from error
    # Where a caller has used TensorFlow before, its choice of devices is already fixed.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return tf
