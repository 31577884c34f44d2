// What the kernel is told: a network in bytes, and the rows that it steps. `network.py` and `rows.py` fill these in;
// the order of the fields here is the order there.
#pragma once
#include <stdint.h>

// A matrix that multiplies an h rounded to bytes (export/graphs/weights.py). Columns come in tiles of 16, rows in fours:
// codes[tile][row / 4][column in tile][row % 4], what is beyond its true size being 0.
typedef struct {
  const int8_t *codes;
  const int32_t *offset;  // (width,), minus the zero point of h times a column's sum
  const float *scale;     // (width,)
  int64_t depth, width;   // multiples of 4 and 16
} Matrix;

typedef struct {
  Matrix own, above, out;  // above.codes is NULL in the top layer
  const float *gain, *bias;  // (4 size,); without LayerNorm the gain is NULL
  float edge;              // the detector fires beyond it,
  int32_t falls;           // or, if this is not 0, below it
  int64_t size;            // H
  int64_t detects;         // whether the last column of `own` is a boundary detector
} Layer;

// A matrix of floats (depth, width); columns beyond the true ones, up to a multiple of 8, are 0.
typedef struct {
  const float *values, *bias;
  int64_t depth, width;
} Dense;

typedef struct {
  const Layer *layers;
  int64_t num_layers;
  const float *table;  // (vocabulary, stride) for symbols; (3, stride) for offsets
  const float *table_bias;  // (stride,) for offsets that write no text
  int64_t vocabulary;  // 0 for ink
  int64_t stride;      // floats from one row of s to the next: the widest `own.width`
  int64_t sources;     // of the output: the layers, and the window if there is one
  int64_t sent;        // O
  Dense head;
  int64_t mixtures;    // M, 0 for text
  float correlation_limit, scale_floor, scale_ceiling;
  // The window over a text, if there is one: window_mixtures is 0 otherwise.
  int64_t window_mixtures, character_width, slots;
  Dense window;        // (H, 3K)
  const float *window_into, *window_out;  // (E, stride) and (E, padded S + O)
  int64_t window_out_width;
  float window_stride;
} Network;

// The rows, row-major. What a network has not is NULL.
typedef struct {
  float *const *h, *const *c, *const *z, *const *e;  // by layer; e[0] and the top z are NULL
  float *position, *vector;                          // (K), (E)
  const int64_t *token;
  const float *offset;  // (3)
  float *output;        // (V) or (6M + 1 or 2)
  void *drawn;          // int64 for text, else (3) or (5) floats
  uint8_t *code;        // z after the step in the lower bits, z before it above them
  const float *temperature, *top_p, *logit_bias, *bias;
  const int64_t *top_k;
  const double *noise;
  const float *hand, *text;  // (4H + 1), (slots, E)
} Rows;
