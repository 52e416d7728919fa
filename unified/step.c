/* A step of decoding on a CPU: y = x W^T + b for a few rows (packed.py), and a decoder's layers over
 * the tokens of one step (step.py).
 *
 * A step reads every weight once, for a row or two: what counts is that memory never waits. So
 * packed weights lie in the order in which they are read, TILE outputs side by side for every UNIT
 * inputs, and are asked for AHEAD bytes before their turn. Sums are in fp32; a row's are the same
 * whatever rows are beside it, because every output of every row has one sum of its own, in one
 * order.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define TILE 4     /* outputs at a time; 4 rows of them are 16 sums in registers */
#define LANES 16   /* of a sum, and of the vectors below */
#define UNIT 32    /* inputs that lie together */
#define ROWS 32    /* at a time: their inputs stay in the second cache */
#define AHEAD 4096 /* bytes */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

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

INLINE vec from_int8(const uint8_t *p) {
#ifdef __AVX512F__
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#else
    vec out;
    for (int k = 0; k < LANES; k++) out[k] = (float)(int8_t)p[k];
    return out;
#endif
}

/* 32 numbers of 4 bits, (number - 8) scale + zero. A byte has inputs k and k + 16. */
INLINE void from_int4(const uint8_t *p, const float *pair, vec *low, vec *high) {
    const float scale = pair[0], zero = pair[1];
#ifdef __AVX512F__
    const __m512 count = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    /* all sixteen values of this group, of which a code chooses by its lowest 4 bits */
    __m512 values = _mm512_fmadd_ps(count, _mm512_set1_ps(scale), _mm512_set1_ps(zero));
    __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    *low = (vec)_mm512_permutexvar_ps(codes, values);
    *high = (vec)_mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), values);
#else
    for (int k = 0; k < LANES; k++) {
        (*low)[k] = (float)((p[k] & 15) - 8) * scale + zero;
        (*high)[k] = (float)((p[k] >> 4) - 8) * scale + zero;
    }
#endif
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
    const uint8_t *codes; /* (N / TILE, K / UNIT, step(bits)): the codes of a tile for a unit of
                           * inputs, (TILE, UNIT), and of 4 bits scales and zeros, (TILE, 2), after
                           * them; of 32 bits (N, K) */
    const float *scale;   /* (N,) of 8 bits, else NULL */
    const float *bias;    /* (N,) or NULL */
    long outputs, inputs; /* N as it is wanted; K a multiple of UNIT */
    int bits;             /* 32, 16, 8 or 4 */
} Weights;

INLINE long step(int bits) {
    return bits == 32 ? UNIT * 4 : TILE * (UNIT * bits / 8 + (bits == 4 ? 8 : 0));
}

