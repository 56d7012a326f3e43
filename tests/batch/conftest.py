"""Lets the tests of this folder, and the processes they start, import tone_task and batch_folders by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
