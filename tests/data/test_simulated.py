"""The simulated specimen: determinism, planes, shapes, and the relations that models must learn."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from vfn.data.simulated import CHANNELS, PIXEL_SIZE, Specimen, main, simulate_field, write_fields
from vfn.errors import UserError

SMALL = (150, 170)
FIELD = (360, 400)  # about 16 cells: enough to fit the least-squares models below
Array = npt.NDArray[Any]


def features(inputs: Array, scales: tuple[float, ...]) -> Array:
    """(pixels, F) of inputs (C, H, W): each pixel, and mean and spread around it at each scale."""
    columns = [np.ones(inputs.shape[1:])]
    for image in inputs.astype(np.float64):
        columns.append(image)
        for sigma in scales:
            mean = cv2.GaussianBlur(image, (0, 0), sigma)
            square = cv2.GaussianBlur(image**2, (0, 0), sigma)
            columns += [mean, np.sqrt(np.maximum(square - mean**2, 0))]
    return np.stack([c[::3, ::3].ravel() for c in columns], 1)


def held_out_r2(inputs: list[str], target: str, scales: tuple[float, ...]) -> float:
    """R2 on one field of the least-squares model fitted on three others."""
    fields = [simulate_field(seed, FIELD, [*inputs, target]) for seed in range(4)]
    rows = [features(f[:-1], scales) for f in fields]
    truth = [f[-1].astype(np.float64)[::3, ::3].ravel() for f in fields]
    spread = np.concatenate(rows[:3]).std(0) + 1e-9
    weights = np.linalg.lstsq(np.concatenate(rows[:3]) / spread, np.concatenate(truth[:3]))[0]
    error = truth[3] - rows[3] / spread @ weights
    return float(1 - np.mean(error**2) / truth[3].var())


BANK = (1.0, 2.0, 4.0, 8.0, 16.0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_channel_has_cells_and_does_not_saturate(dtype: str) -> None:
    fields = simulate_field(3, SMALL, dtype=dtype)
    assert fields.shape == (len(CHANNELS), *SMALL)
    assert fields.dtype == dtype
    for channel, image in zip(CHANNELS, fields, strict=True):
        low, high = np.percentile(image, [1, 99.5])
        top = 255 if dtype == "uint8" else 20000
        assert high - low > 0.2 * top, channel
        assert np.mean(image >= np.iinfo(dtype).max) < 0.002, channel


def test_the_same_seed_gives_the_same_field_in_any_order() -> None:
    forward, backward = Specimen(7, SMALL), Specimen(7, SMALL)
    first = {c: forward.render(c, 2.0) for c in CHANNELS}
    for channel in reversed(CHANNELS):
        np.testing.assert_array_equal(backward.render(channel, 2.0), first[channel])
    np.testing.assert_array_equal(forward.render("actin", 2.0), first["actin"])
    assert (Specimen(8, SMALL).render("actin", 2.0) != first["actin"]).mean() > 0.5


def test_noise_differs_between_channels_and_planes_but_not_cells() -> None:
    specimen = Specimen(1, SMALL)
    dapi, dna, near = specimen.render("dapi"), specimen.render("dna"), specimen.render("dapi", 0.01)
    assert (dapi != dna).mean() > 0.5
    assert (dapi != near).mean() > 0.5
    assert np.corrcoef(dapi.ravel(), dna.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("channel", ["actin", "phase"])
def test_defocus_blurs_the_same_cells(channel: str) -> None:
    specimen = Specimen(5, FIELD)
    sharp, mild, blurred = (
        cv2.GaussianBlur(specimen.render(channel, z).astype(np.float64), (0, 0), 1.0)
        for z in (0.0, 6.0, 12.0)
    )
    detail = [cv2.Laplacian(image, cv2.CV_64F).var() for image in (sharp, mild, blurred)]
    assert detail[0] > 1.5 * detail[1] > 1.5 * detail[2]
    assert np.corrcoef(sharp.ravel(), mild.ravel())[0, 1] > 0.6


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (37, 51)])
@pytest.mark.parametrize("seed", range(4))
def test_odd_and_tiny_fields(seed: int, shape: tuple[int, int]) -> None:
    assert simulate_field(seed, shape).shape == (len(CHANNELS), *shape)


def test_cells_keep_their_size_in_micrometres() -> None:
    areas = []  # um^2 covered by nuclei, one field of 260 x 260 um at two pixel sizes
    for pixel_size in (0.65, 1.3):
        side = round(260 / pixel_size)
        dapi = simulate_field(2, (side, side), ["dapi"], pixel_size=pixel_size)[0]
        areas.append((dapi > 2000).sum() * pixel_size**2)
    assert 0.4 < areas[0] / areas[1] < 2.5  # different cells, as the canvas differs


def test_nuclei_are_learnable_from_phase_but_not_by_a_pixelwise_map() -> None:
    pixelwise = held_out_r2(["phase"], "dapi", ())
    spatial = held_out_r2(["phase"], "dapi", BANK)
    assert pixelwise < 0.35
    assert spatial > pixelwise + 0.1


def test_nuclei_are_smooth_in_phase_amid_granular_cytoplasm() -> None:
    phase, dapi, er = simulate_field(4, FIELD, ["phase", "dapi", "er"]).astype(np.float64)
    grain = np.abs(phase - cv2.GaussianBlur(phase, (0, 0), 1.5))
    nucleus = cv2.erode((dapi > 2500).astype(np.uint8), np.ones((7, 7))) > 0
    cytoplasm = (er > np.percentile(er, 85)) & (dapi < 1000)
    assert np.median(grain[nucleus]) < 0.8 * np.median(grain[cytoplasm])


def test_vinculin_follows_actin_rather_than_phase() -> None:
    assert (
        held_out_r2(["actin"], "vinculin", BANK) > held_out_r2(["phase"], "vinculin", BANK) + 0.05
    )


@pytest.mark.parametrize("target", ["dna", "er", "mito"])
def test_organelles_are_learnable_from_golgi_actin_and_rna(target: str) -> None:
    inputs = ["golgi_actin", "rna"]
    pixelwise = held_out_r2(inputs, target, ())
    assert pixelwise < 0.8
    assert pixelwise + 0.05 < held_out_r2(inputs, target, BANK) < 0.95


@pytest.mark.parametrize(
    ("channel", "dtype", "z", "said"),
    [
        ("dappi", "uint16", 0.0, "'dappi'.*phase, dapi, dna"),
        ("dapi", "float32", 0.0, "'float32'.*uint8, uint16"),
        ("dapi", "grey", 0.0, "'grey'.*uint8, uint16"),
        ("dapi", "uint16", float("nan"), "z = nan"),
    ],
)
def test_what_cannot_be_rendered_is_named(channel: str, dtype: str, z: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Specimen(0, (5, 5)).render(channel, z, dtype)


@pytest.mark.parametrize(
    ("seed", "shape", "pixel_size", "said"),
    [(-1, (5, 5), 0.65, "seed -1"), (0, (0, 5), 0.65, "0x5"), (0, (5, 5), 0.0, "0.0 um")],
)
def test_impossible_specimens_are_refused(
    seed: int, shape: tuple[int, int], pixel_size: float, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        Specimen(seed, shape, pixel_size)


def test_written_fields_read_back(tmp_path: Path) -> None:
    paths = write_fields(tmp_path / "new", [3, 12], ["phase", "actin"], (20, 31), dtype="uint8")
    assert [p.name for p in paths] == [
        "sim0003_phase.tif", "sim0003_actin.tif", "sim0012_phase.tif", "sim0012_actin.tif",
    ]  # fmt: skip
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())  # no temporary file is left
    with tifffile.TiffFile(paths[1]) as file:
        np.testing.assert_array_equal(
            file.asarray(), Specimen(3, (20, 31)).render("actin", dtype="uint8")
        )
        pixels, um = file.pages.first.tags["XResolution"].value
        assert um / pixels == pytest.approx(PIXEL_SIZE, rel=1e-5)
        assert (file.imagej_metadata or {})["unit"] == "um"


def test_planes_stand_in_the_names(tmp_path: Path) -> None:
    paths = write_fields(tmp_path, [3], ["actin"], (8, 8), z=(-10, 0, 2.5))
    assert [p.name for p in paths] == [
        "sim0003_z-10_actin.tif", "sim0003_z0_actin.tif", "sim0003_z2.5_actin.tif",
    ]  # fmt: skip


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--output", str(tmp_path / "out"), "--fields", "2", "--first-seed", "5"]
    assert main([*common, "--channels", "phase", "dapi", "--size", "9", "11"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert tifffile.imread(tmp_path / "out" / "sim0006_dapi.tif").shape == (9, 11)


def test_command_line_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path / "out"), "--channels", "dappi"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "dappi" in captured.err
    assert not (tmp_path / "out").exists()
