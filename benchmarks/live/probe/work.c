/* The least that a director does to a frame. */
#include "probe.h"
#include <arpa/inet.h>
#include <string.h>

static uint8_t server_mac[2][6];
static uint32_t vip, server[2];

/* For a virtual address two servers, each with its link address, and a gateway's link address. */
void translate_for(char **words)
{
    vip = inet_addr(words[0]);
    for (int i = 0; i < 2; i++) {
        server[i] = inet_addr(words[1 + 2 * i]);
        mac(server_mac[i], words[2 + 2 * i]);
    }
    mac(neighbour, words[5]);
}

int forwards(uint8_t *frame, uint32_t length, int partial)
{
    (void)length, (void)partial;
    if (memcmp(frame, own, 6))
        return 0;
    memcpy(frame, neighbour, 6);
    return 1;
}

static uint16_t fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

/* RFC 1624; a partial checksum is the sum of the pseudo-header, not its complement */
static void replace(uint8_t *field, uint32_t before, uint32_t after, int partial)
{
    uint16_t old;
    memcpy(&old, field, 2);
    uint32_t sum = partial ? old : (uint16_t)~old;
    sum += (uint16_t)~before + (uint16_t)~(before >> 16) + (after & 0xffff) + (after >> 16);
    old = partial ? fold(sum) : ~fold(sum);
    memcpy(field, &old, 2);
}

static int requested(const uint8_t *ip, uint32_t source, uint32_t destination)
{
    return (ip[9] == 6 || ip[9] == 17)
        && (destination == vip || source == server[0] || source == server[1]);
}

int translates(uint8_t *frame, uint32_t length, int partial)
{
    uint8_t *ip = frame + 14, *transport = ip + (ip[0] & 15) * 4, *address = ip + 16, *to = neighbour;
    uint32_t source, destination, before, after = vip;
    (void)length;
    if (frame[12] != 8 || frame[13] || memcmp(frame, own, 6))
        return 0;
    memcpy(&source, ip + 12, 4);
    memcpy(&destination, ip + 16, 4);
    if (!requested(ip, source, destination))
        return 0;
    if (destination == vip) {
        int iperf = (transport[2] << 8 | transport[3]) == 5201;
        int chosen = iperf ? 0 : transport[1] & 1;
        before = destination;
        after = server[chosen];
        to = server_mac[chosen];
    } else {
        before = source;
        address = ip + 12;
    }
    memcpy(address, &after, 4);
    replace(ip + 10, before, after, 0);
    replace(transport + (ip[9] == 6 ? 16 : 6), before, after, partial);
    memcpy(frame, to, 6);
    memcpy(frame + 6, own, 6);
    return 1;
}

/* The same, with the checksum of the whole, whatever the one that came. */
int translates_whole(uint8_t *frame, uint32_t length, int partial)
{
    if (!translates(frame, length, partial))
        return 0;
    uint8_t *ip = frame + 14, *transport = ip + (ip[0] & 15) * 4;
    uint8_t *field = transport + (ip[9] == 6 ? 16 : 6);
    uint32_t size = (ip[2] << 8 | ip[3]) - (transport - ip), i = 0;
    uint64_t sum = htons(ip[9]) + htons(size);
    uint16_t half = 0;
    if (transport + size > frame + length)
        return 0;
    memcpy(field, &half, 2);
    for (; i < 8; i += 2) {
        memcpy(&half, ip + 12 + i, 2);
        sum += half;
    }
    for (i = 0; i + 4 <= size; i += 4) {
        uint32_t four;
        memcpy(&four, transport + i, 4);
        sum += four;
    }
    for (; i < size; i++)
        sum += htons(i & 1 ? transport[i] : transport[i] << 8);
    half = ~fold(sum);
    memcpy(field, &half, 2);
    return 1;
}
