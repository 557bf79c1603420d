"""Writing a file in a thread, so that translating goes on while the kernel takes what is done."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.errno cimport EINTR, errno
from posix.unistd cimport write

import atexit
import threading
from queue import SimpleQueue

__all__ = ["WriteBehind"]

cdef enum:
    BUFFER_SIZE = 1 << 20       # the kernel has less work with a large one: larger folios
    BUFFERS = 4


cdef class WriteBehind:
    """Writes buffers into a file, in order and in a thread, while the next one is filled.

    Who has a full buffer gets an empty one for it, and waits where there is none. Nothing is
    written after an error. An interrupt comes out of waiting only, which has changed nothing.
    """

    def __init__(self, int descriptor, uint64_t committed):
        self.descriptor = descriptor
        self.committed = committed
        self.full, self.empty = SimpleQueue(), SimpleQueue()
        for _ in range(BUFFERS - 1):
            self.empty.put(bytearray(BUFFER_SIZE))
        # A daemon: Python would wait for another one before it closes a forgotten writer.
        self.thread = threading.Thread(target=self.run, name="lvscore writer", daemon=True)
        self.thread.start()
        atexit.register(self.stop)

    def run(self):
        """What the thread does."""
        cdef bytearray buffer
        while True:
            task = self.full.get()
            if task is None:
                return
            if type(task) is SimpleQueue:
                task.put(None)
                continue
            buffer = task[0]
            if not self.error:
                self.put_out(<uint8_t*>PyByteArray_AS_STRING(buffer), task[1])
            # The first, and one that was made for a longer frame, are not kept.
            if len(buffer) != BUFFER_SIZE:
                buffer = bytearray(BUFFER_SIZE)
            self.empty.put(buffer)

    cdef void put_out(self, const uint8_t* data, size_t size) noexcept:
        cdef size_t done = 0
        cdef ssize_t taken
        with nogil:
            while done < size:
                taken = write(self.descriptor, data + done, size - done)
                if taken >= 0:
                    done += taken
                elif errno != EINTR:
                    self.error = errno
                    return
            self.committed += size

    cdef bytearray exchange(self, bytearray buffer, size_t used):
        """Have a buffer written; returns an empty one."""
        cdef bytearray empty = self.empty.get()
        self.full.put((buffer, used))
        return empty

    cdef int settle(self) except -1:
        """Wait until all is written."""
        answer = SimpleQueue()
        self.full.put(answer)
        answer.get()
        return 0

    def stop(self):
        """Wait until all is written, and end the thread; may be called again."""
        self.full.put(None)
        self.thread.join()
        atexit.unregister(self.stop)
