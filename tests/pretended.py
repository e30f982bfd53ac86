"""A device that is none: tensors that say they are elsewhere and compute on the CPU, so that numbers can be checked, and what
would keep a GPU waiting is counted.

It takes the name of torch's device without memory, "meta", of which autograd takes tensors anywhere. As on a GPU, an operation
takes tensors of one device, 0-dimensional ones of the CPU aside; the host waits for a copy unless it is non-blocking and, on
its way there, from pinned memory; and what is copied to the host has no values before an event after it was waited for.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
SUPPORTED = (
    "torch.utils._foreach_utils._get_foreach_kernels_supported_devices",
    "torch.optim.optimizer._get_fused_kernels_supported_devices",
)
"""Lists in torch of the devices that have the kernels of a GPU."""
aten = torch.ops.aten
READS = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.allclose, aten._unique2, aten.unique_dim)
"""Operations whose result, or the size of it, the host must know."""


class Mixed(AssertionError):
    """Tensors of two devices in one operation."""


class Elsewhere(Tensor):
    """A tensor on the device; `here` has its values. (torch refuses its tolist() and numpy().)"""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        made = Tensor._make_wrapper_subclass(cls, here.shape, **layout, device=DEVICE)
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.here!r})"

    def __format__(self, how: str) -> str:
        return format(self.item(), how)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func}: outside of `pretended`")


class Pretended(TorchDispatchMode):
    """`counts`: by kind and operation, "copy" to the device and "delayed read" from it; "blocking copy" and "read", for which
    the host waits; and "event", how often it waited for one."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._pinned: list[Tensor] = []
        self._on_their_way: list[tuple[Tensor, Tensor]] = []

    @property
    def waits(self) -> dict[str, int]:
        """The counts of what the host waits for."""
        return {name: n for name, n in self.counts.items() if name.startswith(("blocking copy", "read"))}

    def event(self) -> SimpleNamespace:
        """As torch.cuda.Event()."""
        before: list[tuple[Tensor, Tensor]] = []

        def synchronize() -> None:
            self.counts["event"] += 1
            with torch.inference_mode():
                for blank, values in before:
                    blank.copy_(values)

        return SimpleNamespace(record=lambda: before.extend(self._on_their_way), synchronize=synchronize)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, operation = dict(kwargs or {}), func.overloadpacket
        with self:
            composed = func.decompose(*args, **kwargs)  # inference mode leaves that to a mode
        if composed is not NotImplemented:
            return composed
        if operation is aten.is_pinned:
            return self._is_pinned(args[0])
        if operation is aten._pin_memory:
            self._pinned.append(args[0].clone())
            return self._pinned[-1]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = any(isinstance(x, Elsewhere) for x in tensors)
        goes = there if kwargs.get("device") is None else torch.device(kwargs["device"]) == DEVICE
        delayed = False
        if operation is aten.copy_:
            goes = isinstance(args[0], Elsewhere)
            delayed = self._copied(operation, args[1], goes, kwargs.get("non_blocking", any(args[2:])))
        elif operation is aten._to_copy:
            delayed = self._copied(operation, args[0], goes, kwargs.get("non_blocking"))
        elif there:
            self._computed(operation, tensors)
        if goes and "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        out = func(*tree_map(_here, args), **tree_map(_here, kwargs))
        if not goes:
            return self._sent(out) if delayed else out
        changed = {id(x.here): x for x in tensors if isinstance(x, Elsewhere)}  # in place: given back itself
        return tree_map(lambda x: changed.get(id(x), Elsewhere(x)) if isinstance(x, Tensor) else x, out)

    def _is_pinned(self, x: Tensor) -> bool:
        return any(x.untyped_storage().data_ptr() == pinned.untyped_storage().data_ptr() for pinned in self._pinned)

    def _copied(self, operation: Any, source: Tensor, goes: bool, non_blocking: bool | None) -> bool:
        """Whether it is on its way to the host."""
        if isinstance(source, Elsewhere) == goes:
            return False
        free = bool(non_blocking and (not goes or self._is_pinned(source)))
        kinds = ("blocking copy", "copy") if goes else ("read", "delayed read")
        self.counts[f"{kinds[free]}: {operation.__name__}"] += 1
        return free and not goes

    def _sent(self, values: Tensor) -> Tensor:
        blank = torch.full_like(values, torch.nan if values.is_floating_point() else 0)
        self._on_their_way.append((blank, values.clone()))
        return blank

    def _computed(self, operation: Any, tensors: list[Tensor]) -> None:
        if any(not isinstance(x, Elsewhere) and (x.ndim > 0 or x.is_meta) for x in tensors):
            raise Mixed(operation.__name__)
        masked = operation in (aten.index, aten.index_put_) and any(x.dtype == torch.bool for x in tensors[1:])
        if operation in READS or masked:
            self.counts[f"read: {operation.__name__}"] += 1


def _here(x: Any) -> Any:
    return x.here if isinstance(x, Elsewhere) else x


@contextmanager
def pretended() -> Iterator[Pretended]:
    """Within the block there is such a device."""
    device, others, on_cpu = Pretended(), torch.get_device_module, torch.tensor
    module = SimpleNamespace(Event=device.event)

    def tensor(data: Any, *, device: Any = None, **more: Any) -> Tensor:
        """torch's own shows its copy to no mode."""
        return on_cpu(data, **more).to(device)

    with ExitStack() as until:
        torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter that is moved stays the same object
        until.callback(torch.__future__.set_swap_module_params_on_conversion, False)
        until.enter_context(patch("torch.tensor", tensor))
        until.enter_context(patch("torch.get_device_module", lambda x: module if x == DEVICE else others(x)))
        for supported in SUPPORTED:
            until.enter_context(patch(supported, lambda: [DEVICE.type]))
        yield until.enter_context(device)
