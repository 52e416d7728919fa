/* A step of decoding on a CPU: y = x W^T + b for a few rows (packed.py), a decoder's layers over the
 * tokens of one step (column.py), and the codes that a picture's step writes (choices.py).
 *
 * A step reads every weight once, for a row or two: what counts is that memory never waits. So
 * packed weights lie in the order in which they are read, a tile of outputs side by side for every
 * UNIT inputs, and are asked for AHEAD bytes before their turn.
 *
 * Weights of 32 and 16 bits are multiplied in fp32. Those of 8 and 4 bits are multiplied as whole
 * numbers, 32 at an instruction: inputs are rounded to 16 bits with a scale for every UNIT of them
 * (nearer than bf16 by 2^7), and the sum over a UNIT is exact. A row's sums are the same whatever
 * rows are beside it, because every output of every row has sums of its own, in one order.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#ifdef _OPENMP
int omp_get_thread_num(void); /* its header is a package of its own */
#else
static int omp_get_thread_num(void) { return 0; }
#endif

#define TILE 4     /* outputs at a time; 4 rows of them are 16 sums in registers */
#define LANES 16   /* of a sum, and of the vectors below; outputs at a time, of 8 and 4 bits */
#define UNIT 32    /* inputs that lie together */
#define ROWS 32    /* at a time: their inputs stay in the second cache */
#define AHEAD 4096 /* bytes */
#define LATER 16   /* vectors of keys or values, which are asked for into the second cache */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int16_t words __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
typedef int16_t halves __attribute__((vector_size(2 * LANES)));
typedef uint16_t unsigned_words __attribute__((vector_size(4 * LANES)));

/* --- weights -------------------------------------------------------------------------------- */

INLINE vec from_half(const uint8_t *p) {
#ifdef __AVX512F__
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__F16C__)
    vec out;
    for (int k = 0; k < 2; k++) {
        __m256 part = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + k));
        memcpy((char *)&out + 32 * k, &part, 32);
    }
    return out;
#else
    vec out;
    for (int k = 0; k < LANES; k++) {
        _Float16 one;
        memcpy(&one, p + 2 * k, 2);
        out[k] = (float)one;
    }
    return out;
#endif
}

INLINE vec largest(vec a, vec b) {
    const ints first = a > b;
    return (vec)(((ints)a & first) | ((ints)b & ~first));
}

INLINE float highest(vec x) {
    float most = x[0];
    for (int k = 1; k < LANES; k++) most = x[k] > most ? x[k] : most;
    return most;
}

INLINE float sum(vec x) {
    float a[LANES];
    memcpy(a, &x, sizeof a);
    four p, q, r, s;
    memcpy(&p, a, 16), memcpy(&q, a + 4, 16), memcpy(&r, a + 8, 16), memcpy(&s, a + 12, 16);
    const four all = (p + r) + (q + s);
    return (all[0] + all[1]) + (all[2] + all[3]);
}

typedef struct {
    const uint8_t *codes; /* of 32 bits (N, K); of 16 (N / TILE, K / UNIT, TILE, UNIT);
                           * of 8 (N / LANES, K / UNIT, 8, LANES, 2, 2), of 4 (…, 4, LANES, 2, 4),
                           * where a unit's inputs are numbered by the first, last and second last
                           * of the places behind it, and 4 bits lie lowest first; of 4 bits each
                           * unit's fp16 scales and zeros, (2, LANES), after it: w = scale q + zero */
    const float *scale;   /* (N,) of 8 bits, else NULL */
    const float *bias;    /* (N,) or NULL */
    long outputs, inputs; /* N as it is wanted; K a multiple of UNIT */
    int bits;             /* 32, 16, 8 or 4 */
} Weights;

