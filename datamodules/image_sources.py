"""Where pictures for training come from: emoji, hand signs, folders, Hugging Face image folders, WebDataset shards.

Every source gives a list of `PictureEntry`, which knows its labels and caption and reads its pixels when asked.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.images_drawn import all_shapes, shape_picture
from datamodules.source_files import file_state
from genmm.core.errors import ConfigError, DataError
from genmm.core.files import parse_json
from genmm.core.seeds import derive_seed
from genmm.media.image import read_image

__all__ = ["PictureEntry", "PictureSource"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Files that count as pictures."""
EMOJI_STYLES = ("noto", "twemoji")
"""Styles of the emoji set whose licences allow weights to be passed on (Apache-2.0, CC BY 4.0)."""
DRAWN_SIDE = 32
"""Size of drawn shapes, in pixels."""
HELD_OUT = 24
"""One in so many pictures is for validation, and as many for the test, where a source has no split of its own."""


@dataclass(frozen=True)
class PictureEntry:
    """One picture of a source."""

    key: str
    """Unique name."""
    split: str
    """"train", "val" or "test"."""
    read: Callable[[], np.ndarray]
    """Reads the pixels, RGB [H, W, 3] uint8."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Field -> value, such as style -> noto."""
    caption: str = ""
    """What it shows, "" when nobody says."""
    tags: tuple[str, ...] = ()
    """Further words for it."""
    file: Path | None = None
    """File that holds its pixels, alone or among others; None for a drawn one."""


@dataclass(frozen=True, kw_only=True)
class PictureSource:
    """Which pictures a training set is made of."""

    kind: str = "emoji"
    """emoji, sign_digits (both under the data folder), folder (one sub-folder per class, or metadata.jsonl /
    metadata.csv with file_name beside the pictures), webdataset (tar files), drawn (shapes, made on the fly)."""
    path: str = ""
    """Folder of "folder", or tar file or folder of tar files of "webdataset"."""
    styles: tuple[str, ...] = EMOJI_STYLES
    """Emoji styles."""
    count: int = 192
    """Drawn shapes."""

    def entries(self, data_home: Path) -> list[PictureEntry]:
        """All pictures in a fixed order. Raises: DataError that says where to get what is missing."""
        makers = {
            "emoji": lambda: _emoji(data_home / "images_emoji", self.styles),
            "sign_digits": lambda: _sign_digits(data_home / "images_sign_digits"),
            "folder": lambda: _folder(Path(self.path)),
            "webdataset": lambda: _webdataset(Path(self.path)),
            "drawn": lambda: _drawn(self.count),
        }
        if self.kind not in makers:
            raise ConfigError(f"the source of pictures must be one of {', '.join(makers)}, got {self.kind!r}")
        if self.kind in ("folder", "webdataset") and not self.path:
            raise ConfigError(f"a source of the kind {self.kind} needs its path")
        entries = makers[self.kind]()
        if not entries:
            raise DataError(f"there are no pictures in the {self.kind} source {self.path or data_home}")
        return entries

    def fingerprint(self) -> str:
        """Short hash of the choice, for names of cached files."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]


def _split_of(key: str, *, parts: int = HELD_OUT) -> str:
    """Split by a hash of the name, the same on every machine and for every order."""
    return {0: "val", 1: "test"}.get(derive_seed(0, "split", key) % parts, "train")


def _emoji(folder: Path, styles: Sequence[str]) -> list[PictureEntry]:
    """Emoji; what is held out is one style of an emoji whose other style stays, so that name and style are known."""
    table, archive = folder / "metadata.tsv", folder / "images.zip"
    if not table.is_file() or not archive.is_file():
        raise DataError(
            f"{folder} lacks metadata.tsv and images.zip. Put 64x64 pictures of noto-emoji and twemoji there (columns "
            "file, style, hexcode, name, group, tags), or set GENMM_DATA to the folder that has them"
        )
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [row for row in rows if row["style"] in styles]
    shared = {row["hexcode"] for row in rows if row["style"] == styles[0]}
    for style in styles[1:]:
        shared &= {row["hexcode"] for row in rows if row["style"] == style}
    entries = []
    for row in rows:
        code = row["hexcode"]
        held = code in shared and row["style"] == styles[derive_seed(0, "style", code) % len(styles)]
        entries.append(
            PictureEntry(
                key=row["file"],
                split=_split_of(code) if held and len(styles) > 1 else "train",
                read=partial(_from_zip, archive, row["file"]),
                labels={"style": row["style"], "group": row["group"], "subgroup": row["subgroup"]},
                caption=row["name"],
                tags=tuple(tag.strip() for tag in row["tags"].split(",") if tag.strip()),
                file=archive,
            )
        )
    return entries


def _drawn(count: int) -> list[PictureEntry]:
    kinds = all_shapes()
    entries = []
    for number in range(count):
        colour, shape, style = kinds[number % len(kinds)]
        name = f"{number:05d}-{colour}-{shape}-{style}"
        read = partial(shape_picture, colour, shape, style, DRAWN_SIDE, number)
        entries.append(PictureEntry(name, _split_of(name), read, {"style": style}, f"{colour} {shape}"))
    return entries


def _sign_digits(folder: Path) -> list[PictureEntry]:
    archive = folder / "images.zip"
    if not archive.is_file():
        raise DataError(f"{archive} is missing: photographs of hand signs as CLASS/name.jpg; set GENMM_DATA")
    names = sorted(name for name in zipfile.ZipFile(archive).namelist() if name.lower().endswith(SUFFIXES))
    entries = []
    for name in names:
        read, labels = partial(_from_zip, archive, name), {"class": name.split("/")[0]}
        entries.append(PictureEntry(name, _split_of(name), read, labels, file=archive))
    return entries


def _folder(folder: Path) -> list[PictureEntry]:
    """The layouts of torchvision and of Hugging Face image folders, with folders train, val and test or without."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    about = _metadata(folder)
    entries = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        parts = list(path.relative_to(folder).parts[:-1])
        split = {"train": "train", "val": "val", "validation": "val", "test": "test"}.get(parts[0] if parts else "")
        parts = parts[1:] if split else parts
        name = path.relative_to(folder).as_posix()
        row = about.get(path.resolve(), {})
        label = row.get("label", row.get("class", parts[0] if parts else None))
        caption = str(row.get("text") or row.get("caption") or "")
        labels = {} if label is None else {"class": str(label)}
        read = partial(read_image, path)
        entries.append(PictureEntry(name, split or _split_of(name), read, labels, caption, file=path))
    return entries


