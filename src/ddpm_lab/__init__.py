"""ddpm-lab: what is this noise schedule, this reverse variance, this loss, this sampler worth?

`ddpm_lab.load(run)` opens a trained run. Nothing heavy is imported before it is needed.
"""

import os
from typing import TYPE_CHECKING, Any

# Read once, when torch is imported. Idle threads soon sleep instead of spinning: on cores that are shared, long spins make
# small networks 5 to 20 times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

if TYPE_CHECKING:
    from ddpm_lab.config.build import load as load
    from ddpm_lab.errors import UserError as UserError

__all__ = ["UserError", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from ddpm_lab.config.build import load

        return load
    if name == "UserError":
        from ddpm_lab.errors import UserError

        return UserError
    raise AttributeError(name)