/* One tile of outputs of a few rows; `bits` and `rows` are known to the compiler. */
INLINE void tile(int bits, int rows, const Weights *w, long n, const float *x, float *y, int add) {
    const long K = w->inputs, N = w->outputs, size = UNIT * bits / 8;
    const long next = TILE * size; /* bytes from a unit of inputs to the next */
    const uint8_t *p = w->codes + (bits == 32 ? n * K * 4 : n / TILE * (K / UNIT) * next);
    long row[TILE]; /* where outputs lie, of 32 bits; beyond the last one it stands again */
    for (int o = 0; o < TILE; o++) row[o] = n + o < N ? o * K * 4 : (N - 1 - n) * K * 4;
    vec acc[4][TILE];
    for (int m = 0; m < rows; m++)
        for (int o = 0; o < TILE; o++) acc[m][o] = (vec){0};
    for (long k = 0; k < K; k += UNIT, p += bits == 32 ? size : next) {
        for (long at = 0; at < next && bits != 32; at += 64) __builtin_prefetch(p + AHEAD + at);
        vec a[4], b[4];
        for (int m = 0; m < rows; m++) {
            a[m] = *(const vec *)(x + m * K + k);
            b[m] = *(const vec *)(x + m * K + k + LANES);
        }
#pragma GCC unroll 4
        for (int o = 0; o < TILE; o++) {
            const uint8_t *q = p + (bits == 32 ? row[o] : o * size);
            vec low, high;
            if (bits == 16) {
                low = from_half(q), high = from_half(q + 2 * LANES);
            } else {
                const uint8_t *later = q + TILE * K * 4; /* where the next tile's row is */
                __builtin_prefetch(later, 0, 2), __builtin_prefetch(later + 64, 0, 2);
                low = *(const vec *)q, high = *(const vec *)(q + 4 * LANES);
            }
            for (int m = 0; m < rows; m++) {
                acc[m][o] += low * a[m];
                acc[m][o] += high * b[m];
            }
        }
    }
    for (int m = 0; m < rows; m++)
        for (int o = 0; o < TILE && n + o < N; o++) {
            const float bias = w->bias ? w->bias[n + o] : 0, one = sum(acc[m][o]) + bias;
            y[m * N + n + o] = add ? y[m * N + n + o] + one : one;
        }
}

/* --- whole numbers -------------------------------------------------------------------------- */

/* UNIT inputs of a row, x = scale * of; their sum. */
typedef struct {
    int16_t of[UNIT];
    float scale, sum;
} Rounded;

static void round_unit(const float *x, Rounded *to) {
    const vec none = {0}, a = *(const vec *)x, b = *(const vec *)(x + LANES);
    const float most = highest(largest(largest(a, none - a), largest(b, none - b)));
    const float by = most > 1e-30f ? 32767 / most : 0, all = sum(a + b);
    const float magic = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded */
    const ints low = __builtin_convertvector((a * by + magic) - magic, ints);
    const ints high = __builtin_convertvector((b * by + magic) - magic, ints);
    const halves first = __builtin_convertvector(low, halves);
    const halves second = __builtin_convertvector(high, halves);
    memcpy(to->of, &first, sizeof first), memcpy(to->of + LANES, &second, sizeof second);
    int total = 0;
    for (int k = 0; k < LANES; k++) total += low[k] + high[k];
    to->scale = most / 32767 + 0 * all; /* of what is not finite, a NaN */
    to->sum = to->scale * total;
}

/* acc of LANES outputs + two of their weights each times a pair of inputs. */
INLINE ints with_pair(ints acc, words w, const int16_t *x) {
    int32_t pair;
    memcpy(&pair, x, 4);
#if defined(__AVX512VNNI__)
    return (ints)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(pair));
#elif defined(__AVX512BW__)
    return acc + (ints)_mm512_madd_epi16((__m512i)w, _mm512_set1_epi32(pair));
#elif defined(__AVX2__)
    ints both;
    for (int k = 0; k < 2; k++) {
        __m256i half;
        memcpy(&half, (char *)&w + 32 * k, 32);
        half = _mm256_madd_epi16(half, _mm256_set1_epi32(pair));
        memcpy((char *)&both + 32 * k, &half, 32);
    }
    return acc + both;
#else
    for (int o = 0; o < LANES; o++) acc[o] += w[2 * o] * x[0] + w[2 * o + 1] * x[1];
    return acc;
#endif
}

