"""What a Fréchet distance is measured between. An extractor has a `name` for the record and maps data to features."""

from torch import Tensor


class Pixels:
    """The values themselves, in [−1, 1]: N×... → N×dim. Needs no network, and is not FID."""

    name = "pixels"

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1).double()
