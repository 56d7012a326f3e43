"""Files of a hub repository at one commit: what there is, and fetching it with resume and checksums.

`huggingface_hub` gives the listing, the address, the session and its errors. The transfer loop is ours, because the
library drops an unfinished file when the process ends, and a model of a gigabyte must go on where it stopped.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from genmm.core.errors import GenmmError
from genmm.hub.recipes import Source

TIMEOUT_S = 30.0
"""Seconds without an answer or a byte after which a connection counts as dead."""
TRIES = 5
"""Connections in a row that bring nothing before a download is given up; what is there stays for the next run."""
WAIT_S = 1.0
"""Pause before the next try; it doubles from try to try, up to 8 s."""

Report = Callable[[int], None]
"""Called with the bytes of the file that are now on the disk; may raise to stop the download."""


class DownloadError(GenmmError):
    """The hub cannot be reached, or what it sends is not what it announced."""


class UnreachableError(DownloadError):
    """There is no way to the hub from here."""


@dataclass(frozen=True)
class RemoteFile:
    """One file as the hub announces it."""

    name: str
    """Path in the repository."""
    size: int
    """Bytes."""
    digest: str
    """Hexadecimal checksum: SHA-256 of the content, or the 40 digits of a git blob for small files."""


@dataclass(frozen=True)
class RemoteRepo:
    """The needed files of one repository at one commit."""

    source: Source
    """What was asked for."""
    commit: str
    """Revision that all files belong to."""
    licence: str
    """What the repository states, "" when it states nothing."""
    files: tuple[RemoteFile, ...]
    """Required files, then the optional ones that exist."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def describe_repo(source: Source) -> RemoteRepo:
    """Ask the hub what a source holds now.

    Raises: UnreachableError without a connection (or with HF_HUB_OFFLINE=1), DownloadError when the repository is
    closed, lacks a file, or when what answers is no hub.
    """
    from huggingface_hub import HfApi, constants

    try:
        with _plain_errors(source.repo):
            info = HfApi(endpoint=constants.ENDPOINT).model_info(source.repo, files_metadata=True, timeout=TIMEOUT_S)
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"what answers for {source.repo} is no hub; check the proxy settings ({error!r})"
        ) from error
    entries = {entry.rfilename: entry for entry in info.siblings or []}
    missing = [name for name in source.files if name not in entries]
    if missing or not info.sha:
        raise DownloadError(
            f"{source.repo} has no {', '.join(missing) or 'commit'}; the authors may have changed the repository, "
            f"which holds: {', '.join(sorted(entries)) or 'nothing'}"
        )
    files = []
    for name in (*source.files, *(name for name in source.optional if name in entries)):
        entry = entries[name]
        digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
        if entry.size is None or not digest:
            raise DownloadError(f"the hub states no size or checksum of {source.repo}/{name}; try again later")
        files.append(RemoteFile(name, entry.size, digest))
    licence = str((info.card_data.get("license") if info.card_data else None) or "")
    return RemoteRepo(source, info.sha, licence, tuple(files))


def fetch_file(repo: RemoteRepo, file: RemoteFile, folder: Path, report: Report) -> Path:
    """Bring one file into a folder, going on with what an earlier run left there; gives back its path.

    The file gets its name only when size and checksum are right. A continued file with a wrong checksum is fetched
    once more from its start.
    Raises: UnreachableError when the connection stays dead (the part stays), DownloadError for wrong content.
    """
    path = folder / file.name
    part = path.with_name(f".{path.name}.{file.digest[:16]}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.stat().st_size == file.size and _digest(path, file) == file.digest:
        report(file.size)
        return path
    for continued in (part.exists(), False):
        _transfer(repo, file, part, report)
        if _digest(part, file) == file.digest:
            part.replace(path)
            return path
        part.unlink()
        if not continued:
            break
    raise DownloadError(
        f"{repo.source.repo}/{file.name} arrived damaged (its checksum is not the announced one) and was deleted; "
        "try again"
    )


def _transfer(repo: RemoteRepo, file: RemoteFile, part: Path, report: Report) -> None:
    """Append to `part` until it has the announced size."""
    failures = 0
    part.touch()
    while (before := part.stat().st_size) < file.size:
        report(before)
        try:
            with _plain_errors(repo.source.repo):
                _append(repo, file, part, before, report)
        except UnreachableError:
            failures = 0 if part.stat().st_size > before else failures + 1
            if failures >= TRIES:
                raise
            time.sleep(min(8.0, WAIT_S * 2**failures))
    if part.stat().st_size > file.size:
        part.unlink()
        raise DownloadError(
            f"{repo.source.repo}/{file.name} is longer than announced ({file.size} bytes); try again later"
        )
    report(file.size)


def _append(repo: RemoteRepo, file: RemoteFile, part: Path, start: int, report: Report) -> None:
    """One connection: bytes from `start` on, at most one more than are missing."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(repo.source.repo, file.name, revision=repo.commit, endpoint=constants.ENDPOINT)
    headers = {**build_hf_headers(library_name="genmm"), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as answer:
        hf_raise_for_status(answer)
        continues = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        have = start if continues else 0
        with part.open("ab" if continues else "wb") as stream:
            for chunk in answer.iter_bytes():
                stream.write(chunk[: file.size + 1 - have])
                stream.flush()  # what has arrived must survive the end of the process
                have = min(have + len(chunk), file.size + 1)
                report(min(have, file.size))
                if have > file.size:
                    return
    if have < file.size:
        raise UnreachableError(f"the connection for {repo.source.repo}/{file.name} ended after {have} bytes")


def _digest(path: Path, file: RemoteFile) -> str:
    """The checksum of a file on the disk, in the form in which the hub announced it."""
    is_git_blob = len(file.digest) == 40  # git hashes a header together with the content
    total = hashlib.sha1(b"blob %d\0" % path.stat().st_size) if is_git_blob else hashlib.sha256()  # noqa: S324
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            total.update(block)
    return total.hexdigest()


@contextmanager
def _plain_errors(repo: str) -> Iterator[None]:
    """Turn the hub client's errors into ours."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise UnreachableError("HF_HUB_OFFLINE is set, so the hub is not asked") from error
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{repo} asks for your agreement first: open its page on the hub, accept, then run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(f"{repo} is not on the hub (any more), or is private") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        kind = UnreachableError if status >= 500 or status in (408, 429) else DownloadError
        raise kind(f"the hub answers {status} for {repo}; try again later") from error
    except (errors.HTTPError, ConnectionError, TimeoutError) as error:
        raise UnreachableError(f"no connection to the hub: {error or type(error).__name__}") from error