/* LANES outputs of a few rows; `bits` and `rows` are known to the compiler. */
INLINE void whole(int bits, int rows, const Weights *w, long n, const Rounded *x, float *y, int add) {
    const int each = 16 / bits; /* of a word */
    const long N = w->outputs, units = w->inputs / UNIT, codes = LANES * UNIT * bits / 8;
    const long next = codes + (bits == 4 ? 2 * 2 * LANES : 0);
    const uint8_t *p = w->codes + n / LANES * units * next;
    vec acc[4];
    for (int m = 0; m < rows; m++) acc[m] = (vec){0};
    for (long k = 0; k < units; k++, p += next) {
        for (long at = 0; at < next; at += 64) __builtin_prefetch(p + AHEAD + at);
        ints sums[4][4];
        for (int m = 0; m < rows; m++)
            for (int s = 0; s < 4; s++) sums[m][s] = (ints){0};
#pragma GCC unroll 8
        for (int v = 0; v < UNIT / 2 / each; v++) {
            const words all = *(const words *)(p + v * 4 * LANES);
#pragma GCC unroll 4
            for (int part = 0; part < each; part++) {
                words one; /* one weight a word */
                if (bits == 8)
                    one = part ? all >> 8 : (words)(all << 8) >> 8;
                else
                    one = (words)((unsigned_words)all >> 4 * part) & 15;
                const int s = bits == 8 ? 2 * (v & 1) + part : part;
                for (int m = 0; m < rows; m++)
                    sums[m][s] = with_pair(sums[m][s], one, x[m * units + k].of + 2 * (each * v + part));
            }
        }
        vec scale = {0}, zero = {0};
        if (bits == 4) scale = from_half(p + codes), zero = from_half(p + codes + 2 * LANES);
        for (int m = 0; m < rows; m++) {
            const Rounded *own = x + m * units + k;
            const ints total = (sums[m][0] + sums[m][1]) + (sums[m][2] + sums[m][3]);
            const vec found = __builtin_convertvector(total, vec);
            acc[m] += found * (bits == 4 ? scale * own->scale : (vec){0} + own->scale);
            if (bits == 4) acc[m] += zero * own->sum;
        }
    }
    for (int m = 0; m < rows; m++) {
        float found[LANES];
        memcpy(found, &acc[m], sizeof found);
        for (int o = 0; o < LANES && n + o < N; o++) {
            const float scale = w->scale ? w->scale[n + o] : 1, bias = w->bias ? w->bias[n + o] : 0;
            const float one = fmaf(found[o], scale, bias); /* one rounding, however it is compiled */
            y[m * N + n + o] = add ? y[m * N + n + o] + one : one;
        }
    }
}

/* --- products ------------------------------------------------------------------------------- */

INLINE void some(int bits, int rows, const Weights *w, long n, const float *x, const Rounded *rounded,
                 long m, float *y, int add) {
    const long K = w->inputs;
    y += m * w->outputs;
    if (bits > 8) tile(bits, rows, w, n, x + m * K, y, add);
    else whole(bits, rows, w, n, rounded + m * (K / UNIT), y, add);
}

INLINE void tiles(int bits, const Weights *w, const float *x, float *y, long rows, int add, float *room) {
    const long wide = bits > 8 ? TILE : LANES, count = (w->outputs + wide - 1) / wide;
    Rounded *rounded = (Rounded *)room;
    if (bits <= 8) {
#pragma omp for schedule(static)
        for (long u = 0; u < rows * (w->inputs / UNIT); u++) round_unit(x + u * UNIT, rounded + u);
    }
    for (long start = 0; start < rows; start += ROWS) {
        const long stop = start + ROWS < rows ? start + ROWS : rows;
#pragma omp for schedule(static)
        for (long t = 0; t < count; t++) {
            long m = start;
            for (; m + 4 <= stop; m += 4) some(bits, 4, w, t * wide, x, rounded, m, y, add);
            for (; m + 2 <= stop; m += 2) some(bits, 2, w, t * wide, x, rounded, m, y, add);
            for (; m < stop; m++) some(bits, 1, w, t * wide, x, rounded, m, y, add);
        }
    }
}

/* A product by all threads of a team: x (rows, K) -> y (rows, N), contiguous; or added to y.
 * room: for (rows, K) floats. */
static void multiply(const Weights *w, const float *x, float *y, long rows, int add, float *room) {
    if (w->bits == 32) tiles(32, w, x, y, rows, add, room);
    if (w->bits == 16) tiles(16, w, x, y, rows, add, room);
    if (w->bits == 8) tiles(8, w, x, y, rows, add, room);
    if (w->bits == 4) tiles(4, w, x, y, rows, add, room);
}

