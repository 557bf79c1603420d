/* limit.c - what one core of this machine can do with LVS-NAT work.
 *
 * Measures, on packets already in memory (one packed buffer + offset array):
 *   mem     latency and parallel throughput of random cache-line reads
 *   stream  touch the header bytes of every frame
 *   hash    + parse Ethernet/IPv4/TCP and hash the 5-tuple
 *   nat     + look up (both directions), + rewrite and fix checksums, + state
 *   insert  new connections, churn with expiry, timer wheel, slab sweep, growth
 *   thr     two threads, own tables / one shared table
 *   quick   only the figure that lvscore is compared with: nat, full work, batches of 16 and 32,
 *           for the number of connections given next; prints ns per packet of both, and
 *           again in wall time
 *
 * Build: cc -O3 -march=native -pthread limit.c -o limit
 * Run:   ./limit SECTION [SECTION...]      (taskset it yourself)
 * Every line: section | case | ns/packet median (min-max of REPS) | Mpps of median
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <immintrin.h>
#include <arpa/inet.h>

#ifndef REPS
#define REPS 7
#endif
#define INL static inline __attribute__((always_inline))
#define NOI __attribute__((noinline))
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
typedef unsigned __int128 u128;

/* CPU time of this thread, not wall time: other processes share the cores */
static double clock_ns(clockid_t clock)
{ struct timespec t; clock_gettime(clock, &t); return t.tv_sec * 1e9 + t.tv_nsec; }
static double now_ns(void) { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }
static u64 rs = 0x9E3779B97F4A7C15ull;
static u64 rnd(void)
{ u64 z = (rs += 0x9E3779B97F4A7C15ull); z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull; return z ^ (z >> 31); }

static void *big(size_t n, int hp)
{
    size_t al = 2u << 20; n = (n + al - 1) & ~(al - 1);
    u8 *p = mmap(0, n + al, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) { perror("mmap"); exit(1); }
    p = (u8 *)(((uintptr_t)p + al - 1) & ~(uintptr_t)(al - 1));
    madvise(p, n, hp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(p, 0, n);
    return p;                         /* the few bytes of slack are never unmapped */
}
static void big_free(void *p, size_t n)
{ size_t al = 2u << 20; n = (n + al - 1) & ~(al - 1); munmap(p, n); }

static int dcmp(const void *a, const void *b)
{ double x = *(double *)a, y = *(double *)b; return x < y ? -1 : x > y; }
static void report(const char *sec, const char *name, double *v, int n)
{
    qsort(v, n, sizeof *v, dcmp);
    printf("%-7s | %-58s | %8.2f (%.2f-%.2f) ns | %8.2f Mpps\n", sec, name,
           v[n / 2], v[0], v[n - 1], 1e3 / v[n / 2]);
    fflush(stdout);
}
static volatile u64 sink;

INL u16 ld16(const void *p) { u16 v; memcpy(&v, p, 2); return v; }
INL u32 ld32(const void *p) { u32 v; memcpy(&v, p, 4); return v; }
INL u64 ld64(const void *p) { u64 v; memcpy(&v, p, 8); return v; }
INL void st16(void *p, u16 v) { memcpy(p, &v, 2); }
INL void st32(void *p, u32 v) { memcpy(p, &v, 4); }

/* ---------------------------------------------------------------- hashes */
static u64 K0, K1, K2, K3;
enum { H_CRC, H_MUM, H_SIP, H_JHASH, H_AES, H_MUM1 };
static const char *HN[] = { "crc32c hw (2x u64)", "keyed 64x64->128 multiply x2 (wyhash-style)",
    "SipHash-1-3", "jhash_3words + seed", "AES-NI 3 rounds keyed", "keyed multiply x1" };
INL u64 mum(u64 a, u64 b) { u128 m = (u128)a * b; return (u64)m ^ (u64)(m >> 64); }
INL u64 rotl(u64 x, int b) { return (x << b) | (x >> (64 - b)); }
INL u32 rotl32(u32 x, int b) { return (x << b) | (x >> (32 - b)); }
#define SR do { v0 += v1; v1 = rotl(v1,13); v1 ^= v0; v0 = rotl(v0,32); v2 += v3; v3 = rotl(v3,16); v3 ^= v2; \
    v0 += v3; v3 = rotl(v3,21); v3 ^= v0; v2 += v1; v1 = rotl(v1,17); v1 ^= v2; v2 = rotl(v2,32); } while (0)
INL u64 hsip(u64 a, u64 b)
{
    u64 v0 = K0 ^ 0x736f6d6570736575ull, v1 = K1 ^ 0x646f72616e646f6dull;
    u64 v2 = K0 ^ 0x6c7967656e657261ull, v3 = K1 ^ 0x7465646279746573ull, l = 16ull << 56;
    v3 ^= a; SR; v0 ^= a; v3 ^= b; SR; v0 ^= b; v3 ^= l; SR; v0 ^= l; v2 ^= 0xff; SR; SR; SR;
    return v0 ^ v1 ^ v2 ^ v3;
}
INL u64 hjh(u64 k0, u64 k1)
{
    u32 a, b, c; a = b = c = 0xdeadbeef + (3 << 2) + (u32)K0;
    a += (u32)k0; b += k0 >> 32; c += (u32)k1 ^ (u32)(k1 >> 32);
    c ^= b; c -= rotl32(b,14); a ^= c; a -= rotl32(c,11); b ^= a; b -= rotl32(a,25);
    c ^= b; c -= rotl32(b,16); a ^= c; a -= rotl32(c,4);  b ^= a; b -= rotl32(a,14); c ^= b; c -= rotl32(b,24);
    return (u64)c << 32 | b;
}
INL u64 haes(u64 a, u64 b)
{
    __m128i m = _mm_set_epi64x(b, a), k = _mm_set_epi64x(K1, K0), q = _mm_set_epi64x(K3, K2);
    m = _mm_aesenc_si128(_mm_xor_si128(m, k), q); m = _mm_aesenc_si128(m, k); m = _mm_aesenc_si128(m, q);
    return _mm_cvtsi128_si64(m);
}
INL u64 hash(int h, u64 a, u64 b)
{
    switch (h) {
    case H_CRC: { u64 c = _mm_crc32_u64(K0, a); c = _mm_crc32_u64(c, b); return c * 0x9E3779B97F4A7C15ull; }
    case H_MUM: return mum(K2 ^ 16, mum(a ^ K0, b ^ K1) ^ K3);
    case H_MUM1: return mum(a ^ K0, b ^ K1);
    case H_SIP: return hsip(a, b);
    case H_JHASH: return hjh(a, b);
    default: return haes(a, b);
    }
}

