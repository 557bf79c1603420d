/* A generator of small packets. */
#include "probe.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

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

int generate(char **words)
{
    static struct mmsghdr messages[BATCH];
    static struct iovec vectors[BATCH];
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
