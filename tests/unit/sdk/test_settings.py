"""One dialect of settings: where values come from, how they are written, what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from overworld.errors import SettingsError
from overworld.service.settings import Settings
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Wheel(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(default=16, description="inches")
    tyre: str = "slick"


class Engine(BaseModel):
    model_config = ConfigDict(extra="forbid")

    power: float = Field(default=50.0, gt=0, description="kilowatts")
    fuel: Literal["petrol", "diesel"] = "petrol"


class Car(Settings):
    """Builds a car."""

    positional: ClassVar[tuple[str, ...]] = ("name", "doors")

    name: str = Field(description="what it is called")
    doors: list[str] = Field(default=[], description="names of its doors")
    folder: Path | None = Field(default=None, description="where it stands")
    wheels: list[Wheel] = Field(default=[Wheel(), Wheel()], description="its wheels")
    engine: Engine = Field(default=Engine(), description="what drives it")
    spare: Wheel | None = Field(default=None, description="a wheel more")
    extras: dict[str, Any] = Field(default={}, description="whatever else")
    fast: bool = Field(default=False, description="whether it is")
    key: str = Field(default="", description="opens it", repr=False, exclude=True)

    @model_validator(mode="after")
    def _check(self) -> Car:
        if self.fast and self.engine.power < 60:
            raise ValueError("a fast car needs an engine.power of 60 or more")
        return self


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "car.yaml"
    path.write_text("name: beetle\nengine: {power: 25}\nwheels: [{size: 15}, {tyre: snow}]\n")
    return str(path)


def test_a_list_may_be_given_member_by_member() -> None:
    assert Car.load(["x", "--doors", "left", "doors=right", "--doors", "back"]).doors == ["left", "right", "back"]
    assert Car.load(["x", "doors=[left, right]", "doors=back"]).doors == ["left", "right", "back"]
    assert Car.load(["x", "doors=left", "doors=[right]"]).doors == ["right"]


def test_each_source_goes_above_the_one_before(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Car.load(["x"]).engine.power == 50
    assert Car.load([file]).engine.power == 25
    monkeypatch.setenv("OVERWORLD_ENGINE__POWER", "30")
    assert Car.load([file]).engine.power == 30
    assert Car.load([file, "engine.power=35"]).engine.power == 35
    assert Car.load(["engine.power=35", file]).engine.power == 35  # wherever it stands


def test_sections_of_several_sources_merge(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERWORLD_ENGINE__FUEL", "diesel")
    assert Car.load([file]).engine == Engine(power=25, fuel="diesel")


@pytest.mark.parametrize(
    "arguments",
    [
        ["engine.power=60"],
        ["--engine.power=60"],
        ["--engine.power", "60"],
        ["engine={power: 60}"],
        ["engine.power=6e1"],
    ],
)
def test_ways_to_write_a_setting(arguments: list[str]) -> None:
    assert Car.load(["x", *arguments]).engine.power == 60


@pytest.mark.parametrize("arguments", [["--fast"], ["--fast=true"], ["fast=yes"]])
def test_ways_to_say_yes(arguments: list[str]) -> None:
    assert Car.load(["x", "engine.power=60", *arguments]).fast


def test_dashes_and_underscores_are_the_same_in_a_key() -> None:
    class Train(Settings):
        top_speed: int = 0

    assert Train.load(["--top-speed", "3"]).top_speed == Train.load(["--top_speed=3"]).top_speed == 3


def test_numbers_lead_into_lists(file: str) -> None:
    assert Car.load([file, "wheels.1.size=17"]).wheels == [Wheel(size=15), Wheel(size=17, tyre="snow")]


def test_an_optional_section_begins_with_its_first_setting() -> None:
    assert Car.load(["x", "spare.size=14"]).spare == Wheel(size=14)
    assert Car.load(["x", "spare.size=14", "spare=null"]).spare is None


def test_texts_and_paths_are_taken_as_they_stand_and_open_dictionaries_as_yaml() -> None:
    car = Car.load(["2026-11-21", "folder=7", "extras.size=56", "extras.colours=true"])
    assert (car.name, car.folder, car.extras) == ("2026-11-21", Path("7"), {"size": 56, "colours": True})


def test_words_without_a_key_fill_the_positional_settings() -> None:
    car = Car.load(["beetle", "--fast", "engine.power=99", "left", "right"])
    assert (car.name, car.doors) == ("beetle", ["left", "right"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], r"^name: Field required$"),
        (["x", "engine.pwoer=3"], r"^engine\.pwoer is not a setting; did you mean power\?$"),
        (["x", "colour=3"], r"^colour is not a setting; there are name, doors, .*$"),
        (["x", "engine.power=-1"], r"^engine\.power: Input should be greater than 0$"),
        (["x", "engine.power=[", "fast=1"], r"engine\.power: '\[' is not YAML"),
        (["x", "wheels.0.size=1"], r"^wheels: Input should be a valid list$"),
        (["x", "name.first=a"], r"name\.first cannot be set: name is 'x', not a section"),
        (["x", "--name"], r"--name needs a value"),
        (["x", "--fast"], r"^a fast car needs an engine\.power of 60 or more$"),
        (["nothing.yaml"], r"nothing\.yaml cannot be read"),
    ],
)
def test_what_is_said_of_wrong_settings(arguments: list[str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Car.load(arguments)


def test_words_that_nothing_takes_are_refused() -> None:
    class Train(Settings):
        speed: int = 0

    with pytest.raises(SettingsError, match="'fast' is neither key=value nor a settings file"):
        Train.load(["fast"])


def test_print_config_names_the_source_of_each_value(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OVERWORLD_ENGINE__FUEL", "diesel")
    monkeypatch.setenv("OVERWORLD_KEY", "s3cret")
    with pytest.raises(SystemExit) as exited:
        Car.load([file, "--wheels.0.tyre", "rain", "extras={a: {b: 1}}", "--print-config"])
    assert exited.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for line in (
        f"name: beetle  # {file}",
        "doors: []  # default",
        f"    size: 15  # {file}",
        "    tyre: rain  # command line",
        f"    tyre: snow  # {file}",
        f"  power: 25.0  # {file}",
        "  fuel: diesel  # OVERWORLD_ENGINE__FUEL",
        "    b: 1  # command line",
        "# key: set, not shown  # OVERWORLD_KEY",
    ):
        assert line in lines
    assert not any("s3cret" in line for line in lines)
    assert yaml.safe_load("\n".join(lines))["wheels"][1] == {"size": 16, "tyre": "snow"}


def test_help_lists_every_setting_with_type_default_and_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        Car.load(["--nonsense", "--help"], "overworld build")
    assert exited.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: overworld build NAME DOORS [FILE.yaml ...]")
    for words in (
        "Builds a car.",
        "--folder Path where it stands (default: None)",
        "--engine.power float kilowatts (default: 50.0)",
        "--engine.fuel {petrol,diesel}",
        "--wheels.N.size int inches (default: 16)",
        "--fast bool whether it is (default: False)",
        "DOORS names of its doors",
        "OVERWORLD_KEY_FILE",
    ):
        assert words in text
