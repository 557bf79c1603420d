"""Shared by all tests."""

import sys
from pathlib import Path

# Helpers stand beside the tests that use them and are imported by name.
sys.path.insert(0, str(Path(__file__).parent / "engine"))
