"""The data sets: each a few facts over `StainData`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np

from vfn.data import simulated
from vfn.data.base import StainData
from vfn.data.cache import code_digest
from vfn.data.config import DataConfig
from vfn.data.defocus import DefocusedPlane, Optics
from vfn.data.discovery.fields import Field, ImageSource
from vfn.data.discovery.layout import Layout, listed
from vfn.data.patches import Augmentation
from vfn.data.samples import Task
from vfn.data.simulated import CHANNELS, PIXEL_SIZE, Specimen
from vfn.data.steps import Step
from vfn.errors import UserError, nearest
from vfn.system.dotted import TARGET, find


class FolderData(StainData):
    """Anybody's images: channels are tokens of the path, a pattern, or a manifest."""

    HAS_Z = True  # by the group `z` of data.pattern or the column z of a manifest


class Defocused(StainData):
    """Sharp fields in a folder, put out of focus by the physics of the microscope at every depth that
    the task names; see `vfn.data.defocus`.

    Extra keys: `na`, `wavelength` (um), `index` of the optics; `pixel_size` (um; None takes the
    files'); `noise` (put back the camera's noise that blur removes).
    """

    HAS_Z = True
    OWN = ("na", "wavelength", "index", "pixel_size", "noise")

    def find(self, damaged: list[UserError] | None = None) -> list[Field]:
        """Find the fields of the folder, with the planes that the task names beside the sharp ones."""
        fields = super().find(damaged)
        missing = [d for d in self.task.depths if d]
        return [replace(one, planes=self._with_depths(one, missing)) for one in fields]

    def _with_depths(self, one: Field, depths: list[float]) -> dict[tuple[str, float], ImageSource]:
        planes = {key: plane for key, plane in one.planes.items() if key[1] == 0}
        noise = bool(self.config.extra["noise"])
        for (channel, _), plane in list(planes.items()):
            optics = self._optics(plane)
            planes |= {(channel, z): DefocusedPlane(plane, z, optics, noise) for z in depths}
        return planes

    def _optics(self, plane: ImageSource) -> Optics:
        extra = self.config.extra
        pixel_size = extra["pixel_size"] or plane.pixel_size
        if not pixel_size:
            raise UserError(
                f"{plane}: does not say how large a pixel is; give data.pixel_size=UM, "
                "as 0.65 for a 20x objective on 13 um pixels"
            )
        na, wavelength, index = (float(extra[key]) for key in ("na", "wavelength", "index"))
        return Optics(na, wavelength, float(pixel_size), index)


class MDAMB231(StainData):
    """MDA-MB-231 breast cancer cells, 60x oil, 1392x1040, 8 bit (sec. 2.2.1).

    Not public: a folder whose file names carry the channel as a token.
    """

    CHANNELS: ClassVar[Mapping[str, str]] = {
        channel: channel for channel in ("phase", "dapi", "actin", "vinculin")
    }


class U2OSAF(StainData):
    """BBBC006: U2OS, one 384-well plate x 2 sites, 34 planes 2 um apart, one folder a plane (2.2.2).

    Names: `BBBC006_v1_images_z_16/mcf-z-stacks-03212011_a01_s1_w1<id>.tif`; w1 Hoechst, w2
    phalloidin; z_16 is the focal plane, z_00 lies 32 um below it.
    """

    CHANNELS: ClassVar[Mapping[str, str]] = {"dna": "1", "actin": "2"}
    PATTERN = r"(?i)_z_(?P<z>\d+)/[^/]*_(?P<well>[a-p]\d\d)_s(?P<site>\d)_w(?P<channel>[12])[^/]*$"
    HAS_Z = True
    Z_ZERO: ClassVar[float] = 16.0
    Z_STEP: ClassVar[float] = 2.0


class U2OSCPS(StainData):
    """BBBC022: U2OS Cell Painting, 20 plates of 384 wells x 9 sites, 696x520, 16 bit (2.2.3).

    Names: `BBBC022_v1_images_20585w1/IXMtest_A01_s1_w1<id>.tif`, one folder a plate and channel.
    """

    CHANNELS: ClassVar[Mapping[str, str]] = {
        "dna": "1", "er": "2", "rna": "3", "golgi_actin": "4", "mito": "5",
    }  # fmt: skip
    PATTERN = (
        # Anchored, or the search would be content with a match that leaves the plate out.
        r"(?i)^(?:(?:.*\D)?(?P<plate>\d{5})(?:w\d)?/)?.*"
        r"_(?P<well>[a-p]\d\d)_s(?P<site>\d)_w(?P<channel>[1-5])[^/]*$"
    )


BLUR = (4.0, 10.0)  # um, of fields that are out of focus by accident
BLUR_SEED = 1_000_003
# Keys that checkpoints of earlier versions do not have.
PLAIN = {"blurred": 0.0, "blurred_channels": (), "treatment": "none", "treated": 1.0}


@dataclass(frozen=True)
class SimulatedPlane:
    """One channel of a simulated field."""

    seed: int
    channel: str
    z: float
    shape: tuple[int, int]
    dtype: str
    treatment: str = "none"
    treated: float = 1.0

    def read(self) -> np.ndarray:
        """Pixels (H, W)."""
        specimen = _specimen(self.seed, self.shape, self.treatment, self.treated)
        return specimen.render(self.channel, self.z, self.dtype)

    @property
    def pixel_size(self) -> float:
        """Micrometres a pixel."""
        return PIXEL_SIZE

    @property
    def key(self) -> str:
        """Everything that the pixels depend on, the model of the specimen included."""
        return f"{self!r} {code_digest(simulated.__file__)}"

    def __str__(self) -> str:
        return f"simulated field {self.seed} {self.channel}"


