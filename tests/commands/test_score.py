"""Scoring end to end on tiny fields: files, columns, keys, words."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from vfn.commands.score import score
from vfn.errors import UserError
from vfn.evaluation.pairs import FieldPair
from vfn.metrics.objects import COLUMNS as OBJECT_COLUMNS
from vfn.report.evaluation_report import file_names

PROMISED = [
    "mae", "psnr", "ssim", "pearson", "tolerance_level", "tolerance_threshold",
    "mae_signal", "psnr_signal", "ssim_signal",
]  # fmt: skip
COLUMNS = [
    *PROMISED, "mse", "nrmse", "ms_ssim", "mse_signal", "nrmse_signal", "ms_ssim_signal",
    "gain", "offset", "r2", "frc_resolution", "power_ratio", "shift_rows", "shift_columns",
    "shift_local", "bias_signal", "contrast", "contrast_truth", "noise_truth", "pearson_ceiling",
    "shading", "tolerance_level_signal", "tolerance_threshold_signal",
]  # fmt: skip
QUALITY_COLUMNS = ("piqe", "brisque", "piqe_truth", "brisque_truth")
AMOUNT_COLUMNS = (
    "amount_n", "amount_slope", "amount_r", "amount_bias", "amount_lower", "amount_upper",
    "amount_off",
)  # fmt: skip
INTERVAL_COLUMNS = ("coverage", "interval_width")
BEYOND = [*QUALITY_COLUMNS, *OBJECT_COLUMNS, *AMOUNT_COLUMNS, "bleed_through", *INTERVAL_COLUMNS]
BASELINE_COLUMNS = [
    *PROMISED, "gain", "r2", "tolerance_level_signal", "tolerance_threshold_signal",
]  # fmt: skip


class Fields:
    """Blurred copies as predictions; the linear baseline of the second channel is better."""

    def __init__(
        self, count=3, shape=(37, 45), dtype=np.uint16, baselines=True, channels=("dapi", "er")
    ):
        self.count, self.shape, self.dtype = count, shape, dtype
        self.baselines, self.channels = baselines, channels
        self.reads = 0

    def __len__(self):
        return self.count

    def truth(self, index):
        return self.channels, self._truth(index)

    def _truth(self, index):
        rng = np.random.default_rng(index)
        images = [gaussian_filter(rng.normal(size=self.shape), 2) for _ in self.channels]
        return (np.stack(images) * 100 + 120).clip(0, 255).astype(self.dtype)

    def pair(self, index):
        self.reads += 1
        truth = self._truth(index)
        blurred = np.stack([gaussian_filter(t, 1 + index) for t in truth])
        baselines = {}
        if self.baselines:
            better = np.stack([gaussian_filter(t, 4.0) for t in truth])
            better[-1] = gaussian_filter(truth[-1], 0.5)
            mean = np.broadcast_to(np.uint16(truth.mean()), truth.shape).astype(truth.dtype)
            baselines = {"mean": mean, "linear": better}
        return FieldPair(
            f"f{index}", self.channels, truth, blurred, truth[:1], ("phase",), baselines, 0.5
        )


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    output = tmp_path_factory.mktemp("scored")
    summary = score(Fields(), output, {"command": "evaluate.py <a> & b", "data": {"name": "fake"}})
    return output, summary


def test_files(scored):
    output, _ = scored
    found = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.*"))
    figures = [
        f"figures/{c}_{k}.png" for c in ("dapi", "er") for k in ("overview", "scatter", "tolerance")
    ]
    tables = ["metrics.csv", "objects.csv", "report.html", "summary.json"]
    assert found == ["baselines.csv", *figures, *tables]
    assert all((output / name).read_bytes()[:4] == b"\x89PNG" for name in figures)


def test_metrics_csv(scored):
    output, _ = scored
    header = (output / "metrics.csv").read_text().splitlines()[0]
    assert header == ",".join(["field", "channel", *COLUMNS, *BEYOND, "z", "well", "note"])
    rows = read_csv(output / "metrics.csv")
    assert [(row["field"], row["channel"]) for row in rows] == [
        (f"f{i}", c) for i in range(3) for c in ("dapi", "er")
    ]
    pair = Fields().pair(1)
    ssim = structural_similarity(
        pair.truth[1].astype(float),
        pair.prediction[1].astype(float),
        data_range=65535,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert float(rows[3]["ssim"]) == pytest.approx(ssim, abs=1e-6)


def test_baselines_csv(scored):
    output, _ = scored
    header = (output / "baselines.csv").read_text().splitlines()[0]
    assert header == ",".join(["field", "channel", "baseline", *BASELINE_COLUMNS, "z", "note"])
    rows = read_csv(output / "baselines.csv")
    assert len(rows) == 3 * 2 * 2
    mean = next(row for row in rows if row["baseline"] == "mean")
    assert (mean["pearson"], "constant" in mean["note"]) == ("nan", True)


def test_summary_json(scored):
    output, summary = scored
    text = (output / "summary.json").read_text()
    assert json.loads(text) == summary
    assert "NaN" not in text
    assert set(summary) == {"dapi", "er"}
    part = summary["dapi"]
    measured = {*COLUMNS, *BEYOND} - set(INTERVAL_COLUMNS)  # no intervals were made
    assert set(part) == {
        *measured, "amounts", "range_full", "range_signal", "range_full_origin", "baselines", "verdict",
    }  # fmt: skip
    assert set(summary["er"]) == set(part) - set(OBJECT_COLUMNS)
    assert part["verdict"]["level"] in ("use", "care", "do not use")
    assert summary["er"]["verdict"]["criteria"]["psnr_gain"] == "do not use"
    assert part["range_full"] == [0, 65535]
    pool = np.stack([Fields()._truth(i)[0] for i in range(3)])
    assert part["range_signal"] == pytest.approx(np.percentile(pool, (0.1, 99.9)).tolist())
    rows = [float(r["psnr"]) for r in read_csv(output / "metrics.csv") if r["channel"] == "dapi"]
    assert part["psnr"] == {
        "mean": pytest.approx(np.mean(rows)),
        "std": pytest.approx(np.std(rows, ddof=1)),
        "n": 3,
    }
    assert set(part["baselines"]) == {"mean", "linear"}
    assert set(part["baselines"]["linear"]) == set(BASELINE_COLUMNS)
    assert part["baselines"]["mean"]["pearson"]["mean"] is None


class References(HTMLParser):
    """Addresses that a browser would load or follow."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for key, value in attrs if key in ("src", "href", "srcset", "poster")]


