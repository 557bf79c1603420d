"""What schedulers share: their names and flags, and what a service's scheduler remembers.

Servers stand in the order of the kernel's list: the one added last comes first, and the first
wins a tie. A server of weight 0, or overloaded, takes nothing, unless a family says otherwise.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t

from lvscore._core.locality cimport Cache

cdef enum SchedulerKind:        # lvscore.SCHEDULERS
    SCHEDULER_NONE = 0
    SCHEDULER_RR = 1
    SCHEDULER_WRR = 2
    SCHEDULER_LC = 3
    SCHEDULER_WLC = 4
    SCHEDULER_SH = 5
    SCHEDULER_DH = 6
    SCHEDULER_MH = 7
    SCHEDULER_SED = 8
    SCHEDULER_NQ = 9
    SCHEDULER_FO = 10
    SCHEDULER_OVF = 11
    SCHEDULER_TWOS = 12
    SCHEDULER_LBLC = 13
    SCHEDULER_LBLCR = 14

cdef enum SchedulerFlag:
    SCHEDULER_FALLBACK = 0x08   # IP_VS_SVC_F_SCHED1: sh-fallback, mh-fallback
    SCHEDULER_PORT = 0x10       # IP_VS_SVC_F_SCHED2: sh-port, mh-port

cdef enum:
    AT_LIST_HEAD = -1


# How a server stands among the others: the least load by weight comes first.
cdef struct Standing:
    int64_t load
    int32_t weight              # 0: it takes nothing
    uint32_t server


# Servers ranked by a tournament (scheduler_load.pxd).
cdef struct Ranking:
    Standing* standing          # [1] has won; [i] against [i ^ 1] is for [i / 2]; NULL: no servers
    uint32_t* moved             # servers whose standing is to be found anew
    uint32_t width              # standing[width + place] is of list[place]; a power of two
    uint32_t moved_count


# A service's scheduler: kind, flags and what it remembers between picks.
cdef struct Scheduler:
    uint32_t* list              # server indices, the last added first
    uint32_t* buckets           # sh, dh, mh: server indices, else NULL
    Cache* cache                # lblc, lblcr: servers of destinations, else NULL
    Ranking ranking             # lc, wlc, sed, nq, fo, ovf, lblc, lblcr
    uint32_t count
    uint32_t capacity
    uint32_t kind
    uint32_t flags
    int32_t position            # rr, wrr: place in the list; AT_LIST_HEAD before the first
    int32_t current_weight      # wrr
    int32_t max_weight
    int32_t step


cdef inline uint32_t greatest_divisor(uint32_t a, uint32_t b) noexcept nogil:
    cdef uint32_t rest
    while b:
        rest = a % b
        a = b
        b = rest
    return a
