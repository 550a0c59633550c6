"""Try what the engine needs: PyTorch, the GPU, the packaged weights; print the result as a line of JSON.

`talkies doctor` runs it as a process of its own, since a driver may hang.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import torch

from ..errors import TalkiesError
from ..machine.cores import available_threads
from .device import built_for, choose_device, unfit
from .model.checkpoint import load_model


def main() -> None:
    """Print the result: the device of `auto`, or the fault of a GPU; unfit: whether this torch has no code for it."""
    threads = available_threads()
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "threads": threads, "fault": None}
    found["built_for"] = built_for()
    began = time.monotonic()
    try:
        found["device"] = choose_device("auto").type
        found["seconds"] = time.monotonic() - began
        found["name"] = torch.cuda.get_device_name() if found["device"] == "cuda" else None
    except TalkiesError as error:
        found["fault"] = str(error)
        with suppress(RuntimeError, AssertionError):
            found["unfit"] = unfit()
    try:
        found["weights"] = (load_model("demo").weights_digest or "")[:12]
    except TalkiesError as error:
        found["weights_fault"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
