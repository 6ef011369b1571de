from pathlib import Path

import numpy as np
import pytest
import tifffile

from vfn.data import describe
from vfn.data.base import StainData
from vfn.data.config import DataConfig
from vfn.data.discovery.layout import Layout
from vfn.data.samples import Sample, Task
from vfn.data.sets import DATA_SETS, Simulated, make_data
from vfn.data.simulated import CHANNELS, Specimen
from vfn.data.splits import overlap
from vfn.errors import UserError

DNA = Task("dna", ("golgi_actin", "rna"), ("dna",))
DAPI = Task("dapi_from_phase", ("phase",), ("dapi",))
REFOCUS = Task("refocus", ("actin",), ("actin",), (-4.0, 4.0))
OWN = Task("own", ("bf",), ("gfp", "far-red"))
SIZE = {"fields": 6, "height": 50, "width": 61, "dtype": "uint16", "first_seed": 3}


@pytest.mark.parametrize(
    ("task", "fitting"),
    [
        (DNA, {"simulated", "folder", "defocused", "u2os_cps"}),
        (DAPI, {"simulated", "folder", "defocused", "mda_mb_231"}),
        (REFOCUS, {"simulated", "folder", "defocused", "u2os_af"}),
        (OWN, {"folder", "defocused"}),
    ],
)
def test_which_task_fits_which_data(task: Task, fitting: set[str]) -> None:
    assert {name for name, kind in DATA_SETS.items() if kind.fits(task)} == fitting
    for name in DATA_SETS:
        if name in fitting:
            assert type(make_data(task, DataConfig(name))) is DATA_SETS[name]
        else:
            with pytest.raises(UserError, match=f"task={task.name}.*does not fit data={name}"):
                make_data(task, DataConfig(name), [DNA, DAPI])


def test_a_wrong_pair_names_the_tasks_that_fit() -> None:
    with pytest.raises(UserError) as caught:
        make_data(REFOCUS, DataConfig("u2os_cps"), [DNA, DAPI, REFOCUS])
    message = str(caught.value)
    assert message.endswith("choose task=dna")
    assert "dna, er, rna, golgi_actin, mito, one plane each" in message
    assert "out of focus" in message
    with pytest.raises(UserError, match=r"choose task=by task\.inputs"):
        make_data(DNA, DataConfig("u2os_af"))


@pytest.mark.parametrize("key", ["test_plates", "test_wells", "test_fields"])
def test_null_is_an_empty_list_and_one_name_needs_no_brackets(key: str) -> None:
    assert DataConfig("folder", **{key: None}).rule() == DataConfig("folder").rule()  # type: ignore[arg-type]
    for given in ("A02", ["A02"], ("A02",)):
        assert getattr(DataConfig("folder", **{key: given}).rule(), key) == ("A02",)  # type: ignore[arg-type]
    plates = DataConfig("folder", test_plates=20589)  # type: ignore[arg-type]
    assert plates.rule().test_plates == ("20589",)
    blurred = {**SIZE, "blurred": 1.0, "blurred_channels": None}
    (field, *_) = make_data(DNA, DataConfig("simulated", extra=blurred)).find()
    assert field.planes["golgi_actin", 0.0].z == 0.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"percentiles": None}, "data.percentiles=None: give two numbers"),
        ({"percentiles": [1.0]}, "data.percentiles=[1.0]: give two"),
        ({"percentiles": 5}, "data.percentiles=5: give two"),
        ({"percentiles": [True, 99]}, "give two"),
        ({"fixed": [0, 1]}, "data.fixed=[0, 1]: give a mapping"),
        ({"fixed": {"phase": None}}, "data.fixed: phase is None; give two grey values"),
        ({"fixed": {"phase": "ab"}}, "data.fixed: phase is ab; give two grey values"),
        ({"channels": {"phase": []}}, "data.channels: phase is []; give a word"),
    ],
)
def test_lists_that_say_nothing_are_refused(keys: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make_data(DAPI, DataConfig("folder", **keys))  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_a_manifest_and_a_root_must_go_together(tmp_path: Path) -> None:
    for i, channel in enumerate(("phase", "dapi")):
        (tmp_path / "a").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "a" / f"{i}.tif", np.zeros((2, 3), np.uint8))
        with (tmp_path / "m.csv").open("a") as file:
            file.write(f"{'' if i else 'field,channel,path' + chr(10)}f,{channel},a/{i}.tif\n")

    def found(root: Path | None) -> list[str]:
        where = None if root is None else str(root)
        config = DataConfig("folder", root=where, manifest=str(tmp_path / "m.csv"))
        return [field.name for field in make_data(DAPI, config).find()]

    assert found(None) == found(tmp_path) == found(tmp_path / "a") == ["f"]
    with pytest.raises(
        UserError, match=r"data\.root=.*other: .*0\.tif, which .*m\.csv names, is not in"
    ):
        found(tmp_path / "other")