def test_report_loads_nothing_from_outside(scored):
    output, _ = scored
    page = (output / "report.html").read_text()
    parser = References()
    parser.feed(page)
    assert any(value.startswith("data:image/webp;base64,") for value in parser.found)
    assert all(value.startswith(("data:image/", "#")) for value in parser.found)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://", page)


def test_report_says_what_matters(scored):
    output, _ = scored
    page = (output / "report.html").read_text()
    assert "evaluate.py &lt;a&gt; &amp; b" in page  # escaped
    assert "name=fake" in page
    assert "BELOW the linear map of the inputs" in page
    assert "The linear map of the inputs beats the prediction" in page
    assert "The prediction beats the mean of the training target" in page
    assert "go by the signal columns" in page
    assert "µm" in page
    for why in ("worst", "median", "best"):
        assert f'<span class="tag">{why}</span>' in page


def test_console(tmp_path, capsys):
    score(Fields(), tmp_path, {})
    out = capsys.readouterr().out
    assert out.rstrip().endswith(f"report: {tmp_path / 'report.html'}")
    head = next(line for line in out.splitlines() if "MAE" in line)
    assert head.split() == ["signal", "signal", "r", "MAE", "PSNR", "SSIM", "TL"]
    lines = {
        name: line
        for line in out.splitlines()
        for name in ("prediction", "linear map", "mean")
        if line.strip().startswith(f"{name}  ")
    }
    assert len(lines) == 3
    assert max(map(len, lines.values())) <= 80
    assert "*" in lines["linear map"]  # of er, the last table


def test_predictions_on_another_scale_are_asked_about(tmp_path, capsys):
    class Scaled(Fields):
        def pair(self, index):
            pair = super().pair(index)
            small = (pair.prediction / 65535).astype(np.float32)
            return FieldPair(pair.field, pair.channels, pair.truth, small)

    score(Scaled(channels=("er",)), tmp_path, {})
    assert "another scale?" in " ".join(capsys.readouterr().out.split())
    assert "another scale?" in (tmp_path / "report.html").read_text()