void product(const Weights *w, const float *x, float *y, long rows, float *room, int threads) {
#pragma omp parallel num_threads(threads)
    multiply(w, x, y, rows, 0, room);
}

/* --- a decoder's layers --------------------------------------------------------------------- */

typedef struct {
    Weights qkv, out, gate_up, down;
    const float *before, *between; /* weights of norms, (size,) */
    const float *head_norm;        /* (heads + kv_heads, width), or NULL */
    void *keys, *values;           /* (rows, kv_heads, width, capacity), (…, capacity, width) */
} Layer;

typedef struct {
    long layers, size, heads, kv_heads, width, inner; /* width of a head, a multiple of LANES */
    float scale, eps;
    int bits; /* of keys and values: 32 or 16 */
} Shape;

/* e to the x: 2^n times a polynomial (Cephes' expf). */
INLINE vec power(vec x) {
    const vec none = (vec){0};
    x = largest(none - 87.0f, x); /* of a NaN the second, which stays */
    x = none - largest(none - 88.0f, none - x);
    const float magic = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded */
    vec n = (x * 1.44269504f + magic) - magic;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec y = none + 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    ints bits = (__builtin_convertvector(n, ints) + 127) << 23;
    return y * (vec)bits;
}

/* Sums in the order of the lanes, so that they are the same everywhere. */
static float dot(const float *a, const float *b, long count) {
    vec found = (vec){0};
    for (long k = 0; k < count; k += LANES) found += *(const vec *)(a + k) * *(const vec *)(b + k);
    return sum(found);
}

/* RMSNorm of one row, `count` a multiple of LANES. */
static void norm(const float *x, const float *weight, float eps, float *y, long count) {
    const float by = 1 / sqrtf(dot(x, x, count) / count + eps);
    for (long k = 0; k < count; k += LANES)
        *(vec *)(y + k) = *(const vec *)(x + k) * by * *(const vec *)(weight + k);
}

/* One head's vector, normed and turned by its position, in place. */
static void turn(float *x, const float *weight, float eps, const float *cos, const float *sin,
                 long width) {
    if (weight) norm(x, weight, eps, x, width);
    for (long k = 0; k < width / 2; k++) {
        const float a = x[k], b = x[k + width / 2];
        x[k] = a * cos[k] + b * sin[k];
        x[k + width / 2] = b * cos[k + width / 2] + a * sin[k + width / 2];
    }
}

/* A number as it is kept: of 16 bits, what is beyond them becomes the largest. */
INLINE void store_kept(void *kept, long at, float x, int bits) {
    if (bits == 32) {
        ((float *)kept)[at] = x;
        return;
    }
    x = x > 65504 ? 65504 : x < -65504 ? -65504 : x;
#ifdef __F16C__
    ((uint16_t *)kept)[at] = _cvtss_sh(x, 0);
#else
    const _Float16 half = (_Float16)x;
    memcpy((uint16_t *)kept + at, &half, 2);
#endif
}

INLINE void fetch_kept(const void *kept, long at, int bits) {
    __builtin_prefetch((const char *)kept + at * bits / 8, 0, 2);
}

INLINE vec load_kept(const void *kept, long at, int bits) {
    return bits == 32 ? *(const vec *)((const float *)kept + at)
                      : from_half((const uint8_t *)kept + 2 * at);
}

/* One query over the positions that it sees; `scores` has room for `capacity` of them. Keys and
 * values, from their number `base` on, are read in the order in which they lie. They are asked for:
 * a stream as short as a head's is over before a processor foresees it. */