def test_unknown_data_set() -> None:
    with pytest.raises(UserError, match=r"data=bbbc: unknown; .*simulated, folder, defocused"):
        make_data(DNA, DataConfig("bbbc"))


def test_layouts() -> None:
    def layout(name: str, task: Task = DAPI, **keys: object) -> Layout:
        return make_data(task, DataConfig(name, **keys)).layout  # type: ignore[arg-type]

    assert layout("simulated") == Layout()
    assert layout("folder") == Layout()
    assert layout("folder", channels={"phase": "BF", "dapi": 2}).channels == {
        "phase": "BF",
        "dapi": 2,
    }
    # A user's word replaces the data set's own.
    cps = layout("u2os_cps", DNA, channels={"dna": "6"})
    assert cps.channels == {"dna": "6", "er": "2", "rna": "3", "golgi_actin": "4", "mito": "5"}
    assert (
        layout("mda_mb_231", pattern="(?P<field>x)(?P<channel>y)").pattern
        == "(?P<field>x)(?P<channel>y)"
    )
    # A manifest says it all: channels are called there as the task calls them.
    assert layout("u2os_cps", DNA, manifest="m.csv").channels == {}
    af = layout("u2os_af", REFOCUS)
    assert (af.z_zero, af.z_step) == (16.0, 2.0)


@pytest.mark.parametrize("kind", DATA_SETS.values(), ids=str)
def test_z_is_told_by_the_layout_where_a_set_has_planes(kind: type[StainData]) -> None:
    # Otherwise a task with planes would be accepted and then find none.
    own_pattern = kind.PATTERN is not None
    assert not own_pattern or ("(?P<z>" in str(kind.PATTERN)) == kind.HAS_Z


def test_a_root_is_needed() -> None:
    with pytest.raises(UserError, match=r"data=folder: where are the images\? give data\.root"):
        make_data(DAPI, DataConfig("folder")).find()


def test_unknown_keys_are_kept_for_the_data_set() -> None:
    config = DataConfig.from_dict({"name": "simulated", "gap": 8, **SIZE})
    assert config.gap == 8
    assert dict(config.extra) == SIZE
    assert DataConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("key", ["patch_size", "batch_size", "val_patches"])
def test_sizes_of_nothing_are_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{key}=0"):
        make_data(DAPI, DataConfig("folder", **{key: 0}))  # type: ignore[arg-type]


# --- simulated ---


def simulated(task: Task, **extra: object) -> StainData:
    return make_data(task, DataConfig.from_dict({"name": "simulated", **SIZE, **extra}))


