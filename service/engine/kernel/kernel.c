// One step of an HM-LSTM in bytes (Eqs. 2-12 of arXiv 1609.01704v7), for rows side by side, each as if it were alone.
//
// The same arithmetic as the ONNX graphs of a bundle, without what an operator costs beside its arithmetic. A layer that
// COPYs is not looked at. Products of bytes are summed in integers, which are exact in any order; everything else is
// done for each row by itself, in a fixed order of additions, without fused multiply-adds. So a row has the same bits in
// any company and on any processor.
//
// step.inc is compiled once for each instruction set that multiplies bytes in a way of its own.
#include "room.h"

#define INLINE static inline __attribute__((always_inline))

#define VARIANT(name) name##_plain
#include "step.inc"
#undef VARIANT

#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2")
#define BYTES_AVX2
#define VARIANT(name) name##_avx2
#include "step.inc"
#undef VARIANT
#undef BYTES_AVX2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,avx512f,avx512bw,avx512vl,avx512vnni")
#define BYTES_VNNI
#define VARIANT(name) name##_vnni
#include "step.inc"
#undef VARIANT
#undef BYTES_VNNI
#pragma GCC pop_options
#endif

// Which variants there are, from the plainest up.
enum { PLAIN, AVX2, VNNI };

// Return the best variant that this processor runs.
int32_t copyist_variant(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return VNNI;
  if (__builtin_cpu_supports("avx2")) return AVX2;
#endif
  return PLAIN;
}

// Step rows start .. start + count - 1. Returns 0, having done nothing, where there is no memory to do it in.
int32_t copyist_step(const Network *network, const Rows *rows, int64_t start, int64_t count, int32_t variant) {
#if defined(__x86_64__)
  if (variant == VNNI) return step_vnni(network, rows, start, count);
  if (variant == AVX2) return step_avx2(network, rows, start, count);
#endif
  (void)variant;
  return step_plain(network, rows, start, count);
}

// Have one row read `count` inputs (int64, or 3 floats each) of which nothing is drawn; the trace byte of each to codes.
// Returns 0 as above.
int32_t copyist_read(const Network *network, const Rows *rows, int64_t row, const void *inputs, int64_t count,
                     uint8_t *codes, int32_t variant) {
#if defined(__x86_64__)
  if (variant == VNNI) return read_vnni(network, rows, row, inputs, count, codes);
  if (variant == AVX2) return read_avx2(network, rows, row, inputs, count, codes);
#endif
  (void)variant;
  return read_plain(network, rows, row, inputs, count, codes);
}
