// Vector types, and the scratch memory that each thread keeps between its calls.
#pragma once
#include "kernel.h"

#include <stdlib.h>
#include <string.h>

enum { LANES = 8, TILE = 16, BLOCK = 64 };  // floats in a vector, columns in a tile, rows stepped together
enum { ZERO_POINT = 64, LARGEST_CODE = 127 };  // of an h in bytes: the byte that means 0, and the largest byte

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint8_t Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

// Scratch memory for a block of rows. Its contents do not outlive a call.
typedef struct {
  float *s;        // (BLOCK, stride): pre-activations of the layer that is being stepped
  float *source;   // (BLOCK, stride): layer 1's share of an offset
  float *sent;     // (BLOCK, out): what layer 1 sends to the output
  float *rest;     // (widest): second buffer for one row
  uint8_t *codes;  // (BLOCK, depth): h of a layer and its neighbours, rounded to bytes
  float *work;     // (widest): buffer for one row
  double *mass;    // (outputs): running sums, for top_p
  int32_t *order;  // (2 outputs): two buffers of a merge sort, for top_k and top_p
  int64_t depth;   // the largest depth of any byte matrix
  int64_t out;     // the largest width of any `out` matrix
} Room;

static _Thread_local char *room_bytes;
static _Thread_local size_t room_size;

// Round a size up to whole cache lines, with at least one spare line.
static size_t padded(size_t bytes) { return (bytes + 127) / 64 * 64; }

// Lay out the scratch memory that a network needs, growing it if necessary. Returns 0 if there is no memory.
static int room_for(const Network *network, Room *room) {
  // The largest size of each kind, over all layers.
  int64_t depth = 0, out = network->window_out_width, widest = network->stride, outputs = network->head.width;
  for (int64_t l = 0; l < network->num_layers; l++) {
    const Layer *layer = &network->layers[l];
    if (layer->own.depth > depth) depth = layer->own.depth;
    if (layer->above.codes && layer->above.depth > depth) depth = layer->above.depth;
    if (layer->out.depth > depth) depth = layer->out.depth;
    if (layer->out.width > out) out = layer->out.width;
  }
  if (out > widest) widest = out;
  if (outputs > widest) widest = outputs;
  if (network->head.depth > widest) widest = network->head.depth;
  if (network->window.width > widest) widest = network->window.width;
  if (network->slots > widest) widest = network->slots;
  widest += 2 * LANES;  // vectors may read and write past the end
  size_t sizes[] = {
      padded(4 * BLOCK * network->stride), padded(4 * BLOCK * network->stride), padded(4 * BLOCK * out),
      padded(4 * widest), padded(BLOCK * depth), padded(4 * widest), padded(8 * outputs), padded(8 * outputs),
  };
  size_t total = 64;  // to align the first buffer
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) total += sizes[i];
  if (total > room_size) {
    free(room_bytes);
    room_bytes = calloc(total, 1);
    room_size = room_bytes ? total : 0;
  }
  if (!room_bytes) return 0;
  // Cut the memory into buffers, each beginning at a cache line.
  char *at = (char *)(((uintptr_t)room_bytes + 63) / 64 * 64);
  room->s = (float *)at, at += sizes[0];
  room->source = (float *)at, at += sizes[1];
  room->sent = (float *)at, at += sizes[2];
  room->rest = (float *)at, at += sizes[3];
  room->codes = (uint8_t *)at, at += sizes[4];
  room->work = (float *)at, at += sizes[5];
  room->mass = (double *)at, at += sizes[6];
  room->order = (int32_t *)at;
  room->depth = depth, room->out = out;
  return 1;
}
