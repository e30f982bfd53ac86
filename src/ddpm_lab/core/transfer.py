"""Copies between the host and a device that the host does not wait for.

A GPU runs behind the host, which only launches its work. So the host draws the numbers of the next step while the GPU computes
this one, as long as nothing in between waits for the GPU: a copy from memory that is not pinned does, and so does a value that
is read. On the CPU itself nothing is copied.
"""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copies x from the host to the device. torch reuses the pinned memory only once the copy is done."""
    if device.type == "cpu" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def like(x: Tensor, other: Tensor) -> Tensor:
    """Copies x from the host to the device of `other`, with its type."""
    return to_device(x, other.device).to(other.dtype)


class OnItsWay:
    """A copy of a tensor to the host that may still be under way; without its gradient."""

    def __init__(self, x: Tensor) -> None:
        self._x, self._event = x.detach().to("cpu", non_blocking=True), None
        if x.device.type != "cpu":
            self._event = torch.get_device_module(x.device).Event()
            self._event.record()

    def arrived(self) -> Tensor:
        """The values. Waits until the device has computed and copied them, but for nothing that was launched later."""
        if self._event is not None:
            self._event.synchronize()
        return self._x
