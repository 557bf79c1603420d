/* TAP devices, with virtio_net_hdr: a frame a system call. */
#include "probe.h"
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int attached(const char *name)
{
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK), header = VNET;
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (device < 0 || ioctl(device, TUNSETIFF, &request) ||
        ioctl(device, TUNSETVNETHDRSZ, &header) ||
        ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN))
        die(name);
    return device;
}

void tap(const char *in, const char *out)
{
    static uint8_t frame[COPY];
    int receiver = attached(in), sender = strcmp(in, out) ? attached(out) : receiver;
    struct pollfd readable = {receiver, POLLIN, 0};
    own[0] = (own[0] | 2) ^ 4; /* the device's address is the kernel's; this is lvscore's */
    ready();
    while (!ended) {
        ssize_t length = read(receiver, frame, sizeof frame);
        if (length <= VNET)
            poll(&readable, 1, 100);
        else if (work(frame + VNET, length - VNET, frame[0] & 1) && write(sender, frame, length) < 0)
            continue; /* one that is refused is lost */
    }
}
