/* DPDK's rte_hash, looked up in bulks of 32: the table alone, no packet is parsed or rewritten.
 *
 *     rte_hash CONNECTIONS
 *
 * Keys of 16 bytes, one for each connection, drawn at random; prints ns per look-up, median of 7,
 * of the thread's CPU time.
 */
#include <rte_eal.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BULK = 32, LOOKUPS = 1 << 21, ROUNDS = 7 };

struct key {
    uint32_t client, server;
    uint16_t client_port, server_port;
    uint32_t protocol;
};

static struct key key_of(uint64_t flow)
{
    struct key key = {0x0B000000 + (uint32_t)(flow / 50000), 0x0A000001,
                      (uint16_t)(1024 + flow % 50000), 80, 6};
    return key;
}

static double cpu_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    char *eal[] = {argv[0], "--no-huge", "--no-pci", "--no-telemetry", "--no-shconf",
                   "--log-level=1", "-m", "8192", "-l", "0"};
    uint64_t connections = argc > 1 ? strtoull(argv[1], 0, 10) : 0, state = 1, missed = 0;
    struct rte_hash_parameters parameters = {
        .name = "peer", .key_len = sizeof(struct key), .hash_func = rte_hash_crc};
    struct key *stream = malloc(LOOKUPS * sizeof *stream);
    double took[ROUNDS];
    if (!connections || !stream || rte_eal_init(sizeof eal / sizeof *eal, eal) < 0) return 1;
    parameters.entries = (uint32_t)(connections * 5 / 4 + 8);
    struct rte_hash *table = rte_hash_create(&parameters);
    if (!table) return 1;
    for (uint64_t flow = 0; flow < connections; flow++) {
        struct key key = key_of(flow);
        if (rte_hash_add_key(table, &key) < 0) return 1;
    }
    for (int i = 0; i < LOOKUPS; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        stream[i] = key_of((state >> 20) % connections);
    }
    for (int round = 0; round < ROUNDS; round++) {
        double start = cpu_time();
        for (int i = 0; i < LOOKUPS; i += BULK) {
            const void *keys[BULK];
            int32_t places[BULK];
            for (int k = 0; k < BULK; k++) keys[k] = &stream[i + k];
            rte_hash_lookup_bulk(table, keys, BULK, places);
            for (int k = 0; k < BULK; k++) missed += places[k] < 0;
        }
        took[round] = (cpu_time() - start) / LOOKUPS;
    }
    if (missed) return 1;
    qsort(took, ROUNDS, sizeof *took, ascending);
    printf("%.1f\n", took[ROUNDS / 2]);
    return 0;
}
