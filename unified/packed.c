/* y = x W^T + b for the rows of a step of decoding, W in 16, 8 or 4 bits (see packed.py).
 *
 * A step reads every weight once, for a row or two: what counts is that memory never waits. So
 * weights lie in the order in which they are read, TILE outputs side by side for every UNIT inputs,
 * and are asked for AHEAD bytes before their turn. Sums are in fp32; a row's are the same whatever
 * rows are beside it, because every output of every row has one sum of its own, in one order.
 */
#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define TILE 4     /* outputs at a time; 4 rows of them are 16 sums in registers */
#define LANES 16   /* of a sum, and of the vectors below */
#define UNIT 32    /* inputs that lie together */
#define BLOCK 32   /* rows at a time: their inputs stay in the second cache */
#define AHEAD 2048 /* bytes */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float four __attribute__((vector_size(16), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

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

INLINE four quarter(vec x) {
    float a[LANES];
    memcpy(a, &x, sizeof a);
    four p, q, r, s;
    memcpy(&p, a, 16), memcpy(&q, a + 4, 16), memcpy(&r, a + 8, 16), memcpy(&s, a + 12, 16);
    return (p + r) + (q + s);
}

/* The sum of each of four vectors. */
INLINE four sums(const vec *x) {
    four a = quarter(x[0]), b = quarter(x[1]), c = quarter(x[2]), d = quarter(x[3]);
    four ab = __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
    four cd = __builtin_shufflevector(c, d, 0, 4, 2, 6) + __builtin_shufflevector(c, d, 1, 5, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

typedef struct {
    const uint8_t *codes;  /* (N / TILE, K / UNIT, TILE, UNIT * bits / 8) */
    const float *pairs;    /* (N / TILE, K / UNIT, TILE, 2), scale and zero of 4 bits, else NULL */
    const float *scale;    /* (N,) of 8 bits, else NULL */
    const float *bias;     /* (N,) or NULL */
    long outputs, inputs;  /* N as it is wanted; K a multiple of UNIT */
} Weights;

/* One tile of outputs of a few rows; `bits` and `rows` are known to the compiler. */
INLINE void tile(int bits, int rows, const Weights *w, long n, const float *x, float *y) {
    const long K = w->inputs, size = UNIT * bits / 8;
    const uint8_t *p = w->codes + n * K * bits / 8;
    const float *pair = w->pairs ? w->pairs + 2 * n * (K / UNIT) : NULL;
    vec acc[4][TILE];
    for (int m = 0; m < rows; m++)
        for (int o = 0; o < TILE; o++) acc[m][o] = (vec){0};
    for (long k = 0; k < K; k += UNIT, p += TILE * size) {
        for (long at = 0; at < TILE * size; at += 64) __builtin_prefetch(p + AHEAD + at);
        vec a[4], b[4];
        for (int m = 0; m < rows; m++) {
            a[m] = *(const vec *)(x + m * K + k);
            b[m] = *(const vec *)(x + m * K + k + LANES);
        }
#pragma GCC unroll 4
        for (int o = 0; o < TILE; o++) {
            const uint8_t *q = p + o * size;
            vec low, high;
            if (bits == 4) {
                from_int4(q, pair, &low, &high);
                pair += 2;
            } else if (bits == 8) {
                low = from_int8(q), high = from_int8(q + LANES);
            } else {
                low = from_half(q), high = from_half(q + 2 * LANES);
            }
            for (int m = 0; m < rows; m++) {
                acc[m][o] += low * a[m];
                acc[m][o] += high * b[m];
            }
        }
    }
    for (int m = 0; m < rows; m++) {
        four found = sums(acc[m]);
        for (int o = 0; o < TILE && n + o < w->outputs; o++) {
            float one = found[o];
            if (w->scale) one *= w->scale[n + o];
            if (w->bias) one += w->bias[n + o];
            y[m * w->outputs + n + o] = one;
        }
    }
}

INLINE void all(int bits, const Weights *w, const float *x, float *y, long rows, int threads) {
    const long tiles = (w->outputs + TILE - 1) / TILE, K = w->inputs, N = w->outputs;
    for (long start = 0; start < rows; start += BLOCK) {
        const long stop = start + BLOCK < rows ? start + BLOCK : rows;
#pragma omp parallel for schedule(static) num_threads(threads)
        for (long t = 0; t < tiles; t++) {
            long m = start;
            for (; m + 4 <= stop; m += 4) tile(bits, 4, w, t * TILE, x + m * K, y + m * N);
            for (; m + 2 <= stop; m += 2) tile(bits, 2, w, t * TILE, x + m * K, y + m * N);
            for (; m < stop; m++) tile(bits, 1, w, t * TILE, x + m * K, y + m * N);
        }
    }
}

/* x (rows, K), y (rows, N), contiguous. */
void product(
    int bits, const uint8_t *codes, const float *pairs, const float *scale, const float *bias,
    const float *x, float *y, long rows, long outputs, long inputs, int threads
) {
    const Weights w = {codes, pairs, scale, bias, outputs, inputs};
    if (bits == 16) all(16, &w, x, y, rows, threads);
    if (bits == 8) all(8, &w, x, y, rows, threads);
    if (bits == 4) all(4, &w, x, y, rows, threads);
}
