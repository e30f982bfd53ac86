"""The variational bound of a diffusion model on its full chain, measured and estimated."""

from typing import TYPE_CHECKING, Any

from ddpm_lab.likelihood.bound import BoundMeter
from ddpm_lab.likelihood.estimate import BoundEstimator
from ddpm_lab.likelihood.estimate import pilot as probabilities
from ddpm_lab.models.diffusion_measurements import bound_parts, estimate_parts
from ddpm_lab.models.measurement import Part
from ddpm_lab.models.meter import Meter, Plain
from ddpm_lab.models.tallied import Tallied, in_order

if TYPE_CHECKING:
    from ddpm_lab.models.diffusion import Diffusion


class DiffusionMeter(Tallied, Meter):
    """The variational bound on the full chain, by `likelihood.bound`."""

    def __init__(self, model: "Diffusion", stride: int, seed: int) -> None:
        super().__init__(BoundMeter(model.diffusion, model.diffusion.chain, stride, seed), model.network)

    def record(self) -> dict[str, Plain]:
        return {"stride": self.result().stride}

    def parts(self) -> list[Part]:
        return [part._replace(key=f"{part.key}_bpd") for part in bound_parts(self.result()) if part.level == 1]

    def arrays(self) -> dict[str, Any]:
        bound, tally = self.result(), self.tally
        along = ("times", "terms_bpd", "terms_se", "terms_n", "prior_bpd", "n", "stride")
        per_datum = in_order(tally.per_datum, tally.priors, tally.index, bound.stride)
        return {name: getattr(bound, name) for name in along} | per_datum._asdict()


class DiffusionEstimator(Tallied, Meter):
    """The same by `likelihood.estimate`. Its single terms are those of the pilot."""

    def __init__(self, model: "Diffusion", pilot: DiffusionMeter, terms: int, seed: int) -> None:
        diffusion, self.pilot, self.terms = model.diffusion, pilot, terms
        super().__init__(BoundEstimator(diffusion, diffusion.chain, probabilities(pilot.result()), terms, seed), model.network)
        self.label = f"variational bound from {self._meter.calls} calls each"

    def record(self) -> dict[str, Plain]:
        return {"stride": None, "terms": self.terms, "calls": self._meter.calls}

    def parts(self) -> list[Part]:
        return [part._replace(key=f"{part.key}_bpd") for part in estimate_parts(self.result(), len(self._meter.chain))]

    def arrays(self) -> dict[str, Any]:
        result, tally = self.result(), self.tally
        per_datum = in_order(tally.decoder + tally.kl, tally.priors, tally.index)
        return self.pilot.arrays() | {"prior_bpd": result.prior_bpd, "n": result.n} | per_datum._asdict()
