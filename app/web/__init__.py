"""The web page, one file per tab.

Importing this package sets what Gradio and huggingface_hub read from the environment when they are imported: nothing is
reported to anybody, nothing is shared, no helper server is started.
"""

import os
import warnings

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ["GRADIO_SHARE"] = "False"
os.environ["GRADIO_MCP_SERVER"] = "False"
os.environ["GRADIO_SSR_MODE"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
for _name in ("GRADIO_VIBE_MODE", "GRADIO_ALLOWED_PATHS", "GRADIO_NUM_WORKERS", "GRADIO_ROOT_PATH"):
    os.environ.pop(_name, None)
# No ffmpeg program is needed: PyAV encodes what the page streams (see live.py).
warnings.filterwarnings("ignore", message="Couldn't find ff(mpeg|probe)", category=RuntimeWarning)