INLINE void attend(int bits, const float *query, const void *keys, const void *values, long base,
                   float scale, long seen, long capacity, long width, float *scores, float *out) {
    const long whole = (seen + LANES - 1) / LANES * LANES; /* within capacity, blocks of 128 */
    for (long d = 0; d < width; d += 4)
        for (long j = 0; j < whole; j += LANES) {
            vec found = d ? *(vec *)(scores + j) : (vec){0};
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                const long at = base + (d + k) * capacity + j;
                fetch_kept(keys, at + LATER * capacity, bits);
                found += query[d + k] * load_kept(keys, at, bits);
            }
            *(vec *)(scores + j) = found;
        }
    for (long j = 0; j < whole; j += LANES) *(vec *)(scores + j) *= scale;
    for (long j = seen; j < whole; j++) scores[j] = -INFINITY;
    vec top = *(vec *)scores, total = (vec){0};
    for (long j = LANES; j < whole; j += LANES) top = largest(top, *(vec *)(scores + j));
    const float most = highest(top);
    for (long j = 0; j < whole; j += LANES) { /* beyond what is seen, e^-87 */
        vec part = power(*(vec *)(scores + j) - most);
        *(vec *)(scores + j) = part;
        total += part;
    }
    const float by = 1 / sum(total);
    for (long d = 0; d < width; d += 4 * LANES) {
        const int parts = width - d < 4 * LANES ? (int)((width - d) / LANES) : 4;
        vec even[4] = {{0}, {0}, {0}, {0}}, odd[4] = {{0}, {0}, {0}, {0}};
        if (parts == 4) {
            long j = 0;
            for (; j + 1 < seen; j += 2)
#pragma GCC unroll 4
                for (int k = 0; k < 4; k++) {
                    const long at = base + j * width + d + k * LANES;
                    fetch_kept(values, at + 4 * LATER * width, bits);
                    even[k] += scores[j] * load_kept(values, at, bits);
                    odd[k] += scores[j + 1] * load_kept(values, at + width, bits);
                }
            for (int k = 0; k < 4 && j < seen; k++)
                even[k] += scores[j] * load_kept(values, base + j * width + d + k * LANES, bits);
        } else {
            for (long j = 0; j < seen; j++)
                for (int k = 0; k < parts; k++)
                    even[k] += scores[j] * load_kept(values, base + j * width + d + k * LANES, bits);
        }
        for (int k = 0; k < parts; k++) *(vec *)(out + d + k * LANES) = (even[k] + odd[k]) * by;
    }
}

/* Tokens of one step through all layers: each is written to its row's column of the cache and sees
 * the columns up to it.
 *
 * x: (tokens, size), in place. cos, sin: (positions, width), sin of the first half negated.
 * positions, rows, columns: of the tokens, those of a row in order. room: for (tokens, size + (heads
 * + 2 kv_heads) * width + heads * width + 3 * inner + the most inputs that a product has), and
 * (threads, capacity).
 */
void column(const Layer *layers, const Shape *s, float *x, const float *cos, const float *sin,
            const int64_t *positions, const int64_t *rows, const int64_t *columns, long tokens,
            long capacity, float *room, int threads) {
    const long D = s->size, W = s->width, H = s->heads, G = s->kv_heads, I = s->inner;
    const long all = (H + 2 * G) * W, share = H / G, wider = D > I ? D : I;
    const long most = H * W > wider ? H * W : wider;
    float *normed = room, *mixed = normed + tokens * D, *attended = mixed + tokens * all;
    float *wide = attended + tokens * H * W, *gated = wide + tokens * 2 * I;
    float *rounded = gated + tokens * I, *scores = rounded + tokens * most;
#pragma omp parallel num_threads(threads)
    for (const Layer *l = layers; l < layers + s->layers; l++) {
#pragma omp for schedule(static)
        for (long t = 0; t < tokens; t++)
            norm(x + t * D, l->before, s->eps, normed + t * D, D);
        multiply(&l->qkv, normed, mixed, tokens, 0, rounded);
#pragma omp for schedule(static)
        for (long k = 0; k < tokens * (H + 2 * G); k++) {
            const long t = k / (H + 2 * G), h = k % (H + 2 * G), at = positions[t] * W;
            float *own = mixed + t * all + h * W;
            if (h < H + G)
                turn(own, l->head_norm ? l->head_norm + h * W : NULL, s->eps, cos + at, sin + at, W);
            if (h >= H + G) {
                const long base = rows[t] * G + h - H - G;
                const long place = (base * capacity + columns[t]) * W;
                for (long d = 0; d < W; d++) store_kept(l->values, place + d, own[d], s->bits);
            } else if (h >= H) {
                const long place = (rows[t] * G + h - H) * W * capacity + columns[t];
                for (long d = 0; d < W; d++) store_kept(l->keys, place + d * capacity, own[d], s->bits);
            }
        }
#pragma omp for schedule(static)
        for (long k = 0; k < tokens * H; k++) {
            const long t = k / H, h = k % H, base = (rows[t] * G + h / share) * W * capacity;
            const float *query = mixed + t * all + h * W;
            float *own = scores + omp_get_thread_num() * capacity, *out = attended + k * W;
            if (s->bits == 32)
                attend(32, query, l->keys, l->values, base, s->scale, columns[t] + 1, capacity, W,
                       own, out);
            else
                attend(16, query, l->keys, l->values, base, s->scale, columns[t] + 1, capacity, W,
                       own, out);
        }
        multiply(&l->out, attended, x, tokens, 1, rounded);
#pragma omp for schedule(static)
        for (long t = 0; t < tokens; t++)
            norm(x + t * D, l->between, s->eps, normed + t * D, D);
        multiply(&l->gate_up, normed, wide, tokens, 0, rounded);
#pragma omp for schedule(static)
        for (long k = 0; k < tokens * (I / LANES); k++) {
            const long t = k / (I / LANES), at = k % (I / LANES) * LANES;
            vec gate = *(vec *)(wide + t * 2 * I + at), up = *(vec *)(wide + t * 2 * I + I + at);
            *(vec *)(gated + t * I + at) = gate * up / (1 + power(-gate));
        }
        multiply(&l->down, gated, x, tokens, 1, rounded);
    }
}

