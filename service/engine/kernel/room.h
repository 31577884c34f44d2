// The vectors that everything is written in, and the room that each thread keeps for a block of rows between its calls.
#pragma once
#include "kernel.h"

#include <stdlib.h>
#include <string.h>

enum { LANES = 8, TILE = 16, BLOCK = 64 };  // floats of a vector, columns of a tile, rows that are stepped together
enum { ZERO_POINT = 64, LARGEST_CODE = 127 };

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint8_t Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

// Room for a block of rows, kept by each thread between its calls.
typedef struct {
  float *s;         // (BLOCK, stride)
  float *source;    // (BLOCK, stride)
  float *sent;      // (BLOCK, widest out): what layer 1 sends
  float *rest;      // (widest): of one row
  uint8_t *codes;   // (BLOCK, widest depth)
  float *work;      // (widest): of one row
  double *mass;     // (outputs)
  int32_t *order;   // (2 outputs)
  int64_t depth, out;
} Room;

static _Thread_local char *room_bytes;
static _Thread_local size_t room_size;

static size_t padded(size_t bytes) { return (bytes + 127) / 64 * 64; }

static int room_for(const Network *network, Room *room) {
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
  widest += 2 * LANES;
  size_t sizes[] = {
      padded(4 * BLOCK * network->stride), padded(4 * BLOCK * network->stride), padded(4 * BLOCK * out),
      padded(4 * widest), padded(BLOCK * depth), padded(4 * widest), padded(8 * outputs), padded(8 * outputs),
  };
  size_t total = 64;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) total += sizes[i];
  if (total > room_size) {
    free(room_bytes);
    room_bytes = calloc(total, 1);
    room_size = room_bytes ? total : 0;
  }
  if (!room_bytes) return 0;
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
