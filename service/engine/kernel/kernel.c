// One step of an HM-LSTM with 8-bit weights (Eqs. 2-12 of arXiv 1609.01704v7), for a batch of independent rows.
//
// It computes what the ONNX graphs of a bundle compute, without the overhead of an operator call, and it skips layers
// that COPY. Equation numbers in these files are the paper's; its hats and tildes are left out.
//
// A row's result does not depend on the other rows of its batch, nor on the processor. Products of bytes are summed as
// integers, which are exact in any order. Everything else is computed for one row at a time, with a fixed order of
// additions and without fused multiply-adds.
//
// The files, in the order of a step: kernel.h (structs), room.h (vectors and scratch memory), then step.inc with
// floats.inc (exp, tanh, sums), products.inc (matrix products), layers.inc (Eqs. 2-9), output.inc (window, Eqs. 11-12)
// and drawing.inc (sampling). step.inc is compiled once for each way of multiplying bytes: plain C, AVX2 and VNNI.
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

// The variants, as service/engine/kernel/library.py numbers them.
enum { PLAIN, AVX2, VNNI };

// Return the fastest variant that this processor can run.
int32_t copyist_variant(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return VNNI;
  if (__builtin_cpu_supports("avx2")) return AVX2;
#endif
  return PLAIN;
}

// Step rows start .. start + count - 1 and draw their next inputs. Returns 1, or 0 if there is no memory; in that case
// no row has changed.
int32_t copyist_step(const Network *network, const Rows *rows, int64_t start, int64_t count, int32_t variant) {
#if defined(__x86_64__)
  if (variant == VNNI) return step_vnni(network, rows, start, count);
  if (variant == AVX2) return step_avx2(network, rows, start, count);
#endif
  (void)variant;
  return step_plain(network, rows, start, count);
}

// Prefill: run `count` inputs of a prompt (int64 symbols, or 3 floats each) through one row without computing outputs.
// Writes the trace byte of each step to codes. Returns 1, or 0 if there is no memory.
int32_t copyist_read(const Network *network, const Rows *rows, int64_t row, const void *inputs, int64_t count,
                     uint8_t *codes, int32_t variant) {
#if defined(__x86_64__)
  if (variant == VNNI) return read_vnni(network, rows, row, inputs, count, codes);
  if (variant == AVX2) return read_avx2(network, rows, row, inputs, count, codes);
#endif
  (void)variant;
  return read_plain(network, rows, row, inputs, count, codes);
}
