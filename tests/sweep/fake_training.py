"""Stands in for train.py: writes the results that its command line asks for, without training anything.

Every call leaves a line in `calls.txt` of the work directory. `--config.mAP=0.5` becomes the result
("none" writes none), `--config.fail=3` leaves with that exit code, `--config.fail_once=3` does so the first time;
`--config.sleep_once=60` sleeps so many seconds first, the first time.
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    arguments = sys.argv[1:]
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    workdir = Path(arguments[arguments.index("--workdir") + 1])
    workdir.mkdir(parents=True, exist_ok=True)
    calls = workdir / "calls.txt"
    first = not calls.exists()
    with calls.open("a") as file:
        file.write(" ".join(arguments) + "\n")
    print("training", flush=True)
    if first:
        time.sleep(float(options.get("--config.sleep_once", 0)))
    code = options.get("--config.fail") or (options.get("--config.fail_once") if first else None)
    if code:
        print("fake_training.py: the data are missing", file=sys.stderr)
        sys.exit(int(code))
    (workdir / "config.json").write_text(json.dumps({"phases": ["pretrain", "finetune"]}))
    if options["--config.mAP"] == "none":
        return
    value = float(options["--config.mAP"]) + 0.01 * int(options["--config.seed"])
    for name, result in (("pretrain-50", 0.99), ("finetune-5", 0.98), ("finetune-20", value)):
        place = workdir / "evaluation" / name
        place.mkdir(parents=True, exist_ok=True)
        numbers = {"search": {"G100": {"mAP": result}, "G50": {"mAP": 0.97}}, "detection": {"AP": result / 2}}
        numbers["versions"] = {"ps_jax": "1", "device": "fake", "checkpoint_step": 20}
        (place / "results.json").write_text(json.dumps(numbers))


main()
