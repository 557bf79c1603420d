/* Packet sockets: a ring of slots, a ring of blocks, or copies. */
#include "probe.h"
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define SLOT 2048
#define SLOTS 4096
#define BLOCK (1 << 20)
#define BLOCKS 32

static struct mmsghdr messages[BATCH];
static struct iovec vectors[BATCH];
static int waiting, sender;

static int opened(const char *name, int receives, int version)
{
    int one = 1, size = 32 << 20, s = socket(AF_PACKET, SOCK_RAW, 0);
    if (s < 0)
        die("socket");
    setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    if (setsockopt(s, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) ||
        setsockopt(s, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one))
        die("packet socket");
    if (version >= 0) {
        struct tpacket_req3 asked = {COPY, SLOT * SLOTS / COPY, SLOT, SLOTS, 0, 0, 0};
        if (version == TPACKET_V3)
            asked = (struct tpacket_req3){BLOCK, BLOCKS, 2048, BLOCK / 2048 * BLOCKS, 1, 0, 0};
        if (setsockopt(s, SOL_PACKET, PACKET_VERSION, &version, sizeof version) ||
            setsockopt(s, SOL_PACKET, PACKET_RX_RING, &asked,
                       version == TPACKET_V3 ? sizeof asked : sizeof(struct tpacket_req)))
            die("ring");
        if (version == TPACKET_V2 &&
            setsockopt(s, SOL_PACKET, PACKET_COPY_THRESH, &one, sizeof one))
            die("copies");
    }
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(name),
                             .sll_protocol = receives ? htons(ETH_P_ALL) : 0};
    if (bind(s, (void *)&to, sizeof to))
        die(name);
    return s;
}

/* The socket that is waited for; and which sends, if frames leave by the same port. */
static int receiver_of(const char *in, const char *out, int version)
{
    int receiver = opened(in, 1, version);
    sender = strcmp(in, out) ? opened(out, 0, -1) : receiver;
    return receiver;
}

static uint8_t *mapped(int receiver, size_t size)
{
    uint8_t *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, receiver, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    return memory;
}

static void flush(void)
{
    for (int done = 0; done < waiting;) {
        int sent = sendmmsg(sender, messages + done, waiting - done, 0);
        done += sent > 0 ? sent : 1; /* one that is refused is lost */
    }
    waiting = 0;
}

static void take(uint8_t *frame, uint32_t length)
{
    if (!work(frame, length, frame[-VNET] & 1))
        return;
    vectors[waiting].iov_base = frame - VNET;
    vectors[waiting].iov_len = length + VNET;
    messages[waiting].msg_hdr = (struct msghdr){.msg_iov = vectors + waiting, .msg_iovlen = 1};
    if (++waiting == BATCH)
        flush();
}

void ring(const char *in, const char *out)
{
    int receiver = receiver_of(in, out, TPACKET_V2);
    uint8_t *copies = calloc(BATCH, COPY), *slots = mapped(receiver, (size_t)SLOT * SLOTS);
    struct pollfd readable = {receiver, POLLIN, 0};
    uint32_t head = 0;
    ready();
    while (!ended) {
        uint32_t first = head, count = 0;
        for (; count < BATCH; count++, head = (head + 1) % SLOTS) {
            struct tpacket2_hdr *slot = (void *)(slots + (size_t)head * SLOT);
            if (!(__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
                break;
            if (slot->tp_status & TP_STATUS_COPY) { /* longer than a slot */
                uint8_t *into = copies + (size_t)count * COPY;
                ssize_t length = recv(receiver, into, COPY, MSG_DONTWAIT);
                if (length > VNET)
                    take(into + VNET, length - VNET);
            } else {
                take((uint8_t *)slot + slot->tp_mac, slot->tp_snaplen);
            }
        }
        flush();
        for (uint32_t i = 0; i < count; i++) {
            struct tpacket2_hdr *slot = (void *)(slots + (size_t)((first + i) % SLOTS) * SLOT);
            __atomic_store_n(&slot->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        }
        if (!count)
            poll(&readable, 1, 100);
    }
}

void blocks(const char *in, const char *out)
{
    int receiver = receiver_of(in, out, TPACKET_V3);
    uint8_t *memory = mapped(receiver, (size_t)BLOCK * BLOCKS);
    struct pollfd readable = {receiver, POLLIN, 0};
    uint32_t head = 0;
    ready();
    while (!ended) {
        struct tpacket_block_desc *block = (void *)(memory + (size_t)head * BLOCK);
        if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            poll(&readable, 1, 100);
            continue;
        }
        uint8_t *at = (uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
        for (uint32_t i = 0; i < block->hdr.bh1.num_pkts; i++) {
            struct tpacket3_hdr *frame = (void *)at;
            take(at + frame->tp_mac, frame->tp_snaplen);
            at += frame->tp_next_offset;
        }
        flush();
        __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        head = (head + 1) % BLOCKS;
    }
}

void copy(const char *in, const char *out)
{
    int receiver = receiver_of(in, out, -1);
    uint8_t *buffers = calloc(BATCH, COPY);
    struct mmsghdr received[BATCH];
    struct iovec into[BATCH];
    struct pollfd readable = {receiver, POLLIN, 0};
    ready();
    while (!ended) {
        for (int i = 0; i < BATCH; i++) {
            into[i] = (struct iovec){buffers + (size_t)i * COPY, COPY};
            received[i].msg_hdr = (struct msghdr){.msg_iov = into + i, .msg_iovlen = 1};
        }
        int count = recvmmsg(receiver, received, BATCH, MSG_DONTWAIT, 0);
        if (count <= 0)
            poll(&readable, 1, 100);
        for (int i = 0; i < count; i++)
            take(buffers + (size_t)i * COPY + VNET, received[i].msg_len - VNET);
        flush();
    }
}
