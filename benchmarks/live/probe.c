/* The floor of a director in user space: what its input and output cost with almost no work on a
 * packet. And a generator of small packets.
 *
 *     probe forward BACKEND IN OUT MAC
 *         what comes in by IN leaves by OUT, for one neighbour
 *     probe nat BACKEND PORT VIP SERVER MAC SERVER MAC GATEWAY-MAC
 *         requests for VIP go to one of two servers, by the parity of the client's port (all of
 *         iperf3's to the first), answers to the gateway; nothing is remembered, nobody asked
 *     probe generate PORT MAC FLOWS DESTINATION SECONDS PACKETS-PER-SECOND
 *         UDP datagrams of 60 bytes a frame, from as many ports; 0: as fast as it can; says how
 *         many it sent
 *
 * BACKEND is ring (TPACKET_V2), blocks (TPACKET_V3) or copy (recvmmsg), with virtio_net_hdr both
 * ways and the sizes that lvscore has. It ends by SIGTERM.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64
#define VNET 10 /* struct virtio_net_hdr */
#define COPY (1 << 17) /* a super-frame */
#define SLOT 2048
#define SLOTS 4096
#define BLOCK (1 << 20)
#define BLOCKS 32

static volatile sig_atomic_t ended;
static struct mmsghdr messages[BATCH];
static struct iovec vectors[BATCH];
static int waiting, sender;

/* what is done to a packet; whether it is sent on */
static int (*work)(uint8_t *frame, int partial);
static uint8_t own[6], neighbour[6], server_mac[2][6];
static uint32_t vip, server[2];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void end(int number)
{
    (void)number;
    ended = 1;
}

static void mac(uint8_t *to, const char *text)
{
    if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", to, to + 1, to + 2, to + 3, to + 4, to + 5) != 6)
        die(text);
}

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
        struct tpacket_req3 ring = {COPY, SLOT * SLOTS / COPY, SLOT, SLOTS, 0, 0, 0};
        if (version == TPACKET_V3)
            ring = (struct tpacket_req3){BLOCK, BLOCKS, 2048, BLOCK / 2048 * BLOCKS, 1, 0, 0};
        if (setsockopt(s, SOL_PACKET, PACKET_VERSION, &version, sizeof version) ||
            setsockopt(s, SOL_PACKET, PACKET_RX_RING, &ring,
                       version == TPACKET_V3 ? sizeof ring : sizeof(struct tpacket_req)))
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
    if (!work(frame, frame[-VNET] & 1))
        return;
    vectors[waiting].iov_base = frame - VNET;
    vectors[waiting].iov_len = length + VNET;
    messages[waiting].msg_hdr = (struct msghdr){.msg_iov = vectors + waiting, .msg_iovlen = 1};
    if (++waiting == BATCH)
        flush();
}

