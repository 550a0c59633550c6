#!/usr/bin/env python3
"""Carry a run folder to a cluster and its results back: `talkies stage`, as a script of the clone.

cd RUN_FOLDER
stage.py push HOST:DIR
stage.py pull [HOST:DIR]
"""

import sys

try:
    from talkies.cli import main
except ModuleNotFoundError as missing:
    sys.exit(f"stage: error: {missing.name} is not installed for this Python: source .venv/bin/activate")

if __name__ == "__main__":
    sys.exit(main(["stage", *sys.argv[1:]]))
