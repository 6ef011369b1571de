"""Make vfn/metrics/brisque_svm.npz from the model that the Python package brisque carries.

    pip download --no-deps brisque==0.2.0
    python bench/brisque_model.py brisque-0.2.0-py3-none-any.whl

Read: `brisque/models/svm.txt` (libsvm, epsilon-SVR with a radial kernel) and
`brisque/models/normalize.pickle` (lowest and highest training value of each feature). Written: the
same numbers, without loss.
"""

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, not installed

from vfn.metrics.quality import BRISQUE_MODEL
from vfn.system.files import replacing


class PlainUnpickler(pickle.Unpickler):
    """Lists, dictionaries and numbers alone: nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in a file that should hold plain numbers")


def convert(wheel: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(wheel) as archive:
        header, body = archive.read("brisque/models/svm.txt").decode().split("SV\n")
        ranges = PlainUnpickler(io.BytesIO(archive.read("brisque/models/normalize.pickle"))).load()
    told = dict(line.split(maxsplit=1) for line in header.splitlines())
    if (told["svm_type"], told["kernel_type"]) != ("epsilon_svr", "rbf"):
        raise SystemExit(f"expected an epsilon-SVR with a radial kernel, found {told}")
    lines = body.splitlines()
    vectors = np.zeros((len(lines), len(ranges["min_"])))
    for vector, line in zip(vectors, lines, strict=True):
        for entry in line.split()[1:]:  # libsvm leaves zeros out
            number, value = entry.split(":")
            vector[int(number) - 1] = float(value)
    return {
        "support_vectors": vectors,
        "coefficients": np.array([float(line.split()[0]) for line in lines]),
        "gamma": np.array(float(told["gamma"])),
        "rho": np.array(float(told["rho"])),
        "low": np.array(ranges["min_"]),
        "high": np.array(ranges["max_"]),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    model = convert(Path(sys.argv[1]))
    with replacing(BRISQUE_MODEL) as temporary:
        np.savez_compressed(temporary, **model)
    size = BRISQUE_MODEL.stat().st_size
    print(f"{BRISQUE_MODEL}: {len(model['coefficients'])} support vectors, {size} bytes")
