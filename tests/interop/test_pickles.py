"""Pickles that torch reads and that fill the memory, or that hold more than weights."""

import codecs
import resource
from typing import Any

import pytest
import torch
from imports import DIGITS, network, refused, weights

from ddpm_lab.interop import reading


class Filled:
    """An object that is pickled as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


CALLS = {
    "bytearray": (bytearray, (2**30,)),
    "_codecs.encode": (codecs.encode, ("0" * 9, "utf-8")),
    "torch.storage.UntypedStorage": (torch.storage.UntypedStorage, (2**30,)),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_fills_the_memory_is_not_made(name, old, tmp_path):
    content = weights("ddim") | {"x": Filled(*CALLS[name])}
    torch.save(content, tmp_path / "theirs.pt", _use_new_zipfile_serialization=not old)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert name in refused(f"from={tmp_path / 'theirs.pt'}", *DIGITS, cwd=tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB


@pytest.mark.parametrize("old", [False, True])
def test_parameters_and_states_of_optimisers_are_read(old, tmp_path):
    net = network()
    content = [dict(net.named_parameters()), torch.optim.Adam(net.parameters()).state_dict(), 1, {"d": torch.float32, "s": {1}}]
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    read = reading.read_tensors(tmp_path / "x.pt")
    assert read[0].keys() == content[0].keys()
    assert read[1:] == content[1:]
