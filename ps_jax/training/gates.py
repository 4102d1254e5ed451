"""What a phase demands of what it starts from: RDLR refines a detector that is good, for a network that is good."""

from collections.abc import Mapping

from absl import logging

from ps_jax.errors import ConfigError, TrainingError
from ps_jax.training.metric_writers import MetricWriter

# Where an evaluation has the number that a gate is about: beginning and end of its path.
RESULTS = {
    "detection_ap": ("detection/", "/AP"),
    "reid_top1": ("search_true_boxes/", "/top1"),
}


def check_gates(phase: str, writer: MetricWriter | None, gates: Mapping[str, float]) -> None:
    """Prints the results that a phase starts from beside those that it demands.

    Args:
      phase: its name.
      writer: has the evaluation before the first step on record.
      gates: least values of some of `RESULTS`: "detection_ap", average precision of the detector, and "reid_top1",
        top-1 of the search among annotated boxes.

    Raises:
      ConfigError: there is no such gate, or nothing was measured that it is about.
      TrainingError: a result is less than demanded.
    """
    assert writer, "only the first process has one, and only it asks"
    scalars, missed = writer.evaluation(0), []
    for name, least in gates.items():
        if name not in RESULTS:
            raise ConfigError(f"{phase}.gates.{name}: there is no such gate; there are {', '.join(RESULTS)}")
        begin, end = RESULTS[name]
        found = [x for path, x in scalars.items() if path.startswith(begin) and path.endswith(end)]
        if not found:
            raise ConfigError(
                f"{phase}.gates.{name}: the evaluation has no {begin}...{end}; set eval.true_boxes=True"
            )
        value = found[0]
        logging.info("%s: %s %.3f, at least %.3f is demanded", phase, name, value, least)
        if value < least:
            missed.append(f"{name} is {value:.3f}, less than {least:.3f}")
    if missed:
        raise TrainingError(
            f"phase {phase} does not begin: {'; '.join(missed)}. Train the phases before it for longer, or demand "
            f"less with --config.{phase}.gates.<name>"
        )