def test_without_baselines_or_inputs_or_pixel_size(tmp_path):
    class Plain(Fields):
        def pair(self, index):
            pair = super().pair(index)
            return FieldPair(pair.field, pair.channels, pair.truth, pair.prediction)

    summary = score(Plain(channels=("er",)), tmp_path, {})
    assert summary["er"]["baselines"] == {}
    assert len(read_csv(tmp_path / "baselines.csv")) == 0
    assert "µm" not in (tmp_path / "report.html").read_text()


def test_one_tiny_constant_field_is_said_not_hidden(tmp_path):
    class Flat(Fields):
        def _truth(self, index):
            return np.full((len(self.channels), 3, 1), 9, np.float32)

    summary = score(Flat(count=1, baselines=False, channels=("er",)), tmp_path, {})
    row = read_csv(tmp_path / "metrics.csv")[0]
    assert row["psnr"] == "nan"
    assert "one value in all fields" in row["note"]
    entry = summary["er"]["ssim"]
    assert (entry["mean"], entry["std"], entry["n"]) == (None, None, 0)
    assert "undefined in 1 of 1" in entry["note"]
    assert "Only one field was scored" in (tmp_path / "report.html").read_text()


def test_perfect_prediction(tmp_path):
    class Perfect(Fields):
        def pair(self, index):
            truth = self._truth(index)
            return FieldPair(f"f{index}", self.channels, truth, truth)

    summary = score(Perfect(dtype=np.uint8, channels=("er",)), tmp_path, {})
    assert summary["er"]["tolerance_level"]["mean"] == 0
    assert summary["er"]["ssim"]["mean"] == pytest.approx(1, abs=1e-6)
    assert summary["er"]["psnr"]["mean"] is None
    assert "infinite in 3 of 3" in summary["er"]["psnr"]["note"]
    assert {row["psnr"] for row in read_csv(tmp_path / "metrics.csv")} == {"inf"}


def test_float_truth_states_where_its_range_comes_from(tmp_path):
    part = score(Fields(dtype=np.float32, channels=("dapi",)), tmp_path, {})["dapi"]
    pool = np.stack([Fields(dtype=np.float32, channels=("dapi",))._truth(i)[0] for i in range(3)])
    assert part["range_full"] == [pool.min(), pool.max()]
    assert "all fields (float32)" in part["range_full_origin"]
    assert part["range_full_origin"] in (tmp_path / "report.html").read_text()


def test_many_fields_show_few(tmp_path):
    source = Fields(count=40, shape=(12, 13), baselines=False)
    score(source, tmp_path, {})
    page = (tmp_path / "report.html").read_text()
    assert page.count('<details class="field"') == 24
    assert "12 of 40 fields have pictures" in page
    for i in range(40):  # every field is in the table of each channel, as a link if it is shown
        assert len(re.findall(rf"<td>(<a href=.#stain-\d-field-\d+.>)?f{i}<", page)) == 2
    assert len(re.findall(r"<td><a href=.#stain-\d-field-\d+.>", page)) == 24
    assert source.reads <= 40 + 24


def test_large_fields_show_a_detail_at_full_resolution(tmp_path):
    score(Fields(count=1, shape=(300, 700), channels=("er",)), tmp_path, {})
    assert (
        "Full resolution, where the error is largest (256 x 256"
        in (tmp_path / "report.html").read_text()
    )


def test_nothing_to_score(tmp_path):
    with pytest.raises(UserError, match="no field to score"):
        score(Fields(count=0), tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        score(Fields(), tmp_path / "file", {})


def test_prediction_of_another_size(tmp_path):
    class Cropped(Fields):
        def pair(self, index):
            pair = super().pair(index)
            return FieldPair(pair.field, pair.channels, pair.truth, pair.prediction[:, 1:])

    with pytest.raises(UserError, match=r"f0: prediction has shape"):
        score(Cropped(), tmp_path, {})
    assert list(tmp_path.iterdir()) == []  # nothing half done


def test_channel_names_become_distinct_file_names():
    assert file_names(["dapi", "F-actin/2", "F-actin 2", "..", "DAPI"]) == [
        "dapi", "F-actin_2", "F-actin_2_2", "channel", "DAPI_2",
    ]  # fmt: skip
