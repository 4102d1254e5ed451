"""Stands in for eval.py: `--mAP 0.5` becomes the result, in `--out`, where every call leaves a line in `calls.txt`."""

import json
import sys
from pathlib import Path

arguments = sys.argv[1:]
out = Path(arguments[arguments.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
with (out / "calls.txt").open("a") as file:
    file.write(" ".join(arguments) + "\n")
value = float(arguments[arguments.index("--mAP") + 1])
(out / "results.json").write_text(json.dumps({"search": {"G100": {"mAP": value}}}))
