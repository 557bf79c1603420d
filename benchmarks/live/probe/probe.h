/* What the parts of the probe share; main.c says what it is. */
#define _GNU_SOURCE
#include <stdint.h>

#define BATCH 64
#define VNET 10        /* struct virtio_net_hdr */
#define COPY (1 << 17) /* room for a super-frame */

extern volatile int ended;

/* What is done to a frame of so many bytes; whether it is sent on. `partial`: its checksum is that
 * of the pseudo-header, the rest is for the kernel. */
extern int (*work)(uint8_t *frame, uint32_t length, int partial);
extern uint8_t own[6], neighbour[6];

/* work.c */
int forwards(uint8_t *frame, uint32_t length, int partial);
int translates(uint8_t *frame, uint32_t length, int partial);
int translates_whole(uint8_t *frame, uint32_t length, int partial);
void translate_for(char **words);

/* What takes frames in by one port and sends them by another, or by the same, until it ends. */
void ring(const char *in, const char *out);   /* packet.c */
void blocks(const char *in, const char *out);
void copy(const char *in, const char *out);
void xdp(const char *in, const char *out);    /* xdp.c */
void tap(const char *in, const char *out);    /* tap.c */

int generate(char **words); /* generate.c */

/* main.c */
void ready(void);
void die(const char *what);
void mac(uint8_t *to, const char *text);
void own_mac(const char *name);
