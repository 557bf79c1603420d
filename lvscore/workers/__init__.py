"""Many engines that are one director: a process for each, and one that asks them all."""

from lvscore.workers.merge import ask, merged
from lvscore.workers.supervisor import Worker, Workers

__all__ = ["Worker", "Workers", "ask", "merged"]
