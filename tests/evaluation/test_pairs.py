"""Predictions find their truth by path, by channel token, by bare name; or the user hears why not."""

import numpy as np
import pytest
import tifffile

from vfn.errors import UserError
from vfn.evaluation.folder_pairs import FolderPairs


def image(value, channels=1, shape=(5, 7), dtype=np.uint16):
    return np.stack([np.full(shape, value + i, dtype) for i in range(channels)])


def write(path, array, names=None):
    """A plain TIFF, or an OME-TIFF with named channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if names is None:
        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        metadata = {
            "axes": "CYX",
            "Channel": {"Name": list(names)},
            "PhysicalSizeX": 0.5,
            "PhysicalSizeXUnit": "µm",
        }
        tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata=metadata)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "pred", tmp_path / "truth"


def first_values(pair):
    """Value of each plane: (truth, prediction)."""
    return pair.truth[:, 0, 0].tolist(), pair.prediction[:, 0, 0].tolist()


def test_by_relative_path(folders):
    pred, truth = folders
    for name in ("b/f1", "a/f1"):
        write(pred / f"{name}.ome.tif", image(1), ["er"])
        write(truth / f"{name}.png.tif", image(0))
        write(truth / f"{name}.tiff", image(ord(name[0])))
    pairs = FolderPairs(pred, truth)
    assert [pairs.pair(i).field for i in range(len(pairs))] == ["a/f1", "b/f1"]
    assert first_values(pairs.pair(0)) == ([ord("a")], [1])
    assert pairs.pair(0).channels == ("er",)
    assert pairs.pair(0).pixel_size == 0.5
    names, plane = pairs.truth(1)
    assert (names, plane[0, 0, 0]) == (("er",), ord("b"))


def test_by_bare_name(folders):
    pred, truth = folders
    write(pred / "run7" / "f1.tif", image(1))
    write(truth / "plate" / "f1.tif", image(2))
    pair = FolderPairs(pred, truth).pair(0)
    assert first_values(pair) == ([2], [1])
    assert pair.channels == ("c0",)


@pytest.mark.parametrize("ending", ["_pred", "-prediction", " Predicted", ".PRED"])
def test_the_usual_endings_of_predictions(folders, ending):
    pred, truth = folders
    write(pred / f"a_dapi{ending}.ome.tif", image(1))
    write(truth / "a_dapi.tif", image(2))
    pair = FolderPairs(pred, truth).pair(0)
    assert (pair.field, first_values(pair)) == ("a_dapi", ([2], [1]))
    assert FolderPairs(pred, truth, ["dapi"]).pair(0).channels == ("dapi",)


def test_an_ending_that_the_truth_has_is_part_of_the_name(folders):
    pred, truth = folders
    for name, value in (("a", 1), ("a_pred", 2), ("_pred", 3)):
        write(pred / f"{name}.tif", image(value))
        write(truth / f"{name}.tif", image(10 * value))
    pairs = FolderPairs(pred, truth)
    assert [(pairs.pair(i).field, *first_values(pairs.pair(i))) for i in range(3)] == [
        ("_pred", [30], [3]), ("a", [10], [1]), ("a_pred", [20], [2]),
    ]  # fmt: skip
    (truth / "a_pred.tif").unlink()
    with pytest.raises(UserError, match="predict the same field"):
        FolderPairs(pred, truth)


def test_by_channel_token(folders, capsys):
    pred, truth = folders
    write(pred / "plate1_A01.ome.tif", image(1, 2), ["dapi", "actin"])
    write(truth / "plate1" / "A01_DAPI.tif", image(10))
    write(truth / "plate1" / "A01-actin.tif", image(20))
    write(truth / "plate1" / "A01_phase.tif", image(30))
    pairs = FolderPairs(pred, truth)
    assert first_values(pairs.pair(0)) == ([10, 20], [1, 2])
    assert pairs.pair(0).channels == ("dapi", "actin")
    assert "1 of 3 images" in capsys.readouterr().out


def test_token_wins_over_a_namesake_of_another_stain(folders):
    pred, truth = folders
    write(pred / "f1.ome.tif", image(1), ["dapi"])
    write(truth / "dapi" / "f1.tif", image(10))
    write(truth / "phase" / "f1.tif", image(30))
    assert first_values(FolderPairs(pred, truth).pair(0)) == ([10], [1])


def test_a_namesake_of_another_stain_alone_is_no_truth(folders):
    pred, truth = folders
    write(pred / "f1.ome.tif", image(1), ["dapi"])
    write(truth / "dapi" / "f2.tif", image(10))
    write(truth / "phase" / "f1.tif", image(30))
    with pytest.raises(UserError, match="no prediction"):
        FolderPairs(pred, truth)


def test_unnamed_predictions_of_one_channel_each(folders):
    pred, truth = folders
    for channel, value in (("dapi", 10), ("er", 20)):
        write(pred / f"A01_{channel}_v2.tif", image(value + 1))
        write(truth / channel / "A01_v2.tif", image(value))
    pairs = FolderPairs(pred, truth, ["dapi", "er"])
    assert len(pairs) == 1
    pair = pairs.pair(0)
    assert (pair.field, pair.channels) == ("A01_v2", ("dapi", "er"))
    assert first_values(pair) == ([10, 20], [11, 21])


def test_channels_by_name_then_by_position(folders):
    pred, truth = folders
    write(pred / "named.ome.tif", image(1, 2), ["dapi", "er"])
    write(truth / "named.ome.tif", image(10, 3), ["ER", "phase", "DAPI"])
    write(pred / "plain.tif", image(1, 2))
    write(truth / "plain.ome.tif", image(20, 2), ["x", "y"])
    pairs = FolderPairs(pred, truth)
    assert first_values(pairs.pair(0)) == ([12, 10], [1, 2])
    assert first_values(pairs.pair(1)) == ([20, 21], [1, 2])
    assert pairs.pair(1).channels == ("x", "y")


def test_channels_given_by_the_user(folders):
    pred, truth = folders
    write(pred / "f.tif", image(1, 2))
    write(truth / "f.ome.tif", image(20, 3), ["a", "b", "c"])
    pair = FolderPairs(pred, truth, ["c", "a"]).pair(0)
    assert (pair.channels, first_values(pair)[0]) == (("c", "a"), [22, 20])
    with pytest.raises(UserError, match=r"has 2 channels, channels=\[c\]"):
        FolderPairs(pred, truth, ["c"])


def test_float_prediction_of_an_integer_truth(folders):
    pred, truth = folders
    write(pred / "f.tif", image(1, dtype=np.float32) + 0.5)
    write(truth / "f.tif", image(1))
    pair = FolderPairs(pred, truth).pair(0)
    assert (pair.prediction.dtype, pair.truth.dtype) == (np.float32, np.uint16)


def test_figures_of_an_earlier_report_are_no_predictions(folders):
    pred, truth = folders
    write(pred / "f.tif", image(1))
    write(truth / "f.tif", image(2))
    write(pred / "figures" / "dapi_scatter.tif", image(3))
    (pred / "report.html").touch()
    assert len(FolderPairs(pred, truth)) == 1
    (pred / "f.tif").unlink()
    with pytest.raises(UserError, match="nothing but figures"):
        FolderPairs(pred, truth)


def test_missing_truths_are_counted(folders):
    pred, truth = folders
    for name in ("f1", "f2", "f3"):
        write(pred / f"{name}.tif", image(1))
    write(truth / "f2.tif", image(1))
    with pytest.raises(UserError, match=r"2 of 3 predictions.*first f1\.tif"):
        FolderPairs(pred, truth)


def test_a_missing_channel_is_named(folders):
    pred, truth = folders
    write(pred / "f1.ome.tif", image(1, 2), ["dapi", "er"])
    write(truth / "dapi" / "f1.tif", image(1))
    with pytest.raises(UserError, match="field f1 has no truth for channel er"):
        FolderPairs(pred, truth)


def test_two_truths_of_one_field(folders):
    pred, truth = folders
    write(pred / "f1.ome.tif", image(1), ["dapi"])
    write(truth / "dapi" / "f1.tif", image(1))
    write(truth / "f1_dapi.tif", image(1))
    with pytest.raises(UserError, match="are both the truth of f1"):
        FolderPairs(pred, truth)


def test_two_predictions_of_one_field(folders):
    pred, truth = folders
    write(pred / "f1.tif", image(1))
    write(pred / "f1.tiff", image(1))
    write(truth / "f1.tif", image(1))
    with pytest.raises(UserError, match="predict the same field"):
        FolderPairs(pred, truth)
    (pred / "f1.tiff").unlink()
    (pred / "f1.tif").unlink()
    write(pred / "A_dapi.tif", image(1))
    write(pred / "dapi_A.tif", image(1))
    write(truth / "dapi" / "A.tif", image(1))
    with pytest.raises(UserError, match="both predict field A"):
        FolderPairs(pred, truth, ["dapi", "er"])


def test_different_sizes(folders):
    pred, truth = folders
    write(pred / "f.tif", image(1))
    write(truth / "f.tif", image(1, shape=(5, 8)))
    with pytest.raises(UserError, match=r"f\.tif is 5x7 but its truth .*f\.tif is 5x8"):
        FolderPairs(pred, truth).truth(0)


@pytest.mark.parametrize(
    ("names", "truth_names", "message"),
    [
        (None, ["a", "b"], "has 1 channels but its truth .* has 2"),
        (["er"], ["dapi", "rna"], r"has \[dapi,rna\] but the prediction is of er"),
        (["er"], ["dapi"], r"has \[dapi\] but the prediction is of er"),
    ],
)
def test_channels_that_do_not_agree(folders, names, truth_names, message):
    pred, truth = folders
    write(pred / "f.ome.tif", image(1), names)
    write(truth / "f.ome.tif", image(1, len(truth_names)), truth_names)
    with pytest.raises(UserError, match=message):
        FolderPairs(pred, truth).pair(0)


def test_truths_of_different_dtypes_are_not_mixed(folders):
    pred, truth = folders
    write(pred / "f.ome.tif", image(1, 2), ["dapi", "er"])
    write(truth / "dapi" / "f.tif", image(1))
    write(truth / "er" / "f.tif", image(1, dtype=np.uint8))
    with pytest.raises(UserError, match=r"dtypes \[uint16,uint8\]"):
        FolderPairs(pred, truth).pair(0)


def test_folders_that_cannot_be(folders):
    pred, truth = folders
    with pytest.raises(UserError, match="no such folder"):
        FolderPairs(pred, truth)
    pred.mkdir()
    with pytest.raises(UserError, match="give two folders"):
        FolderPairs(pred, pred)
    with pytest.raises(UserError, match="no image"):
        FolderPairs(pred, truth)


def three_folders(tmp_path):
    """Predictions of dna and er by two models, and the truth of both and of rna, a file a channel."""
    folders = tmp_path / "dna_model", tmp_path / "er_model"
    for folder, channel, value in zip(folders, ("dna", "er"), (10, 20), strict=True):
        for name in ("A01", "A02"):
            write(folder / f"{name}.ome.tif", image(value + 1), [channel])
            write(tmp_path / "truth" / channel / f"{name}.tif", image(value))
    for name in ("A01", "A02"):
        write(tmp_path / "truth" / f"{name}_RNA.tif", image(30))
    return list(folders), tmp_path / "truth"


def test_several_folders_make_one_pair_a_field(tmp_path, capsys):
    folders, truth = three_folders(tmp_path)
    pairs = FolderPairs(folders, truth)
    assert [pairs.pair(i).field for i in range(len(pairs))] == ["A01", "A02"]
    pair = pairs.pair(1)
    assert (pair.channels, first_values(pair)) == (("dna", "er"), ([10, 20], [11, 21]))
    assert (pair.inputs, pair.input_channels, pair.halfwidth, pair.well) == (None, (), None, None)
    assert "2 of 6 images" in capsys.readouterr().out


def test_a_field_that_one_folder_lacks_keeps_its_other_channels(tmp_path, capsys):
    folders, truth = three_folders(tmp_path)
    (folders[1] / "A01.ome.tif").unlink()
    pairs = FolderPairs(folders, truth)
    assert {p.field: p.channels for p in map(pairs.pair, range(len(pairs)))} == {
        "A01": ("dna",),
        "A02": ("dna", "er"),
    }
    assert f"1 of 2 fields have no prediction in {folders[1]}" in capsys.readouterr().out


def test_two_folders_of_one_channel(tmp_path):
    folders, truth = three_folders(tmp_path)
    write(folders[1] / "A02.ome.tif", image(1), ["dna"])
    with pytest.raises(UserError, match="both predict field A02, channel dna"):
        FolderPairs(folders, truth)
    with pytest.raises(UserError, match="names a folder twice"):
        FolderPairs([folders[0], folders[0]], truth)
    with pytest.raises(UserError, match="give two folders"):
        FolderPairs([folders[0], truth], truth)


def test_predictions_of_one_field_in_different_sizes(tmp_path):
    folders, truth = three_folders(tmp_path)
    write(folders[1] / "A01.ome.tif", image(21, shape=(5, 8)), ["er"])
    write(truth / "er" / "A01.tif", image(20, shape=(5, 8)))
    with pytest.raises(UserError, match=r"A01: its predictions have sizes \[5x7,5x8\]"):
        FolderPairs(folders, truth).pair(0)


def test_real_channels_beside_the_predictions(tmp_path, capsys):
    folders, truth = three_folders(tmp_path)
    pair = FolderPairs(folders, truth, inputs=["rna"]).pair(0)
    assert pair.input_channels == ("rna",)
    assert (pair.inputs.shape, pair.inputs.dtype, pair.inputs[0, 0, 0]) == (
        (1, 5, 7),
        np.float32,
        30,
    )
    assert "not scored" not in capsys.readouterr().out  # every image of the truth was used
    with pytest.raises(UserError, match="A01: er is given twice"):
        FolderPairs(folders, truth, inputs=["er"]).pair(0)
    write(truth / "A01_RNA.tif", image(30, shape=(5, 8)))
    with pytest.raises(UserError, match="is 5x8 but field A01 is 5x7"):
        FolderPairs(folders, truth, inputs=["rna"]).pair(0)
    (truth / "A01_RNA.tif").unlink()
    with pytest.raises(UserError, match="field A01 has no image of input rna"):
        FolderPairs(folders, truth, inputs=["rna"])


def test_real_channels_of_one_ome_tiff(folders):
    pred, truth = folders
    write(pred / "f1.ome.tif", image(1), ["dna"])
    write(truth / "f1.ome.tif", image(10, 5), ["DNA", "er", "RNA", "actin", "mito"])
    pair = FolderPairs(pred, truth, inputs=["mito", "rna"]).pair(0)
    assert (pair.channels, first_values(pair)) == (("dna",), ([10], [1]))
    assert pair.inputs[:, 0, 0].tolist() == [14, 12]


def test_an_input_is_never_the_truth_of_another_stain(folders):
    pred, truth = folders
    write(pred / "f1.ome.tif", image(1), ["dna"])
    write(truth / "f1.tif", image(10))  # found by its name, shows dna
    with pytest.raises(UserError, match="no image of input rna"):
        FolderPairs(pred, truth, inputs=["rna"])


def test_an_input_that_could_be_of_two_fields_is_of_neither(folders):
    pred, truth = folders
    for plate in ("p1", "p2"):
        write(pred / plate / "f1.ome.tif", image(1), ["dna"])
        write(truth / plate / "f1_dna.tif", image(10))
    write(truth / "f1_rna.tif", image(30))
    with pytest.raises(UserError, match="field p1/f1 has no image of input rna"):
        FolderPairs(pred, truth, inputs=["rna"])


def test_halfwidths_are_no_stains(folders):
    pred, truth = folders
    names = ["dna", "dna_halfwidth90", "er"]
    write(pred / "f1.ome.tif", np.stack([image(value)[0] for value in (1, 5, 2)]), names)
    write(truth / "f1.ome.tif", image(10, 2), ["er", "dna"])
    pair = FolderPairs(pred, truth).pair(0)
    assert (pair.channels, first_values(pair)) == (("dna", "er"), ([11, 10], [1, 2]))
    assert (pair.coverage, pair.halfwidth.dtype) == (0.9, np.float32)
    assert pair.halfwidth[0, 0, 0] == 5
    assert np.isnan(pair.halfwidth[1]).all()


def test_halfwidths_with_truth_in_a_file_a_channel(tmp_path):
    folders, truth = three_folders(tmp_path)
    for folder, channel in zip(folders, ("dna", "er"), strict=True):
        write(folder / "A01.ome.tif", image(7, 2), [channel, f"{channel}_halfwidth95"])
    pair = FolderPairs(folders, truth).pair(0)
    assert (pair.channels, first_values(pair)) == (("dna", "er"), ([10, 20], [7, 7]))
    assert (pair.halfwidth[:, 0, 0].tolist(), pair.coverage) == ([8, 8], 0.95)
    write(folders[1] / "A01.ome.tif", image(7, 2), ["er", "er_halfwidth90"])
    with pytest.raises(UserError, match=r"A01: its intervals have coverages \[0.9,0.95\]"):
        FolderPairs(folders, truth).pair(0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dna", "er_halfwidth90"], "has er_halfwidth90 but no er"),
        (["dna", "dna_halfwidth90", "dna_halfwidth95"], "has dna_halfwidth95 but two of them"),
    ],
)
def test_halfwidths_that_cannot_be(folders, names, message):
    pred, truth = folders
    write(pred / "f1.ome.tif", image(1, len(names)), names)
    write(truth / "f1.ome.tif", image(10), ["dna"])
    with pytest.raises(UserError, match=message):
        FolderPairs(pred, truth).pair(0)


def movie(path, array, axes, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"axes": axes, "Channel": {"Name": names}}
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata=metadata)


def test_every_time_point_of_a_movie_is_scored(folders):
    pred, truth = folders
    times = np.stack([image(10 * t, 2) for t in range(3)])
    movie(pred / "m.ome.tif", times, "TCYX", ["er", "dna"])
    movie(truth / "m.ome.tif", times[:, ::-1] + 1, "TCYX", ["dna", "er"])
    write(pred / "one.ome.tif", image(5), ["er"])
    movie(truth / "er_one.tif", np.stack([image(v)[0] for v in (1, 7, 3)]), "ZYX", ["er"])
    pairs = FolderPairs(pred, truth)
    fields = {pairs.pair(i).field: first_values(pairs.pair(i)) for i in range(len(pairs))}
    assert fields == {
        "m_t1": ([1, 2], [0, 1]),
        "m_t2": ([11, 12], [10, 11]),
        "m_t3": ([21, 22], [20, 21]),
        "one": ([7], [5]),  # of a stack the plane in focus
    }
    # A truth for each channel.
    (truth / "m.ome.tif").unlink()
    for c, name in enumerate(("er", "dna")):
        movie(truth / f"m_{name}.tif", times[:, c] + 3, "TYX", [name])
    (pred / "one.ome.tif").unlink()
    movie(truth / "m_phase.tif", times[:, 0] + 5, "TYX", ["phase"])
    pairs = FolderPairs(pred, truth, inputs=["phase"])
    assert first_values(pairs.pair(2)) == ([23, 24], [20, 21])
    assert pairs.pair(2).inputs[0, 0, 0] == 25
    movie(truth / "m_er.tif", times[:2, 0], "TYX", ["er"])
    with pytest.raises(UserError, match=r"m.ome.tif has 3 time point.*m_er.tif has 2"):
        FolderPairs(pred, truth)
