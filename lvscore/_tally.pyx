"""Counting what became of frames, and choosing those that are sent on, without a step per frame."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from lvscore._core.consts cimport VERDICT_FORWARD, VERDICT_PASS
from lvscore._frames cimport FrameBatch

import numpy as np

__all__ = ["Tally", "sent"]


cdef class Tally:
    """Frames and bytes, and frames by verdict and reason."""

    cdef:
        readonly uint64_t bytes         # of the frames as they came in
        readonly uint64_t frames        # that were counted
        readonly object outcomes        # frames by verdict and reason: (256, 256), uint64
        uint64_t[:, ::1] by_outcome

    def __cinit__(self):
        self.outcomes = np.zeros((256, 256), np.uint64)
        self.by_outcome = self.outcomes

    def measure(self, FrameBatch batch not None):
        """Add the bytes of frames that come in; an engine may change their lengths."""
        cdef uint32_t i
        for i in range(batch.count):
            self.bytes += batch.length[i]

    def count(self, FrameBatch batch not None):
        """Add frames that an engine has decided about."""
        cdef uint32_t i
        for i in range(batch.count):
            self.by_outcome[batch.verdict[i], batch.reason[i]] += 1
        self.frames += batch.count


def sent(FrameBatch batch not None):
    """Which frames are sent on, those with verdict FORWARD or PASS: an array of bool."""
    chosen = np.empty(batch.count, np.uint8)
    cdef uint8_t[::1] out = chosen
    cdef uint32_t i
    for i in range(batch.count):
        out[i] = batch.verdict[i] == VERDICT_FORWARD or batch.verdict[i] == VERDICT_PASS
    return chosen.view(np.bool_)
