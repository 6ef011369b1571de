"""Fine-tuning: which weights are taken over, and which stay as they were."""

from pathlib import Path

import pytest
import torch

from tests.cli import run
from tests.test_cli import SIMULATED, TINY
from vfn.models.checkpoint import load_checkpoint, submodule

PHASE = ["model=virfluonet", "task.inputs=[phase]", "task.targets=[dapi]"]
FIRST = "outputs/first/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of nuclei from phase contrast."""
    root = tmp_path_factory.mktemp("transfer")
    run("train.py", *SIMULATED, *TINY, *PHASE, "logger=csv", "run=first", cwd=root).ok()
    return root


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return submodule(state, "generator")


def changed(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    """Parts of the network ("first", "down", "up", "last") whose numbers differ."""
    return {name.split(".")[0] for name in a if not torch.equal(a[name], b[name])}


def tune(folder: Path, name: str, *keys: str) -> Path:
    run(
        "train.py", *SIMULATED, *TINY, *PHASE, "logger=csv", f"init={FIRST}", "seed=3",
        "data.first_seed=50", f"run={name}", *keys, cwd=folder,
    ).ok()  # fmt: skip
    return folder / "outputs" / name / "checkpoints" / "best.ckpt"


def test_a_frozen_encoder_keeps_every_bit(folder: Path) -> None:
    before = weights(folder / FIRST)
    frozen = weights(tune(folder, "frozen", "freeze=encoder"))
    assert changed(before, frozen) == {"up", "last"}
    free = weights(tune(folder, "free"))
    assert changed(before, free) == {"first", "down", "up", "last"}


def test_it_stays_frozen_when_resumed(folder: Path) -> None:
    path = tune(folder, "longer", "freeze=encoder")
    before = weights(path)
    run("train.py", "resume=outputs/longer", "trainer.max_epochs=2", cwd=folder).ok()
    after = weights(path.with_name("last.ckpt"))
    assert changed(before, after) == {"up", "last"}
    assert load_checkpoint(path).task.targets == ("dapi",)


def test_other_targets_take_all_but_the_last_layer(folder: Path) -> None:
    result = run(
        "train.py", *SIMULATED, *TINY, PHASE[0], "task.inputs=[phase]", "task.targets=[actin,vinculin]",
        "logger=csv", f"init={FIRST}", "freeze=encoder", "run=two", cwd=folder,
    ).ok()  # fmt: skip
    assert "the last layer starts anew" in result.out
    ours, theirs = weights(folder / "outputs/two/checkpoints/best.ckpt"), weights(folder / FIRST)
    for name in ours:
        if name.startswith(("first", "down")):
            assert torch.equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["freeze=encoder"], ["freeze=encoder", "init=CKPT"]),
        (["freeze=decoder", f"init={FIRST}"], ["freeze=decoder", "none or encoder"]),
        (
            ["task.inputs=[phase,actin]", f"init={FIRST}"],
            ["init=", "1 input(s)", "number of inputs"],
        ),
        (["model.generator.depth=5", f"init={FIRST}"], ["init=", "same model"]),
    ],
)
def test_what_cannot_be_taken_over_is_refused(
    folder: Path, keys: list[str], words: list[str]
) -> None:
    run("train.py", *SIMULATED, *TINY, *PHASE, "logger=csv", "run=bad", *keys, cwd=folder).refused(
        *words
    )
    assert not (folder / "outputs" / "bad").exists()
