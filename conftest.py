"""Settings of pytest for the whole repository."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "book"))

from execute import KERNEL_ENVIRONMENT

# The notebooks run in the same environment as when their outputs were made.
os.environ.update(KERNEL_ENVIRONMENT)
