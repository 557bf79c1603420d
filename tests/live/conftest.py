"""Helpers stand beside the tests, and what compares packets beside the recordings' runner."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
