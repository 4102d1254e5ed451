"""A sweep over the trainer's toy system. `python toy_sweep.py OUT` runs it, `... train` is its training program."""

import os
import sys
import time
from pathlib import Path

# Whoever runs this as a script has neither tests/ nor the repository on the path.
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "training")]

from ps_jax.sweep import Row, Table  # noqa: E402
from ps_jax.sweep.running import Sweep, run_sweep  # noqa: E402

TABLE = Table(
    title="Toy",
    source="nobody",
    rows=(Row("one", __file__, ("--config.seconds=0.0",)), Row("slow", __file__, ("--config.seconds=0.2",))),
    metrics={"mAP": "search/*/mAP"},
)


def toy_sweep(out: Path) -> Sweep:
    """The sweep, with this file as its program."""
    return Sweep(TABLE, out, out / "runs", TABLE.rows, seeds=1, program=(sys.executable, __file__, "train"))


def train(arguments: list[str]) -> None:
    """What train.py does, for the toy system, with a pause before each batch."""
    from toy_training import ToySource, ToySystem, toy_config, toy_evaluate

    from ps_jax.evaluation.report import write_atomically
    from ps_jax.training import train_and_evaluate

    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    seconds = float(options["--config.seconds"])

    class SlowSource(ToySource):
        def train_batches(self, *arguments, **options):
            for batch in super().train_batches(*arguments, **options):
                time.sleep(seconds)
                yield batch

    def evaluate(system, variables, source, config, out_dir, provenance):
        import json

        results = toy_evaluate(system, variables, source, config, out_dir, provenance)
        out_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(out_dir / "results.json", json.dumps(results).encode())
        return results

    workdir = arguments[arguments.index("--workdir") + 1]
    config = toy_config(seed=int(options["--config.seed"]))
    train_and_evaluate(config, workdir, source=SlowSource(), build=ToySystem, evaluate=evaluate)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if sys.argv[1] == "train":
        train(sys.argv[2:])
    else:
        sys.exit(1 if run_sweep(toy_sweep(Path(sys.argv[1]))) else 0)