/* ---------------------------------------------------------------- frames */
typedef struct { u64 a, b; } key;         /* a = sip,dip  b = sport,dport,proto */
typedef struct { u8 *buf, *orig; u32 *off; u16 *len; size_t bytes; u32 n; } pkts;
#define VIP 0x0100000au                    /* 10.0.0.1 in memory order */
#define NRS 64
INL u32 ripof(u32 f) { return 0x0000a8c0u | ((f % NRS) + 1) << 24; }
INL u32 cipof(u32 f) { return htonl(0x0b000000u + f / 50000); }
INL u16 cpof(u32 f)  { return htons(1024 + f % 50000); }

static u16 csum(const u8 *p, int n, u32 s)
{ for (; n > 1; n -= 2, p += 2) s += ld16(p); if (n) s += *p;
  while (s >> 16) s = (s & 0xffff) + (s >> 16); return ~s; }
static int frame(u8 *p, u32 f, int rev, int len, u8 flags)
{
    memset(p, 0, len); memset(p, 2, 12); p[12] = 8;
    p[14] = 0x45; st16(p + 16, htons(len - 14)); st16(p + 20, htons(0x4000)); p[22] = 64; p[23] = 6;
    if (!rev) { st32(p + 26, cipof(f)); st32(p + 30, VIP); st16(p + 34, cpof(f)); st16(p + 36, htons(80)); }
    else      { st32(p + 26, ripof(f)); st32(p + 30, cipof(f)); st16(p + 34, htons(8080)); st16(p + 36, cpof(f)); }
    st32(p + 38, f * 2654435761u); p[46] = 0x50; p[47] = flags; st16(p + 48, 0xffff);
    st16(p + 24, csum(p + 14, 20, 0));
    u32 s = (ld32(p + 26) & 0xffff) + (ld32(p + 26) >> 16) + (ld32(p + 30) & 0xffff) + (ld32(p + 30) >> 16)
          + htons(6) + htons(len - 34);
    st16(p + 50, csum(p + 34, len - 34, s));
    return len;
}
/* mode 0: 64-byte frames 64-aligned; 1: 64-byte frames 80 apart (as in a pcap); 2: IMIX 7:4:1 of 64/594/1518 */
static pkts mkpkts(u32 n, u32 nconn, int mode, int hp, int seq)
{
    pkts k; k.n = n; k.off = malloc(4ull * n); k.len = malloc(2ull * n);
    size_t tot = 0; static const u16 mix[12] = { 64,64,64,64,64,64,64,594,594,594,594,1518 };
    for (u32 i = 0; i < n; i++) {
        int L = mode == 2 ? mix[rnd() % 12] : 64; k.len[i] = L;
        if (mode == 1) tot += 16;
        k.off[i] = tot; tot += mode == 2 ? (L + 16 + 15) / 16 * 16 : L;
    }
    k.bytes = tot; k.buf = big(tot + 64, hp); k.orig = big(tot + 64, hp);
    for (u32 i = 0; i < n; i++) {
        u64 r = rnd();
        if (seq) frame(k.orig + k.off[i], i % nconn, 0, k.len[i], 2);
        else frame(k.orig + k.off[i], (r >> 8) % nconn, r & 1, k.len[i], 0x10);
    }
    memcpy(k.buf, k.orig, tot);
    return k;
}
static void restore(pkts *k) { memcpy(k->buf, k->orig, k->bytes); }
static void freep(pkts *k) { big_free(k->buf, k->bytes + 64); big_free(k->orig, k->bytes + 64); free(k->off); free(k->len); }

INL int parse(const u8 *p, u32 cap, key *k)
{
    if (__builtin_expect(cap < 54, 0)) return 0;
    if (__builtin_expect(ld16(p + 12) != 0x0008 || p[14] != 0x45 || (ld16(p + 20) & htons(0x3fff)), 0)) return 0;
    u32 tl = ntohs(ld16(p + 16)); u8 pr = p[23];
    if (__builtin_expect(tl + 14 > cap || (pr != 6 && pr != 17), 0)) return 0;
    k->a = ld64(p + 26); k->b = (u64)pr << 32 | ld32(p + 34);
    return 1;
}

/* ---------------------------------------------------------------- table
 * Layout A: 64-byte bucket of 7 slots {16-bit tag, 16-bit next hash bits, 32-bit ref},
 * 8-byte header; ref = connection index << 1 | direction. Connection = one 64-byte line
 * shared by both directions. Overflow goes to the next bucket (counter says to look on).
 * 0 tag = empty. */
typedef struct { u16 tag[7], ovf; u16 hx[7], pad; u32 ref[7], pad2; } __attribute__((aligned(64))) bucket;
/* x[d] = what a packet of direction d carries after translation (sip,dip | sport,dport | L3 and L4
 * checksum deltas). The key of direction d is x[!d] with source and destination swapped, so match and
 * rewrite are branch-free and the 5-tuples are stored once. */
typedef struct {
    struct { u64 a; u32 p; u16 d3, d4; } x[2];                        /* 32 */
    u8 proto, state; u16 dest; u32 last, timeout, tnext;              /* 48 */
    u32 pk[2], by[2];                                                 /* 64 */
} __attribute__((aligned(64))) conn;
typedef struct { bucket *b; u32 mask, nb; conn *c; u32 nc, cap, freehd; int hp; u64 probes;
    u32 wheel[4096]; u32 now, tmo; } tab;
typedef struct { u64 pk, by; u64 pad[6]; } dstat;
static dstat DST[256];
static u8 TCPN[2][4][16];

