"""From data sets on disk to batches: records, readers, augmentation, prepared arrays, prefetching.

The only part of the library that uses TensorFlow, and only while it decodes and augments pictures.
"""

from input_pipeline.prefetch import prefetch_to_devices
from input_pipeline.source import Source, open_source

__all__ = ["Source", "open_source", "prefetch_to_devices"]