/* --- the codes of a step -------------------------------------------------------------------- */

typedef struct {
    Weights up, down; /* with GELU between them */
} TwoLayers;

typedef struct {
    TwoLayers head, told;       /* told: of the aim */
    const float *place;         /* of the aim, (places, size); NULL where there is none */
    const float *codes, *where; /* as the decoder reads them: (codes, size), (places, size) or NULL */
    long size;
} Heads;

typedef struct {
    const float *own, *twin; /* hidden states, (size,); twin NULL where none is compared */
    const int64_t *table;    /* of each code its place, the first that is allowed and their end */
    const float *noise;      /* exponential, as many for a code as are allowed */
    int64_t *chosen;
    long count, top_k;
    float weight, temperature, top_p, min_p;
    long row; /* of the logits */
} Next;

/* (rows, inputs) -> (rows, outputs) by all threads of a team, or added to them. */
static void two_layers(const TwoLayers *m, const float *x, float *y, long rows, int add, float *wide, float *room) {
    multiply(&m->up, x, wide, rows, 0, room);
#pragma omp for schedule(static)
    for (long k = 0; k < rows * m->up.outputs; k++)
        wide[k] = 0.5f * wide[k] * (1 + erff(wide[k] * 0.70710678f));
    multiply(&m->down, wide, y, rows, add, room);
}

/* What the aim is given for code n of a step: aimed (size,), and both (2 size,), aimed and the sum
 * of the codes before it as the decoder reads them. */
static void gather(const Heads *h, const Next *c, long n, const float *state, float *aimed, float *both) {
    const long D = h->size;
    memcpy(aimed, state, D * sizeof *aimed);
    if (!h->place) return;
    const float *place = h->place + c->table[3 * n] * D;
    for (long d = 0; d < D; d++) both[d] = aimed[d] += place[d];
    memset(both + D, 0, D * sizeof *both);
    for (long k = 0; k < n; k++) {
        const float *code = h->codes + c->chosen[k] * D;
        for (long d = 0; d < D; d++) both[D + d] += code[d];
        const float *where = h->where ? h->where + c->table[3 * k] * D : NULL;
        for (long d = 0; d < D && where; d++) both[D + d] += where[d];
    }
}

static void sink(float *heap, long at, long count) {
    const float own = heap[at];
    for (long next; (next = 2 * at + 1) < count; at = next) {
        if (next + 1 < count && heap[next + 1] > heap[next]) next++;
        if (heap[next] <= own) break;
        heap[at] = heap[next];
    }
    heap[at] = own;
}

/* The largest of a heap, which goes behind the others. */
static float popped(float *heap, long count) {
    const float top = heap[0];
    heap[0] = heap[count - 1], heap[count - 1] = top;
    sink(heap, 0, count - 1);
    return top;
}

