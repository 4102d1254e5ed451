"""One of two processes that index together: python two_indexers.py NUMBER PORT FOLDER."""

import argparse
import sys

from search_fakes import ColourDetector

from ps_jax.search import commands


def main(number: int, port: int, folder: str) -> None:
    commands.load_detector = lambda *_, **__: ColourDetector()
    parser = commands.parser("help")
    options: argparse.Namespace = parser.parse_args(
        [
            *("index", f"{folder}/pictures", "--model", "model", "--gallery", f"{folder}/g"),
            *(f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2", f"--process_id={number}"),
        ]
    )
    print(options.run(options), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