/* One tile of outputs of a few rows; `bits` and `rows` are known to the compiler. */
INLINE void tile(int bits, int rows, const Weights *w, long n, const float *x, float *y, int add) {
    const long K = w->inputs, N = w->outputs, size = UNIT * bits / 8;
    const uint8_t *p = w->codes + (bits == 32 ? n * K * 4 : n / TILE * (K / UNIT) * step(bits));
    long row[TILE]; /* where outputs lie, of 32 bits; beyond the last one it stands again */
    for (int o = 0; o < TILE; o++) row[o] = n + o < N ? o * K * 4 : (N - 1 - n) * K * 4;
    vec acc[4][TILE];
    for (int m = 0; m < rows; m++)
        for (int o = 0; o < TILE; o++) acc[m][o] = (vec){0};
    for (long k = 0; k < K; k += UNIT, p += step(bits)) {
        for (long at = 0; at < step(bits) && bits != 32; at += 64)
            __builtin_prefetch(p + AHEAD + at);
        vec a[4], b[4];
        for (int m = 0; m < rows; m++) {
            a[m] = *(const vec *)(x + m * K + k);
            b[m] = *(const vec *)(x + m * K + k + LANES);
        }
#pragma GCC unroll 4
        for (int o = 0; o < TILE; o++) {
            const uint8_t *q = p + (bits == 32 ? row[o] : o * size);
            vec low, high;
            if (bits == 4) {
                from_int4(q, (const float *)(p + TILE * size) + 2 * o, &low, &high);
            } else if (bits == 8) {
                low = from_int8(q), high = from_int8(q + LANES);
            } else if (bits == 16) {
                low = from_half(q), high = from_half(q + 2 * LANES);
            } else {
                const uint8_t *next = q + TILE * K * 4; /* where the next tile's row is */
                __builtin_prefetch(next, 0, 2), __builtin_prefetch(next + 64, 0, 2);
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
            const float scale = w->scale ? w->scale[n + o] : 1, bias = w->bias ? w->bias[n + o] : 0;
            const float one = fmaf(sum(acc[m][o]), scale, bias); /* one rounding, however it is compiled */
            y[m * N + n + o] = add ? y[m * N + n + o] + one : one;
        }
}

INLINE void tiles(int bits, const Weights *w, const float *x, float *y, long rows, int add) {
    const long count = (w->outputs + TILE - 1) / TILE, K = w->inputs, N = w->outputs;
    for (long start = 0; start < rows; start += ROWS) {
        const long stop = start + ROWS < rows ? start + ROWS : rows;
#pragma omp for schedule(static)
        for (long t = 0; t < count; t++) {
            const long n = t * TILE;
            long m = start;
            for (; m + 4 <= stop; m += 4) tile(bits, 4, w, n, x + m * K, y + m * N, add);
            for (; m + 2 <= stop; m += 2) tile(bits, 2, w, n, x + m * K, y + m * N, add);
            for (; m < stop; m++) tile(bits, 1, w, n, x + m * K, y + m * N, add);
        }
    }
}

/* A product by all threads of a team: x (rows, K) -> y (rows, N), contiguous; or added to y. */
static void multiply(const Weights *w, const float *x, float *y, long rows, int add) {
    if (w->bits == 32) tiles(32, w, x, y, rows, add);
    if (w->bits == 16) tiles(16, w, x, y, rows, add);
    if (w->bits == 8) tiles(8, w, x, y, rows, add);
    if (w->bits == 4) tiles(4, w, x, y, rows, add);
}

void product(const Weights *w, const float *x, float *y, long rows, int threads) {
#pragma omp parallel num_threads(threads)
    multiply(w, x, y, rows, 0);
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

INLINE vec largest(vec a, vec b) {
    const ints first = a > b;
    return (vec)(((ints)a & first) | ((ints)b & ~first));
}

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

INLINE vec load_kept(const void *kept, long at, int bits) {
    return bits == 32 ? *(const vec *)((const float *)kept + at)
                      : from_half((const uint8_t *)kept + 2 * at);
}

/* One query over the positions that it sees; `scores` has room for `capacity` of them. Keys and
 * values, from their number `base` on, are read in the order in which they lie. */
INLINE void attend(int bits, const float *query, const void *keys, const void *values, long base,
                   float scale, long seen, long capacity, long width, float *scores, float *out) {
    const long whole = (seen + LANES - 1) / LANES * LANES; /* within capacity, blocks of 128 */
    for (long d = 0; d < width; d += 4)
        for (long j = 0; j < whole; j += LANES) {
            vec found = d ? *(vec *)(scores + j) : (vec){0};
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++)
                found += query[d + k] * load_kept(keys, base + (d + k) * capacity + j, bits);
            *(vec *)(scores + j) = found;
        }
    for (long j = 0; j < whole; j += LANES) *(vec *)(scores + j) *= scale;
    for (long j = seen; j < whole; j++) scores[j] = -INFINITY;
    vec highest = *(vec *)scores, total = (vec){0};
    for (long j = LANES; j < whole; j += LANES)
        highest = largest(highest, *(vec *)(scores + j));
    float most = highest[0];
    for (int k = 1; k < LANES; k++) most = highest[k] > most ? highest[k] : most;
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
 * positions, rows, columns: of the tokens. room: for (tokens, size + (heads + 2 kv_heads) * width +
 * heads * width + 3 * inner + heads * capacity).
 */
void column(const Layer *layers, const Shape *s, float *x, const float *cos, const float *sin,
            const int64_t *positions, const int64_t *rows, const int64_t *columns, long tokens,
            long capacity, float *room, int threads) {
    const long D = s->size, W = s->width, H = s->heads, G = s->kv_heads, I = s->inner;
    const long all = (H + 2 * G) * W, share = H / G;
    float *normed = room, *mixed = normed + tokens * D, *attended = mixed + tokens * all;
    float *wide = attended + tokens * H * W, *gated = wide + tokens * 2 * I;
    float *scores = gated + tokens * I;
#pragma omp parallel num_threads(threads)
    for (const Layer *l = layers; l < layers + s->layers; l++) {
#pragma omp for schedule(static)
        for (long t = 0; t < tokens; t++)
            norm(x + t * D, l->before, s->eps, normed + t * D, D);
        multiply(&l->qkv, normed, mixed, tokens, 0);
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
            float *own = scores + k * capacity, *out = attended + k * W;
            if (s->bits == 32)
                attend(32, query, l->keys, l->values, base, s->scale, columns[t] + 1, capacity, W,
                       own, out);
            else
                attend(16, query, l->keys, l->values, base, s->scale, columns[t] + 1, capacity, W,
                       own, out);
        }
        multiply(&l->out, attended, x, tokens, 1);
#pragma omp for schedule(static)
        for (long t = 0; t < tokens; t++)
            norm(x + t * D, l->between, s->eps, normed + t * D, D);
        multiply(&l->gate_up, normed, wide, tokens, 0);
#pragma omp for schedule(static)
        for (long k = 0; k < tokens * (I / LANES); k++) {
            const long t = k / (I / LANES), at = k % (I / LANES) * LANES;
            vec gate = *(vec *)(wide + t * 2 * I + at), up = *(vec *)(wide + t * 2 * I + I + at);
            *(vec *)(gated + t * I + at) = gate * up / (1 + power(-gate));
        }
        multiply(&l->down, gated, x, tokens, 1);
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