INL u16 tagof(u64 h) { u16 t = h >> 48; return t ? t : 1; }
INL u32 match7(const bucket *b, u16 t)
{ __m128i m = _mm_cmpeq_epi16(_mm_load_si128((const __m128i *)b), _mm_set1_epi16(t));
  return _mm_movemask_epi8(_mm_packs_epi16(m, m)) & 0x7f; }
INL int ckey(const conn *c, int dir, u64 a, u64 b)
{ return (rotl(a, 32) == c->x[!dir].a) & (((u64)c->proto << 32 | rotl32(c->x[!dir].p, 16)) == b); }
INL u32 find(const tab *t, u64 h, u64 a, u64 b)
{
    u32 i = (u32)h & t->mask; u16 tg = tagof(h);
    for (;;) {
        const bucket *q = t->b + i; u32 m = match7(q, tg);
        while (m) { u32 r = q->ref[__builtin_ctz(m)]; if (__builtin_expect(ckey(t->c + (r >> 1), r & 1, a, b), 1)) return r; m &= m - 1; }
        if (__builtin_expect(!q->ovf, 1)) return ~0u;
        i = (i + 1) & t->mask;
    }
}
INL void put(tab *t, u64 h, u32 ref)
{
    u32 i = (u32)h & t->mask;
    for (;;) {
        bucket *q = t->b + i; u32 m = match7(q, 0);
        if (__builtin_expect(m != 0, 1)) { int s = __builtin_ctz(m); q->tag[s] = tagof(h); q->hx[s] = h >> 32; q->ref[s] = ref; return; }
        q->ovf++; t->probes++; i = (i + 1) & t->mask;
    }
}
INL void del(tab *t, u64 h, u32 ref)
{
    u32 i = (u32)h & t->mask; u16 tg = tagof(h);
    for (;;) {
        bucket *q = t->b + i; u32 m = match7(q, tg);
        for (; m; m &= m - 1) { int s = __builtin_ctz(m); if (q->ref[s] == ref) { q->tag[s] = 0; return; } }
        if (!q->ovf) return; q->ovf--; i = (i + 1) & t->mask;
    }
}
INL u16 fold(u32 s) { s = (s & 0xffff) + (s >> 16); s = (s & 0xffff) + (s >> 16); return s; }
INL void keys(const conn *c, key k[2])
{
    for (int d = 0; d < 2; d++) { k[d].a = rotl(c->x[!d].a, 32); k[d].b = (u64)c->proto << 32 | rotl32(c->x[!d].p, 16); }
}
INL void cfill(conn *c, u64 a, u64 b, u32 rip, u16 rport, u32 dest, u32 now, u32 tmo)
{
    u32 vip = a >> 32; u16 cport = b, vport = (u32)b >> 16;
    c->x[0].a = (u64)rip << 32 | (u32)a; c->x[0].p = (u32)rport << 16 | cport; c->x[1].a = rotl(a, 32); c->x[1].p = rotl32((u32)b, 16);
    u32 d3 = fold((~vip & 0xffff) + (~vip >> 16) + (rip & 0xffff) + (rip >> 16)), d4 = fold(d3 + (u16)~vport + rport);
    c->x[0].d3 = d3; c->x[0].d4 = d4; c->x[1].d3 = ~d3; c->x[1].d4 = ~d4; c->proto = b >> 32;
    c->state = 1; c->last = now; c->timeout = tmo; c->dest = dest;
    c->pk[0] = c->pk[1] = c->by[0] = c->by[1] = 0;
}
INL void wlink(tab *t, u32 i, u32 slot) { t->c[i].tnext = t->wheel[slot]; t->wheel[slot] = i; }  /* lazy wheel: leaves its list only when the slot fires */

static tab *mktab(u32 cap, int hp, double load)
{
    tab *t = calloc(1, sizeof *t); u32 nb = 1; while (nb * 7.0 * load < 2.0 * cap) nb <<= 1;
    t->tmo = 900; t->nb = nb; t->mask = nb - 1; t->cap = cap; t->hp = hp;
    t->b = big((size_t)nb * 64, hp); t->c = big((size_t)(cap + 1) * 64, hp);
    for (int i = 0; i < 4096; i++) t->wheel[i] = ~0u;
    t->freehd = 0; for (u32 i = 0; i < cap; i++) t->c[i].tnext = i + 1;
    t->c[cap - 1].tnext = ~0u;
    return t;
}
static void freetab(tab *t) { big_free(t->b, (size_t)t->nb * 64); big_free(t->c, (size_t)(t->cap + 1) * 64); free(t); }
INL u32 calloc1(tab *t) { u32 i = t->freehd; t->freehd = t->c[i].tnext; t->nc++; return i; }
static void fill(tab *t, u32 n, int h)
{
    for (u32 f = 0; f < n; f++) {
        u32 i = calloc1(t); conn *c = t->c + i; key k[2];
        cfill(c, (u64)VIP << 32 | cipof(f), 6ull << 32 | (u32)htons(80) << 16 | cpof(f), ripof(f), htons(8080), f % NRS, 1000, 900);
        keys(c, k);
        put(t, hash(h, k[0].a, k[0].b), i << 1); put(t, hash(h, k[1].a, k[1].b), i << 1 | 1);
    }
}

