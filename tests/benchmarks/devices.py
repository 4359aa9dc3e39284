"""What a benchmark on several devices says of where it ran."""

from __future__ import annotations

import os
import platform
from datetime import date
from typing import Any

import torch


def where_it_ran(cuda: bool) -> dict[str, Any]:
    """Date, device, how many of it are here, and versions."""
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "devices_here": torch.cuda.device_count() if cuda else os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
    }
