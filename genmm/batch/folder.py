"""The folder of a batch run: what lies where, who may work in it, and how files get their final names.

    DIR/<id>.wav, <id>.json           media and recipe of each finished item
    DIR/results.jsonl                 one line per id (while shards work: results.shard-i-of-n.jsonl beside it)
    DIR/.run/fingerprint.json         what the results depend on; another run may not mix into the folder
    DIR/.run/made-<shard>.jsonl       names of all files ever made here, each written down before its file appears
    DIR/.run/lock, lock-<shard>       held while a process works, freed by the system even after kill -9
    DIR/.run/staging-<shard>/         files being made; emptied at every start

Ids never start with a dot, so no item collides with `.run`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from genmm.batch.results_log import DONE, Record, fold, read_records, repair_tail, rewrite
from genmm.batch.shards import Shard
from genmm.core.errors import ConfigError, DataError, MissingDependencyError, UsageError
from genmm.core.files import append_line, check_target, read_json, sync_folder

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None  # type: ignore[assignment]

FINGERPRINT_FORMAT = 1
"""Version of the folder layout, stored in the fingerprint."""
SHARED_LOCK_PATIENCE = 50
"""Tenths of a second that a starting shard waits while another one merges results."""


class RunFolder:
    """One process's view of a run folder, as the worker of one shard."""

    def __init__(self, path: Path | str, shard: Shard) -> None:
        self.path = Path(path)
        self.shard = shard
        self.private = self.path / ".run"
        self.results = self.path / shard.results_name
        self.staging = self.private / f"staging-{shard.index:05d}-of-{shard.count:05d}"
        self.made = self.private / f"made-{shard.index:05d}-of-{shard.count:05d}.jsonl"

    def check(self, fingerprint: Mapping[str, Any]) -> None:
        """See whether a run of this fingerprint may work here; nothing is made or changed.

        Raises: UsageError when it cannot be a folder or cannot be written, and as `claim`.
        """
        self._check_is_folder()
        check_target(self.results)
        self.check_owner(fingerprint)

    def check_owner(self, fingerprint: Mapping[str, Any]) -> None:
        """See whether the folder is free or bound to this fingerprint. Raises: as `claim`."""
        path = self.private / "fingerprint.json"
        if path.exists():
            _compare(path, read_json(path), _claimed(fingerprint))
        else:
            self._check_is_free(path)

    def prepare(self) -> None:
        """Make the folder. Raises: UsageError when it cannot be one, DataError when it cannot be made."""
        self._check_is_folder()
        try:
            self.private.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the run folder {self.path}: {error.strerror or error}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: alone for an undivided run, shared for shards, each shard at most once.

        Raises: UsageError naming the process that works here already.
        """
        alone = self.shard.is_whole
        with _lock(self.private / "lock", exclusive=alone, who=f"a run in {self.path}"):
            if alone:
                yield
            else:
                name = self.private / f"lock-{self.shard.index:05d}-of-{self.shard.count:05d}"
                with _lock(name, exclusive=True, who=f"shard {self.shard} in {self.path}"):
                    yield

    def claim(self, fingerprint: Mapping[str, Any]) -> None:
        """Bind the folder to a fingerprint, or check that it is bound to this one.

        Raises: ConfigError naming the fields that differ; DataError when results lie here without a fingerprint.
        """
        mine, path = _claimed(fingerprint), self.private / "fingerprint.json"
        if not path.exists():
            self._check_is_free(path)
            _create_once(path, mine)
        _compare(path, read_json(path), mine)

    def clean_staging(self) -> None:
        """Remove what killed processes left unfinished, and make this shard's staging folder anew."""
        stale = self.private.glob("staging-*") if self.shard.is_whole else [self.staging]
        for folder in stale:
            shutil.rmtree(folder, ignore_errors=True)
        self.staging.mkdir(parents=True, exist_ok=True)

    def result_files(self) -> list[Path]:
        """All results files, the merged one first."""
        whole = self.path / Shard().results_name
        return [*([whole] if whole.exists() else []), *sorted(self.path.glob("results.shard-*-of-*.jsonl"))]

    def known(self, digests: Mapping[str, str]) -> dict[str, Record]:
        """Fold every results file (`digests`: id -> row digest); records of media that have gone do not count."""
        records = (record for path in self.result_files() for record in read_records(path))
        return fold((record for record in records if self._is_whole(record)), digests)

    def own_names(self) -> set[str]:
        """Names of the files that runs of this folder made, also of items whose record was never written."""
        names = {name for path in self.result_files() for record in read_records(path) for name in record.files}
        for path in self.private.glob("made-*.jsonl"):
            for line in path.read_bytes().splitlines():
                with suppress(ValueError, TypeError):  # torn by a power cut, before its files appeared
                    names.update(json.loads(line))
        return names

    def repair(self) -> None:
        """Cut an unfinished last line off the files to which this process appends."""
        repair_tail(self.results)
        repair_tail(self.made)

    def publish(self, staged: Sequence[Path]) -> tuple[str, ...]:
        """Move finished files from the staging folder to their final names; returns the names.

        Each is on the disk, and its name in the list of files made, before it is renamed: a process killed before the
        record is written leaves files that the next start knows as its own. Raises: OSError when the disk refuses.
        """
        append_line(self.made, json.dumps([path.name for path in staged]))
        names = []
        for path in staged:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            target = self.path / path.name
            os.replace(path, target)
            names.append(target.name)
        return tuple(names)

    def sync(self) -> None:
        """Make the renames of `publish` durable; call once a batch, before its records are appended."""
        sync_folder(self.path)

    def compact(self, digests: Mapping[str, str]) -> None:
        """Rewrite this process's results file with one line per id, in the order of `digests`, other ids after them.

        The undivided run takes the records of shard files in and removes those files.
        """
        if self.shard.is_whole:
            if self.result_files():
                self._write_merged(digests)
        elif self.results.exists():
            own = fold((record for record in read_records(self.results) if self._is_whole(record)), digests)
            rewrite(self.results, _ordered(own, digests), self.staging)

    def merge(self, digests: Mapping[str, str], *, partial: bool = False) -> bool:
        """Fold shard files into results.jsonl when nobody works here and every id of `digests` has a record.

        With `partial` items may be missing.

        Returns: whether results.jsonl is now the whole. Call it after `locked` has ended.
        """
        whole = RunFolder(self.path, Shard())
        try:
            with whole.locked():
                if not partial and not digests.keys() <= whole.known(digests).keys():
                    return False
                whole.clean_staging()
                whole.compact(digests)
                whole.remove_staging()
        except FolderInUseError:
            return False
        return True

    def remove_staging(self) -> None:
        """Take away this process's staging folder at the end of its work."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def _check_is_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; --out must name a folder")

    def _check_is_free(self, missing: Path) -> None:
        if found := self.result_files():
            raise DataError(
                f"{self.path} holds {found[0].name} but not the fingerprint of the run that wrote it "
                f"({missing}); use another folder, or move the old results away"
            )

    def _write_merged(self, digests: Mapping[str, str]) -> None:
        files = self.result_files()
        rewrite(self.results, _ordered(self.known(digests), digests), self.staging)
        for path in files:  # a process killed here leaves shard files that fold to the same records next time
            if path != self.results:
                path.unlink(missing_ok=True)
        for path in self.private.glob("lock-*"):
            path.unlink(missing_ok=True)

    def _is_whole(self, record: Record) -> bool:
        return record.status != DONE or all((self.path / name).is_file() for name in record.files)


class FolderInUseError(UsageError):
    """Another process works in the folder."""


def _ordered(records: Mapping[str, Record], digests: Mapping[str, str]) -> list[Record]:
    listed = [records[name] for name in digests if name in records]
    return listed + [record for name, record in records.items() if name not in digests]


@contextmanager
def _lock(path: Path, *, exclusive: bool, who: str) -> Iterator[None]:
    """Hold an advisory lock that ends with the process. Raises: FolderInUseError when it is taken."""
    if fcntl is None:
        raise MissingDependencyError("batch runs need file locks of Linux or macOS; on Windows use WSL")
    with path.open("a+") as file:
        patience = 0 if exclusive else SHARED_LOCK_PATIENCE
        while not _try_lock(file, exclusive):
            if patience <= 0:
                raise FolderInUseError(f"{who} is at work already{_holder(file)}; wait for it or stop it first")
            patience -= 1
            time.sleep(0.1)
        if exclusive:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield  # closing the file frees the lock


def _try_lock(file: IO[str], exclusive: bool) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise DataError(f"the file system of {file.name} does not lock files: {error.strerror}") from error
    return True


def _holder(file: IO[str]) -> str:
    with suppress(OSError):
        file.seek(0)
        if text := file.read(200).strip():
            return f" ({text})"
    return ""


def _create_once(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file unless another process was faster; it appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)  # unlike rename, refuses when the other process's file is there
    except FileExistsError:
        pass
    except OSError:  # file systems without hard links
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _claimed(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder stores of a fingerprint, as it reads it back."""
    return json.loads(json.dumps({"format": FINGERPRINT_FORMAT, **fingerprint}))


def _compare(path: Path, theirs: Any, mine: Mapping[str, Any]) -> None:
    if not isinstance(theirs, dict):
        raise DataError(f"{path} is damaged; use another folder")
    flat_mine, flat_theirs = dict(_flat(mine)), dict(_flat(theirs))
    names = sorted({*flat_mine, *flat_theirs})
    unlike = [name for name in names if flat_mine.get(name) != flat_theirs.get(name)]
    if unlike:
        lines = [f"  {name}: folder {flat_theirs.get(name)!r}, now {flat_mine.get(name)!r}" for name in unlike]
        raise ConfigError(
            f"{path.parent.parent} belongs to a run with other settings, and results of two kinds may not mix:\n"
            + "\n".join(lines)
            + "\nUse another folder, or go on with the settings of the folder."
        )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
