"""Makes one folder of a trained model that every command takes, and that can be passed on.

    python -m ps_jax.export DIR [--licence CC-BY-4.0] [--out PACKAGE] [--picture_size 576x720 ...]

DIR is a work directory; the package goes to DIR/package unless --out says otherwise. --picture_size exports StableHLO
for pictures of that height and width, which plain JAX runs without this library. Exit code 2: something the user can
mend.
"""

import argparse
import sys
from pathlib import Path

from ps_jax.errors import PersonSearchError

UNSTATED = "no licence was stated; ask whoever trained this model"


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ps_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("workdir", type=Path)
    option("--out", type=Path, help="the folder to make (default: DIR/package)")
    option(
        "--licence",
        default=UNSTATED,
        help="of the weights: its name, or a file with its text (default: the package says that none was stated)",
    )
    option("--picture_size", type=_size, action="append", default=[], metavar="HEIGHTxWIDTH")
    option("--phase", help="phase to take the checkpoint of (default: the last one that has any)")
    option("--checkpoint", choices=("last", "best"), default="last")
    options = parser.parse_args(arguments)

    from ps_jax.export import export_package

    if options.licence == UNSTATED:
        print(
            "export: nobody can tell whether these weights may be passed on; name their licence with --licence",
            file=sys.stderr,
        )
    out = options.out or options.workdir / "package"
    record = export_package(
        options.workdir, out, options.licence, options.picture_size, options.phase, options.checkpoint
    )
    print(f"{out}: {record['system']}, {len(record['programs'])} sizes of StableHLO, {record['licence']}")


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 576x720 (height x width)") from None
    return height, width


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PersonSearchError as error:
        print(f"export: {error}", file=sys.stderr)
        sys.exit(2)
