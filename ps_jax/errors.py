"""Errors a user can act on: each message names the thing that is wrong and the remedy.

The command line tools print the message alone and leave with exit code 2; a library user catches
`PersonSearchError`.
"""


class PersonSearchError(Exception):
    """Base of every error that the user, not the programmer, can mend."""


class DataError(PersonSearchError):
    """A data set, picture or annotation on disk is missing or malformed."""


class ConfigError(PersonSearchError):
    """A configuration names something unknown, or its values contradict each other."""


class CheckpointError(PersonSearchError):
    """A checkpoint is missing, damaged, or belongs to another model or configuration."""


class PortingError(PersonSearchError):
    """Foreign weights do not fit the model they are to be loaded into."""


class TrainingError(PersonSearchError):
    """Training cannot go on: a loss is not finite, or the state could not be saved."""


class GalleryError(PersonSearchError):
    """A gallery is missing, out of reach, or was indexed by another model or with other options."""
