"""The table of models that can be pulled: one recipe per published checkpoint.

A system adds its models by adding rows: which repositories, which files of them, and which function turns the
downloaded folders into a checkpoint folder of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from genmm.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Source:
    """One repository on the hub and the files that are needed of it."""

    repo: str
    """Owner/name on the hub."""
    files: tuple[str, ...]
    """Files without which the conversion cannot work."""
    optional: tuple[str, ...] = ()
    """Files that are fetched when they are there."""
    licence_note: str
    """What we know of the licence, shown beside what the repository itself states."""

    @property
    def folder(self) -> str:
        """Name of the folder that the files are downloaded to."""
        return self.repo.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one published model becomes one of ours."""

    system: str
    """System that the model belongs to ("sled")."""
    variant: str = ""
    """Which of the system's models; "" is the one that `genmm pull SYSTEM` means."""
    model: str
    """Name under which it is registered, for --model."""
    title: str
    """One line for people."""
    sources: tuple[Source, ...]
    """Repositories, in the order in which the converter takes their folders."""
    converter: str
    """Function as "module:name", called as f(*folders, out, licence=, origin=, overwrite=, on_event=, **options)."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Further keyword arguments of the converter."""
    by_hand: str
    """Command that converts files fetched by hand; {out} and {0}, {1}... stand for the folders."""


_SLED = {
    "files": ("config.json", "model.safetensors", "vocab.json", "merges.txt"),
    "optional": ("tokenizer_config.json", "README.md"),
    "licence_note": "the authors state no licence; ask them before you use it for more than trying it",
}
_ENCODEC = Source(
    repo="facebook/encodec_24khz",
    files=("config.json", "model.safetensors"),
    licence_note="EnCodec by Meta; read the terms on the page of the repository",
)

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        system="sled",
        model="sled-libriheavy",
        title="SLED-TTS offline: English speech, 24 kHz, 0.2 billion parameters, trained on LibriHeavy",
        sources=(Source(repo="ICTNLP/SLED-TTS-Libriheavy", **_SLED), _ENCODEC),
        converter="genmm.systems.sled.convert:convert_sled",
        options={"layout": "offline"},
        by_hand="genmm convert sled {0} {out} --codec {1}",
    ),
    Recipe(
        system="sled",
        variant="streaming",
        model="sled-streaming-libriheavy",
        title="SLED-TTS streaming: as the offline model, but speaks 0.6 s of sound for every 5 tokens of arriving text",
        sources=(Source(repo="ICTNLP/SLED-TTS-Streaming-Libriheavy", **_SLED), _ENCODEC),
        converter="genmm.systems.sled.convert:convert_sled",
        options={"layout": "streaming"},
        by_hand="genmm convert sled {0} {out} --codec {1} --layout streaming",
    ),
    Recipe(
        system="vqtoken",
        model="vqtoken-llava-ov-0.5b",
        title="VQToken on LLaVA-OneVision 0.5B: free questions about videos, answered from 12 to 32 tokens",
        sources=(
            Source(
                repo="haichaozhang/VQ-Token-llava-ov-0.5b",
                files=("config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer_config.json"),
                optional=("tokenizer.json", "added_tokens.json", "special_tokens_map.json", "README.md"),
                licence_note="made from LLaVA-OneVision and Qwen2 0.5B (Apache-2.0); read the page of the repository",
            ),
        ),
        converter="genmm.systems.vqtoken.convert:convert_vqtoken",
        by_hand="genmm convert vqtoken {0} {out}",
    ),
    Recipe(
        system="melodyflow",
        model="melodyflow-t24-30secs",
        title="MelodyFlow: instrumental music and edits, 48 kHz stereo, 1 billion parameters, not for commercial use",
        sources=(
            Source(
                repo="facebook/melodyflow-t24-30secs",
                files=("state_dict.bin", "compression_state_dict.bin"),
                optional=("README.md",),
                licence_note="CC BY-NC 4.0: neither the weights nor what is made with them for commercial use",
            ),
            Source(
                repo="google-t5/t5-base",
                files=("config.json", "model.safetensors", "tokenizer.json"),
                licence_note="Apache-2.0",
            ),
        ),
        converter="genmm.systems.melodyflow.convert:convert_melodyflow",
        by_hand="genmm convert melodyflow {0} {out} --t5 {1}",
    ),
)


BY_HAND: Mapping[str, str] = {
    "tokenset": "the authors of TokenSet publish their weights on Google Drive only, which no program may fetch for "
    "you. Open github.com/Gengzigang/TokenSet, follow the link under pretrained models, put set_tokenizer_128_4096.pth "
    "and fsdd_small_128_4096.pth (or fsdd_base_128_4096.pth) into one folder, then: genmm convert tokenset FOLDER "
    "~/.cache/genmm/models/tokenset-imagenet",
}
"""Systems whose weights no hub has -> what to do instead."""


def find_recipe(system: str, variant: str = "") -> Recipe:
    """The recipe of a system's variant. Raises: UsageError that lists what can be pulled."""
    for recipe in RECIPES:
        if (recipe.system, recipe.variant) == (system, variant):
            return recipe
    if system in BY_HAND:
        raise UsageError(BY_HAND[system])
    known = ", ".join(f"{r.system} --{r.variant}" if r.variant else r.system for r in RECIPES)
    wanted = f"{system} --{variant}" if variant else system
    raise UsageError(f"there is nothing to pull for {wanted!r}; what can be pulled: {known}")
