// The structs that Python hands to the kernel: a network with 8-bit weights, and the rows to step. Python declares the
// same fields in the same order with ctypes: Network in `network.py`, Rows in `service/engine/runners/kernel.py`.
//
// Letters: H units of a layer, L layers, N = 4H + 1 columns of a layer (4H in the top layer), V symbols, M mixture
// components, O inputs of the output head, S sources of the output head, K mixture components of the window over a
// text, E numbers that the window reads.
#pragma once
#include <stdint.h>

// An 8-bit matrix that multiplies an h rounded to bytes (export/graphs/weights.py). Columns are stored in tiles of 16,
// rows in groups of 4: codes[tile][row / 4][column in tile][row % 4]. Padding is 0.
typedef struct {
  const int8_t *codes;
  const int32_t *offset;  // (width,): minus the zero point of h, times the sum of the column
  const float *scale;     // (width,): from integer sums to floats
  int64_t depth, width;   // padded numbers of rows and columns: multiples of 4 and 16
} Matrix;

// One layer. Columns of `own` and `above` are [f | i | o | g | boundary detector].
typedef struct {
  Matrix own;                // (H + H of the layer below, N): recurrent and bottom-up weights, Eqs. 5 and 7;
                             // in layer 1 (H, N), as its bottom-up term comes from the table
  Matrix above;              // (H of the layer above, N): top-down weights, Eq. 6; codes is NULL in the top layer
  Matrix out;                // (H, S + O): [logits of the output gates | projection], Eqs. 11-12
  const float *gain, *bias;  // (4H,): of the gates; without LayerNorm the gain is NULL
  float edge;                // the boundary bit is 1 if the detector's column is above the edge,
  int32_t falls;             // or, where this is not 0, if it is below the edge
  int64_t size;              // H
  int64_t detects;           // whether the layer has a boundary detector: every layer but the top one
} Layer;

// A matrix of floats (depth, width) and its bias. The width is padded with zeros to a multiple of 8.
typedef struct {
  const float *values, *bias;
  int64_t depth, width;
} Dense;

typedef struct {
  const Layer *layers;
  int64_t num_layers;
  const float *table;       // input embedding times layer 1's weights: (V, stride) for symbols, (3, stride) for offsets
  const float *table_bias;  // (stride,): only for ink without a text
  int64_t vocabulary;       // V; 0 for ink
  int64_t stride;           // floats from one row of s to the next: the largest `own.width`
  int64_t sources;          // S: the layers, and the window if there is one
  int64_t sent;             // O
  Dense head;               // (O, V) or (O, 6M + 1 or 2)
  int64_t mixtures;         // M; 0 for text
  float correlation_limit, scale_floor, scale_ceiling;
  // The window over a text that is written by hand. Without one, window_mixtures is 0.
  int64_t window_mixtures, character_width, slots;  // K, E, and characters of a text with padding
  Dense window;                                     // (H of layer 1, 3K): [weights | sharpness | stride]
  const float *window_into, *window_out;            // (E, stride) and (E, padded S + O)
  int64_t window_out_width;                         // padded S + O
  float window_stride;                              // divides how far the window moves
} Network;

// State, inputs, outputs and sampling parameters of the rows. Comments give the shape for one row; each array holds all
// rows one after the other. A pointer is NULL where the network has no such array.
typedef struct {
  // State. h, c and z have one pointer per layer; e is what a layer sends to the output, (S + O), which is carried
  // because it changes only when the layer does. e[0] and the top layer's z are NULL.
  float *const *h, *const *c, *const *z, *const *e;
  float *position, *vector;  // of the window: (K) and (E)
  // Input.
  const int64_t *token;  // of a network for text
  const float *offset;   // (3): dx, dy, pen_up, of a network for ink
  // Output.
  float *output;  // (V) logits, or (6M + 1 or 2) parameters of the mixture
  void *drawn;    // an int64 symbol, or (3) floats; with a window (5): offset, end logit, place in the text
  uint8_t *code;  // trace byte: z of every layer after the step in the low bits, z before the step above them
  // Sampling parameters.
  const float *temperature, *top_p, *logit_bias, *bias;  // logit_bias is (V), the others are scalars
  const int64_t *top_k;
  const double *noise;       // uniform in (0, 1) or normal: one number for a symbol, (4) for an offset
  const float *hand, *text;  // of the window: the hand's share of s (N), and the encoded text (slots, E)
} Rows;
