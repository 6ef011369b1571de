"""How a package of the zoo gives grey values back, without the zoo's packages."""

from typing import Any

import numpy as np
import pytest

from vfn.data.intensity import IntensityNormaliser
from vfn.export.bioimage import _restoration


def computed(operations: list[dict[str, Any]], x: np.ndarray) -> np.ndarray:
    """As the specification of the zoo says: one channel (1, n)."""
    for operation in operations:
        said = operation["kwargs"]
        if operation["id"] == "scale_linear":
            x = x * said["gain"][0] + said["offset"][0]
        elif operation["id"] == "clip":
            x = np.clip(x, said["min"], said["max"])
        else:
            x = x.astype(said["dtype"])  # cuts off what is behind the point
    return x


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint8", 3, 250), ("uint16", 5, 4000), ("int16", -3000, 900), ("int16", -32768, 32767),
     ("int32", -70_000, 90_000), ("uint32", 10, 90_000)],
)  # fmt: skip
def test_grey_values_are_those_of_predict(dtype: str, low: float, high: float) -> None:
    fitted = IntensityNormaliser(low, high, dtype)
    x = np.random.default_rng(0).uniform(-1.3, 1.2, (1, 5000))
    expected, found = fitted.restore(x), computed(_restoration([fitted]), x)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
