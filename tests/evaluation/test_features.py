"""Features are cp-measure's own; r and its interval are SciPy's; what cannot be known is said."""

import csv
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, stats

from vfn.errors import UserError
from vfn.evaluation import features as comparison
from vfn.evaluation.features import compare_features
from vfn.evaluation.pairs import FieldPair
from vfn.metrics import features
from vfn.metrics.feature_fidelity import FeatureRow, Moments, fisher_interval, survivors
from vfn.metrics.features import ObjectChannels, measure, object_channels
from vfn.report.feature_figures import HEADER, histograms, matrix, write_features
from vfn.report.figures import DARK, png_bytes

SIZE = 72
DNA, ER, RNA = "dna", "er", "rna"
NUCLEI = ObjectChannels(DNA)


def field(seed, cells=6):
    """Nuclei of different sizes and brightness, and two grained stains about them; uint16."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    dna, body = np.zeros((2, SIZE, SIZE))
    for i in range(cells):
        centre = 12 + 24 * (i // 3) + rng.uniform(-2, 2), 12 + 24 * (i % 3) + rng.uniform(-2, 2)
        far = np.hypot((y - centre[0]) * rng.uniform(0.8, 1.2), x - centre[1])
        dna[far < rng.uniform(4, 7)] = rng.uniform(0.4, 0.9)
        body[far < 10] = rng.uniform(0.3, 0.9)
    grain = [1 + 0.2 * ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 1) for _ in range(3)]
    planes = (np.stack([dna, body, body[::-1]]) + 0.02) * np.stack(grain)
    return (60000 * planes.clip(0, 1)).astype(np.uint16)


def segment(nuclear, body, pixel_size):
    """As plain as can be: what is above a third of the brightest."""
    nuclei, _ = ndimage.label(nuclear > nuclear.max() / 3)
    if body is None:
        return nuclei, None
    near = ndimage.distance_transform_edt(nuclei == 0, return_indices=True)[1]
    return nuclei, np.where(body > body.max() / 5, nuclei[tuple(near)], nuclei)


@dataclass
class Fields:
    pairs: list[FieldPair]

    def __len__(self):
        return len(self.pairs)

    def truth(self, index):
        return self.pairs[index].channels, self.pairs[index].truth

    def pair(self, index):
        return self.pairs[index]


def fields(count, spoil, targets=(DNA,), inputs=(ER,), cells=6):
    """`count` fields; `spoil` makes the prediction of a plane."""
    pairs = []
    for i in range(count):
        planes = dict(zip((DNA, ER, RNA), field(i, cells), strict=True))
        truth = np.stack([planes[name] for name in targets])
        prediction = np.stack([spoil(plane) for plane in truth])
        real = np.stack([planes[name] for name in inputs]) if inputs else None
        pairs.append(FieldPair(f"f{i}", targets, truth, prediction, real, inputs))
    return Fields(pairs)


def compare(source, channels=NUCLEI, **how):
    return compare_features(source, channels, workers=1, segment=segment, **how)


def same(plane):
    return plane


def smooth(plane):
    return ndimage.gaussian_filter(plane.astype(float), 1.5).astype(plane.dtype)


def noise(plane):
    rng = np.random.default_rng(int(plane.sum()) % 1000)
    return rng.integers(1000, 50000, plane.shape).astype(plane.dtype)


@pytest.fixture(scope="module")
def by_fields():
    return compare(fields(8, smooth))


@pytest.fixture(scope="module")
def by_objects():
    return compare(fields(1, smooth, (DNA, ER), (RNA,)), ObjectChannels(DNA, RNA))


def test_values_are_those_of_cp_measure():
    import cp_measure
    from cp_measure import bulk

    planes = field(0) / 65535
    nuclei, _ = segment(planes[0], None, None)
    gapped = np.where(nuclei == 2, 0, nuclei)
    found = measure({DNA: planes[0], ER: planes[1]}, {"nuclei": gapped}, NUCLEI)
    cp_measure.set_accelerator("numba")
    core, correlation = bulk.get_core_measurements(), bulk.get_correlation_measurements()
    expected = {(name, DNA): v for name, v in core["intensity"](gapped, planes[0]).items()}
    expected |= {(name, ER): v for name, v in core["texture"](gapped, planes[1]).items()}
    expected |= {(name, ER): v for name, v in core["granularity"](gapped, planes[1]).items()}
    expected |= {(name, DNA): v for name, v in core["sizeshape"](gapped, None).items()}
    expected |= {(n, DNA, ER): v for n, v in correlation["rwc"](*planes[:2], gapped).items()}
    checked = 0
    for feature, values in found.items():
        assert values.shape == (5,)
        if (key := (feature.name, *feature.channels)) in expected:
            np.testing.assert_allclose(values, expected[key], rtol=1e-12)
            checked += 1
    assert (
        checked == 153
    )  # intensity 15, texture 52, granularity 16, size and shape 68, correlation 2
    assert {feature.group for feature in found} == set(features.GROUPS)
    assert not any(feature.name.startswith("Location") for feature in found)


def test_only_what_involves_a_channel():
    planes = dict(zip((DNA, ER, RNA), field(0) / 65535, strict=True))
    nuclei, _ = segment(planes[DNA], None, None)
    found = measure(planes, {"nuclei": nuclei}, NUCLEI, {"nuclei": (ER,)})
    assert {f.channels for f in found} == {(ER,), (DNA, ER), (ER, RNA)}


def test_no_object_one_object():
    planes = {DNA: field(0)[0] / 65535}
    assert measure(planes, {"nuclei": np.zeros((SIZE, SIZE), int)}, NUCLEI) == {}
    one = np.zeros((SIZE, SIZE), int)
    one[10:20, 10:20] = 7
    found = measure(planes, {"nuclei": one}, NUCLEI)
    assert {values.shape for values in found.values()} == {(1,)}
    assert "neighbours" not in {feature.group for feature in found}


def test_brightness_beyond_the_scale_is_measured():
    image = field(0)[0] / 10000.0
    nuclei, _ = segment(image, None, None)
    found = {f.name: v for f, v in measure({DNA: image}, {"nuclei": nuclei}, NUCLEI).items()}
    assert found["Intensity_MaxIntensity"].max() == image[nuclei > 0].max() > 1


@given(st.floats(-0.999, 0.999), st.integers(4, 500))
def test_interval_is_scipys(r, n):
    x = np.linspace(-1, 1, n)
    y = np.random.default_rng(n).normal(size=n)
    x, y = (v - v.mean() for v in (x, y))
    y -= x * (x @ y) / (x @ x)  # now uncorrelated: mix them to r
    z = r * x / np.linalg.norm(x) + math.sqrt(1 - r * r) * y / np.linalg.norm(y)
    found = stats.pearsonr(x, z)
    interval = found.confidence_interval(0.95)
    assert fisher_interval(found.statistic, n) == pytest.approx((interval.low, interval.high))


def test_interval_of_too_few():
    assert all(map(math.isnan, fisher_interval(0.5, 3)))
    assert fisher_interval(1.0, 10) == (1, 1)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.floats(-1e6, 1e6))
def test_moments_in_parts_give_scipys_r(sizes, offset):
    rng = np.random.default_rng(sum(sizes))
    values = rng.normal(size=(2, sum(sizes)))
    values[1] += values[0] + offset
    moments = Moments()
    for part in np.split(values, np.cumsum(sizes)[:-1], axis=1):
        moments.add(np.concatenate([part, [[np.nan], [1.0]]], axis=1))
    row = moments.row(features.Feature("f", "intensity", "nuclei", (DNA,)), (DNA,))
    assert row.n == sum(sizes)
    if row.n < 3:
        assert row.note == f"only {row.n} pairs of values"
        assert math.isnan(row.r)
    else:
        assert row.r == pytest.approx(stats.pearsonr(*values).statistic, abs=1e-6)


@pytest.mark.parametrize(("level", "count"), [("fields", 4), ("objects", 2)])
def test_a_perfect_prediction_keeps_every_feature(level, count):
    result = compare(fields(count, same), level=level)
    known = [row for row in result.rows if math.isfinite(row.r)]
    assert len(known) > 100
    assert min(row.r for row in known) == pytest.approx(1)
    assert all(row.note for row in result.rows if math.isnan(row.r))


def test_over_fields(by_fields):
    assert (by_fields.level, by_fields.fields, by_fields.objects) == ("fields", 8, 48)
    assert {row.n for row in by_fields.rows} == {8}
    # Nuclei are found in a predicted channel: even what a real channel shows in them may change.
    assert {row.feature.channels for row in by_fields.rows} == {(DNA,), (ER,), (ER, DNA)}
    assert all(row.depends_on == (DNA,) for row in by_fields.rows)
    r = {(row.feature.name, row.feature.channels): row.r for row in by_fields.rows}
    assert r["Intensity_MeanIntensity", (DNA,)] > 0.8
    assert r["Area", (DNA,)] > 0.8
    of_er = {row.feature.channels for row in by_fields.of_channel(ER)}
    assert of_er == {(ER,), (ER, DNA)}  # shapes of nuclei are the affair of dna
    assert "objects segmented in real and hybrid channels apart" in by_fields.notes()[0]


def test_few_fields_are_compared_over_objects(by_objects):
    assert (by_objects.level, by_objects.fields, by_objects.objects) == ("objects", 1, 6)
    assert {row.feature.compartment for row in by_objects.rows} == {"nuclei", "cells", "cytoplasm"}
    groups = {row.feature.group for row in by_objects.rows}
    assert groups == set(features.GROUPS) - {"size and shape", "neighbours"}
    assert all(
        set(row.depends_on) == {DNA, ER} & set(row.feature.channels) for row in by_objects.rows
    )
    assert (RNA,) not in {row.feature.channels for row in by_objects.rows}
    whole = [row for row in by_objects.of_channel(ER) if row.feature.compartment == "nuclei"]
    assert {row.n for row in whole} == {6}
    assert "too few for a correlation over fields" in by_objects.notes()[0]


def test_an_invented_channel_loses_its_features():
    result = compare(fields(3, noise, (ER,), (DNA,)), level="objects")
    r = {row.feature.name: row.r for row in result.of_channel(ER) if row.feature.channels == (ER,)}
    assert abs(r["Intensity_MeanIntensity"]) < 0.6
    assert not any(row.r > 0.8 for row in result.rows if row.feature.group == "granularity")


def test_real_nuclei_are_the_same_objects_over_fields():
    result = compare(fields(4, smooth, (ER,), (DNA,)), level="fields")
    assert {row.feature.channels for row in result.rows} == {(ER,), (DNA, ER)}
    assert "size and shape" not in {row.feature.group for row in result.rows}


def test_fields_that_cannot_be_measured_are_named():
    source = fields(6, same)
    pairs = source.pairs
    blank, nan = np.zeros((1, SIZE, SIZE), np.uint16), np.full((1, SIZE, SIZE), np.nan, np.float32)
    pairs[0] = FieldPair("no truth", (DNA,), blank, pairs[0].prediction, pairs[0].inputs, (ER,))
    pairs[1] = FieldPair("lost", (DNA,), pairs[1].truth, blank, pairs[1].inputs, (ER,))
    pairs[2] = FieldPair("nan", (DNA,), pairs[2].truth, nan, pairs[2].inputs, (ER,))
    pairs[3] = FieldPair("er", (ER,), pairs[3].inputs, pairs[3].inputs)
    result = compare(source, level="fields", scales={DNA: 65535, ER: 65535})
    assert result.fields == 2
    assert result.left_out == {
        "no truth": "no nuclei in the real channels",
        "lost": "no nuclei in the predicted channels",
        "nan": "the prediction of dna has pixels that are NaN or infinite",
        "er": "it has no channel dna, in which objects are to be found",
    }
    assert sum("1 field(s) not measured" in note for note in result.notes()) == 4
    assert {row.note for row in result.rows} == {"only 2 pairs of values"}
    summary = result.summary()
    assert (summary["n"], summary["median_r"]) == (0, None)


def test_a_constant_prediction_is_said():
    source = fields(3, lambda plane: np.full_like(plane, 500), (ER,), (DNA,))
    result = compare(source, level="objects")
    notes = {row.feature.name: row.note for row in result.rows if row.feature.channels == (ER,)}
    assert notes["Intensity_MeanIntensity"] == "constant in the hybrid set"


@pytest.mark.parametrize(
    ("names", "predicted", "given", "expected"),
    [
        (("rna", "DAPI"), (), {}, ("DAPI", "rna")),
        (("golgi_actin", "rna", "dna", "er"), ("dna", "er"), {}, ("dna", "rna")),
        (("rna", "er", "dna"), ("rna",), {}, ("dna", "er")),
        (("rna", "er", "dna"), ("rna",), {"body": "rna"}, ("dna", "rna")),
        (("phase", "w1_Hoechst"), (), {}, ("w1_Hoechst", None)),
        (("ch1", "ch2"), (), {"nuclear": "ch1"}, ("ch1", None)),
    ],
)
def test_where_objects_are_found(names, predicted, given, expected):
    assert object_channels(names, predicted, **given) == ObjectChannels(*expected)


def test_no_channel_of_nuclei():
    with pytest.raises(UserError, match="need a channel of nuclei, none of er,rna"):
        object_channels(["er", "rna"])
    with pytest.raises(UserError, match="no channel dna among er,rna"):
        object_channels(["er", "rna"], nuclear="dna")


def test_without_cp_measure(monkeypatch):
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "cp-measure\[numba\]"'):
        compare(fields(1, same))


def test_processes_give_the_same():
    """With the package's own segmentation, which workers can import."""
    source, channels = fields(3, smooth), ObjectChannels(DNA, ER)
    alone, two = (
        compare_features(source, channels, level="objects", workers=workers) for workers in (1, 2)
    )
    assert alone == two
    assert alone.objects > 0


