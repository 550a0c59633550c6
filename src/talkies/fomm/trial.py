"""Try what the engine needs: PyTorch, the GPU, the packaged weights; print the result as a line of JSON.

`talkies doctor` runs it as a process of its own, since a driver may hang.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import TalkiesError
from ..machine.cores import available_threads
from .device import built_for, choose_device, unfit
from .model import load_model


def try_device(found: dict[str, Any]) -> None:
    """Note the device of `auto`, and why it is no GPU (fault); on a GPU, the error and seconds of a computation."""
    try:
        found["device"] = choose_device("auto").type
    except TalkiesError as error:
        found["fault"] = str(error)
        try:
            torch.cuda.init()
            found["unfit"] = unfit()
        except (RuntimeError, AssertionError) as reason:
            found["fault"] = _line(reason)
        return
    if found["device"] != "cuda":
        return
    try:
        torch.manual_seed(1)
        picture, kernel = torch.rand(4, 16, 64, 64), torch.rand(32, 16, 3, 3) / 144
        wanted = F.conv2d(picture, kernel)
        began = time.monotonic()
        far = float((F.conv2d(picture.cuda(), kernel.cuda()).cpu() - wanted).abs().max())
        found.update(name=torch.cuda.get_device_name(), far=far, seconds=time.monotonic() - began)
    except RuntimeError as reason:
        found["fault"] = _line(reason)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def main() -> None:
    """Print the result."""
    threads = available_threads()
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "threads": threads, "fault": None}
    found["built_for"] = built_for()
    try_device(found)
    try:
        found["weights"] = (load_model("demo").weights_digest or "")[:12]
    except TalkiesError as error:
        found["weights_fault"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