static void run_ring(int receiver)
{
    uint8_t *copies = calloc(BATCH, COPY);
    uint8_t *ring = mmap(0, (size_t)SLOT * SLOTS, PROT_READ | PROT_WRITE, MAP_SHARED, receiver, 0);
    struct pollfd readable = {receiver, POLLIN, 0};
    uint32_t head = 0;
    if (ring == MAP_FAILED)
        die("mmap");
    while (!ended) {
        uint32_t first = head, count = 0;
        for (; count < BATCH; count++, head = (head + 1) % SLOTS) {
            struct tpacket2_hdr *slot = (void *)(ring + (size_t)head * SLOT);
            if (!(__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
                break;
            if (slot->tp_status & TP_STATUS_COPY) { /* longer than a slot */
                uint8_t *copy = copies + (size_t)count * COPY;
                ssize_t length = recv(receiver, copy, COPY, MSG_DONTWAIT);
                if (length > VNET)
                    take(copy + VNET, length - VNET);
            } else {
                take((uint8_t *)slot + slot->tp_mac, slot->tp_snaplen);
            }
        }
        flush();
        for (uint32_t i = 0; i < count; i++) {
            struct tpacket2_hdr *slot = (void *)(ring + (size_t)((first + i) % SLOTS) * SLOT);
            __atomic_store_n(&slot->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        }
        if (!count)
            poll(&readable, 1, 100);
    }
}

static void run_blocks(int receiver)
{
    uint8_t *ring = mmap(0, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, receiver, 0);
    struct pollfd readable = {receiver, POLLIN, 0};
    uint32_t head = 0;
    if (ring == MAP_FAILED)
        die("mmap");
    while (!ended) {
        struct tpacket_block_desc *block = (void *)(ring + (size_t)head * BLOCK);
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

static void run_copy(int receiver)
{
    uint8_t *buffers = calloc(BATCH, COPY);
    struct mmsghdr received[BATCH];
    struct iovec into[BATCH];
    struct pollfd readable = {receiver, POLLIN, 0};
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

static int forwards(uint8_t *frame, int partial)
{
    (void)partial;
    if (memcmp(frame, own, 6))
        return 0;
    memcpy(frame, neighbour, 6);
    return 1;
}

/* RFC 1624; a partial checksum is the sum of the pseudo-header, not its complement */
static void replace(uint8_t *field, uint32_t before, uint32_t after, int partial)
{
    uint16_t old;
    memcpy(&old, field, 2);
    uint32_t sum = partial ? old : (uint16_t)~old;
    sum += (uint16_t)~before + (uint16_t)~(before >> 16) + (after & 0xffff) + (after >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    old = partial ? sum : ~sum;
    memcpy(field, &old, 2);
}

static int translates(uint8_t *frame, int partial)
{
    uint8_t *ip = frame + 14, *transport = ip + (ip[0] & 15) * 4, *address = ip + 16, *to = neighbour;
    uint32_t source, destination, before, after = vip;
    if (frame[12] != 8 || frame[13] || memcmp(frame, own, 6) || (ip[9] != 6 && ip[9] != 17))
        return 0;
    memcpy(&source, ip + 12, 4);
    memcpy(&destination, ip + 16, 4);
    if (destination == vip) {
        int iperf = (transport[2] << 8 | transport[3]) == 5201;
        int chosen = iperf ? 0 : transport[1] & 1;
        before = destination;
        after = server[chosen];
        to = server_mac[chosen];
    } else if (source == server[0] || source == server[1]) {
        before = source;
        address = ip + 12;
    } else {
        return 0;
    }
    memcpy(address, &after, 4);
    replace(ip + 10, before, after, 0);
    replace(transport + (ip[9] == 6 ? 16 : 6), before, after, partial);
    memcpy(frame, to, 6);
    memcpy(frame + 6, own, 6);
    return 1;
}

static void own_mac(const char *name)
{
    char path[64], text[18] = "";
    snprintf(path, sizeof path, "/sys/class/net/%s/address", name);
    FILE *file = fopen(path, "r");
    if (!file || !fgets(text, sizeof text, file))
        die(path);
    fclose(file);
    mac(own, text);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static uint16_t sum_of(const uint8_t *data, int length, uint32_t sum)
{
    for (int i = 0; i < length; i += 2)
        sum += data[i] << 8 | data[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static void datagram(uint8_t *frame, const uint8_t *to, const uint8_t *from, int flow, uint32_t target)
{
    static const uint8_t head[] = {0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 198, 19, 0, 1};
    uint16_t sum;
    memcpy(frame, to, 6);
    memcpy(frame + 6, from, 6);
    frame[12] = 8;
    memcpy(frame + 14, head, sizeof head);
    memcpy(frame + 30, &target, 4);
    sum = htons(~sum_of(frame + 14, 20, 0));
    memcpy(frame + 24, &sum, 2);
    frame[34] = (1024 + flow) >> 8;
    frame[35] = 1024 + flow;
    frame[37] = 9;
    frame[39] = 26;
    sum = htons(~sum_of(frame + 26, 34, 17 + 26));
    memcpy(frame + 40, &sum, 2);
}

static int generate(char **words)
{
    int flows = atoi(words[4]);
    double seconds = atof(words[6]), rate = atof(words[7]), begun, next;
    uint8_t *frames = calloc(flows, 60), to[6];
    long sent = 0;
    if (flows < 1 || flows > 60000)
        die("flows");
    mac(to, words[3]);
    own_mac(words[2]);
    for (int i = 0; i < flows; i++)
        datagram(frames + i * 60, to, own, i, inet_addr(words[5]));
    int s = socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll port = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(words[2])};
    if (s < 0 || bind(s, (void *)&port, sizeof port))
        die(words[2]);
    for (begun = next = now(); now() < begun + seconds && !ended;) {
        if (rate > 0 && now() < next)
            continue;
        next += rate > 0 ? BATCH / rate : 0;
        for (int i = 0; i < BATCH; i++) {
            vectors[i] = (struct iovec){frames + (sent + i) % flows * 60, 60};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = vectors + i, .msg_iovlen = 1};
        }
        int count = sendmmsg(s, messages, BATCH, 0);
        sent += count > 0 ? count : 0;
    }
    printf("%ld %f\n", sent, now() - begun);
    return 0;
}

int main(int count, char **words)
{
    signal(SIGTERM, end);
    signal(SIGINT, end);
    if (count == 8 && !strcmp(words[1], "generate"))
        return generate(words);
    int forward = count == 6 && !strcmp(words[1], "forward");
    if (!forward && !(count == 10 && !strcmp(words[1], "nat"))) {
        fprintf(stderr, "probe: see the head of probe.c\n");
        return 2;
    }
    int ring = !strcmp(words[2], "ring"), blocks = !strcmp(words[2], "blocks");
    int receiver = opened(words[3], 1, ring ? TPACKET_V2 : blocks ? TPACKET_V3 : -1);
    own_mac(words[3]);
    sender = receiver;
    work = translates;
    if (forward) {
        sender = opened(words[4], 0, -1);
        mac(neighbour, words[5]);
        work = forwards;
    } else {
        vip = inet_addr(words[4]);
        for (int i = 0; i < 2; i++) {
            server[i] = inet_addr(words[5 + 2 * i]);
            mac(server_mac[i], words[6 + 2 * i]);
        }
        mac(neighbour, words[9]);
    }
    fprintf(stderr, "ready\n");
    (ring ? run_ring : blocks ? run_blocks : run_copy)(receiver);
    return 0;
}
