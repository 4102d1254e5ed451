"""TensorFlow Datasets builders over the readers of disk layouts.

Importing this package imports tensorflow_datasets, so the rest of the input pipeline imports it only where
it prepares data.
"""

from input_pipeline.builders._person_search import (
    CocoJson,
    CocoPersons,
    CuhkSysu,
    Market1501,
    PersonSearchBuilder,
    Prw,
)

__all__ = ["CocoJson", "CocoPersons", "CuhkSysu", "Market1501", "PersonSearchBuilder", "Prw"]
