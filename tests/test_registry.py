import importlib
import inspect
import sys
import types
from pathlib import Path

import pytest
import torch

import genmm
from genmm import registry
from genmm.core import paths
from genmm.core.checkpoint import save_checkpoint
from genmm.core.errors import CheckpointError, UsageError

CARD = '---\nlicense: cc-by-4.0\ntags:\n- speech\ndescription: "Reads numbers."\n---\n# Card\nlicense: other\n'


class TinyPipeline:
    def __init__(self, folder, device, dtype):
        self.folder, self.device, self.dtype, self.packing = folder, device, dtype, "its own"

    def to(self, packing):
        self.packing = packing
        return self

    @classmethod
    def from_folder(cls, folder, *, device, dtype):
        return cls(folder, device, dtype)


@pytest.fixture(autouse=True)
def homes(monkeypatch, tmp_path):
    """Three empty places for models and one system, "tiny"."""
    module = types.ModuleType("tiny_system")
    module.TinyPipeline = TinyPipeline
    monkeypatch.setitem(sys.modules, "tiny_system", module)
    monkeypatch.setitem(registry.SYSTEMS, "tiny", "tiny_system:TinyPipeline")
    monkeypatch.setenv("GENMM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GENMM_MODELS", str(tmp_path / "mine"))
    monkeypatch.setattr(registry, "embedded_home", lambda: tmp_path / "embedded")
    return {"embedded": tmp_path / "embedded", "pulled": tmp_path / "home" / "models", "folder": tmp_path / "mine"}


def make(folder, system="tiny", card="", **config):
    save_checkpoint(folder, {"system": system, **config}, {"w": torch.zeros(10), "n": torch.tensor(1)})
    if card:
        (folder / "README.md").write_text(card)
    return folder


def test_nothing_there_is_an_empty_list():
    assert registry.models() == []


def test_the_names_that_a_model_knows_are_read_from_its_folder(homes):
    network = {"labels": {"style": ["noto"]}, "answerer": {"answers": ["red", "up"]}}
    folder = make(homes["folder"] / "known", network=network, text={"kind": "captions"})
    (folder / "voices").mkdir()
    for name in ("nora", "callie"):
        (folder / "voices" / f"{name}.json").write_text("{}")
    choices = registry.find_model("known").choices
    assert (choices["voice"], choices["style"], choices["answer"]) == (("callie", "nora"), ("noto",), ("red", "up"))
    assert choices["mode"] == ("major", "minor")
    make(homes["folder"] / "plain", network={"labels": None, "answerer": None}, text="bytes")
    assert registry.find_model("plain").choices == {}


def test_models_of_all_three_places_are_listed_in_order(homes):
    for source in ("folder", "pulled", "embedded"):
        make(homes[source] / f"of-{source}")
    found = registry.models()
    assert [(info.name, info.source) for info in found] == [(f"of-{s}", s) for s in ("embedded", "pulled", "folder")]
    assert all(info.system == "tiny" and not info.problem for info in found)


def test_a_model_is_described_without_loading_it(homes):
    folder = make(homes["embedded"] / "sled", card=CARD)
    make(folder / "codec")
    (info,) = registry.models()
    assert info.path == folder
    assert info.licence == "cc-by-4.0"
    assert info.description == "Reads numbers."
    assert info.parameters == 22
    assert info.memory_bytes(2) == int(1.2 * 22 * 2)
    assert info.size_bytes == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_config_goes_before_the_card(homes):
    make(homes["embedded"] / "a", card=CARD, licence="MIT", description="Says so.")
    (info,) = registry.models()
    assert (info.licence, info.description) == ("MIT", "Says so.")


def test_the_heading_of_a_card_describes_a_model_that_nobody_described(homes):
    make(homes["embedded"] / "a", card="---\nlicense: mit\n---\n\n# a: small voices\n\n# More\n")
    assert (registry.models()[0].description, registry.models()[0].licence) == ("small voices", "mit")


@pytest.mark.parametrize("card", ["no front matter", "---\nlicense: x\n", "---\n", ""])
def test_cards_without_front_matter_say_nothing(homes, card):
    make(homes["embedded"] / "a", card=card)
    assert registry.models()[0].licence == ""


def test_the_public_front_door(homes):
    make(homes["embedded"] / "sled")
    assert [info.name for info in genmm.models()] == ["sled"]
    pipeline = genmm.load(device="cpu", dtype="float32")
    assert isinstance(pipeline, TinyPipeline)
    assert (pipeline.device, pipeline.dtype) == (torch.device("cpu"), torch.float32)
    assert {"load", "models", "__version__"} <= set(dir(genmm))
    with pytest.raises(AttributeError, match="public names"):
        _ = genmm.nothing


