"""Files of a folder as its authors publish it: which one to read, and which never to open."""

from pathlib import Path

from genmm.core.errors import CheckpointError

PICKLES = ("pytorch_model.bin", "model.ckpt", "model.pt", "model.pth", "checkpoint.pth")
"""Weights that only Python's pickle can read, which may run any code."""


def official_file(folder: Path | str, name: str) -> Path:
    """The path of a file of a folder that the user named; links, as in the hub's cache, are followed.

    Raises: CheckpointError when it is missing, naming a pickle that lies there instead.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder {folder}; name the folder with the files as the authors publish them"
        )
    path = folder / name
    if path.is_file():
        return path
    pickles = [other for other in PICKLES if (folder / other).is_file()]
    if name.endswith(".safetensors") and pickles:
        raise CheckpointError(
            f"{folder} has its weights only in {pickles[0]}, a pickle, which can run code when it is opened, so genmm "
            f"does not. Fetch {name} from the same repository"
        )
    raise CheckpointError(f"{folder} has no {name}; fetch it from the repository that the other files are from")