def _metadata(folder: Path) -> dict[Path, dict]:
    """Rows of every metadata file below a folder, by the picture they describe."""
    found: dict[Path, dict] = {}
    for table in sorted([*folder.rglob("metadata.jsonl"), *folder.rglob("metadata.csv")]):
        with table.open(encoding="utf-8", newline="") as stream:
            if table.suffix == ".csv":
                rows = list(csv.DictReader(stream))
            else:
                rows = [parse_json(line, source=str(table)) for line in stream if line.strip()]
        for row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                raise DataError(f"{table}: every row needs a file_name")
            path = (table.parent / row["file_name"]).resolve()
            if not path.is_relative_to(folder.resolve()) or not path.is_file():
                raise DataError(f"{table} names {row['file_name']!r}, which is not in {folder}")
            found[path] = row
    return found


def _webdataset(path: Path) -> list[PictureEntry]:
    """Tar files with pictures and, under the same stem, .cls (label), .txt (caption) or .json (both)."""
    shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not shards or not all(shard.is_file() for shard in shards):
        raise DataError(f"there are no tar files at {path}")
    return [entry for shard in shards for entry in _shard(shard)]


def _shard(shard: Path) -> Iterator[PictureEntry]:
    pictures: dict[str, tuple[str, int, int]] = {}
    about: dict[str, dict[str, str]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                stem, suffix = _stem_and_suffix(member.name)
                if not member.isfile():
                    continue
                if stem and f".{suffix.lower()}" in SUFFIXES:
                    pictures[stem] = (member.name, member.offset_data, member.size)
                elif suffix in ("cls", "txt", "json"):
                    text = tar.extractfile(member).read(100_000).decode("utf-8", "replace").strip()  # type: ignore[union-attr]
                    about.setdefault(stem, {})[suffix] = text
    except tarfile.TarError as error:
        raise DataError(f"{shard} cannot be read as a tar file: {error}") from error
    for stem, (name, offset, size) in pictures.items():
        row = about.get(stem, {})
        more = parse_json(row["json"], source=f"{shard}/{stem}.json") if "json" in row else {}
        label = row.get("cls", more.get("label", more.get("class")))
        caption = str(row.get("txt") or more.get("text") or more.get("caption") or "")
        labels = {} if label is None else {"class": str(label)}
        key = f"{shard.name}/{name}"
        yield PictureEntry(key, _split_of(key), partial(_from_span, shard, offset, size), labels, caption, file=shard)


def _stem_and_suffix(name: str) -> tuple[str, str]:
    """WebDataset's rule: files of one item share everything up to the first point of the last part of their path."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", suffix


@functools.lru_cache(maxsize=4)
def _opened(archive: Path, process: int, state: str) -> zipfile.ZipFile:
    """The archive in its present state, opened once in every process: reading its directory outlasts a picture."""
    del process, state
    return zipfile.ZipFile(archive)


def _from_zip(archive: Path, name: str) -> np.ndarray:
    return read_image(io.BytesIO(_opened(archive, os.getpid(), file_state(archive)).read(name)))


def _from_span(path: Path, offset: int, size: int) -> np.ndarray:
    with path.open("rb") as stream:
        stream.seek(offset)
        return read_image(io.BytesIO(stream.read(size)))