/* per-packet work once the reference is known: level 1 lookup, 2 + rewrite, 3 + state */
INL u32 act(tab *t, u8 *p, u32 len, u32 r, int level)
{
    conn *c = t->c + (r >> 1); int dir = r & 1;
    if (level >= 2) {
        u32 d3 = c->x[dir].d3, d4 = c->x[dir].d4;
        memcpy(p + 26, &c->x[dir].a, 8); st32(p + 34, c->x[dir].p);
        st16(p + 24, ~fold((u16)~ld16(p + 24) + d3));
        if (p[23] == 6) st16(p + 50, ~fold((u16)~ld16(p + 50) + d4));
        else if (ld16(p + 40)) { u16 x = ~fold((u16)~ld16(p + 40) + d4); st16(p + 40, x ? x : 0xffff); }
    }
    if (level >= 3) {
        u32 now = t->now;
        if (__builtin_expect((int)(now - c->last - c->timeout) > 0, 0)) return 0;
        c->last = now; c->pk[dir]++; c->by[dir] += len;
        u32 fl = p[47], ev = fl & 4 ? 3 : fl & 2 ? 1 : fl & 1 ? 2 : 0;
        if (p[23] == 6) { u8 ns = TCPN[dir][ev][c->state & 15]; if (__builtin_expect(ns != c->state, 0)) { c->state = ns; c->timeout = 900; } }
        DST[c->dest & 255].pk++; DST[c->dest & 255].by += len;
    }
    return 1 + (level == 1 ? c->timeout >> 31 : 0);
}
INL u64 run_scalar(tab *t, pkts *k, u32 from, u32 to, int h, int level)
{
    u64 s = 0; key q;
    for (u32 i = from; i < to; i++) {
        u8 *p = k->buf + k->off[i];
        if (!parse(p, k->len[i], &q)) continue;
        u32 r = find(t, hash(h, q.a, q.b), q.a, q.b);
        if (r != ~0u) s += act(t, p, k->len[i], r, level);
    }
    return s;
}
INL u64 run_batch(tab *t, pkts *k, u32 from, u32 to, int h, int level, u32 B)
{
    u64 s = 0; key q[128]; u64 hv[128]; u32 cand[128];
    for (u32 i = from; i < to; i += B) {
        u32 n = to - i < B ? to - i : B;
        for (u32 j = 0; j < n; j++) {
            u8 *p = k->buf + k->off[i + j];
            if (!parse(p, k->len[i + j], &q[j])) q[j].a = q[j].b = 0;
            hv[j] = hash(h, q[j].a, q[j].b);
            __builtin_prefetch(t->b + ((u32)hv[j] & t->mask));
            if (i + j + B < to) __builtin_prefetch(k->buf + k->off[i + j + B]);
        }
        for (u32 j = 0; j < n; j++) {
            u32 m = match7(t->b + ((u32)hv[j] & t->mask), tagof(hv[j]));
            cand[j] = m ? t->b[(u32)hv[j] & t->mask].ref[__builtin_ctz(m)] : ~0u;
            __builtin_prefetch(t->c + (m ? cand[j] >> 1 : 0), 1);
        }
        for (u32 j = 0; j < n; j++) {
            u32 r = cand[j];
            if (__builtin_expect(r == ~0u || !ckey(t->c + (r >> 1), r & 1, q[j].a, q[j].b), 0)) r = find(t, hv[j], q[j].a, q[j].b);
            if (r != ~0u) s += act(t, k->buf + k->off[i + j], k->len[i + j], r, level);
        }
    }
    return s;
}
#define RB(h, lv, b) if (H == h && level == lv && B == b) return run_batch(t, k, from, to, h, lv, b)
#define RS(h, lv) if (H == h && level == lv && !B) return run_scalar(t, k, from, to, h, lv)
static NOI u64 runnat(tab *t, pkts *k, u32 from, u32 to, int H, int level, u32 B)
{
    RS(H_MUM,1); RS(H_MUM,2); RS(H_MUM,3); RS(H_SIP,3);
    RB(H_MUM,1,16); RB(H_MUM,1,32); RB(H_MUM,1,64); RB(H_MUM,1,128);
    RB(H_MUM,2,32); RB(H_MUM,3,16); RB(H_MUM,3,32); RB(H_MUM,3,64); RB(H_MUM,3,128);
    RB(H_SIP,3,32); RB(H_SIP,3,64); RB(H_AES,3,32); RB(H_CRC,3,32);
    fprintf(stderr, "no such variant\n"); exit(1);
}

/* Layout C: one 64-byte entry per direction holding key, translation, state: one miss per packet,
 * twice the memory, and the two directions no longer share state. Linear probing. */
typedef struct { u64 a, b; u32 nip; u16 nport, d3, d4, dest; u32 last, timeout, peer, pk, by; u8 state, dir; } __attribute__((aligned(64))) ent;
static ent *CE; static u32 CM;
static void cput(u64 h, ent *e)
{ u32 i = (u32)h & CM; while (CE[i].b) i = (i + 1) & CM; CE[i] = *e; }
INL u64 run_c(pkts *k, int level, u32 B, u32 now)
{
    u64 s = 0; key q[128]; u32 ix[128];
    for (u32 i = 0; i < k->n; i += B) {
        u32 n = k->n - i < B ? k->n - i : B;
        for (u32 j = 0; j < n; j++) {
            u8 *p = k->buf + k->off[i + j];
            if (!parse(p, k->len[i + j], &q[j])) q[j].a = q[j].b = 0;
            ix[j] = (u32)hash(H_MUM, q[j].a, q[j].b) & CM; __builtin_prefetch(CE + ix[j], 1);
            if (i + j + B < k->n) __builtin_prefetch(k->buf + k->off[i + j + B]);
        }
        for (u32 j = 0; j < n; j++) {
            u32 x = ix[j]; while (CE[x].b && (CE[x].a != q[j].a || CE[x].b != q[j].b)) x = (x + 1) & CM;
            ent *e = CE + x; if (!e->b) continue;
            if (level == 1) { s += e->nip & 1; s++; continue; }
            u8 *p = k->buf + k->off[i + j]; u32 len = k->len[i + j];
            if (!e->dir) { st32(p + 30, e->nip); st16(p + 36, e->nport); } else { st32(p + 26, e->nip); st16(p + 34, e->nport); }
            st16(p + 24, ~fold((u16)~ld16(p + 24) + e->d3)); st16(p + 50, ~fold((u16)~ld16(p + 50) + e->d4));
            e->last = now; e->pk++; e->by += len;
            u32 fl = p[47], ev = fl & 4 ? 3 : fl & 2 ? 1 : fl & 1 ? 2 : 0;
            u8 ns = TCPN[e->dir & 1][ev][e->state & 15]; if (__builtin_expect(ns != e->state, 0)) e->state = ns;
            DST[e->dest & 255].pk++; DST[e->dest & 255].by += len; s++;
        }
    }
    return s;
}