def test_simulated_fields() -> None:
    found = simulated(DNA).find()
    assert [field.name for field in found] == [f"sim{seed:04d}" for seed in range(3, 9)]
    for field in found:
        assert set(field.planes) == {(c, 0.0) for c in ("golgi_actin", "rna", "dna")}
    plane = found[1].planes["dna", 0.0]
    array = plane.read()
    assert array.shape == (50, 61)
    assert array.dtype == np.uint16
    assert plane.pixel_size == 0.65
    np.testing.assert_array_equal(array, Specimen(4, (50, 61)).render("dna", 0.0, "uint16"))
    assert simulated(DNA, dtype="uint8").find()[0].planes["dna", 0.0].read().dtype == np.uint8


def test_simulated_planes_out_of_focus() -> None:
    samples = simulated(REFOCUS, fields=1).samples()
    assert [sample.name for sample in samples] == ["sim0003_z-4", "sim0003_z4"]
    target, one, other = (
        p.read() for p in (*samples[0].targets, *samples[0].inputs, *samples[1].inputs)
    )
    np.testing.assert_array_equal(target, Specimen(3, (50, 61)).render("actin", 0.0, "uint16"))
    np.testing.assert_array_equal(one, Specimen(3, (50, 61)).render("actin", -4.0, "uint16"))
    np.testing.assert_array_equal(other, Specimen(3, (50, 61)).render("actin", 4.0, "uint16"))
    assert not np.array_equal(one, target)


def test_every_channel_is_there() -> None:
    assert set(Simulated.CHANNELS) == set(CHANNELS)


@pytest.mark.parametrize("wrong", [{"fields": 0}, {"height": 0}, {"dtype": "int32"}])
def test_simulated_keys_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        simulated(DNA, **wrong).samples()[0].inputs[0].read()


# --- the module from end to end ---


def folder_of(
    root: Path, fields: int, shape: tuple[int, int] = (41, 57), dtype: str = "uint16"
) -> Path:
    rng = np.random.default_rng(0)
    for i in range(fields):
        phase = rng.integers(100, 4000, shape)
        for channel, array in (("phase", phase), ("dapi", 5000 - phase)):
            name = f"plate/f{i}_{channel}.tif"
            (root / name).parent.mkdir(exist_ok=True)
            tifffile.imwrite(root / name, array.astype(dtype), compression="zlib")
    return root


def folder(root: Path, **keys: object) -> StainData:
    return make_data(DAPI, DataConfig("folder", str(root), patch_size=16, **keys))  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["auto", "spatial"])
def test_set_up_and_draw(tmp_path: Path, split: str) -> None:
    data = folder(folder_of(tmp_path, 5), split=split, gap=2, patches_per_epoch=12)
    data.setup()
    assert data.split is not None
    assert data.split.by == ("spatial" if split == "spatial" else "field")
    assert data.measured.baselines.weights == pytest.approx(np.array([[-1.0]]))
    assert data.measured.baselines.offset == pytest.approx(np.array([5000.0]))
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    for raw in [*batches, *data.val_dataloader()]:
        batch = data.on_after_batch_transfer(raw, 0)
        grey = [m[0].restore(t.numpy()).astype(int) for m, t in
                ((data.inputs, batch.input), (data.targets, batch.target))]  # fmt: skip
        inside = (abs(batch.input) < 1) & (abs(batch.target) < 1)
        assert inside.float().mean() > 0.5
        assert abs(grey[0] + grey[1] - 5000)[inside.numpy()].max() <= 2
    recipe = describe.recipe(data)
    assert recipe["pixel_size"] is None
    parts = recipe["split"]
    assert not overlap(data.split.test, [*parts["train"], *parts["val"]])
    assert overlap(data.split.test, parts["test"]) == [sample.name for sample in data.split.test]


def test_overlap_of_regions() -> None:
    def cut(name: str, *region: slice) -> Sample:
        return Sample(name, name, (), (), region if region else None)  # type: ignore[arg-type]

    used = [["a", [[0, 10], [0, 20]]], ["b", None]]
    assert overlap([cut("a", slice(0, 10), slice(20, 30))], used) == []
    assert overlap([cut("a", slice(9, 12), slice(19, 30))], used) == ["a"]
    assert overlap([cut("a"), cut("b", slice(0, 1), slice(0, 1)), cut("c")], used) == ["a", "b"]


