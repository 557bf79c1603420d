/* AF_XDP: frames stay in one memory, where the kernel copies them to and sends them from. */
#include "probe.h"
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 4096
#define CHUNKS 4096
#define ENTRIES 2048
#define RESERVE 1024 /* chunks that the fill ring does not get */

struct queue {
    uint32_t *producer, *consumer, *flags, size;
    void *entries;
};
struct port {
    int descriptor;
    struct queue fill, completion, in, out;
};

static uint8_t *memory;
static uint64_t chunks[CHUNKS]; /* those that are free */
static uint32_t spare;

static struct queue queue_of(int s, int kind, off_t page, struct xdp_ring_offset at, size_t entry)
{
    uint32_t count = kind == XDP_UMEM_FILL_RING ? CHUNKS : ENTRIES;
    if (setsockopt(s, SOL_XDP, kind, &count, sizeof count))
        die("ring");
    uint8_t *base = mmap(0, at.desc + count * entry, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_POPULATE, s, page);
    if (base == MAP_FAILED)
        die("mmap");
    return (struct queue){(void *)(base + at.producer), (void *)(base + at.consumer),
                          (void *)(base + at.flags), count, base + at.desc};
}

/* A socket at the first queue of an interface; the memory is its own, or another socket's. */
static struct port opened(const char *name, int shared)
{
    struct port port = {.descriptor = socket(AF_XDP, SOCK_RAW, 0)};
    struct xdp_umem_reg region = {.addr = (uintptr_t)memory, .len = (uint64_t)CHUNK * CHUNKS,
                                  .chunk_size = CHUNK};
    struct xdp_mmap_offsets at;
    socklen_t size = sizeof at;
    if (port.descriptor < 0)
        die("socket");
    if (shared < 0 && setsockopt(port.descriptor, SOL_XDP, XDP_UMEM_REG, &region, sizeof region))
        die("memory");
    if (getsockopt(port.descriptor, SOL_XDP, XDP_MMAP_OFFSETS, &at, &size))
        die("offsets");
    port.fill = queue_of(port.descriptor, XDP_UMEM_FILL_RING, XDP_UMEM_PGOFF_FILL_RING, at.fr, 8);
    port.completion = queue_of(port.descriptor, XDP_UMEM_COMPLETION_RING,
                               XDP_UMEM_PGOFF_COMPLETION_RING, at.cr, 8);
    port.in = queue_of(port.descriptor, XDP_RX_RING, XDP_PGOFF_RX_RING, at.rx, 16);
    port.out = queue_of(port.descriptor, XDP_TX_RING, XDP_PGOFF_TX_RING, at.tx, 16);
    struct sockaddr_xdp to = {.sxdp_family = AF_XDP, .sxdp_ifindex = if_nametoindex(name),
                              .sxdp_flags = shared < 0 ? XDP_USE_NEED_WAKEUP : XDP_SHARED_UMEM,
                              .sxdp_shared_umem_fd = shared < 0 ? 0 : shared};
    for (int tries = 0; bind(port.descriptor, (void *)&to, sizeof to); tries++) {
        if (tries == 200) /* of 10 ms: a queue is let go of late */
            die(name);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, 0);
    }
    return port;
}

static int bpf(int command, union bpf_attr *attributes)
{
    int result = syscall(SYS_bpf, command, attributes, sizeof *attributes);
    if (result < 0)
        die("bpf");
    return result;
}

/* Let all frames of an interface's first queue go to a socket. */
static void redirect(const char *name, int descriptor)
{
    uint32_t queue = 0, socket = descriptor;
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_XSKMAP, .key_size = 4, .value_size = 4, .max_entries = 1};
    int sockets = bpf(BPF_MAP_CREATE, &map);
    union bpf_attr element = {.map_fd = sockets, .key = (uintptr_t)&queue, .value = (uintptr_t)&socket};
    bpf(BPF_MAP_UPDATE_ELEM, &element);
    struct bpf_insn program[] = {
        {BPF_LDX | BPF_MEM | BPF_W, 2, 1, offsetof(struct xdp_md, rx_queue_index), 0},
        {BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, sockets},
        {0, 0, 0, 0, 0},
        {BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, XDP_PASS},
        {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_redirect_map},
        {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
    };
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_XDP, .insn_cnt = sizeof program / sizeof *program,
                           .insns = (uintptr_t)program, .license = (uintptr_t) "Apache-2.0",
                           .expected_attach_type = BPF_XDP};
    union bpf_attr place = {.link_create = {.prog_fd = bpf(BPF_PROG_LOAD, &load),
                                            .target_ifindex = if_nametoindex(name),
                                            .attach_type = BPF_XDP, .flags = XDP_FLAGS_DRV_MODE}};
    bpf(BPF_LINK_CREATE, &place);
}

static uint32_t of(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void set(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static void refill(struct queue *fill)
{
    uint32_t at = *fill->producer, room = fill->size - (at - of(fill->consumer));
    for (; room && spare > RESERVE; room--)
        ((uint64_t *)fill->entries)[at++ & (fill->size - 1)] = chunks[--spare];
    set(fill->producer, at);
}

static void reap(struct queue *completion)
{
    uint32_t at = *completion->consumer, end = of(completion->producer);
    while (at != end)
        chunks[spare++] = ((uint64_t *)completion->entries)[at++ & (completion->size - 1)] & -CHUNK;
    set(completion->consumer, at);
}

/* Frames that have come in are queued to be sent; how many came. */
static uint32_t pass(struct queue *in, struct queue *out)
{
    uint32_t at = *in->consumer, end = of(in->producer), count = 0, to = *out->producer;
    uint32_t room = out->size - (to - of(out->consumer));
    for (; at != end && count < BATCH; count++) {
        struct xdp_desc *frame = (struct xdp_desc *)in->entries + (at++ & (in->size - 1));
        if (room && work(memory + frame->addr, frame->len, 0)) {
            struct xdp_desc *sent = (struct xdp_desc *)out->entries + (to++ & (out->size - 1));
            *sent = (struct xdp_desc){frame->addr, frame->len, 0};
            room--;
        } else {
            chunks[spare++] = frame->addr & -CHUNK;
        }
    }
    set(in->consumer, at);
    set(out->producer, to);
    return count;
}

void xdp(const char *in, const char *out)
{
    memory = mmap(0, (size_t)CHUNK * CHUNKS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    struct port receiver = opened(in, -1), sender = receiver;
    if (strcmp(in, out))
        sender = opened(out, receiver.descriptor);
    for (; spare < CHUNKS; spare++)
        chunks[spare] = (uint64_t)spare * CHUNK;
    refill(&receiver.fill);
    redirect(in, receiver.descriptor);
    struct pollfd readable = {receiver.descriptor, POLLIN, 0};
    ready();
    while (!ended) {
        if (!pass(&receiver.in, &sender.out))
            poll(&readable, 1, 100);
        for (int tries = 0; of(sender.out.consumer) != *sender.out.producer && tries < BATCH; tries++) {
            if (of(sender.out.flags) & XDP_RING_NEED_WAKEUP)
                sendto(sender.descriptor, 0, 0, MSG_DONTWAIT, 0, 0);
            reap(&sender.completion);
        }
        reap(&sender.completion);
        refill(&receiver.fill);
    }
}
