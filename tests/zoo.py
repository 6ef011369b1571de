"""bioimageio.core on a package, in a process of its own, since it leaves files open.

    python -m tests.zoo PACKAGE.zip INPUT.npy OUTPUT.npy

Tests the package, predicts INPUT.npy by it, and prints its rdf.yaml as JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np
from bioimageio.core import load_model_description, predict, test_model
from bioimageio.core.digest_spec import create_sample_for_model
from bioimageio.spec import dump_description

if __name__ == "__main__":
    package, image, stain = (Path(argument) for argument in sys.argv[1:])
    summary = test_model(package)
    assert summary.status == "passed", summary.format()
    about = load_model_description(package)
    sample = create_sample_for_model(about, inputs={"input": np.load(image)})
    np.save(stain, predict(model=about, inputs=sample).members["output"].data.to_numpy())
    print(json.dumps(dump_description(about)))