def test_an_empty_channel_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, 4)
    for path in tmp_path.rglob("*dapi*"):
        tifffile.imwrite(path, np.full((41, 57), 9, np.uint16))
    with pytest.raises(UserError, match="channel dapi: all training pixels are 9"):
        folder(tmp_path).setup()


def test_targets_of_two_dtypes_are_refused(tmp_path: Path) -> None:
    # One predicted image has one dtype; the other target would come back in a dtype not its own.
    for path in folder_of(tmp_path, 4).rglob("*dapi*"):
        actin = path.with_name(path.name.replace("dapi", "actin"))
        tifffile.imwrite(actin, np.arange(41 * 57).reshape(41, 57).astype(np.uint8))
    task = Task("two", ("phase",), ("dapi", "actin"))
    with pytest.raises(UserError, match="targets dapi, actin are uint16 and uint8"):
        make_data(task, DataConfig("folder", str(tmp_path), patch_size=16)).setup()


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("f1_dapi.tif", np.zeros((41, 56), np.uint16), "41x57.*41x56"),
        ("f1_dapi.tif", np.zeros((41, 57), np.uint8), r"is uint(8|16), but .* is uint(8|16)"),
        ("f1_dapi.tif", np.arange(41 * 57 * 3).reshape(41, 57, 3).astype(np.uint8), "RGB"),
        ("f1_dapi.tif", np.full((41, 57), np.nan, np.float32), "NaN"),
        ("f9_dapi.tif", np.zeros((41, 57), np.uint16), "field plate_f9: no file for phase"),
    ],
)
def test_bad_data_is_refused_before_training(
    tmp_path: Path, name: str, array: np.ndarray, words: str
) -> None:
    folder_of(tmp_path, 4)
    photometric = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "plate" / name, array, photometric=photometric)
    with pytest.raises(UserError, match=words):
        folder(tmp_path).setup()


# --- a data set of the user's own ---

OWN_SET = """
from vfn.data.base import StainData


class Mine(StainData):
    CHANNELS = {"phase": "1", "dapi": "2"}
    PATTERN = r"(?P<field>f[0-9])_c(?P<channel>[12])[.]tif$"
    OWN = ("skip",)

    def find(self, damaged=None):
        return super().find(damaged)[int(self.config.extra.get("skip", 0)):]
"""


def test_a_data_set_by_its_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_own_set.py").write_text(OWN_SET)
    monkeypatch.syspath_prepend(tmp_path)
    for i in range(5):
        for c in (1, 2):
            array = np.arange(41 * 57).reshape(41, 57) * c
            tifffile.imwrite(tmp_path / f"f{i}_c{c}.tif", array.astype(np.uint16))
    keys = {"name": "folder", "_target_": "one_own_set.Mine", "root": str(tmp_path)}
    config = DataConfig.from_dict({**keys, "patch_size": 16, "cache": "off", "skip": 1})
    data = make_data(DAPI, config)
    data.setup()
    assert [field.name for field in data.find()] == ["f1", "f2", "f3", "f4"]
    stored = describe.recipe(data)["data"]
    assert stored["_target_"] == "one_own_set.Mine"
    assert DataConfig.from_dict(stored) == config
    assert "_target_" not in DataConfig("folder").to_dict()
    with pytest.raises(UserError, match=r"data\.skp=1: .*its own are skip"):
        make_data(DAPI, DataConfig.from_dict({**keys, "skp": 1}))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("pathlib.Path", "is no subclass of vfn.data.base.StainData"),
        ("os.system", "is no subclass"),
        ("no_such_package.Mine", "cannot be imported"),
    ],
)
def test_what_is_no_data_set(path: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        make_data(DAPI, DataConfig("folder", _target_=path))
    assert str(caught.value).startswith(f"data._target_={path}: ")
    assert words in str(caught.value)