/* ---------------------------------------------------------------- sections */
static void s_clock(void)
{
    double v[REPS];
    for (int r = 0; r < REPS; r++) {
        u64 x = r; double t0 = now_ns();
        for (int i = 0; i < 100000000; i += 10)
            __asm__ volatile("add $1,%0\n add $1,%0\n add $1,%0\n add $1,%0\n add $1,%0\n add $1,%0\n add $1,%0\n add $1,%0\n add $1,%0\n add $1,%0\n" : "+r"(x));
        double t1 = now_ns(); v[r] = (t1 - t0) / 1e8; sink += x;
    }
    report("clock", "one dependent add = one core cycle", v, REPS);
}
static void s_mem(void)
{
    size_t sz[] = { 16 << 10, 512 << 10, 8u << 20, 64u << 20, 1ull << 30 };
    for (int hp = 0; hp < 2; hp++) for (int z = 0; z < 5; z++) {
        size_t n = sz[z] / 64; u64 *m = big(sz[z], hp); u32 *perm = malloc(n * 4); char nm[99]; double v[REPS], w[REPS];
        for (size_t i = 0; i < n; i++) perm[i] = i;
        for (size_t i = n - 1; i; i--) { size_t j = rnd() % (i + 1); u32 x = perm[i]; perm[i] = perm[j]; perm[j] = x; }
        for (size_t i = 0; i < n; i++) m[perm[i] * 8ull] = perm[(i + 1) % n];
        u32 it = 4000000;
        for (int r = 0; r < REPS; r++) {
            u64 x = 0; double t0 = now_ns(); for (u32 i = 0; i < it; i++) x = m[x * 8]; v[r] = (now_ns() - t0) / it; sink += x;
            u64 s = 0, y = r; t0 = now_ns();
            for (u32 i = 0; i < it; i++) { y = y * 6364136223846793005ull + 1442695040888963407ull; s += m[((u64)(u32)(y >> 32) * n >> 32) * 8]; }
            w[r] = (now_ns() - t0) / it; sink += s;
        }
        snprintf(nm, 99, "dependent random line read, %zu KiB, huge=%d", sz[z] >> 10, hp); report("mem", nm, v, REPS);
        snprintf(nm, 99, "independent random line reads, %zu KiB, huge=%d", sz[z] >> 10, hp); report("mem", nm, w, REPS);
        free(perm); big_free(m, sz[z]);
    }
    size_t L = 512u << 20; u8 *a = big(L, 1), *b = big(L, 1); double v[REPS];
    for (int r = 0; r < REPS; r++) { double t0 = now_ns(); memcpy(a, b, L); v[r] = (now_ns() - t0) / (L / 64); }
    report("mem", "memcpy per 64 bytes, 512 MiB", v, REPS);
    big_free(a, L); big_free(b, L);
}
static NOI u64 touch(pkts *k, u32 n, int pf)
{
    u64 s = 0;
    for (u32 i = 0; i < n; i++) { u8 *p = k->buf + k->off[i];
        if (pf && i + 16 < n) __builtin_prefetch(k->buf + k->off[i + 16]);
        s += ld16(p + 12) + ld64(p + 26) + ld32(p + 34); }
    return s;
}
static void s_stream(void)
{
    struct { u32 n; int mode, hp; const char *s; } c[] = {
        { 2048, 0, 1, "64B frames, 2k-frame ring (L2)" }, { 2000000, 0, 1, "64B frames, 2M aligned, huge" },
        { 2000000, 0, 0, "64B frames, 2M aligned, 4K pages" }, { 2000000, 1, 1, "64B frames, 2M pcap-packed (80 B apart), huge" },
        { 2048, 2, 1, "IMIX, 2k-frame ring" }, { 1000000, 2, 1, "IMIX, 1M (mean 362 B), huge" }, { 1000000, 2, 0, "IMIX, 1M, 4K pages" } };
    for (unsigned i = 0; i < sizeof c / sizeof *c; i++) {
        pkts k = mkpkts(c[i].n, 1000, c[i].mode, c[i].hp, 0); u32 loops = c[i].n < 10000 ? 1000 : 1;
        for (int pf = 0; pf < 2; pf++) { double v[REPS]; char nm[99];
            for (int r = 0; r < REPS; r++) { double t0 = now_ns(); for (u32 l = 0; l < loops; l++) sink += touch(&k, k.n, pf); v[r] = (now_ns() - t0) / loops / k.n; }
            snprintf(nm, 99, "%s%s", c[i].s, pf ? ", sw prefetch" : ""); report("stream", nm, v, REPS); }
        freep(&k);
    }
}
#define PH(h) static NOI u64 ph##h(pkts *k) { u64 s = 0; key q; for (u32 i = 0; i < k->n; i++) { u8 *p = k->buf + k->off[i]; \
    if (parse(p, k->len[i], &q)) { u64 x = hash(h, q.a, q.b); s += x ^ x >> 48; } } return s; }