/* The least of some logits that top-k and then top-p keep; of those above `low`. */
static float least(const float *x, long count, float low, const Next *c, float *heap) {
    long n = 0;
    for (long k = 0; k < count; k++)
        if (x[k] >= low) heap[n++] = x[k];
    if (!n) return low; /* no number */
    for (long k = n / 2; k-- > 0;) sink(heap, k, n);
    const float top = heap[0];
    long most = n, taken = 0;
    if (c->top_k > 0 && c->top_k < n) {
        for (most = c->top_k; taken < most; taken++) popped(heap, n - taken);
        low = heap[n - most];
    }
    if (c->top_p >= 1) return low;
    float all = 0, above = 0; /* e to what each lies below the top */
    for (long k = 0; k < most; k++) all += expf(heap[taken ? n - 1 - k : k] - top);
    for (long k = 0; k < most; k++) {
        if (k == taken) popped(heap, n - taken), taken++;
        if (k && above >= c->top_p * all) break;
        low = heap[n - 1 - k];
        above += expf(low - top);
    }
    return low;
}

/* Gumbel-max: the index that is chosen of `count` logits, all within `room` of twice whole vectors.
 * In place of the sum of a logit and -log of exponential noise, the quotient of e to both. */
static long chosen(const float *logits, long count, const Next *c, const float *noise, float *room) {
    const long whole = (count + LANES - 1) / LANES * LANES;
    float *x = room, top = -INFINITY, best = -1;
    long found = 0;
    for (long k = 0; k < count; k++) {
        x[k] = c->temperature > 0 ? logits[k] / c->temperature : logits[k];
        if (x[k] > top) top = x[k], found = k;
    }
    if (c->temperature == 0 || isinf(top)) return found;
    float low = c->min_p > 0 ? top + logf(c->min_p) : -INFINITY;
    if (c->top_p < 1 || c->top_k > 0) low = least(x, count, low, c, room + whole);
    for (long k = count; k < whole; k++) x[k] = -INFINITY;
    for (long k = 0; k < whole; k += LANES) {
        const vec share = power(*(vec *)(x + k) - top);
        for (long j = k; j < k + LANES && j < count; j++)
            if (x[j] >= low && share[j - k] / noise[j] > best) best = share[j - k] / noise[j], found = j;
    }
    return found;
}

/* The next codes of some rows, `most` of a row at most, each told of those before it.
 *
 * room: for 2 `count` of (3 size + codes + the most inputs and outputs that a layer has), and of
 * twice the codes in whole vectors.
 */
void choose(const Heads *h, Next *all, long count, long most, float *room, int threads) {
    const long D = h->size, codes = h->head.down.outputs, padded = (codes + LANES - 1) / LANES * LANES;
    const long first = h->head.up.outputs, second = h->place ? h->told.up.outputs : 0;
    const long wide = first > second ? first : second, wider = wide > 2 * D ? wide : 2 * D;
    float *aimed = room, *both = aimed + 2 * count * D, *hidden = both + 4 * count * D;
    float *logits = hidden + 2 * count * wide, *rounded = logits + 2 * count * codes;
    float *own = rounded + 2 * count * wider;
    long rows;
#pragma omp parallel num_threads(threads)
    for (long n = 0; n < most; n++) {
#pragma omp single
        {
            rows = 0;
            for (Next *c = all; c < all + count; c++) {
                if (n >= c->count) continue;
                c->row = rows;
                gather(h, c, n, c->own, aimed + rows * D, both + rows * 2 * D), rows++;
                if (c->twin) gather(h, c, n, c->twin, aimed + rows * D, both + rows * 2 * D), rows++;
            }
        }
        if (h->place) two_layers(&h->told, both, aimed, rows, 1, hidden, rounded);
        two_layers(&h->head, aimed, logits, rows, 0, hidden, rounded);
#pragma omp for schedule(static)
        for (long k = 0; k < count; k++) {
            Next *c = all + k;
            if (n >= c->count) continue;
            const long low = c->table[3 * n + 1], size = c->table[3 * n + 2] - low;
            float *mine = logits + c->row * codes + low;
            for (long v = 0; v < size && c->twin; v++)
                mine[v] = mine[codes + v] + c->weight * (mine[v] - mine[codes + v]);
            c->chosen[n] = low + chosen(mine, size, c, c->noise, own + k * 2 * padded);
            if (c->temperature > 0) c->noise += size;
        }
    }
}

/* Whether there is a team of threads at all. */
int threaded(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}