def test_few_fields_are_in_flight(monkeypatch):
    taken, answered, ahead = 0, 0, 0

    def jobs():
        nonlocal taken
        for _ in range(20):
            taken += 1
            yield taken

    monkeypatch.setattr(
        comparison, "ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n)
    )
    monkeypatch.setattr(comparison, "_compare", lambda job: job)
    for answer in comparison._answers(jobs(), 3):
        answered += 1
        assert answer == answered  # in the order of the jobs
        ahead = max(ahead, taken - answered)
    assert (answered, ahead) == (20, 3)


def row(name, r, low):
    feature = features.Feature(name, "intensity", "nuclei", (DNA,))
    return FeatureRow(feature, (DNA,), r, low, 1.0, 9)


def test_survivors_surest_first():
    rows = [row("a", 0.9, 0.5), row("b", 0.85, 0.7), row("c", 0.8, 0.7), row("d", math.nan, 0.9)]
    assert [r.feature.name for r in survivors(rows)] == ["b", "a"]
    assert [r.feature.name for r in survivors(rows, 0.87)] == ["a"]


def test_table(by_objects, tmp_path):
    write_features(tmp_path / "features.csv", by_objects)
    with (tmp_path / "features.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == HEADER
    assert len(lines) == len(by_objects.rows)
    surviving = [line for line in lines if line["survives"] == "yes"]
    assert len(surviving) == len(survivors(by_objects.rows)) > 0
    assert all(float(line["r"]) > 0.8 for line in surviving)
    assert {line["channel"] for line in lines} == {"dna", "er", "dna+er", "rna+dna", "rna+er"}
    assert all(line["note"] for line in lines if line["survives"] == "")


def test_summary_counts_and_is_strict_json(by_fields):
    summary = by_fields.summary(0.5)
    json.dumps(summary, allow_nan=False)
    parts = [part for places in summary["groups"].values() for part in places.values()]
    assert sum(part["n"] for part in parts) == summary["n"]
    assert sum(part["survive"] for part in parts) == summary["survive"]
    assert summary["surely_survive"] < summary["survive"] < summary["n"]
    assert summary["n"] + summary["undefined"] == len(by_fields.rows)


def test_histograms_count_every_feature(by_objects):
    rows = [r for r in by_objects.rows if r.feature.group in ("intensity", "texture")]
    figure = histograms(rows, "all", theme=DARK)
    drawn = sum(bar.get_height() for axis in figure.axes for bar in axis.patches)
    assert drawn == sum(math.isfinite(row.r) for row in rows)
    shown = {text.get_text() for axis in figure.axes for text in axis.texts}
    assert {"nuclei", "cells", "cytoplasm", "intensity", "texture"} <= shown
    assert png_bytes(figure).startswith(b"\x89PNG")
    assert png_bytes(histograms([], "none")).startswith(b"\x89PNG")


def test_matrix_shows_every_feature(by_fields):
    figure = matrix(by_fields.rows, "all", theme=DARK)
    picture = figure.axes[0].images[0].get_array()
    # A correlation stands in two lines.
    expected = [len(r.feature.channels) for r in by_fields.rows if math.isfinite(r.r)]
    assert picture.count() == sum(expected)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [DNA, ER, "outlines"]
    assert png_bytes(figure).startswith(b"\x89PNG")
    assert png_bytes(matrix([], "none")).startswith(b"\x89PNG")