@pytest.mark.parametrize("system", [name for name in registry.SYSTEMS if name != "tiny"])
def test_every_pipeline_keeps_the_contract(system):
    module, _, name = registry.SYSTEMS[system].partition(":")
    pipeline = getattr(importlib.import_module(module), name)
    promised = {name for name in vars(registry.Pipeline) if not name.startswith("_")}
    assert {"device", "model", "info", "from_folder", "to", "save", "events"} <= promised
    assert sorted(name for name in promised if not hasattr(pipeline, name)) == []
    assert pipeline.system == system
    for name in ("device", "model", "info"):
        assert isinstance(getattr(pipeline, name), property)
    assert {"device", "dtype"} <= set(inspect.signature(pipeline.from_folder).parameters)
    assert "dtype" in inspect.signature(pipeline.save).parameters


@pytest.mark.parametrize("as_path", [str, Path])
def test_any_folder_can_be_loaded(tmp_path, as_path):
    folder = make(tmp_path / "my model")
    assert registry.load(as_path(folder), device="cpu").folder == folder
    info = registry.find_model(as_path(folder))
    assert (info.name, info.source) == ("my model", "folder")


def test_a_name_goes_before_a_folder_of_that_name(homes, tmp_path, monkeypatch):
    inside, outside = make(homes["pulled"] / "sled"), make(tmp_path / "work" / "sled")
    monkeypatch.chdir(outside.parent)
    assert registry.load("sled", device="cpu").folder == inside
    assert registry.load("./sled", device="cpu").folder.resolve() == outside
    assert registry.load(Path("sled"), device="cpu").folder.resolve() == outside


def test_one_name_in_two_places_is_the_first(homes, caplog):
    first = make(homes["embedded"] / "sled")
    make(homes["pulled"] / "sled")
    assert [info.path for info in registry.models()] == [first]
    assert registry.find_model("sled").path == first
    assert "hidden by the embedded model" in caplog.text


def test_an_extra_folder_may_be_a_checkpoint_itself(homes):
    make(homes["folder"])
    assert [(info.name, info.source) for info in registry.models()] == [("mine", "folder")]
    assert registry.load("mine", device="cpu").folder == homes["folder"]


@pytest.mark.parametrize("name", ["nothing", "", "../../nowhere", "a\0b", "https://example.org/model", "x" * 5000])
def test_an_unknown_name_lists_what_there_is(homes, monkeypatch, name):
    make(homes["embedded"] / "sled")
    make(homes["pulled"] / "sled-paper")
    monkeypatch.chdir(homes["embedded"])
    with pytest.raises(UsageError, match=r"models here: sled, sled-paper\. `genmm models`"):
        registry.load(name)


@pytest.mark.parametrize("system", [name for name in registry.SYSTEMS if name != "tiny"])
def test_a_system_without_a_model_says_how_to_train_one(homes, system):
    with pytest.raises(UsageError) as caught:
        registry.find_model(system)
    config = str(caught.value).partition("--config ")[2].partition("`")[0]
    assert (Path(registry.__file__).parents[1] / config).is_file()


def test_a_broken_model_is_listed_with_its_problem_and_refused(homes):
    folder = make(homes["pulled"] / "broken")
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    make(homes["pulled"] / "fine")
    broken, fine = registry.models()
    assert (broken.name, fine.problem) == ("broken", "")
    assert "safetensors" in broken.problem
    with pytest.raises(CheckpointError, match="model broken cannot be loaded"):
        registry.load("broken", device="cpu")


def test_an_unknown_system_is_refused(homes):
    make(homes["pulled"] / "odd", system="telepathy")
    with pytest.raises(CheckpointError, match="'telepathy' is unknown; this genmm has .*sled"):
        registry.load("odd", device="cpu")


def test_folders_that_are_no_checkpoints_are_left_out(homes, tmp_path):
    (homes["pulled"] / "half").mkdir(parents=True)
    (homes["pulled"] / ".hidden").mkdir()
    (homes["pulled"] / "file").write_text("x")
    assert registry.models() == []
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        registry.load(homes["pulled"] / "half", device="cpu")


def test_a_wrong_device_or_dtype_is_a_usage_error(homes):
    make(homes["embedded"] / "sled")
    with pytest.raises(UsageError, match="device must be"):
        registry.load("sled", device="abacus")
    with pytest.raises(UsageError, match="dtype must be"):
        registry.load("sled", device="cpu", dtype="int3")


@pytest.mark.parametrize("name", ["sled", "sled-2.0_b", "A" * 64])
def test_good_model_names(name):
    assert registry.check_model_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", ".a", "A" * 65, "a\n"])
def test_bad_model_names(name):
    with pytest.raises(UsageError, match="a model name has"):
        registry.check_model_name(name)


def test_homes_are_those_of_the_package():
    assert paths.embedded_home().parent == Path(genmm.__file__).parent


def test_packings_go_to_the_systems_that_have_them(homes, monkeypatch):
    make(homes["embedded"] / "small")
    assert registry.load("small", device="cpu", packing="live").packing == "its own"
    with pytest.raises(UsageError, match="small is of the system tiny"):
        registry.load("small", device="cpu", packing="int8")
    monkeypatch.setattr(registry, "PACKED", ("tiny",))
    assert registry.load("small", device="cpu").packing == "its own"
    assert registry.load("small", device="cpu", packing="int8").packing == "int8"
