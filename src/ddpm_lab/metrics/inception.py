"""Features for FID as it is published: the Inception network of 2015, ported from TensorFlow by torch-fidelity."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_lab.core.grey import to_uint8
from ddpm_lab.domains import File, Incompatible, Size, checked
from ddpm_lab.errors import UserError
from ddpm_lab.files import sha256
from ddpm_lab.metrics.extractors import WORDS, Metric, of_few

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
NAMES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
"""Names of the same file in torch-fidelity and pytorch-fid."""
SHA256 = "6726825d"
"""First digits of the hash of that file."""
NAME: dict[Metric, str] = {
    **WORDS,
    "fd": "FID",
    "fd_class": "FID_class",
    "fd_inf": "FID_inf",
    "kid": "KID",
    "is": "IS",
    "mind": "MIND",
}


@checked
class Inception:
    """2048 features of images: rounded to uint8, grey ones repeated to three channels, resized to 299×299 as TensorFlow 1 did.

    The network is kept out of every module, so no checkpoint holds it, and computes in float32 throughout. Raises Incompatible
    for a data module that does not give images, UserError for weights that cannot be read.
    """

    name, slow = "inception", True

    def __init__(self, weights: File | None = None, batch: Size = 64, *, data: Any = None) -> None:
        if data is not None:
            self.check(data)
        self.batch = batch
        path = _cached() if weights is None else Path(weights).expanduser()
        self.sha256 = sha256(path)
        self._net = _load(path)
        self.record: dict[str, Any] = {
            "network": "inception-v3-compat, torch-fidelity",
            "layer": "2048",
            "resize": "TensorFlow 1 bilinear, 299",
            "weights_sha256": self.sha256,
        }

    @staticmethod
    def check(data: Any) -> None:
        """Raises Incompatible. Needs nothing of the data that has to be read."""
        if data.gives != "images":
            raise Incompatible(f"the Inception network takes images, and these data are {data.gives}", "metrics", "data")

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        pixels = to_uint8(x)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        self._net.to(x.device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 leaves three digits
            return torch.cat([self._net(chunk)[0] for chunk in pixels.split(self.batch)])

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and N×1008 logits without their bias, as in published Inception Scores; float64, so free of TF32."""
        features = self(x)
        return features, features.double() @ self._net.fc.weight.double().T  # type: ignore[union-attr,operator]

    def key(self, n: int, metric: Metric = "fd") -> str:
        return f"{NAME[metric]}{of_few(n)}".lower()

    def label(self, n: int, metric: Metric = "fd") -> str:
        other = "" if self.sha256.startswith(SHA256) else f" by weights {self.sha256[:8]}, not the published ones,"
        return f"{NAME[metric]}{of_few(n)}{other}"


def _cached() -> Path:
    """The file in torch's cache; downloaded and checked where it is missing."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    target = folder / NAMES[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(target), hash_prefix=SHA256)
    except (OSError, RuntimeError) as error:  # no network, or another file
        raise UserError(
            f"metrics=inception: its weights are not at {target}, and could not be downloaded from {URL} ({error}): "
            "put the file there, name it by metrics.weights=FILE, or use metrics=pixels"
        ) from error
    return target


def _load(path: Path) -> torch.nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        torch.load(path, map_location="cpu", weights_only=True)  # tensors alone: torch-fidelity would unpickle code
        with torch.random.fork_rng(devices=[]):
            net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    except Exception as error:  # torch raises many kinds
        raise UserError(
            f"metrics.weights={path}: not the weights of torch-fidelity's Inception network (cut short, or another file); "
            f"download them from {URL}"
        ) from error
    return net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  the same up to rounding, 1.5 times as fast