@lru_cache(maxsize=8)  # the planes of one field are asked for together
def _specimen(seed: int, shape: tuple[int, int], treatment: str, treated: float) -> Specimen:
    return Specimen(seed, shape, PIXEL_SIZE, treatment, treated)


class Simulated(StainData):
    """Cells drawn from a model (see `vfn.data.simulated`): any channels, any plane, no download.

    Extra keys: `fields` (how many), `height`, `width` (px), `dtype` (uint8 or uint16),
    `first_seed` (of the first field), `treatment` and `treated` (see `Specimen`), `blurred` (share of
    the fields whose `blurred_channels`, where they are inputs alone, lie 4 to 10 um out of focus).
    """

    CHANNELS: ClassVar[Mapping[str, str]] = {channel: channel for channel in CHANNELS}
    HAS_Z = True
    OWN = ("fields", "height", "width", "dtype", "first_seed", *PLAIN)

    @property
    def layout(self) -> Layout:
        """Users' own files, when a model trained on simulated cells predicts them: by token."""
        return Layout()

    def find(self, damaged: list[UserError] | None = None) -> list[Field]:
        """One field a seed; none is ever damaged."""
        extra = {**PLAIN, **self.config.extra}
        count, shape = int(extra["fields"]), (int(extra["height"]), int(extra["width"]))
        if count < 1 or min(shape) < 1:
            raise UserError(f"data.fields={count} of {shape[0]}x{shape[1]} pixels: give 1 or more")
        if not 0 <= extra["blurred"] <= 1:
            raise UserError(f"data.blurred={extra['blurred']}: give a share of the fields, 0 to 1")
        first, dtype = int(extra["first_seed"]), str(extra["dtype"])
        treatment, treated = str(extra["treatment"]), float(extra["treated"])
        Specimen(0, shape, PIXEL_SIZE, treatment, treated)  # refuses what cannot be drawn
        fields = []
        for seed in range(first, first + count):
            planes: dict[tuple[str, float], ImageSource] = {}
            for channel in self.task.channels:
                off = self._off_focus(seed, channel)
                for z in self.task.depths:
                    planes[channel, z] = SimulatedPlane(
                        seed, channel, z + off, shape, dtype, treatment, treated
                    )
            fields.append(Field(f"sim{seed:04d}", planes))
        return self._kept(fields)

    def _off_focus(self, seed: int, channel: str) -> float:
        """Return the um by which a channel of a field lies out of focus by accident."""
        extra = {**PLAIN, **self.config.extra}
        inputs = set(self.task.inputs) - set(self.task.targets)
        if channel not in inputs or channel not in listed(extra["blurred_channels"]):
            return 0.0
        rng = np.random.default_rng([seed, BLUR_SEED])
        if rng.random() >= extra["blurred"]:
            return 0.0
        return float(rng.choice([-1, 1]) * rng.uniform(*BLUR))


DATA_SETS: dict[str, type[StainData]] = {
    "simulated": Simulated,
    "folder": FolderData,
    "defocused": Defocused,
    "mda_mb_231": MDAMB231,
    "u2os_af": U2OSAF,
    "u2os_cps": U2OSCPS,
}


def _kind(config: DataConfig) -> type[StainData]:
    path = config._target_
    if path is not None:
        kind = find(str(path), f"data.{TARGET}")
        if not (isinstance(kind, type) and issubclass(kind, StainData)):
            raise UserError(f"data.{TARGET}={path}: is no subclass of vfn.data.base.StainData")
        return kind
    if config.name not in DATA_SETS:
        raise UserError(f"data={config.name}: unknown; choose one of {', '.join(DATA_SETS)}")
    return DATA_SETS[config.name]


def make_data(
    task: Task,
    config: DataConfig,
    known_tasks: Iterable[Task] = (),
    steps: Sequence[Step] = (),
    augmentation: Augmentation | None = None,
) -> StainData:
    """Return the data module for `task` on `config.name`, or on the class at `config._target_`, not set up.

    Args:
        known_tasks: named in the message when the task does not fit.
        steps, augmentation: of a training; see `StainData`.

    Raises:
        UserError: unknown data set; a setting of another one; a task that it has no channels or planes
            for.
    """
    kind = _kind(config)
    if unknown := sorted(set(config.extra) - set(kind.OWN)):
        raise UserError(
            f"data.{unknown[0]}={config.extra[unknown[0]]}: data={config.name} has no such setting"
            + (f"; its own are {', '.join(kind.OWN)}" if kind.OWN else "")
        )
    if not kind.fits(task):
        raise _misfit(task, config, kind, [known.name for known in known_tasks if kind.fits(known)])
    return kind(task, config, steps, augmentation)


def _misfit(
    task: Task, config: DataConfig, kind: type[StainData], fitting: Sequence[str]
) -> UserError:
    """Return the error for a task that a data set has no channels or planes for."""
    there = list(kind.CHANNELS or ())
    unknown = [channel for channel in task.channels if channel not in there]
    near = [f"{c} is like {match}" for c in unknown if (match := nearest(c, there))]
    have = ", ".join(there) + ("" if kind.HAS_Z else ", one plane each")
    have += f" ({', '.join(near)})" if near else ""
    out_of_focus = " out of focus" if task.input_z else ""
    return UserError(
        f"task={task.name} ({' + '.join(task.inputs)} -> {', '.join(task.targets)}{out_of_focus}) does not fit "
        f"data={config.name}: it has {have}; choose "
        f"task={' | '.join(fitting) or 'by task.inputs=[...] task.targets=[...]'}"
    )
