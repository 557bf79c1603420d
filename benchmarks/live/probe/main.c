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
 * BACKEND is ring (TPACKET_V2), blocks (TPACKET_V3), copy (recvmmsg), xdp (AF_XDP) or tap, the
 * other end of such a device; but for xdp with virtio_net_hdr both ways, and all with the sizes
 * and flags that lvscore has. It ends by SIGTERM.
 */
#include "probe.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

volatile int ended;
int (*work)(uint8_t *frame, uint32_t length, int partial);
uint8_t own[6], neighbour[6];

static const struct {
    const char *name;
    void (*run)(const char *in, const char *out);
} backends[] = {{"ring", ring}, {"blocks", blocks}, {"copy", copy}, {"xdp", xdp}, {"tap", tap}};

void die(const char *what)
{
    perror(what);
    exit(1);
}

static void end(int number)
{
    (void)number;
    ended = 1;
}

void ready(void)
{
    fprintf(stderr, "ready\n");
}

void mac(uint8_t *to, const char *text)
{
    if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", to, to + 1, to + 2, to + 3, to + 4, to + 5) != 6)
        die(text);
}

void own_mac(const char *name)
{
    char path[64], text[18] = "";
    snprintf(path, sizeof path, "/sys/class/net/%s/address", name);
    FILE *file = fopen(path, "r");
    if (!file || !fgets(text, sizeof text, file))
        die(path);
    fclose(file);
    mac(own, text);
}

int main(int count, char **words)
{
    signal(SIGTERM, end);
    signal(SIGINT, end);
    if (count == 8 && !strcmp(words[1], "generate"))
        return generate(words);
    int forward = count == 6 && !strcmp(words[1], "forward");
    unsigned i = 0;
    while (count > 2 && i < sizeof backends / sizeof *backends && strcmp(words[2], backends[i].name))
        i++;
    if ((!forward && !(count == 10 && !strcmp(words[1], "nat"))) || i == sizeof backends / sizeof *backends) {
        fprintf(stderr, "probe: see the head of main.c\n");
        return 2;
    }
    own_mac(words[3]);
    if (forward) {
        mac(neighbour, words[5]);
        work = forwards;
    } else {
        translate_for(words + 4);
        /* with AF_XDP nobody finishes a checksum later */
        work = backends[i].run == xdp ? translates_whole : translates;
    }
    backends[i].run(words[3], forward ? words[4] : words[3]);
    return 0;
}
