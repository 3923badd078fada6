/* Plays the CUDA runtime library for the calls that caches make, on memory of the host.
 *
 * As a device does, it gives memory full of garbage, begins copies and does them later: only when somebody waits for them. Whoever
 * forgets to wait runs on what was there before. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID = 1, NO_MEMORY = 2, PENDING_MAX = 4096 };
static const size_t TOTAL = (size_t)1 << 30;

struct work { void *to; const void *from; size_t to_pitch, from_pitch, width, height; };
static struct work pending[PENDING_MAX];
static int waiting;
static size_t taken;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void do_pending(void) {
  for (int i = 0; i < waiting; i++) {
    struct work *work = &pending[i];
    for (size_t row = 0; row < work->height; row++) {
      char *to = (char *)work->to + row * work->to_pitch;
      if (work->from) memcpy(to, (const char *)work->from + row * work->from_pitch, work->width);
      else memset(to, 0, work->width);
    }
  }
  waiting = 0;
}

static int begin(struct work work) {
  pthread_mutex_lock(&lock);
  if (waiting == PENDING_MAX) do_pending();
  pending[waiting++] = work;
  pthread_mutex_unlock(&lock);
  return 0;
}

/* The size stands in front of the block. */
static int give(void **out, size_t size, size_t limit) {
  pthread_mutex_lock(&lock);
  char *block = taken + size > limit ? NULL : aligned_alloc(256, (size + 511) / 256 * 256);
  if (block) {
    *(size_t *)block = size;
    memset(block + 256, 0xA5, size);
    taken += size;
    *out = block + 256;
  }
  pthread_mutex_unlock(&lock);
  return block ? 0 : NO_MEMORY;
}

static int take_back(void *memory) {
  pthread_mutex_lock(&lock);
  do_pending();
  taken -= *(size_t *)((char *)memory - 256);
  free((char *)memory - 256);
  pthread_mutex_unlock(&lock);
  return 0;
}

int cudaMalloc(void **out, size_t size) { return give(out, size, TOTAL); }
int cudaFree(void *memory) { return take_back(memory); }
int cudaMallocHost(void **out, size_t size) { return give(out, size, 2 * TOTAL); }
int cudaFreeHost(void *memory) { return take_back(memory); }

int cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, int kind) {
  if (kind != 3 || width > to_pitch || width > from_pitch) return INVALID;
  return begin((struct work){to, from, to_pitch, from_pitch, width, height});
}

int cudaMemset(void *to, int value, size_t count) {
  if (value != 0) return INVALID;
  return begin((struct work){to, NULL, count, 0, count, 1});
}

int cudaDeviceSynchronize(void) {
  pthread_mutex_lock(&lock);
  do_pending();
  pthread_mutex_unlock(&lock);
  return 0;
}

int cudaMemGetInfo(size_t *free_bytes, size_t *total) {
  pthread_mutex_lock(&lock);
  *free_bytes = TOTAL - (taken < TOTAL ? taken : TOTAL);
  *total = TOTAL;
  pthread_mutex_unlock(&lock);
  return 0;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  if (attribute != 18 || device != 0) return INVALID;
  *value = 0;
  return 0;
}

const char *cudaGetErrorString(int code) { return code == NO_MEMORY ? "out of memory" : "invalid argument"; }
