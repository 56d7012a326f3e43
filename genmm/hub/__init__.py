"""Published models: what can be pulled, from where, under which licence; downloading, converting, registering."""

from genmm.hub.download import DownloadError, RemoteFile, RemoteRepo
from genmm.hub.install import PullPlan, plan_pull, pull, run_pull
from genmm.hub.recipes import RECIPES, Recipe, Source, find_recipe

__all__ = [
    "RECIPES",
    "DownloadError",
    "PullPlan",
    "Recipe",
    "RemoteFile",
    "RemoteRepo",
    "Source",
    "find_recipe",
    "plan_pull",
    "pull",
    "run_pull",
]