PH(0) PH(1) PH(2) PH(3) PH(4) PH(5)
static NOI u64 phn(pkts *k) { u64 s = 0; key q; for (u32 i = 0; i < k->n; i++) if (parse(k->buf + k->off[i], k->len[i], &q)) s += q.a ^ q.b; return s; }
static void s_hash(void)
{
    struct { u32 n; int mode; const char *s; } c[] = { { 2048, 0, "2k ring" }, { 2000000, 0, "2M stream" }, { 1000000, 2, "IMIX 1M stream" } };
    u64 (*f[])(pkts *) = { phn, ph0, ph1, ph5, ph3, ph4, ph2 }; int hn[] = { -1, 0, 1, 5, 3, 4, 2 };
    for (int i = 0; i < 3; i++) { pkts k = mkpkts(c[i].n, 1000, c[i].mode, 1, 0); u32 loops = c[i].n < 10000 ? 500 : 1;
        for (int j = 0; j < 7; j++) { double v[REPS]; char nm[99];
            for (int r = 0; r < REPS; r++) { double t0 = now_ns(); for (u32 l = 0; l < loops; l++) sink += f[j](&k); v[r] = (now_ns() - t0) / loops / k.n; }
            snprintf(nm, 99, "%s parse%s%s", c[i].s, hn[j] < 0 ? " only" : " + ", hn[j] < 0 ? "" : HN[hn[j]]); report("hash", nm, v, REPS); }
        freep(&k); }
}
static void natcase(tab *t, pkts *k, u32 N, int hp, int H, int level, u32 B, const char *extra)
{
    double v[REPS]; char nm[128]; u64 got = 0; static const char *L[] = { "", "parse+hash+lookup", "+rewrite+csum", "+state+counters" };
    for (int r = 0; r < REPS; r++) {
        if (level > 1) restore(k);
        double t0 = now_ns(); got = runnat(t, k, 0, k->n, H, level, B); v[r] = (now_ns() - t0) / k->n; sink += got;
    }
    if (got < k->n) printf("  !! only %lu of %u found\n", (unsigned long)got, k->n);
    if (level > 1) for (u32 i = 0; i < 1000; i++) {            /* check the rewritten frames */
        u8 *p = k->buf + k->off[i]; u32 L4 = ntohs(ld16(p + 16)) - 20;
        u32 s = (ld32(p + 26) & 0xffff) + (ld32(p + 26) >> 16) + (ld32(p + 30) & 0xffff) + (ld32(p + 30) >> 16) + htons(6) + htons(L4);
        if (csum(p + 14, 20, 0) || csum(p + 34, L4, s)) { printf("  !! bad checksum in frame %u\n", i); break; } }
    snprintf(nm, 128, "N=%-8u %-18s %s%s%s hp=%d%s", N, L[level], B ? "batch " : "scalar", B ? (B==16?"16":B==32?"32":B==64?"64":"128") : "",
             H == H_SIP ? " siphash" : H == H_AES ? " aes" : H == H_CRC ? " crc" : "", hp, extra);
    report("nat", nm, v, REPS);
}
static void s_nat(void)
{
    u32 Ns[] = { 1000, 65536, 1000000, 10000000 };
    for (int hp = 1; hp >= 0; hp--) for (int n = 0; n < 4; n++) {
        u32 N = Ns[n]; tab *t = mktab(N, hp, 0.8); t->now = 1000; fill(t, N, H_MUM); pkts k = mkpkts(2000000, N, 0, hp, 0);
        printf("table N=%u: %u buckets, load %.2f, table %.1f MiB + conns %.1f MiB, overflow steps per entry %.3f\n", N, t->nb, 2.0 * N / (7.0 * t->nb),
               t->nb / 16384.0, N / 16384.0, t->probes / (2.0 * N));
        natcase(t, &k, N, hp, H_MUM, 1, 0, "");
        u32 Bs[] = { 16, 32, 64, 128 };
        for (int b = 0; b < 4; b++) natcase(t, &k, N, hp, H_MUM, 1, Bs[b], "");
        natcase(t, &k, N, hp, H_MUM, 2, 0, ""); natcase(t, &k, N, hp, H_MUM, 2, 32, "");
        natcase(t, &k, N, hp, H_MUM, 3, 0, "");
        for (int b = 0; b < 4; b++) natcase(t, &k, N, hp, H_MUM, 3, Bs[b], "");
        if (hp && n >= 2) { pkts k2 = mkpkts(1000000, N, 2, hp, 0); natcase(t, &k2, N, hp, H_MUM, 3, 0, " IMIX"); natcase(t, &k2, N, hp, H_MUM, 3, 32, " IMIX"); freep(&k2);
            pkts k3 = mkpkts(2000000, N, 1, hp, 0); natcase(t, &k3, N, hp, H_MUM, 3, 32, " pcap-packed"); freep(&k3); }
        freetab(t);
        if (hp) { tab *u = mktab(N, hp, 0.8); u->now = 1000; fill(u, N, H_SIP); natcase(u, &k, N, hp, H_SIP, 3, 0, ""); natcase(u, &k, N, hp, H_SIP, 3, 32, ""); freetab(u); }
        freep(&k);
    }
}
static double median(double *v) { qsort(v, REPS, sizeof *v, dcmp); return v[REPS / 2]; }
static void quick(tab *t, pkts *k, u32 B, double *cpu, double *wall)
{
    double v[REPS], w[REPS];
    for (int r = 0; r < REPS; r++) {
        restore(k); double w0 = clock_ns(CLOCK_MONOTONIC), t0 = now_ns();
        sink += runnat(t, k, 0, k->n, H_MUM, 3, B);
        v[r] = (now_ns() - t0) / k->n; w[r] = (clock_ns(CLOCK_MONOTONIC) - w0) / k->n;
    }
    *cpu = median(v); *wall = median(w);
}
static void s_quick(u32 N)
{
    tab *t = mktab(N, 1, 0.8); t->now = 1000; fill(t, N, H_MUM); pkts k = mkpkts(1000000, N, 0, 1, 0);
    double cpu[2], wall[2];
    quick(t, &k, 16, &cpu[0], &wall[0]); quick(t, &k, 32, &cpu[1], &wall[1]);
    printf("%.2f %.2f %.2f %.2f\n", cpu[0], cpu[1], wall[0], wall[1]); freetab(t); freep(&k);
}
static void s_natc(void)
{
    u32 Ns[] = { 1000, 65536, 1000000, 10000000 };
    for (int n = 0; n < 4; n++) {
        u32 N = Ns[n], nb = 1; while (nb < 3.0 * N) nb <<= 1;
        CM = nb - 1; CE = big((size_t)nb * 64, 1); pkts k = mkpkts(2000000, N, 0, 1, 0);
        for (u32 f = 0; f < N; f++) { conn c; key kk[2]; cfill(&c, (u64)VIP << 32 | cipof(f), 6ull << 32 | (u32)htons(80) << 16 | cpof(f), ripof(f), htons(8080), f % NRS, 1000, 900); keys(&c, kk);
            for (int d = 0; d < 2; d++) { ent e; memset(&e, 0, sizeof e); e.a = kk[d].a; e.b = kk[d].b; e.dir = d; e.nip = c.x[d].a >> 32; e.nport = c.x[d].p >> 16; if (d) e.nip = c.x[d].a, e.nport = c.x[d].p;
                e.d3 = c.x[d].d3; e.d4 = c.x[d].d4; e.dest = c.dest; e.state = 1; cput(hash(H_MUM, e.a, e.b), &e); } }
        for (int lv = 1; lv <= 3; lv += 2) for (int b = 0; b < 2; b++) { double v[REPS]; char nm[99]; u64 g = 0;
            for (int r = 0; r < REPS; r++) { restore(&k); double t0 = now_ns(); g = lv == 1 ? (b ? run_c(&k, 1, 64, 1000) : run_c(&k, 1, 32, 1000)) : (b ? run_c(&k, 3, 64, 1000) : run_c(&k, 3, 32, 1000)); v[r] = (now_ns() - t0) / k.n; }
            if (g < k.n) printf("  !! missing\n");
            snprintf(nm, 99, "layout C N=%-8u load %.2f %s batch %d", N, 2.0 * N / nb, lv == 1 ? "lookup" : "+rewrite+state", b ? 64 : 32); report("natc", nm, v, REPS); }
        big_free(CE, (size_t)nb * 64); freep(&k);
    }
}
/* new connections: parse SYN, miss, pick server round robin, fill, two inserts, timer link */
INL void newconn(tab *t, u64 a, u64 b, u64 h, u32 *rr, u32 slot)
{
    u32 d = *rr; *rr = d + 1 == NRS ? 0 : d + 1;
    u32 i = calloc1(t); conn *c = t->c + i; key k[2];
    cfill(c, a, b, 0x0000a8c0u | (d + 1) << 24, htons(8080), d, t->now, t->tmo); keys(c, k);
    put(t, h, i << 1); put(t, hash(H_MUM, k[1].a, k[1].b), i << 1 | 1); wlink(t, i, slot);
}
INL u64 ins(tab *t, pkts *k, u32 from, u32 to, u32 B, u32 slot)
{
    static u32 rr; u64 s = 0; key q[128] = { { 0 } }; u64 hv[128]; hv[0] = 0;
    for (u32 i = from; i < to; i += B) {
        u32 n = to - i < B ? to - i : B;
        u32 g = t->freehd, d = rr;
        for (u32 j = 0; j < n; j++) {
            u8 *p = k->buf + k->off[i + j]; if (!parse(p, k->len[i + j], &q[j])) continue;
            hv[j] = hash(H_MUM, q[j].a, q[j].b);
            if (B > 1) { __builtin_prefetch(t->b + ((u32)hv[j] & t->mask), 1); 
                u32 rip = 0x0000a8c0u | (d + 1) << 24; d = d + 1 == NRS ? 0 : d + 1;
                u64 ra = (u64)(u32)q[j].a << 32 | rip, rb = (q[j].b >> 32) << 32 | (u32)(u16)q[j].b << 16 | htons(8080);
                __builtin_prefetch(t->b + ((u32)hash(H_MUM, ra, rb) & t->mask), 1);
                __builtin_prefetch(t->c + g + j + 8, 1); }
        }
        for (u32 j = 0; j < n; j++) if (find(t, hv[j], q[j].a, q[j].b) == ~0u) { newconn(t, q[j].a, q[j].b, hv[j], &rr, slot); s++; }
    }
    return s;
}
static NOI u64 ins1(tab *t, pkts *k, u32 f, u32 to, u32 slot) { return ins(t, k, f, to, 1, slot); }
static NOI u64 ins32(tab *t, pkts *k, u32 f, u32 to, u32 slot) { return ins(t, k, f, to, 32, slot); }
static NOI u64 expire(tab *t, u32 slot, u32 B)                 /* fire one wheel slot: remove what is due, requeue the rest */
{
    u64 n = 0; u32 i = t->wheel[slot]; t->wheel[slot] = ~0u; u32 id[64]; u64 h[64][2];
    while (i != ~0u) {
        u32 m = 0;
        while (i != ~0u && m < B) {
            conn *c = t->c + i; u32 nx = c->tnext; if (nx != ~0u) __builtin_prefetch(t->c + nx);
            if ((int)(t->now - c->last - c->timeout) < 0) { wlink(t, i, (c->last + c->timeout) & 4095); i = nx; continue; }
            key k[2]; keys(c, k); id[m] = i;
            for (int d = 0; d < 2; d++) { h[m][d] = hash(H_MUM, k[d].a, k[d].b); __builtin_prefetch(t->b + ((u32)h[m][d] & t->mask), 1); }
            m++; i = nx;
        }
        for (u32 j = 0; j < m; j++) { del(t, h[j][0], id[j] << 1); del(t, h[j][1], id[j] << 1 | 1);
            t->c[id[j]].tnext = t->freehd; t->freehd = id[j]; t->nc--; n++; }
    }
    return n;
}
static NOI u64 sweep(tab *t, u32 n) { u64 s = 0; for (u32 i = 0; i < n; i++) s += (int)(t->now - t->c[i].last - t->c[i].timeout) >= 0; return s; }
/* doubling, bucket by bucket, from the 16 stored hash bits: no connection line is touched */
static NOI u64 grow(tab *t)
{
    u32 nb = t->nb, bit = nb; int sh = __builtin_ctz(nb); bucket *nbk = big((size_t)nb * 128, t->hp); u64 n = 0;
    double t0 = now_ns();
    for (u32 i = 0; i < nb; i++) { bucket *q = t->b + i;
        for (int s = 0; s < 7; s++) if (q->tag[s]) { u32 hi = (q->hx[s] >> (sh & 15)) & 1; bucket *d = nbk + (i | (hi ? bit : 0)); u32 m = match7(d, 0);
            if (m) { int e = __builtin_ctz(m); d->tag[e] = q->tag[s]; d->hx[e] = q->hx[s]; d->ref[e] = q->ref[s]; } n++; } }
    double ns = (now_ns() - t0) / n; printf("insert  | grow: doubling %u -> %u buckets, %lu entries: %.2f ns/entry, %.1f ns/bucket\n", nb, 2 * nb, (unsigned long)n, ns, ns * n / nb);
    big_free(nbk, (size_t)nb * 128); return n;
}
static void s_insert(void)
{
    u32 Ns[] = { 65536, 1000000, 10000000 };
    for (int hp = 1; hp >= 0; hp--) for (int n = 0; n < 3; n++) {
        u32 N = Ns[n]; pkts k = mkpkts(N, N, 0, hp, 1); double v[2][REPS], x[REPS], w[REPS]; char nm[99]; int R = N > 5000000 ? 3 : REPS;
        for (int m = 0; m < 2; m++) for (int r = 0; r < R; r++) {
            tab *t = mktab(N, hp, 0.8); t->now = 1000; double t0 = now_ns(); u64 c = m ? ins32(t, &k, 0, N, 5) : ins1(t, &k, 0, N, 5); v[m][r] = (now_ns() - t0) / N;
            if (c != N) printf("  !! inserted %lu\n", (unsigned long)c);
            if (m) { t0 = now_ns(); sink += sweep(t, N); w[r] = (now_ns() - t0) / N; if (!r) grow(t);
                t->now = 3000; t0 = now_ns(); c = expire(t, 5, 32); x[r] = (now_ns() - t0) / N; if (c != N) printf("  !! expired %lu\n", (unsigned long)c); }
            freetab(t); }
        for (int m = 0; m < 2; m++) { snprintf(nm, 99, "N=%-8u new connection, empty->full, %s hp=%d", N, m ? "batch 32" : "scalar", hp); report("insert", nm, v[m], R); }
        snprintf(nm, 99, "N=%-8u expire by wheel slot (2 deletes), batch 32 hp=%d", N, hp); report("insert", nm, x, R);
        snprintf(nm, 99, "N=%-8u sweep of connection slab, per connection hp=%d", N, hp); report("insert", nm, w, R);
        freep(&k);
    }
    /* churn: table kept at N live connections; every tick adds 1/512 of N new ones and fires one slot */
    for (int n = 0; n < 3; n++) {   /* connection lines are recycled in expiry order */
        u32 N = Ns[n], step = N / 512; pkts k = mkpkts(2 * N, 2 * N, 0, 1, 1); tab *t = mktab(N + 2 * step, 1, 0.8); double v[REPS]; int R = N > 5000000 ? 3 : REPS; char nm[99];
        u32 pos = 0, now = 10000; t->now = now; t->tmo = 512; u64 made = 0, gone = 0;
        #define TICK() do { t->now = ++now; gone += expire(t, now & 4095, 32); if (pos + step > k.n) pos = 0; \
            for (u32 z = pos; z < pos + step; ) { u32 e = z + step; made += ins32(t, &k, z, e, (now + 512) & 4095); z = e; } pos += step; } while (0)
        for (int i = 0; i < 512; i++) { TICK(); }
        for (int r = 0; r < R; r++) { made = gone = 0; double t0 = now_ns(); for (int i = 0; i < 256; i++) { TICK(); } v[r] = (now_ns() - t0) / made; }
        snprintf(nm, 99, "N=%-8u churn: 1 new + 1 expired (%.2f), batch 32 hp=1", N, (double)gone / made); report("insert", nm, v, R);
        freep(&k); freetab(t);
    }
}
typedef struct { tab *t; pkts k; int cpu, level; u32 B; pthread_barrier_t *bar; double ns; } targ;
static void *tmain(void *x)
{
    targ *a = x; cpu_set_t cs; CPU_ZERO(&cs); CPU_SET(a->cpu, &cs); sched_setaffinity(0, sizeof cs, &cs);
    restore(&a->k); pthread_barrier_wait(a->bar); double t0 = now_ns();
    sink += runnat(a->t, &a->k, 0, a->k.n, H_MUM, a->level, a->B); a->ns = (now_ns() - t0) / a->k.n; pthread_barrier_wait(a->bar); return 0;
}
static void s_thr(void)
{
    u32 Ns[] = { 65536, 1000000, 10000000 };
    for (int n = 0; n < 3; n++) for (int mode = 0; mode < 3; mode++) {
        /* mode 0: one thread; 1: two threads, own tables of N/2; 2: two threads, one shared table */
        u32 N = Ns[n], M = mode == 1 ? N / 2 : N; targ a[2]; pthread_barrier_t bar; double v[REPS]; char nm[99]; int T = mode ? 2 : 1; tab *t[2];
        t[0] = mktab(M, 1, 0.8); t[0]->now = 1000; fill(t[0], M, H_MUM); t[1] = t[0]; if (mode == 1) { t[1] = mktab(M, 1, 0.8); t[1]->now = 1000; fill(t[1], M, H_MUM); }
        for (int i = 0; i < T; i++) { a[i].t = t[i]; a[i].k = mkpkts(2000000, M, 0, 1, 0); a[i].cpu = i; a[i].level = 3; a[i].B = 32; a[i].bar = &bar; }
        for (int r = 0; r < REPS; r++) { pthread_t th[2]; pthread_barrier_init(&bar, 0, T);
            for (int i = 0; i < T; i++) pthread_create(&th[i], 0, tmain, &a[i]);
            double w = 0; for (int i = 0; i < T; i++) { pthread_join(th[i], 0); if (a[i].ns > w) w = a[i].ns; }
            v[r] = w / T; }
        snprintf(nm, 99, "N=%-8u %s, full work batch 32 (per packet, total)", N, mode == 0 ? "1 thread" : mode == 1 ? "2 threads own tables" : "2 threads shared table"); report("thr", nm, v, REPS);
        for (int i = 0; i < T; i++) freep(&a[i].k);
        freetab(t[0]); if (mode == 1) freetab(t[1]);
    }
}
int main(int argc, char **argv)
{
    K0 = rnd(); K1 = rnd(); K2 = rnd() | 1; K3 = rnd();
    for (int d = 0; d < 2; d++) for (int s = 0; s < 16; s++) { TCPN[d][0][s] = s ? s : 1; TCPN[d][1][s] = d ? 3 : 2; TCPN[d][2][s] = 4 + d; TCPN[d][3][s] = 6; }
    if (argc == 3 && !strcmp(argv[1], "quick")) { s_quick(strtoul(argv[2], 0, 10)); return 0; }
    struct { const char *n; void (*f)(void); } S[] = { { "clock", s_clock }, { "mem", s_mem }, { "stream", s_stream }, { "hash", s_hash }, { "nat", s_nat }, { "natc", s_natc }, { "insert", s_insert }, { "thr", s_thr } };
    for (int i = 1; i < argc; i++) for (unsigned j = 0; j < sizeof S / sizeof *S; j++) if (!strcmp(argv[i], S[j].n)) S[j].f();
    return 0;
}
